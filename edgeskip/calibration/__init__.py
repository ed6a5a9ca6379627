"""Measuring a torch model: what each sublayer does to the residual stream, and what skipping it would do."""
