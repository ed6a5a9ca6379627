"""`edgeskip.calibrate` and `edgeskip.plan`, with profiles that no file holds.

Oracle: the files that the commands write, byte for byte, and the names on the disk.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edgeskip
from edgeskip.core.progress import ProgressEvent

SMALL = {"corpus": "corpus.txt", "tokens": 256, "context": 64, "decode_tokens": 64, "exits": [2]}
OPTIONS = ["--corpus", "corpus.txt", "--tokens", "256", "--context", "64", "--decode-tokens", "64", "--exits", "2"]
Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def measured(home: Path) -> edgeskip.Profile:
    return edgeskip.calibrate("model", **SMALL)  # type: ignore[arg-type]


def timeless(path: Path) -> dict[str, Any]:
    """A profile's JSON without what depends on the moment."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    del found["calibration"]["created"]
    return found


@pytest.mark.parametrize("count", [2.5, "2", True])
def test_what_is_no_number_of_sublayers_is_refused(measured: edgeskip.Profile, count: Any) -> None:
    with pytest.raises(edgeskip.EdgeSkipError, match="skip_sublayers must be a whole number"):
        edgeskip.plan(measured, skip_sublayers=count, measure_cost=False)


@pytest.mark.parametrize("thing", [3, {"format": "edgeskip-profile"}, None])
def test_what_is_no_profile_is_refused(work: Path, thing: Any) -> None:
    for attempt in (lambda: edgeskip.plan(thing, skip_sublayers=1), lambda: edgeskip.export(thing, work / "out")):
        with pytest.raises(edgeskip.EdgeSkipError, match=f"not {type(thing).__name__}"):
            attempt()


def test_nothing_is_written_or_printed(
    home: Path, measured: edgeskip.Profile, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path.name for path in home.iterdir())
    again = edgeskip.calibrate("model", **SMALL)  # type: ignore[arg-type]
    planned = edgeskip.plan(again, skip_sublayers=2)
    assert sorted(path.name for path in home.iterdir()) == before
    assert capfd.readouterr() == ("", "")
    assert planned.path is None
    assert again.plan is None
    assert planned.plan is not None
    assert planned.plan.cost is not None
    assert "not saved" in repr(planned)


def test_saved_it_is_what_the_commands_write(cli: Cli, work: Path, measured: edgeskip.Profile) -> None:
    saved = edgeskip.plan(measured, skip_sublayers=3, measure_cost=False).save(work / "api.json")
    assert cli("calibrate", "model", *OPTIONS, "-o", work / "cli.json").code == 0
    assert cli("plan", work / "cli.json", "--skip-sublayers", 3, "--no-cost").code == 0
    ours, theirs = timeless(work / "api.json"), timeless(work / "cli.json")
    assert ours["vectors"].pop("file") == "api.safetensors"
    assert theirs["vectors"].pop("file") == "cli.safetensors"
    assert ours == theirs
    assert (work / "api.safetensors").read_bytes() == (work / "cli.safetensors").read_bytes()
    assert saved.path == work / "api.json"
    assert edgeskip.Profile.load(work / "api.json") == saved


def test_a_saved_profile_is_not_changed_by_plan(work: Path, measured: edgeskip.Profile) -> None:
    measured.save(work / "p.json")
    before = (work / "p.json").read_bytes()
    edgeskip.plan(work / "p.json", skip="ffn.1", measure_cost=False)
    assert (work / "p.json").read_bytes() == before
    written = edgeskip.plan(work / "p.json", skip="ffn.1", measure_cost=False, output=work / "p.json", overwrite=True)
    assert written.plan is not None
    assert edgeskip.Profile.load(work / "p.json").plan == written.plan


def test_fitted_plans_travel_without_files(measured: edgeskip.Profile) -> None:
    """Biases and maps are in the bytes that the profile carries: planning again from it reads them."""
    options = {"corpus": "corpus.txt", "tokens": 128, "window_tokens": 32}
    planned = edgeskip.plan(
        measured,
        skip=["attn.1", "ffn.2"],
        compensation="linear",
        measure_cost=False,
        **options,  # type: ignore[arg-type]
    )
    assert planned.plan is not None
    assert planned.plan.scales is not None
    assert len(planned.plan.scales) == 2
    dense = edgeskip.plan(planned, skip_sublayers=0)
    assert dense.plan is not None
    assert dense.plan.skip == []


def test_saving_refuses_what_is_there(work: Path, measured: edgeskip.Profile) -> None:
    measured.save(work / "p.json")
    with pytest.raises(edgeskip.EdgeSkipError, match=r"p\.json exists"):
        measured.save(work / "p.json")
    (work / "config.json").write_text("{}")
    with pytest.raises(edgeskip.EdgeSkipError, match=r"config\.json"):
        measured.save(work / "config.json", overwrite=True)


def test_progress_ends_where_the_work_does(home: Path) -> None:
    events: list[ProgressEvent] = []
    edgeskip.calibrate("model", progress=events.append, **SMALL)  # type: ignore[arg-type]
    assert {"prefill", "decode", "exits"} <= {event.stage for event in events}
    for stage in ("prefill", "decode"):
        some = [event for event in events if event.stage == stage]
        assert [event.done for event in some] == sorted(event.done for event in some)
    assert [e for e in events if e.stage == "prefill"][-1] == ProgressEvent("prefill", 256, 256, "tokens")


def test_interrupted_it_leaves_nothing(work: Path) -> None:
    def stop(event: ProgressEvent) -> None:
        if event.stage == "decode":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        edgeskip.calibrate("model", output=work / "p.json", progress=stop, **SMALL)  # type: ignore[arg-type]
    assert list(work.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"method": "guess"}, "guess"),
        ({"compensation": "magic"}, "magic"),
        ({"alpha": 1.2, "skip": "ffn.1"}, "exactly one"),
        ({"max_kl": 0.1, "skip": "ffn.1"}, "has no effect"),
        ({"method": "budget", "alpha": 1.2, "max_kl": 0.1}, "has no effect"),
    ],
)
def test_arguments_that_do_not_fit(measured: edgeskip.Profile, options: dict[str, Any], told: str) -> None:
    with pytest.raises(edgeskip.EdgeSkipError, match=told):
        edgeskip.plan(measured, **options)
