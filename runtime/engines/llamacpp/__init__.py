"""Engines over llama.cpp."""
