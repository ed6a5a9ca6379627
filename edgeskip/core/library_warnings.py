"""Warnings of the libraries below are for us, who call them, not for who types a command: one place hides them there.

Python callers keep theirs. So does a command with EDGESKIP_TRACEBACK set, or whose Python was told what to warn of
(`python -W default -m edgeskip …`, PYTHONWARNINGS).
"""

from __future__ import annotations

import os
import sys
import warnings

_KINDS = (FutureWarning, DeprecationWarning, PendingDeprecationWarning, UserWarning, ImportWarning, ResourceWarning)
# What these libraries log rather than warn of; a level that the user has set stays.
_LEVELS = {
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "HF_HUB_VERBOSITY": "error",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
_LOGGERS = ("accelerate", "peft", "torch.distributed", "matplotlib", "onnx_ir", "onnxscript", "gguf")


def hide_library_warnings() -> None:
    """Hide what libraries warn of, in this process and those that it starts. Call it before they are imported."""
    if os.environ.get("EDGESKIP_TRACEBACK") or sys.warnoptions:
        return
    import logging

    for kind in _KINDS:
        warnings.simplefilter("ignore", kind)
    os.environ["PYTHONWARNINGS"] = ",".join(f"ignore::{kind.__name__}" for kind in _KINDS)
    for name, level in _LEVELS.items():
        os.environ.setdefault(name, level)
    for logger in _LOGGERS:
        logging.getLogger(logger).setLevel(logging.ERROR)
