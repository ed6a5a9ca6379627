"""Benchmarks on another machine over ssh."""
