"""Decoder -> GGUF files that unmodified llama.cpp loads."""
