"""Measuring early-exit speculation over exit layer, draft vocabulary and number of drafted tokens."""
