"""Runs the rounds of a benchmark, each in its own process, and keeps the log."""
