"""Ready profiles by model name, and what is known of each model."""
