"""Benchmarks: which cells are measured, each in a process of its own; the records they leave; tables, reports."""
