"""Benchmark worker: transformers on a GPU in fp16, eager."""

from __future__ import annotations

from protocol import serve
from transformers_gpu import loader

if __name__ == "__main__":
    serve(loader(compiled=False), ("transformers", "torch", "numpy"))
