"""Self-speculative decoding over any engine: drafters, the acceptance rule, what a round costs, the loop itself."""
