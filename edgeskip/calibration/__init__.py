"""Measures how much each sublayer changes the residual stream of a torch model."""
