"""The child of a provider's self-test: open it with a graph of one product and run that.

    python -m edgeskip.runtime.engines.onnxruntime.provider_child PROVIDER

It prints `run PROVIDER` before, and `ok PROVIDER` or `bad PROVIDER` after. An exception is not a failure, because users
see its message later.
"""

from __future__ import annotations

import base64
import sys
import zlib

import numpy as np

from edgeskip.core.child_exit import without_core_dump

# C = A·B of 4 × 4 float32 matrices, B all ones, ONNX opset 17: `_matmul_model(float32, 4)` of bench/runner/roofline.py.
_PRODUCT = (
    b"c%0+lu$sikCCJ6-$i?U+#OSQV=9^gJTbd)pmYZ0TTbiTg&B4OKBEaax=;Y<Vz|de%362s5+9Slr#lyiU#KFbH!2-fbKtX48K_?~wK>%gA7nl"
)


def main(name: str) -> int:
    without_core_dump()
    print(f"run {name}", flush=True)
    try:
        passed = _multiplies(name)
    except Exception:  # opening the provider afterwards shows it
        passed = True
    print(f"{'ok' if passed else 'bad'} {name}", flush=True)
    return 0


def _multiplies(name: str) -> bool:
    import onnxruntime

    from edgeskip.runtime.engines.onnxruntime.providers import locate_provider

    provider = locate_provider(name, lambda _: None)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    providers: list[object] | None = [(provider.execution_provider, provider.options(1))]
    if provider.plugin:
        options.add_provider_for_devices(list(provider.plugin), provider.options(1))
        providers = None
    graph = zlib.decompress(base64.b85decode(_PRODUCT))
    session = onnxruntime.InferenceSession(graph, options, providers=providers, enable_fallback=0)
    given = np.arange(16, dtype=np.float32).reshape(4, 4)
    (found,) = session.run(None, {"A": given})
    # Accelerators may multiply in float16.
    return bool(np.allclose(found, given.sum(1, keepdims=True), rtol=1e-2))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
