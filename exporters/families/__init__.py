"""Hugging Face folders and GGUF files of each model family, read into the canonical decoder."""
