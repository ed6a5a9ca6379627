"""Files → examples. Oracles: transformers' own tokenizer and chat template, and records written by hand."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_models import VOCAB_SIZE

from edgeskip.core.errors import EdgeSkipError
from edgeskip.models.source import open_model
from edgeskip.training.examples import Encoder, Example, read_examples, read_prompts, split_reference


@pytest.fixture(scope="module")
def encoder(tiny_llama: Path) -> Encoder:
    return Encoder(open_model(str(tiny_llama)))


@pytest.fixture(scope="module")
def theirs(tiny_llama: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_llama)


def read(path: Path, encoder: Encoder, context: int = 64, fields: str = "") -> list[Example]:
    return read_examples([f"{path}{fields}"], encoder, context)[0]


def test_a_pair_is_a_message_and_its_answer(encoder: Encoder, theirs: Any, tmp_path: Path) -> None:
    """As transformers renders the conversation up to the answer's end token."""
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"question": "Skip it?", "answer": "Yes, and say so."}) + "\n")
    (example,) = read(path, encoder)
    messages = [{"role": "user", "content": "Skip it?"}, {"role": "assistant", "content": "Yes, and say so."}]
    whole = theirs.apply_chat_template(messages, tokenize=False)
    prompt = theirs.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    assert list(example.prompt) == theirs.encode(prompt, add_special_tokens=False)
    assert list(example.ids) == theirs.encode(whole.rstrip("\n"), add_special_tokens=False)
    assert example.response[-1] == theirs.eos_token_id
    assert example.learned == len(example.response)


def test_an_answer_ends_as_the_template_ends_it(tiny_llama: Path, tmp_path: Path) -> None:
    """Two end tokens, of which the template uses the second: as Llama 3's <|end_of_text|> and <|eot_id|>."""
    from transformers import AutoTokenizer

    folder = tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    theirs = AutoTokenizer.from_pretrained(folder)
    first, second = theirs.eos_token_id, theirs.encode("!", add_special_tokens=False)[0]
    theirs.chat_template = "{% for m in messages %}{{ m['content'] + '!' }}{% endfor %}"
    theirs.save_pretrained(folder)
    for name in ("config.json", "generation_config.json"):
        settings = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(settings | {"eos_token_id": [first, second]}))
    encoder = Encoder(open_model(str(folder)))
    assert set(encoder.ends) == {first, second}
    assert encoder.ends[0] == first
    assert encoder.pair("a", "b").response[-1] == second


def test_a_damaged_template_is_called_by_the_models_folder(tiny_llama: Path, tmp_path: Path) -> None:
    """By hand: not by the temporary one that it was read from."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }}")
    with pytest.raises(EdgeSkipError, match=rf"the chat template is damaged \({re.escape(str(folder))}: "):
        Encoder(open_model(str(folder))).prompt("hey")


def test_pairs_that_do_not_fit_are_counted(encoder: Encoder, pairs_file: Path) -> None:
    told: list[tuple[str, int]] = []
    every = read(pairs_file, encoder, context=512)
    found, _ = read_examples([str(pairs_file)], encoder, 30, lambda *what: told.append(what))
    longer = sum(len(example) > 30 for example in every)
    assert 0 < longer < len(every)
    assert told == [("pairs.jsonl", longer)]
    assert len(found) == len(every) - longer


def test_a_text_is_cut_into_windows(encoder: Encoder, theirs: Any, text_file: Path) -> None:
    found = read(text_file, encoder, context=32)
    ids = theirs.encode(text_file.read_text())
    assert [token for example in found for token in example.ids] == ids[: 32 * len(found)]
    assert {len(example) for example in found[:-1]} == {32}
    assert [len(example.prompt) for example in found] == [1] * len(found)


def test_what_files_say_of_themselves(encoder: Encoder, text_file: Path) -> None:
    _, (record,) = read_examples([str(text_file)], encoder, 32)
    assert (record.name, record.sha256) == ("text.txt", hashlib.sha256(text_file.read_bytes()).hexdigest())


def test_quotes_and_odd_line_ends_in_a_tsv(encoder: Encoder, tmp_path: Path) -> None:
    """A quotation mark is text, and U+2028 and U+0085 end no record."""
    path = tmp_path / "t.tsv"
    path.write_bytes('a\tb\r\nsay "no\tone\u2028two\r\nx\x85y\tthree'.encode())
    found = read(path, encoder, fields="#a,b")
    expected = [encoder.pair('say "no', "one\u2028two"), encoder.pair("x\x85y", "three")]
    assert found == expected


def test_a_csv_with_a_line_end_in_quotes(encoder: Encoder, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('prompt,response\n"a\nb",c\u2028d\n', encoding="utf-8", newline="")
    assert read(path, encoder) == [encoder.pair("a\nb", "c\u2028d")]


def test_ids_as_the_model_wrote_them(encoder: Encoder, tmp_path: Path) -> None:
    path = tmp_path / "self.jsonl"
    path.write_text(json.dumps({"prompt_ids": [4, 5], "response_ids": [6, 1], "prompt": "x", "response": "y"}) + "\n")
    assert read(path, encoder) == [Example((4, 5), (6, 1))]


def test_too_long_and_too_short(encoder: Encoder, tmp_path: Path) -> None:
    """A pair that does not fit is left out, and one in which nothing is learned."""
    path = tmp_path / "ids.jsonl"
    records = [([4] * 60, [5] * 5), ([4], [5]), ([], [5]), ([4], [])]
    path.write_text("".join(json.dumps({"prompt_ids": p, "response_ids": r}) + "\n" for p, r in records))
    assert read(path, encoder) == [Example((4,), (5,))]


def test_the_first_turn_is_the_prompt(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"turns": ["one", "two"]}\n\n{"turns": ["three"]}\n')
    prompts, (file,) = read_prompts([f"{path}#turns"])
    assert (prompts, file.name) == (["one", "three"], "p.jsonl")
    (tmp_path / "p.txt").write_text("one\n\n two\n")
    assert read_prompts([str(tmp_path / "p.txt")])[0] == ["one", " two"]


def test_references(tmp_path: Path) -> None:
    odd = tmp_path / "a#b.txt"
    odd.write_text("x")
    assert split_reference(str(odd)) == (odd, ()), "a file's name may have the mark"
    assert split_reference("f.tsv#p, r") == (Path("f.tsv"), ("p", "r"))
    for wrong in ("f.tsv#", "f.tsv#a,b,c", "f.tsv#a,"):
        with pytest.raises(EdgeSkipError, match="after #"):
            split_reference(wrong)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("d.jsonl", b'{"text": "x"\n', "line 1 is not JSON"),
        ("d.jsonl", b"[1]\n", "line 1 is not a JSON object"),
        ("d.jsonl", b'{"a": "x", "b": "y"}\n', "has the fields a, b: name one"),
        ("d.jsonl#c", b'{"a": "x"}\n', "no text in the field 'c'"),
        ("d.tsv#a,b", b"a\tb\nx\n", "line 2 has no text in the field 'b'"),
        ("d.csv#a", b"a\n" + b"x" * 200_000 + b"\n", "after line 1: field larger than"),
        ("d.txt", b"\xff\xfe\xff", "not UTF-8"),
        ("d.txt", b"", "no example fits"),
        ("d.jsonl", b"", "no example fits"),
        ("missing.txt", None, "data file"),
        ("d.jsonl", b'{"prompt_ids": [1], "response_ids": [%d]}\n' % VOCAB_SIZE, "response_ids are not token ids"),
        ("d.jsonl", b'{"prompt_ids": ["a"], "response_ids": [2]}\n', "prompt_ids are not token ids"),
    ],
)
def test_damaged_files(encoder: Encoder, tmp_path: Path, name: str, content: bytes | None, told: str) -> None:
    path = tmp_path / name.partition("#")[0]
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EdgeSkipError, match=told):
        read_examples([str(tmp_path / name)], encoder, 16)
