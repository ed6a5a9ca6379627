"""Runs the rounds of a benchmark, each in a process of its own, and keeps the log."""
