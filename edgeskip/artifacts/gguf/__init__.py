"""The header of a GGUF file: read, checked, sealed, summarized."""
