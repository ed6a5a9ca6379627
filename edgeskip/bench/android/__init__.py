"""Benchmarks on an Android phone over adb: llama.cpp's own llama-bench, pushed there, run, its JSON read."""
