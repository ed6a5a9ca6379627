"""Fixtures of the command line's tests: the command itself, a profile and an artifact folder made by hand."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from edgeskip.artifacts.manifest import GraphRecord, Manifest, PlanSummary, VerificationRecord
from edgeskip.core.files import sha256_of
from edgeskip.core.sublayers import sublayers_of
from edgeskip.profiles.schema import (
    CalibrationRecord,
    CorpusFile,
    ModelRecord,
    PhaseStatistics,
    PlanRecord,
    Profile,
    SublayerStatistics,
    write_profile,
)
from edgeskip.profiles.vectors import Vectors, pack_vectors

BLOCKS, HIDDEN = 4, 8


@dataclass(frozen=True)
class Outcome:
    """What one run of the command left behind."""

    code: int
    out: str
    err: str

    def complaint(self) -> str:
        """The line of an expected error, after checking that it is one: exit code 2, the last line, no traceback.

        Before it there may be a progress bar.
        """
        assert self.code == 2, f"exit code {self.code}\n{self.out}\n{self.err}"
        *before, line = self.err.strip().splitlines()
        assert line.startswith("edgeskip: error: "), self.err
        assert not any("Traceback" in other or "rror" in other for other in before), self.err
        return line.removeprefix("edgeskip: error: ")


Cli = Callable[..., Outcome]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    """Runs `edgeskip ARGUMENTS` in this process through its real entry point."""
    from edgeskip.cli.main import main

    before = signal.getsignal(signal.SIGTERM)

    def run(*arguments: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["edgeskip", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        code = stop.value.code
        return Outcome(code if isinstance(code, int) else int(code is not None), *capfd.readouterr())

    yield run
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def notes() -> Iterator[list[str]]:
    """What the library notes for its user, line by line."""
    found: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    logger, handler = logging.getLogger("edgeskip"), Kept(logging.INFO)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield found
    logger.removeHandler(handler)
    logger.setLevel(before)


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """accelerate keeps its settings for the life of a process; each test that trains chooses anew."""
    yield
    if "accelerate.state" in sys.modules:
        sys.modules["accelerate.state"].AcceleratorState._reset_state(reset_partial_state=True)


def _phase(similarity: float, tokens: int) -> PhaseStatistics:
    return PhaseStatistics(
        tokens=tokens,
        similarity=similarity,
        scale=1.05,
        affine_scale=1.01,
        error=0.02,
        affine_error=0.01,
        mean_square_in=2.0,
        mean_square_out=2.2,
        mean_dot=2.1,
    )


@pytest.fixture
def profile_path(tmp_path: Path) -> Path:
    """A valid profile of a 4-block model that skips attn.1 and ffn.2, with its vectors beside it."""
    path = tmp_path / "tiny.json"
    vector = np.zeros((2 * BLOCKS, HIDDEN), np.float32)
    vectors, packed = pack_vectors(
        Vectors({"prefill": vector, "decode": vector}, {"prefill": vector, "decode": vector}), path
    )
    sublayers = [
        SublayerStatistics(
            name=str(sublayer),
            prefill=_phase(0.90 + 0.01 * sublayer.index, 2048),
            decode=_phase(0.80 + 0.01 * sublayer.index, 512),
        )
        for sublayer in sublayers_of(BLOCKS)
    ]
    profile = Profile(
        model=_model(),
        calibration=CalibrationRecord(
            corpus=[CorpusFile(name="corpus.txt", sha256="ab" * 32)],
            context=256,
            seed=0,
            dtype="float32",
            created="2025-01-01T00:00:00Z",
            versions={"edgeskip": "0.1.0"},
        ),
        sublayers=sublayers,
        vectors=vectors,
        plan=PlanRecord(method="explicit", compensation="scale", skip=["attn.1", "ffn.2"], beta=0.92),
    )
    write_profile(profile, path, packed)
    return path


@pytest.fixture
def artifact_path(tmp_path: Path) -> Path:
    """An artifact folder with a valid manifest; its graph and weights are filler, nothing can run it."""
    folder = tmp_path / "tiny-int4"
    folder.mkdir()
    for name, content in (("model.onnx", b"graph"), ("model.onnx.data", b"weights" * 1000), ("config.json", b"{}")):
        (folder / name).write_bytes(content)
    manifest = Manifest(
        label="lossy-skip",
        model=_model(),
        graph=GraphRecord(
            precision="int4",
            kv_dtype="float32",
            logits_dtype="float32",
            num_kv_layers=3,
            num_kv_heads=2,
            head_dim=4,
            vocab_size=320,
            context_length=512,
            quantisation={"block_size": 32},
        ),
        plan=PlanSummary(method="explicit", compensation="scale", skip=["attn.1", "ffn.2"], num_blocks=BLOCKS),
        inputs={"profile": "cd" * 32},
        files={file.name: sha256_of(file) for file in sorted(folder.iterdir())},
        versions={"edgeskip": "0.1.0"},
        created="2025-01-01T00:00:00Z",
        verification=VerificationRecord(
            passed=True,
            reference="transformers LlamaForCausalLM, same plan by hooks, float32",
            tokens=128,
            max_abs_logit_difference=0.5,
            kl_divergence=0.01,
            top1_agreement=0.95,
            bound="KL at most 0.1 nats",
        ),
    )
    (folder / "edgeskip.json").write_text(manifest.model_dump_json(indent=2), encoding="utf-8")
    return folder


def _model() -> ModelRecord:
    return ModelRecord(
        source="tiny",
        name="tiny",
        family="llama",
        fingerprint="ef" * 32,
        num_blocks=BLOCKS,
        hidden_size=HIDDEN,
        vocab_size=320,
    )
