"""Benchmarks on an Android phone over adb, by llama-bench."""
