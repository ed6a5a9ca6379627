"""Reading and writing profiles. Oracle: what was written, and the errors their docstrings promise."""

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from profiles import make_profile, make_vectors, write_made_profile
from safetensors.numpy import load_file

import edgeskip.profiles.output
from edgeskip.core.errors import EdgeSkipError
from edgeskip.profiles.output import adapter_path, refuse_output
from edgeskip.profiles.presets import ready_profiles
from edgeskip.profiles.schema import (
    AdapterRecord,
    ExitStatistics,
    PlanRecord,
    Profile,
    locate_profile,
    model_at,
    read_adapter,
    read_profile,
    write_profile,
)
from edgeskip.profiles.vectors import pack_vectors, read_vectors


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_made_profile(tmp_path / "m.json", PlanRecord(method="explicit", compensation="scale", skip=["attn.1"]))
    return tmp_path / "m.json"


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_round_trip(path: Path) -> None:
    profile = read_profile(path)
    assert profile == make_profile(plan=profile.plan, path=path)
    vectors, expected = read_vectors(profile, path), make_vectors()
    np.testing.assert_array_equal(vectors.mean_in["prefill"], expected.mean_in["prefill"])
    np.testing.assert_array_equal(vectors.mean_out["prefill"], expected.mean_out["prefill"])
    assert set(vectors.mean_in) == {"prefill"}
    assert (vectors.exit_maps, vectors.token_counts) == ({}, None)  # as in profiles made before there were any


NARROW = np.array([[1, 0.5, 0], [-2, 3, 0.25], [0, 0, 1]], np.float32)
WIDE = NARROW + np.float32(1e-6)


def write_with_exits(path: Path, layers: tuple[int, ...] = (1, 3)) -> Profile:
    """A profile whose map of exit 1 float16 holds exactly, and that of exit 3 not."""
    counts = np.arange(8, dtype=np.int64)
    vectors = replace(make_vectors(), exit_maps={3: WIDE, 1: NARROW}, token_counts=counts)
    record, packed = pack_vectors(vectors, path)
    exits = [ExitStatistics(layer=n, tokens=10, plain_agreement=0.1, ridge_agreement=0.3) for n in layers]
    profile = make_profile(path=path).model_copy(update={"vectors": record, "exits": exits})
    write_profile(profile, path, packed)
    return profile


def test_round_trip_of_exits(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    written = write_with_exits(path)
    assert read_profile(path) == written
    vectors = read_vectors(written, path)
    assert list(vectors.exit_maps) == [1, 3]
    for layer, expected in ((1, NARROW), (3, WIDE)):
        np.testing.assert_array_equal(vectors.exit_maps[layer], expected)
        assert vectors.exit_maps[layer].dtype == np.float32
    assert vectors.token_counts is not None
    assert (vectors.token_counts.tolist(), vectors.token_counts.dtype) == (list(range(8)), np.int64)
    stored = load_file(path.with_suffix(".safetensors"))
    types = {name: str(array.dtype) for name, array in stored.items() if not name.startswith("prefill")}
    assert types == {"exit.1.map": "float16", "exit.3.map": "float32", "token_counts": "int32"}
    assert pack_vectors(vectors, path)[0] == written.vectors


def test_huge_map_is_not_rounded_to_infinity(tmp_path: Path) -> None:
    huge = NARROW * np.float32(1e5)
    record, packed = pack_vectors(replace(make_vectors(), exit_maps={1: huge}), tmp_path / "m.json")
    profile = make_profile().model_copy(update={"vectors": record})
    write_profile(profile, tmp_path / "m.json", packed)
    np.testing.assert_array_equal(read_vectors(profile, tmp_path / "m.json").exit_maps[1], huge)


def test_exit_without_its_map(tmp_path: Path) -> None:
    profile = write_with_exits(tmp_path / "m.json", layers=(1, 2))
    with pytest.raises(EdgeSkipError, match="no map for exit layer 2"):
        read_vectors(profile, tmp_path / "m.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exit_maps": {1: np.ones((3, 2), np.float32)}}, r"exit\.1\.map is float16\[3, 2\], expected float32\[3, 3\]"),
        ({"token_counts": np.ones(7, np.int64)}, r"token_counts is int32\[7\], expected int32\[8\]"),
        ({"mean_in": {"prefill": np.ones((8, 4))}}, r"prefill\.mean_in is float32\[8, 4\], expected float32\[8, 3\]"),
    ],
)
def test_arrays_of_another_shape(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "m.json"
    record, packed = pack_vectors(replace(make_vectors(), **changes), path)
    profile = make_profile().model_copy(update={"vectors": record})
    write_profile(profile, path, packed)
    with pytest.raises(EdgeSkipError, match=message):
        read_vectors(profile, path)


def test_written_profile_is_for_people(path: Path) -> None:
    """One value a line, no nulls, a newline at the end: readable and diffable."""
    text = path.read_text()
    assert text.endswith("}\n")
    assert "null" not in text
    assert '\n      "name": "attn.0",\n' in text


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(EdgeSkipError, match="edgeskip calibrate"):
        read_profile(tmp_path / "none.json")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'{"format": "x"}', b"[" * 100_000])
def test_not_a_profile(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(EdgeSkipError, match="not a"):
        read_profile(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 99}, "version 99"),
        ({"extra": 1}, "extra"),
        ({"sublayers": []}, "sublayers"),
        ({"model": {}}, r"model\."),
        ({"plan": {"method": "explicit", "compensation": "none", "skip": ["attn.9"]}}, r"attn\.9"),
        ({"vectors": {"file": "../m.safetensors", "sha256": "0"}}, r"vectors\.file"),
    ],
)
def test_damaged_fields_are_named(path: Path, changes: dict[str, Any], message: str) -> None:
    rewrite(path, **changes)
    with pytest.raises(EdgeSkipError, match=message):
        read_profile(path)


def test_vectors_missing_or_changed(path: Path) -> None:
    profile = read_profile(path)
    file = path.with_suffix(".safetensors")
    data = file.read_bytes()
    file.write_bytes(data[:-1] + b"\x00")
    with pytest.raises(EdgeSkipError, match="sha256"):
        read_vectors(profile, path)
    file.unlink()
    with pytest.raises(EdgeSkipError, match="copy both files"):
        read_vectors(profile, path)


@pytest.mark.parametrize("existed", [True, False])
def test_failed_write_leaves_things_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existed: bool
) -> None:
    """The JSON is written last; when that fails (here: Ctrl-C), the vectors file is put back."""
    path = tmp_path / "m.json"
    if existed:
        write_made_profile(path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    real = edgeskip.profiles.output.replace_file

    def interrupted(target: Path, data: bytes, *, overwrite: bool = True) -> None:
        if target.suffix == ".json":
            raise KeyboardInterrupt
        real(target, data)

    monkeypatch.setattr(edgeskip.profiles.output, "replace_file", interrupted)
    record, packed = pack_vectors(make_vectors(5), path)
    with pytest.raises(KeyboardInterrupt):
        write_profile(make_profile((0.9,) * 10).model_copy(update={"vectors": record}), path, packed)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


LORA, OTHER = b"a LoRA, as far as a profile knows", b"another"


def with_adapter(path: Path, data: bytes = LORA) -> Profile:
    """Writes a profile that has a LoRA."""
    made = make_profile(path=path)
    record = AdapterRecord(file="x.safetensors", sha256=hashlib.sha256(data).hexdigest(), base_fingerprint="ab" * 32)
    model = model_at(made.model.model_copy(update={"adapter": record}), path)
    profile = made.model_copy(update={"model": model})
    write_profile(profile, path, pack_vectors(make_vectors(), path)[1], data)
    return profile


def test_an_adapter_goes_beside_the_profile(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    profile = with_adapter(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["t.adapter.safetensors", "t.json", "t.safetensors"]
    assert read_profile(path) == profile
    assert read_adapter(profile, path) == LORA
    assert read_adapter(make_profile(), path) is None
    refuse_output(path, overwrite=True)
    adapter_path(path).write_bytes(OTHER)
    with pytest.raises(EdgeSkipError, match="does not match the sha256"):
        read_adapter(profile, path)
    adapter_path(path).unlink()
    with pytest.raises(EdgeSkipError, match=r"t\.adapter\.safetensors is missing: it belongs beside t\.json"):
        read_adapter(profile, path)


def test_an_adapter_goes_with_its_profile(tmp_path: Path) -> None:
    """A profile without one that takes its place leaves no LoRA that nothing names."""
    with_adapter(tmp_path / "t.json")
    write_made_profile(tmp_path / "t.json")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["t.json", "t.safetensors"]
    (tmp_path / "t.adapter.safetensors").write_bytes(OTHER)
    write_made_profile(tmp_path / "t.json")
    assert (tmp_path / "t.adapter.safetensors").read_bytes() == OTHER
    with pytest.raises(EdgeSkipError, match=r"t\.adapter\.safetensors exists and belongs to no profile"):
        refuse_output(tmp_path / "t.json", overwrite=True)


def test_failed_write_puts_the_adapter_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_adapter(tmp_path / "t.json")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    real = edgeskip.profiles.output.replace_file

    def full(target: Path, data: bytes, *, overwrite: bool = True) -> None:
        if target.suffix == ".json":
            raise OSError("full")
        real(target, data)

    monkeypatch.setattr(edgeskip.profiles.output, "replace_file", full)
    with pytest.raises(OSError, match="full"):
        with_adapter(tmp_path / "t.json", OTHER)
    with pytest.raises(OSError, match="full"):
        write_made_profile(tmp_path / "t.json")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_refused_outputs(path: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgeSkipError, match="--overwrite"):
        refuse_output(path, overwrite=False)
    refuse_output(path, overwrite=True)
    refuse_output(tmp_path / "new" / "other.json", overwrite=False)
    with pytest.raises(EdgeSkipError, match=r"end in \.json"):
        refuse_output(tmp_path / "llama.safetensors", overwrite=True)


@pytest.mark.parametrize("overwrite", [True, False])
def test_weights_beside_the_output_are_never_replaced(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(EdgeSkipError, match="belongs to no profile"):
        refuse_output(tmp_path / "model.json", overwrite=overwrite)


def test_locate(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert locate_profile(str(path)) == path
    monkeypatch.chdir(tmp_path)
    assert locate_profile("missing.json") == Path("missing.json")
    with pytest.raises(EdgeSkipError, match="edgeskip calibrate"):
        locate_profile("no-such-model")
    with pytest.raises(EdgeSkipError, match="folder"):
        locate_profile(tmp_path)


@pytest.mark.parametrize("name", sorted(ready_profiles()))
def test_ready_profiles_are_whole(name: str) -> None:
    path = locate_profile(name)
    vectors = read_vectors(read_profile(path), path)
    assert set(vectors.mean_in) == set(vectors.mean_out) == {"prefill", "decode"}


def test_statistics_are_numbers(path: Path) -> None:
    """A ranking by NaN has no order."""
    data = json.loads(path.read_text())
    data["sublayers"][0]["prefill"]["similarity"] = math.nan
    path.write_text(json.dumps(data))
    with pytest.raises(EdgeSkipError, match=r"sublayers\.0\.prefill\.similarity"):
        read_profile(path)


def with_number(path: Path, place: str, value: str) -> None:
    """Writes the number `value`, as it is spelled, at `place` of the profile."""
    content = json.loads(path.read_text())
    *parents, last = place.split(".")
    inner = content
    for name in parents:
        inner = inner[int(name)] if isinstance(inner, list) else inner[name]
    inner[last] = "HERE"
    path.write_text(json.dumps(content).replace('"HERE"', value))


@pytest.mark.parametrize("value", ["1e300", "1e-300", "5e-324", "0", "-1", "NaN", "Infinity", "1e400", '"x"', "[1]"])
@pytest.mark.parametrize("place", ["sublayers.0.prefill.scale", "sublayers.3.prefill.affine_scale"])
def test_scales_that_no_model_has(path: Path, place: str, value: str) -> None:
    with_number(path, place, value)
    with pytest.raises(EdgeSkipError, match=r"m\.json"):
        read_profile(path)


@pytest.mark.parametrize(
    ("place", "values"),
    [
        ("sublayers.0.prefill.similarity", ["2", "-1.5", "1e300", "NaN"]),
        ("sublayers.0.prefill.tokens", ["0", "1.7", "1e30", "-1"]),
        ("model.num_blocks", ["1.7", "1000000000", "0", "1e30"]),
        ("model.hidden_size", ["3.5", "1000000000000"]),
        ("model.vocab_size", ["0", "1e18"]),
        ("calibration.context", ["0", "1e12", "2.5"]),
        ("plan.alpha", ["0", "-1", "NaN", "1e300"]),
        ("plan.beta", ["2", "NaN", "-1e300"]),
        ("plan.window", ["0", "1.7", "1e15"]),
        ("plan.scales", ["[1e300]", "[0]", "[-1]", "[NaN]", "[1e-300]"]),
        ("plan.decode_scales", ["[1e300]", "[NaN]"]),
    ],
)
def test_numbers_out_of_bounds(path: Path, place: str, values: list[str]) -> None:
    before = path.read_text()
    for value in values:
        path.write_text(before)
        with_number(path, place, value)
        with pytest.raises(EdgeSkipError, match=r"m\.json"):
            read_profile(path)


def test_scales_that_multiply_to_nonsense(tmp_path: Path) -> None:
    """By hand: each is possible, 9,000⁴ = 6.6e15 is not: a plan divides the weights by it."""
    from edgeskip.planning.planner import resolve

    plan = PlanRecord(method="explicit", compensation="scale", skip=[f"ffn.{n}" for n in range(4)], scales=[9000.0] * 4)
    with pytest.raises(EdgeSkipError, match=r"multiply to 6\.56e\+15"):
        resolve(make_profile(plan=plan), None)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_vectors_that_are_not_finite(path: Path, value: float) -> None:
    """The hash is right: it was written so."""
    profile = read_profile(path)
    vectors = read_vectors(profile, path)
    vectors.mean_out["prefill"][2, 1] = value
    record, packed = pack_vectors(vectors, path)
    write_profile(profile.model_copy(update={"vectors": record}), path, packed)
    with pytest.raises(EdgeSkipError, match=r"prefill\.mean_out holds numbers that are not finite"):
        read_vectors(read_profile(path), path)


@pytest.mark.parametrize("content", ['{"architectures": ["LlamaForCausalLM"]}', "[]", "not JSON"])
def test_what_is_no_profile_is_never_replaced(tmp_path: Path, content: str) -> None:
    """A model's config.json ends in .json too."""
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(EdgeSkipError, match=r"config\.json exists and is not a profile"):
        refuse_output(path, overwrite=True)
    path.write_text("")
    refuse_output(path, overwrite=True)  # an empty file loses nothing
    with pytest.raises(EdgeSkipError, match="has a backslash in its name"):
        refuse_output(tmp_path / "b\\s.json", overwrite=False)


@pytest.mark.parametrize("name", ['q"u.json', "n\nl.json", "é.json"])
def test_a_profile_of_any_name_is_replaced(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_with_exits(path)
    refuse_output(path, overwrite=True)
