"""The model of a profile with a LoRA, and the verbs over it. Oracles: the weights of the PEFT folder it came from, the
check after export against torch, folder listings and lines on stderr."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_profiles import random_profile
from talking_gguf import talking_gguf
from tiny_gguf import Kind
from tiny_lora import tiny_peft_folder
from tiny_models import tiny_checkpoint

from edgeskip.artifacts.manifest import read_manifest
from edgeskip.core.errors import EdgeSkipError
from edgeskip.models.profile_source import source_of
from edgeskip.models.source import open_model
from edgeskip.profiles.schema import read_profile

Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("llama", tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_peft_folder(base, tmp_path_factory.mktemp("trained") / "trained")


@pytest.fixture
def profile(trained: Path, tmp_path: Path) -> Path:
    """A profile of the trained model that skips two sublayers."""
    path = tmp_path / "t.json"
    random_profile(open_model(str(trained)), path, skip=("attn.1", "ffn.2"))
    return path


def assert_same_weights(found: Any, expected: Any) -> None:
    assert found.fingerprint == expected.fingerprint
    for name, tensor in expected.tensors.items():
        np.testing.assert_array_equal(found.tensors[name].read(), tensor.read())


def test_the_profile_is_enough(profile: Path, trained: Path, base: Path, tmp_path: Path) -> None:
    """The PEFT folder is not needed: its LoRA stands beside the profile."""
    read = read_profile(profile)
    assert read.model.source == str(base)
    source = source_of(read, profile)
    assert source.name == "trained"
    assert_same_weights(source, open_model(str(trained)))
    assert source.record().adapter is not None


def test_another_name_of_the_model(profile: Path, trained: Path, base: Path, tmp_path: Path) -> None:
    read = read_profile(profile)
    moved = Path(shutil.copytree(base, tmp_path / "moved"))
    for model in (moved, trained):
        assert_same_weights(source_of(read, profile, str(model)), open_model(str(trained)))


def test_another_model_is_refused(profile: Path, base: Path, tmp_path: Path) -> None:
    read, file = read_profile(profile), tmp_path / "t.adapter.safetensors"
    other = tiny_checkpoint("llama", tmp_path / "other", seed=5)
    for model in (other, tiny_peft_folder(base, tmp_path / "more", seed=5)):
        with pytest.raises(EdgeSkipError, match=r"the LoRA of t\.json was trained on other weights"):
            source_of(read, profile, str(model))
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(EdgeSkipError, match="does not match the sha256"):
        source_of(read, profile)
    file.unlink()
    with pytest.raises(EdgeSkipError, match="is missing: it belongs beside"):
        source_of(read, profile)


def test_a_plan_elsewhere_takes_the_lora_along(cli: Cli, profile: Path, trained: Path, tmp_path: Path) -> None:
    there = tmp_path / "there" / "x.json"
    assert cli("plan", profile, "--skip", "attn.1,ffn.1", "-o", there).code == 0
    assert sorted(file.name for file in there.parent.iterdir()) == ["x.adapter.safetensors", "x.json", "x.safetensors"]
    read = read_profile(there)
    assert read.model.adapter is not None
    assert read.model.adapter.file == "x.adapter.safetensors"
    for path in tmp_path.glob("t.*"):
        path.unlink()
    assert_same_weights(source_of(read, there), open_model(str(trained)))


def test_calibrate_to_run(cli: Cli, trained: Path, base: Path, tmp_path: Path) -> None:
    """The whole way; the export's own check compares it with torch."""
    text, path, out = tmp_path / "text.txt", tmp_path / "p" / "t.json", tmp_path / "out"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 200, encoding="utf-8")
    options = ("--corpus", text, "--tokens", 256, "--context", 64, "--decode-tokens", 16, "--exits", "2")
    outcome = cli("calibrate", trained, *options, "-o", path)
    assert outcome.code == 0, outcome.err
    assert sorted(file.name for file in path.parent.iterdir()) == ["t.adapter.safetensors", "t.json", "t.safetensors"]
    plain = tmp_path / "plain.json"
    assert cli("calibrate", base, *options, "-o", plain).code == 0
    with_lora, without = read_profile(path), read_profile(plain)
    assert with_lora.model.source == without.model.source == str(base)
    assert with_lora.sublayers[0].prefill.similarity != without.sublayers[0].prefill.similarity
    outcome = cli("export", "--profile", path, "-o", out, "--draft", "early-exit", "--exit-layer", 2)
    assert outcome.code == 0, outcome.err
    manifest = read_manifest(out)
    assert manifest.verification is not None
    assert manifest.verification.passed
    assert manifest.model.adapter is not None
    assert manifest.model.fingerprint == with_lora.model.fingerprint
    assert "with a LoRA" in cli("inspect", out).out
    outcome = cli("run", out, "--prompt", "The quick", "--max-tokens", "4")
    assert outcome.code == 0, outcome.err


def test_inspect_names_the_lora(cli: Cli, profile: Path) -> None:
    outcome = cli("inspect", profile)
    assert outcome.code == 0, outcome.err
    assert "t.adapter.safetensors, rank 4 on 16 linear layers" in " ".join(outcome.out.split())
    facts = json.loads(cli("inspect", profile, "--json").out)
    assert facts["lora"]["ranks"] == [4]
    assert facts["lora"]["num_parameters"] == 4 * 4 * (128 + 96 + 128 + 192)
    profile.with_suffix(".adapter.safetensors").unlink()
    assert "is missing" in cli("inspect", profile).complaint()


@pytest.mark.parametrize(("options", "kind"), [((), "Q8_0"), (("--precision", "f16"), "F16")])
def test_a_lora_of_a_gguf(cli: Cli, tmp_path: Path, options: tuple[str, ...], kind: str) -> None:
    """Without a word about precision it becomes Q8_0; the check after export compares it with torch."""
    import gguf

    base, _ = talking_gguf(tmp_path / "base.Q4_1.gguf", kind=Kind.Q4_1)
    path = tmp_path / "g.json"
    random_profile(open_model(str(tiny_peft_folder(base, tmp_path / "mine"))), path, skip=("ffn.1",))
    outcome = cli("export", "--profile", path, "--target", "gguf", "-o", tmp_path / "x.gguf", *options)
    assert outcome.code == 0, outcome.err
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["blk.0.attn_q.weight"] == kinds["blk.0.attn_k.weight"] == kind
    assert reader.fields["general.name"].contents().startswith("mine")
    assert "checked against" in outcome.out


def test_a_pair_of_a_lora_of_a_gguf(cli: Cli, tmp_path: Path) -> None:
    base, _ = talking_gguf(tmp_path / "base.Q4_1.gguf", kind=Kind.Q4_1)
    path = tmp_path / "g.json"
    random_profile(open_model(str(tiny_peft_folder(base, tmp_path / "mine"))), path)
    out = tmp_path / "out"
    options = ("--draft", "early-exit", "--exit-layer", 2)
    outcome = cli("export", "--profile", path, "--target", "gguf", "-o", out, *options)
    assert outcome.code == 0, outcome.err
    assert len(list(out.glob("*Q8_0*.gguf"))) == 2


def test_keep_is_not_for_a_lora(cli: Cli, tmp_path: Path) -> None:
    base, _ = talking_gguf(tmp_path / "base.Q4_1.gguf", kind=Kind.Q4_1)
    path = tmp_path / "g.json"
    random_profile(open_model(str(tiny_peft_folder(base, tmp_path / "mine"))), path)
    options = ("--target", "gguf", "--precision", "keep")
    complaint = cli("export", "--profile", path, "-o", tmp_path / "x.gguf", *options).complaint()
    assert complaint.startswith("--precision keep keeps a GGUF's own blocks and this model's LoRA changes its weights")
    assert not (tmp_path / "x.gguf").exists()
