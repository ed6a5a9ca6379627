"""Engines over ONNX Runtime."""
