"""Reads a model into one architecture-neutral decoder, bakes a plan into it and lowers it to files."""
