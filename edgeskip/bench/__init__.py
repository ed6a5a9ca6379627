"""Benchmarks: artifacts on every processor and device, as one table.

The package is also the function of that name: `edgeskip.bench(targets)` is `edgeskip.api.bench.bench`.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Benchmark(ModuleType):
    def __call__(self, *args: Any, **options: Any) -> Any:
        return import_module("edgeskip.api.bench").bench(*args, **options)


# Importing any module of the package makes the package the value of `edgeskip.bench`; so it can be called as well.
sys.modules[__name__].__class__ = _Benchmark
