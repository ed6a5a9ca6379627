"""Lowers a canonical decoder to an ONNX folder of fused ONNX Runtime operators."""
