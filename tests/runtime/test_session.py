"""Sessions against greedy decoding in numpy: generate, stream, stop, fill the context, and every refusal."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from tiny_graph import CONTEXT, VOCAB, TinyArtifact

import edgeskip
from edgeskip import Sampling
from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.engines import prefill

PROMPT = [5, 80, 33, 12, 200]


@pytest.fixture
def session(tiny_artifact: TinyArtifact) -> edgeskip.Session:
    return edgeskip.load(tiny_artifact.folder, threads=1)


@pytest.fixture
def copy(tiny_artifact: TinyArtifact, tmp_path: Path) -> Path:
    """The artifact's folder, free to change."""
    return Path(shutil.copytree(tiny_artifact.folder, tmp_path / "copy"))


def test_generates_the_oracles_greedy_tokens(session: edgeskip.Session, tiny_artifact: TinyArtifact) -> None:
    """Oracle: numpy argmax over the whole sequence at each step."""
    generation = session.generate(PROMPT, max_tokens=30)
    assert list(generation.tokens) == tiny_artifact.greedy(PROMPT, 30)
    assert generation.finish_reason == "length"
    assert (generation.label, generation.strategy, generation.provider) == ("lossy-skip", "plain", "cpu")
    assert session.generate(PROMPT, max_tokens=30).tokens == generation.tokens


def test_the_stream_joins_to_the_text(session: edgeskip.Session) -> None:
    """By hand: pieces of the stream are the generation's text, and the tokens' bytes without a cut character."""
    stream = session.stream(PROMPT, max_tokens=40)
    pieces = list(stream)
    generation = stream.generation
    assert "".join(pieces) == generation.text
    raw = b"".join(session.tokenizer.piece(token) for token in generation.tokens)
    assert raw.decode(errors="replace").startswith(generation.text)
    assert len(pieces) > 1


def test_a_stream_tells_what_it_has_so_far(session: edgeskip.Session, tiny_artifact: TinyArtifact) -> None:
    """By hand: three pieces in, then closed."""
    sampling = Sampling(temperature=1.0, seed=4)
    whole = session.generate(PROMPT, max_tokens=40, sampling=sampling)
    stream = session.stream(PROMPT, max_tokens=40, sampling=sampling)
    begun = next(stream) + next(stream) + next(stream)
    stream.close()
    partial = stream.generation
    assert partial.text == begun
    assert partial.finish_reason == "interrupted"
    assert whole.tokens[: len(partial.tokens)] == partial.tokens
    assert 3 <= len(partial.tokens) < 40
    assert list(stream) == []


def test_a_new_generation_ends_the_one_before(session: edgeskip.Session) -> None:
    """By hand: the cache holds one sequence, so the older stream must not go on in it."""
    older = session.stream(PROMPT, max_tokens=40, sampling=Sampling(temperature=1.0, seed=4))
    next(older)
    session.generate(PROMPT, max_tokens=3)
    with pytest.raises(EdgeSkipError, match="ended before its text was complete: a newer call"):
        next(older)
    assert older.generation.finish_reason == "interrupted"


def test_an_abandoned_stream_is_in_nobodys_way(session: edgeskip.Session, tiny_artifact: TinyArtifact) -> None:
    """Oracle: numpy's greedy tokens, after a stream that was broken off, closed, or refused something."""
    sampling = Sampling(temperature=1.0, seed=4)
    expected = tuple(tiny_artifact.greedy(PROMPT, 5))
    for _ in session.stream(PROMPT, max_tokens=40, sampling=sampling):
        break
    assert session.generate(PROMPT, max_tokens=5).tokens == expected
    closed = session.stream(PROMPT, max_tokens=40, sampling=sampling)
    next(closed)
    closed.close()
    closed.close()
    assert session.generate(PROMPT, max_tokens=5).tokens == expected
    assert list(closed) == []  # it was the caller who closed it


def test_a_stream_that_has_ended_stays_so(session: edgeskip.Session) -> None:
    """By hand: a newer one takes nothing from it."""
    older = session.stream(PROMPT, max_tokens=5)
    text = "".join(older)
    session.generate(PROMPT, max_tokens=3)
    assert list(older) == []
    assert (older.generation.text, older.generation.finish_reason) == (text, "length")


def test_what_is_refused_ends_no_stream(session: edgeskip.Session) -> None:
    """By hand: a mistake in the second call must not cost the first."""
    sampling = Sampling(temperature=1.0, seed=4)
    whole = session.generate(PROMPT, max_tokens=40, sampling=sampling)
    stream = session.stream(PROMPT, max_tokens=40, sampling=sampling)
    next(stream)
    for options in ({"max_tokens": 0}, {"stop": 5}, {"system": "a"}):
        with pytest.raises(EdgeSkipError):
            session.stream(PROMPT, **options)  # type: ignore[arg-type]
    for _ in stream:
        pass
    assert stream.generation.tokens == whole.tokens


def test_two_streams_never_mix(session: edgeskip.Session) -> None:
    """By hand: of two that are drawn in turn, the older says that it was ended; the newer is whole."""
    sampling = Sampling(temperature=1.0, seed=4)
    whole = session.generate(PROMPT, max_tokens=40, sampling=sampling)
    older, newer = (session.stream(PROMPT, max_tokens=40, sampling=sampling) for _ in range(2))
    with pytest.raises(EdgeSkipError, match="a newer call of the same session"):
        list(zip(newer, older, strict=False))
    for _ in newer:
        pass
    assert newer.generation.tokens == whole.tokens


def test_a_stream_says_that_its_session_was_closed(tiny_artifact: TinyArtifact) -> None:
    """By hand."""
    session = edgeskip.load(tiny_artifact.folder, threads=1)
    stream = session.stream(PROMPT, max_tokens=40, sampling=Sampling(temperature=1.0, seed=4))
    next(stream)
    session.close()
    session.close()
    with pytest.raises(EdgeSkipError, match="session was closed"):
        next(stream)


def test_threads_get_whole_answers_or_a_clear_error(session: edgeskip.Session, tiny_artifact: TinyArtifact) -> None:
    """Oracle: numpy's greedy tokens; every other outcome is an EdgeSkipError, and the session lives on."""
    expected = tuple(tiny_artifact.greedy(PROMPT, 30))
    logits = session.logits(PROMPT)
    shared = session.stream(PROMPT, max_tokens=500)
    wrong: list[object] = []
    outcomes: list[str] = []

    def work(number: int) -> None:
        for _ in range(20):
            try:
                if number % 3 == 0:
                    next(shared, None)
                elif number % 3 == 1:
                    found = session.generate(PROMPT, max_tokens=30).tokens
                    wrong.extend([] if found == expected else [found])
                else:
                    np.testing.assert_array_equal(session.logits(PROMPT), logits)
                outcomes.append("done")
            except EdgeSkipError as error:
                outcomes.append(str(error))
            except BaseException as error:
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert set(outcomes) - {"done"}
    assert all("thread" in outcome or "newer call" in outcome for outcome in set(outcomes) - {"done"})
    assert session.generate(PROMPT, max_tokens=30).tokens == expected


def test_a_call_from_another_thread_is_refused_while_one_runs(session: edgeskip.Session) -> None:
    """By hand: in the middle of a step, which the session's own thread may not begin another in either."""
    refused: list[str] = []
    step = session.engine.step

    def meanwhile(*args: object, **kwargs: object) -> object:
        def call() -> None:
            try:
                session.generate(PROMPT, max_tokens=1)
            except EdgeSkipError as error:
                refused.append(str(error))

        other = threading.Thread(target=call)
        other.start()
        other.join()
        call()  # as a signal handler would
        return step(*args, **kwargs)  # type: ignore[arg-type]

    session.engine.step = meanwhile  # type: ignore[method-assign]
    stream = session.stream(PROMPT, max_tokens=1)
    assert len(list(stream)) <= 1
    assert stream.generation.finish_reason == "length"
    assert ["another thread" in refused[0], "computing its next token" in refused[1]] == [True, True]


@pytest.mark.parametrize("source", ["generation_config.json", "config.json"])
@pytest.mark.parametrize("as_list", [True, False])
def test_every_end_token_ends_the_text(copy: Path, tiny_artifact: TinyArtifact, source: str, as_list: bool) -> None:
    """Oracle: numpy's greedy tokens up to the first that the file calls an end; the tokenizer's own stays one too."""
    prompt = [9, 70, 44]
    greedy = tiny_artifact.greedy(prompt, 12)
    end = next(token for index, token in enumerate(greedy) if index >= 2 and token not in greedy[:index])
    (copy / source).write_text(json.dumps({"eos_token_id": [end, VOCAB - 1] if as_list else end}), encoding="utf-8")
    session = edgeskip.load(copy, threads=1)
    generation = session.generate(prompt, max_tokens=12)
    assert list(generation.tokens) == greedy[: greedy.index(end)]
    assert generation.finish_reason == "eos"
    own = session.tokenizer.token_id("<|end|>")
    assert session.end_tokens == {end, own} | ({VOCAB - 1} if as_list else set())


def test_an_end_token_at_once_is_an_empty_text(copy: Path, tiny_artifact: TinyArtifact) -> None:
    """By hand."""
    first = tiny_artifact.greedy(PROMPT, 1)[0]
    (copy / "config.json").write_text(json.dumps({"eos_token_id": first}), encoding="utf-8")
    generation = edgeskip.load(copy, threads=1).generate(PROMPT)
    assert (generation.text, generation.tokens, generation.finish_reason) == ("", (), "eos")
    assert generation.stats.ttft_s > 0
    assert generation.stats.decode_tokens_per_s == 0


def test_a_stop_string_across_tokens_cuts_the_text(session: edgeskip.Session) -> None:
    """Oracle: str.find in the text generated without it; here every token is a byte, so the stop spans tokens."""
    sampling = Sampling(temperature=1.0, seed=8)
    whole = session.generate(PROMPT, max_tokens=60, sampling=sampling).text
    stop = whole[20:23]
    pieces = list(stream := session.stream(PROMPT, max_tokens=60, sampling=sampling, stop=stop))
    assert stream.generation.text == "".join(pieces) == whole[: whole.find(stop)]
    assert stream.generation.finish_reason == "stop"


def test_text_held_back_for_a_stop_string_comes_at_the_end(session: edgeskip.Session) -> None:
    """By hand: the last characters could begin the stop string but generation ends there."""
    sampling = Sampling(temperature=1.0, seed=8)
    whole = session.generate(PROMPT, max_tokens=60, sampling=sampling).text
    assert session.generate(PROMPT, max_tokens=60, sampling=sampling, stop=[whole[-2:] + "never"]).text == whole


def test_generation_ends_when_the_context_is_full(session: edgeskip.Session) -> None:
    """By hand: all CONTEXT positions are used, and the last one's logits give one more token."""
    generation = session.generate(PROMPT, sampling=Sampling(temperature=1.0, seed=1))
    assert generation.finish_reason in {"length", "eos"}
    full = session.generate([7] * CONTEXT)
    assert (len(full.tokens), full.finish_reason) == (1, "length")
    nearly = session.generate([7] * (CONTEXT - 4), max_tokens=100)
    assert (len(nearly.tokens), nearly.finish_reason) == (5, "length")


def test_logits_of_every_position(
    session: edgeskip.Session, tiny_artifact: TinyArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: numpy; also when the tokens run in chunks."""
    tokens = np.random.default_rng(0).integers(0, VOCAB, 100)
    expected = tiny_artifact.logits(tokens)
    np.testing.assert_allclose(session.logits(tokens), expected, rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(prefill, "PREFILL_CHUNK", 7)
    np.testing.assert_allclose(session.logits(tokens.tolist()), expected, rtol=1e-4, atol=1e-4)


def test_a_prompt_longer_than_a_chunk(
    session: edgeskip.Session, tiny_artifact: TinyArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: numpy's greedy tokens."""
    monkeypatch.setattr(prefill, "PREFILL_CHUNK", 16)
    prompt = np.random.default_rng(2).integers(0, VOCAB, 50)
    assert list(session.generate(prompt, max_tokens=5).tokens) == tiny_artifact.greedy(prompt.tolist(), 5)


def test_prompts_as_text_messages_and_ids(session: edgeskip.Session) -> None:
    """By hand, from the template in tiny_graph."""
    text = session.tokenizer.encode("hey", add_special_tokens=False)
    start, end = session.tokenizer.token_id("<|start|>"), session.tokenizer.token_id("<|end|>")
    chat = [start, *text, end]
    assert session.encode("hey").tolist() == chat
    assert session.encode("hey", chat=False).tolist() == text
    assert session.encode([{"role": "user", "content": "hey"}]).tolist() == chat
    assert session.encode("hey", system="hey").tolist() == chat * 2
    assert session.encode(text).tolist() == text
    assert session.encode(np.array(text)).dtype == np.int64


def test_stats_add_up(session: edgeskip.Session) -> None:
    """By hand: counts are exact, times are positive and rates are their quotients."""
    stats = session.generate(PROMPT, max_tokens=20).stats
    assert (stats.prompt_tokens, stats.generated_tokens, stats.threads) == (5, 20, 1)
    assert 0 < stats.prefill_s < stats.ttft_s
    assert stats.prefill_tokens_per_s == pytest.approx(5 / stats.prefill_s)
    assert stats.decode_tokens_per_s == pytest.approx(19 / stats.decode_s)
    assert 0 < stats.python_share < 1
    assert stats.load_s > 0
    assert stats.peak_rss_bytes is None or stats.peak_rss_bytes > 10e6


@pytest.mark.parametrize(
    ("prompt", "options", "complaint"),
    [
        ("", {}, "prompt is empty"),
        ([], {}, "prompt is empty"),
        ([{"role": "user", "content": ""}], {}, "prompt is empty"),
        ([3] * (CONTEXT + 1), {}, f"{CONTEXT + 1} tokens.* context holds {CONTEXT}"),
        ([VOCAB], {}, "token ids must be"),
        ("a", {"max_tokens": 0}, "max_tokens"),
        ("a", {"stop": [""]}, "stop string"),
        ("a", {"chat": False, "system": "b"}, "chat template"),
        ([3], {"system": "b"}, "token ids"),
    ],
)
def test_what_cannot_be_generated_is_refused(
    session: edgeskip.Session, prompt: str, options: dict[str, object], complaint: str
) -> None:
    """By hand."""
    with pytest.raises(EdgeSkipError, match=complaint):
        session.generate(prompt, **options)  # type: ignore[arg-type]
    assert session.generate(PROMPT, max_tokens=1).finish_reason == "length"


def test_without_a_template_text_goes_as_it_is(copy: Path) -> None:
    """By hand: text is continued, a conversation is refused."""
    (copy / "tokenizer_config.json").unlink()
    session = edgeskip.load(copy, threads=1)
    assert session.encode("hey").tolist() == session.tokenizer.encode("hey", add_special_tokens=False)
    with pytest.raises(EdgeSkipError, match="no chat template"):
        session.encode([{"role": "user", "content": "hey"}])


def test_a_damaged_template_is_in_nobodys_way_who_does_without(copy: Path) -> None:
    """By hand: the line says --raw, so that must work."""
    (copy / "chat_template.jinja").write_text("{% if %}", encoding="utf-8")
    session = edgeskip.load(copy, threads=1)
    assert session.generate("hey", chat=False, max_tokens=2).finish_reason == "length"
    with pytest.raises(EdgeSkipError, match=r"template is damaged .*--raw"):
        session.generate("hey")


@pytest.mark.parametrize(
    ("field", "value"),
    [("vocab_size", VOCAB + 1), ("kv_dtype", "float16"), ("logits_dtype", "float16"), ("num_kv_layers", 10**12)],
)
def test_a_manifest_that_is_not_the_graphs(copy: Path, field: str, value: object) -> None:
    """By hand: found on opening, not by the first step."""
    manifest = json.loads((copy / "edgeskip.json").read_text(encoding="utf-8"))
    manifest["graph"][field] = value
    (copy / "edgeskip.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(EdgeSkipError, match=r"than its manifest describes|less than or equal to 10000"):
        edgeskip.load(copy)


def test_a_closed_session_says_so(tiny_artifact: TinyArtifact) -> None:
    """By hand."""
    with edgeskip.load(tiny_artifact.folder, threads=1) as session:
        session.generate(PROMPT, max_tokens=1)
    with pytest.raises(EdgeSkipError, match="closed"):
        session.generate(PROMPT)
    with pytest.raises(EdgeSkipError, match="closed"):
        session.logits(PROMPT)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "generation_config.json", "config.json", "edgeskip.json"])
@pytest.mark.parametrize("content", ["{", "[]", '"text"', "[" * 200_000], ids=["{", "[]", "text", "deep"])
def test_damaged_json_is_refused_in_one_line(copy: Path, name: str, content: str) -> None:
    """By hand: the message names the file."""
    (copy / name).write_text(content, encoding="utf-8")
    with pytest.raises(EdgeSkipError, match="damaged") as caught:
        edgeskip.load(copy)
    assert name in str(caught.value)


def test_a_folder_that_is_no_artifact(tmp_path: Path) -> None:
    """By hand."""
    with pytest.raises(EdgeSkipError, match="not an EdgeSkip artifact"):
        edgeskip.load(tmp_path)
    with pytest.raises(EdgeSkipError, match="not an artifact folder"):
        edgeskip.load(tmp_path / "nothing")


def test_the_runtime_needs_neither_torch_nor_transformers(tiny_artifact: TinyArtifact) -> None:
    """By hand: what a fresh process has imported after using every part of the runtime."""
    code = (
        "import sys, pkgutil, importlib, edgeskip, edgeskip.runtime\n"
        "for module in pkgutil.walk_packages(edgeskip.runtime.__path__, 'edgeskip.runtime.'):\n"
        "    importlib.import_module(module.name)\n"
        f"session = edgeskip.load({str(tiny_artifact.folder)!r}, threads=1)\n"
        "session.generate('hey', max_tokens=3, sampling=edgeskip.Sampling(temperature=1.0, top_k=5))\n"
        "heavy = {'torch', 'transformers', 'onnx', 'onnx_ir', 'gguf', 'safetensors', 'edgeskip.exporters', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
