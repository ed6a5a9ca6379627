"""Modules imported anew within one test, with what was there before put back whole behind it."""

from __future__ import annotations

import sys

import pytest


def forget_modules(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Forget `package` and its modules. Their parents' attributes are put back too: `import a.b as c` reads those."""
    names = [name for name in sys.modules if name == package or name.startswith(f"{package}.")]
    for name in names:
        parent, _, child = name.rpartition(".")
        if parent in sys.modules and child in vars(sys.modules[parent]):
            monkeypatch.setattr(sys.modules[parent], child, vars(sys.modules[parent])[child])
    for name in names:
        monkeypatch.delitem(sys.modules, name)
