"""Artifacts of a tiny random model for the browser's tests, and where a browser and its packages come from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from exports import export_onnx
from random_profiles import random_profile

from edgeskip.bench.devices.web.browser import find_browser
from edgeskip.bench.devices.web.packages import web_packages
from edgeskip.core.errors import EdgeSkipError
from edgeskip.exporters.onnx.formats import weight_format
from edgeskip.exporters.options import DraftRequest, ExportPolicy
from edgeskip.models.source import open_model
from edgeskip.profiles.schema import ExitStatistics

Kind = Literal["whole", "exits", "skip-plan"]
SKIP = ("attn.0", "ffn.1", "attn.2")


def web_artifact(
    checkpoint: Path, folder: Path, kind: Kind, precision: str = "fp32", *, accuracy_level: int | None = None
) -> Path:
    """Exports the checkpoint: `exits` after 2 and 3 of 4 blocks over 64 tokens of the vocabulary, or a skip plan."""
    source = open_model(str(checkpoint))
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    profile, vectors = random_profile(source, folder / "p.json", skip=SKIP if kind == "skip-plan" else ())
    exits = [ExitStatistics(layer=n, tokens=99, plain_agreement=0.25, ridge_agreement=0.5) for n in (2, 3)]
    maps = {n: (np.eye(64) + rng.normal(scale=0.1, size=(64, 64))).astype(np.float32) for n in (2, 3)}
    vectors = replace(vectors, exit_maps=maps, token_counts=rng.integers(0, 99, 320))
    draft = {"whole": None, "exits": DraftRequest("early-exit", (2, 3), 64), "skip-plan": DraftRequest("skip-plan")}[
        kind
    ]
    form = weight_format(precision)
    if accuracy_level is not None:
        form = replace(form, accuracy_level=accuracy_level)
    policy = ExportPolicy()
    export_onnx(
        source, profile.model_copy(update={"exits": exits}), vectors, form, folder / kind, draft=draft, policy=policy
    )
    return folder / kind


def need_browser() -> str:
    """Path of a Chromium; skips the test where it or the page's packages are not to be had."""
    try:
        web_packages()
        return find_browser()
    except EdgeSkipError as error:
        pytest.skip(str(error))
