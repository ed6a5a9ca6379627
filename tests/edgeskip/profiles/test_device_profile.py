"""Device profiles as data. Oracle: sums worked out by hand, and files damaged on purpose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from device_profiles import make_device_profile
from profiles import make_profile

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.sublayers import parse_sublayer
from edgeskip.profiles.device_profile import (
    DecodeCost,
    read_device_profile,
    write_device_profile,
)


# attn.0, ffn.0, attn.1, ffn.1, attn.2, ffn.2; the last FFN of a prefill computes one row, the last attention less.
def sublayers(*names: str) -> set[Any]:
    return {parse_sublayer(name, 3) for name in names}


@pytest.mark.parametrize(
    ("skip", "onnx", "llamacpp"),
    [
        ((), 75, 75),
        (("attn.0",), 65, 65),
        (("ffn.2",), 74, 74),
        # attn.1 is the last attention and takes the last one's time; ffn.1 computes one row where nothing mixes rows
        # after it, in llama.cpp only what is last of all does.
        (("attn.2",), 4 + 10 + 20 + 8 + 1 + 1, 4 + 10 + 20 + 8 + 21 + 1),
        (("attn.2", "ffn.2"), 4 + 10 + 20 + 8 + 1, 4 + 10 + 20 + 8 + 1),
        (("attn.0", "attn.1", "attn.2"), 4 + 3 * 1, 4 + 20 + 21 + 1),
    ],
)
def test_prefill(skip: tuple[str, ...], onnx: float, llamacpp: float) -> None:
    chosen = sublayers(*skip)
    assert make_device_profile().prefill_s(chosen) == pytest.approx(onnx)
    assert make_device_profile(one_row="last").prefill_s(chosen) == pytest.approx(llamacpp)


@pytest.mark.parametrize(
    ("context", "dense", "skipped"),
    [(0, 7, 5), (50, 10, 7), (100, 13, 9), (200, 16, 11), (300, 19, 13), (400, 22, 15)],
)
def test_decode_is_linear_between_contexts_and_beyond(context: int, dense: float, skipped: float) -> None:
    """Without attn.1 and ffn.0."""
    profile = make_device_profile()
    assert profile.decode_s((), context) == pytest.approx(dense)
    assert profile.decode_s(sublayers("attn.1", "ffn.0"), context) == pytest.approx(skipped)
    assert profile.speedups(sublayers("attn.1", "ffn.0"), context) == pytest.approx((75 / 44, dense / skipped))


def test_one_context_holds_everywhere() -> None:
    profile = make_device_profile(decode=[DecodeCost(context=512, base_s=1.0, sublayer_s=[1.0] * 6)])
    assert [profile.decode_s((), context) for context in (0, 512, 4096)] == [7, 7, 7]


def test_a_profile_comes_back_as_it_was(tmp_path: Path) -> None:
    profile = make_device_profile()
    write_device_profile(profile, tmp_path / "phone.json")
    assert read_device_profile(tmp_path / "phone.json") == profile


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 2}, "has device profile version 2"),
        ({"format": "edgeskip-profile"}, "'format' is not 'edgeskip-device-profile'"),
        ({"threads": 0}, "field 'threads'"),
        ({"prefill": {"tokens": 512, "base_s": 1.0, "sublayer_s": [1.0] * 5}}, "'sublayer_s' must have 6 numbers"),
        ({"prefill": {"tokens": 512, "base_s": -1.0, "sublayer_s": [1.0] * 6}}, "field 'prefill.base_s'"),
        ({"decode": [{"context": 5, "base_s": 1.0, "sublayer_s": [1.0] * 6}] * 2}, "each context once, rising"),
    ],
)
def test_a_damaged_profile_is_named(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = tmp_path / "phone.json"
    path.write_text(json.dumps(make_device_profile().model_dump(mode="json") | change))
    with pytest.raises(EdgeSkipError, match=said):
        read_device_profile(path)


def test_no_profile_and_no_json(tmp_path: Path) -> None:
    with pytest.raises(EdgeSkipError, match="make one with  edgeskip profile-device"):
        read_device_profile(tmp_path / "phone.json")
    (tmp_path / "phone.json").write_text("{")
    with pytest.raises(EdgeSkipError, match="not JSON"):
        read_device_profile(tmp_path / "phone.json")


def test_another_models_profile() -> None:
    make_device_profile().check_model(make_profile((0.5,) * 6))
    with pytest.raises(EdgeSkipError, match="dense artifact of the same model"):
        make_device_profile().check_model(make_profile())
