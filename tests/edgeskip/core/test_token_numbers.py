"""Oracle: by hand; the library aborts the process when it writes a vocabulary with such a number."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_models import write_tiny_tokenizer

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.token_numbers import check_token_numbers
from edgeskip.models.readers.loaded_tokenizer import load_tokenizer
from edgeskip.runtime.detokenizer import TextTokenizer


@pytest.mark.parametrize("content", [None, [], {}, {"model": []}, {"model": {"vocab": [1]}, "added_tokens": {}}])
def test_what_is_none_is_left_to_the_library(content: object) -> None:
    check_token_numbers(content)


@pytest.mark.parametrize("place", ["vocab", "added"])
def test_a_number_that_no_vocabulary_has(place: str, tmp_path: Path) -> None:
    write_tiny_tokenizer(tmp_path)
    TextTokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    if place == "vocab":
        content["model"]["vocab"]["a"] = 2**31 - 1
    else:
        content["added_tokens"][0]["id"] = 2**31 - 1
    path.write_text(json.dumps(content))
    with pytest.raises(EdgeSkipError, match=r"tokenizer\.json is damaged \(a token has the number 2147483647\)"):
        TextTokenizer(tmp_path)
    with pytest.raises(EdgeSkipError, match=r"tokenizer\.json is damaged \(a token has the number 2147483647\)"):
        load_tokenizer(tmp_path)
