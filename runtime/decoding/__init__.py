"""Ways to decode: autoregressive, with online skipping, handed over to a second model."""
