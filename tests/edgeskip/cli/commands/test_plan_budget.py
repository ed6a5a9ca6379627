"""`edgeskip plan --method budget` and `--fit`, from a tiny model to an artifact. Oracle: export's own check against the
torch model with the plan by hooks, and the front that the profile keeps."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_models import tiny_checkpoint
from typer.testing import CliRunner

from edgeskip.artifacts.manifest import read_manifest
from edgeskip.cli.main import app
from edgeskip.core.errors import EdgeSkipError
from edgeskip.profiles.schema import read_profile
from edgeskip.profiles.vectors import read_vectors

TEXT = " ".join(f"Sentence {n} tells of {n * 7 % 13} foxes and {n * n % 31} dogs that jump." for n in range(300))
WINDOWS = ("--tokens", "256", "--window-tokens", "32")
LIMITS = ("--max-skips", "3", "--search-kl", "100")
SMALL = (*WINDOWS, *LIMITS)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a calibrated profile (tiny.json) and its text."""
    folder = tmp_path_factory.mktemp("budget")
    (folder / "text.txt").write_text(TEXT)
    tiny_checkpoint("llama", folder / "tiny")
    corpus = ("--corpus", str(folder / "text.txt"), "--context", "32", "--tokens", "512")
    invoke("calibrate", str(folder / "tiny"), "-o", str(folder / "tiny.json"), *corpus)
    return folder


@pytest.fixture
def folder(calibrated: Path, tmp_path: Path) -> Path:
    for file in calibrated.glob("t*.*"):
        shutil.copy(file, tmp_path)
    return tmp_path


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    if isinstance(result.exception, EdgeSkipError):
        raise result.exception
    if result.exit_code == 2:
        raise EdgeSkipError(result.output)
    assert result.exit_code == 0, result.output
    return result.output


def plan(folder: Path, *arguments: str) -> str:
    return invoke("plan", str(folder / "tiny.json"), "--corpus", str(folder / "text.txt"), *SMALL, *arguments)


def pick(folder: Path, *arguments: str) -> str:
    text = ("--corpus", str(folder / "text.txt"), *WINDOWS)
    return invoke("plan", str(folder / "tiny.json"), *text, "--method", "budget", *arguments)


def test_a_search_and_what_is_picked_from_it(folder: Path, calibrated: Path) -> None:
    path = folder / "tiny.json"
    said = plan(folder, "--method", "budget", "--skip-sublayers", "3", "--plot", str(folder / "front.png"))
    profile = read_profile(path)
    assert profile.front is not None
    assert profile.plan is not None
    assert (profile.plan.method, profile.plan.compensation, len(profile.plan.skip)) == ("budget", "linear", 3)
    assert "KL" in said
    assert (folder / "front.png").read_bytes().startswith(b"\x89PNG")
    (log,) = folder.glob("tiny.search-*.jsonl")
    logged = log.read_bytes()
    vectors = read_vectors(profile, path)
    assert vectors.plan_map is not None
    assert vectors.plan_map.shape == (3, 64, 64)

    # Another budget takes a point of the front that is there, without searching, and so does a smaller question; what
    # is left open is as the front was searched.
    pick(folder, "--point", "1", "--no-decode-set")
    text = ("--corpus", str(folder / "text.txt"), "--no-decode-set")
    for smaller in ((), ("--tokens", "64"), ("--max-skips", "2"), ("--search-kl", "0.9", "--window-tokens", "32")):
        invoke("plan", str(path), *text, "--method", "budget", "--point", "1", *smaller)
    for larger, says in (
        (("--tokens", "99999"), r"searched with --tokens \d+, fewer than 99999: leave --tokens out, or add --search"),
        (("--max-skips", "7"), "searched for up to 3 skips, fewer than --max-skips 7: leave it out, or add --search"),
        (("--search-kl", "200"), "searched up to 100 nats, less than --search-kl 200"),
        (("--window-tokens", "64"), "searched with --window-tokens 32, not 64"),
        (("--seed", "5"), "searched with --seed 0, not 5"),
        (("--compensation", "scale"), "searched with --compensation linear, not scale"),
        (("--objective", "perplexity"), "searched with --objective kl, not perplexity"),
    ):
        with pytest.raises(EdgeSkipError, match=says):
            invoke("plan", str(path), *text, "--method", "budget", "--point", "1", *larger)
    with pytest.raises(EdgeSkipError, match=r"measured on other text: give --corpus text\.txt with the same content"):
        invoke("plan", str(path), "--method", "budget", "--point", "1")
    again = read_profile(path)
    assert again.front == profile.front
    assert again.plan is not None
    assert again.plan.skip == profile.front.points[0].skip
    assert log.read_bytes() == logged

    # A plan by similarity leaves the front and takes the fitted arrays away.
    invoke("plan", str(path), "--skip-sublayers", "2")
    plain = read_profile(path)
    assert plain.front == profile.front
    assert read_vectors(plain, path).plan_map is None

    for number, arguments in enumerate((("--point", "1"), ("--skip-sublayers", "3"))):
        pick(folder, *arguments)
        out = folder / f"out{number}"
        invoke("export", "--profile", str(path), "--model", str(calibrated / "tiny"), "-o", str(out))
        record = read_manifest(out).verification
        assert record is not None
        assert record.passed


@pytest.mark.parametrize("compensation", ["scale", "affine", "linear"])
def test_fitting_a_plan_chosen_otherwise(folder: Path, calibrated: Path, compensation: str) -> None:
    said = plan_without_limits(folder, "--skip", "attn.1,ffn.2", "--fit", "--compensation", compensation)
    record = read_profile(folder / "tiny.json").plan
    assert record is not None
    assert record.scales is not None
    assert record.compensation == compensation
    assert "tokens, in windows of 32, that the fit did not use" in " ".join(said.split())
    invoke(
        "export", "--profile", str(folder / "tiny.json"), "--model", str(calibrated / "tiny"), "-o", str(folder / "o")
    )
    verification = read_manifest(folder / "o").verification
    assert verification is not None
    assert verification.passed


def plan_without_limits(folder: Path, *arguments: str) -> str:
    text = ("--corpus", str(folder / "text.txt"), "--tokens", "256", "--window-tokens", "32")
    return invoke("plan", str(folder / "tiny.json"), *text, *arguments)


def test_a_skip_plan_draft_cannot_have_maps(folder: Path, calibrated: Path) -> None:
    plan_without_limits(folder, "--skip", "attn.1", "--compensation", "linear")
    with pytest.raises(EdgeSkipError, match="linear"):
        invoke(
            "export", "--profile", str(folder / "tiny.json"), "--model", str(calibrated / "tiny"), "-o",
            str(folder / "o"), "--draft", "skip-plan",
        )  # fmt: skip
    assert not (folder / "o").exists()


def test_an_exit_next_to_a_map(folder: Path, calibrated: Path) -> None:
    """attn.2 reads ffn.1's update, and the exit is between them."""
    plan_without_limits(folder, "--skip", "attn.2,ffn.3", "--compensation", "linear")
    model = ("--profile", str(folder / "tiny.json"), "--model", str(calibrated / "tiny"))
    invoke("export", *model, "-o", str(folder / "o"), "--draft", "early-exit", "--exit-layer", "2")
    record = read_manifest(folder / "o").verification
    assert record is not None
    assert record.passed


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--method", "budget"), "exactly one of --max-kl"),
        (("--method", "budget", "--max-kl", "0.1", "--point", "1"), "exactly one of --max-kl"),
        (("--method", "budget", "--max-kl", "0.1", "--alpha", "1.2"), "--alpha .*--method budget"),
        (("--max-kl", "0.1", "--skip-sublayers", "2"), "--max-kl .*--method budget"),
        (("--method", "budget", "--max-ppl-increase", "much"), "write 10%"),
        (("--method", "budget", "--max-kl", "0.1", "--objective", "speed"), "'kl', 'perplexity'"),
        (("--method", "budget", "--max-kl", "0.1", "--device-profile", "no.json"), "no device profile at no.json"),
        (("--method", "budget", "--max-kl", "1e-9"), "the least is"),
        (("--method", "budget", "--max-kl", "1", "--fit"), "--fit .*--method budget"),
        (("--method", "budget", "--max-kl", "1", "--context", "9"), "without --device-profile"),
        (("--method", "budget", "--max-ppl-increase", "10"), "write 10%"),
        (("--method", "budget", "--max-kl", "1", "--plot", "x.jpg"), "the format is unknown"),
        (("--skip-sublayers", "2", "--objective", "kl"), "--objective .*--method budget"),
        (("--skip-sublayers", "2", "--device", "cpu"), "--device .*--method budget or --fit"),
    ],
)
def test_bad_input_leaves_the_profile_alone(folder: Path, arguments: tuple[str, ...], says: str) -> None:
    before = (folder / "tiny.json").read_bytes()
    small = SMALL if "budget" in arguments else ()
    if "--max-kl" in arguments and "budget" not in arguments:
        small = ()
    text = ("--corpus", str(folder / "text.txt")) if "budget" in arguments else ()
    with pytest.raises(EdgeSkipError, match=says):
        invoke("plan", str(folder / "tiny.json"), *text, *small, *arguments)
    assert (folder / "tiny.json").read_bytes() == before


def test_another_corpus_than_the_fronts_is_refused(folder: Path) -> None:
    plan(folder, "--method", "budget", "--point", "1")
    (folder / "other.txt").write_text(TEXT.replace("foxes", "hares"))
    with pytest.raises(EdgeSkipError, match="measured on other text"):
        invoke(
            "plan", str(folder / "tiny.json"), "--corpus", str(folder / "other.txt"), *WINDOWS, "--method", "budget",
            "--point", "1",
        )  # fmt: skip


def test_inspect_tells_of_the_front(folder: Path) -> None:
    plan(folder, "--method", "budget", "--point", "1")
    said = " ".join(invoke("inspect", str(folder / "tiny.json")).split())
    front = read_profile(folder / "tiny.json").front
    assert front is not None
    assert f"{len(front.points)} plans of 1 to 3 sublayers" in said
    assert "budget, compensation linear" in said
