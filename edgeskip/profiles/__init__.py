"""The profile (`llama.json`) and what lies beside it: its schema, vectors, adapters, device profiles, presets."""
