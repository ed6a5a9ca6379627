"""Runs artifacts with numpy and an inference engine; never imports torch or transformers."""
