"""`edgeskip plan` and `edgeskip schema`. Oracle: `choose` on the same profile, and the schema's own promise."""

import json
from pathlib import Path
from typing import Any

import pytest
from profiles import make_vectors, write_made_profile
from typer.testing import CliRunner

from edgeskip.cli.main import app
from edgeskip.core.errors import EdgeSkipError
from edgeskip.planning.planner import choose
from edgeskip.profiles.schema import Profile, read_profile
from edgeskip.profiles.vectors import read_vectors


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_made_profile(tmp_path / "m.json")
    return tmp_path / "m.json"


def plan(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["plan", *map(str, arguments)])


def test_plan_is_written_and_shown(path: Path) -> None:
    profile = read_profile(path)
    result = plan(path, "--alpha", 1.6, "--compensation", "scale")
    assert result.exit_code == 0
    planned = read_profile(path)
    assert planned.plan == choose(profile, alpha=1.6, compensation="scale")
    assert planned.model_copy(update={"plan": None}) == profile
    for words in ("ffn.1", "attn.2", "attn.3", "0.9900", "1.9900", "3 of 8 sublayers", "β = 0.9500"):
        assert words in result.stdout
    assert "attn.1 " not in result.stdout


def test_names(path: Path) -> None:
    assert plan(path, "--skip", " ffn.3, attn.1,").exit_code == 0
    assert read_profile(path).plan == choose(read_profile(path), skip=["attn.1", "ffn.3"])


def test_dense_again(path: Path) -> None:
    assert plan(path, "--skip-sublayers", 2).exit_code == 0
    result = plan(path, "--skip-sublayers", 0)
    assert "dense" in result.stdout
    record = read_profile(path).plan
    assert record is not None
    assert record.skip == []


def test_elsewhere_takes_the_vectors_along(path: Path, tmp_path: Path) -> None:
    before = path.read_bytes()
    other = tmp_path / "new" / "other.json"
    assert plan(path, "--skip-sublayers", 2, "-o", other).exit_code == 0
    assert path.read_bytes() == before
    vectors = read_vectors(read_profile(other), other)
    assert (vectors.mean_in["prefill"] == make_vectors().mean_in["prefill"]).all()
    assert isinstance(plan(path, "--skip-sublayers", 3, "-o", other).exception, EdgeSkipError)
    assert plan(path, "--skip-sublayers", 3, "-o", other, "--overwrite").exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--alpha", "1.2", "--skip-sublayers", "3"],
        ["--alpha", "0.5"],
        ["--skip", "attn.9"],
        ["--skip-sublayers", "8"],
        ["--skip-sublayers", "2", "--method", "astrology"],
        ["--skip-sublayers", "2", "--compensation", "money"],
    ],
)
def test_bad_requests_change_nothing(path: Path, arguments: list[str]) -> None:
    before = path.read_bytes()
    result = plan(path, *arguments)
    assert isinstance(result.exception, EdgeSkipError) or result.exit_code == 2
    assert path.read_bytes() == before


def test_missing_vectors_change_nothing(path: Path) -> None:
    before = path.read_bytes()
    path.with_suffix(".safetensors").unlink()
    assert isinstance(plan(path, "--skip-sublayers", 2).exception, EdgeSkipError)
    assert path.read_bytes() == before


def test_shipped_profiles_are_not_changed(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("edgeskip.profiles.presets.ready_profiles", lambda: {"made": path})
    result = plan("made", "--skip-sublayers", 2)
    assert isinstance(result.exception, EdgeSkipError)
    assert "-o" in str(result.exception)
    assert plan("made", "--skip-sublayers", 2, "-o", tmp_path / "mine.json").exit_code == 0


def test_schema_documents_every_field() -> None:
    result = CliRunner().invoke(app, ["schema"])
    schema = json.loads(result.stdout)
    assert schema == Profile.model_json_schema()
    statistics = schema["$defs"]["PhaseStatistics"]["properties"]
    assert all("description" in field for field in statistics.values())
