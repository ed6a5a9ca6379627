"""Read checkpoints: safetensors folders, GGUF files, LoRA folders, tokenizers."""
