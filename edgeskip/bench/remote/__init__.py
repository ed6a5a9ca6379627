"""Benchmarks on another machine over ssh: what is copied there, what runs there, how both ends stay in step."""
