"""`--chat-option`: values as JSON has them; and the template's own names, against transformers."""

from __future__ import annotations

import pytest

from edgeskip.cli.chat_options import parse_chat_options
from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.chat import ChatTemplate

# As Qwen 3's and SmolLM3's templates read their switch.
QWEN3 = (
    "{{ messages[-1].content }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}"
)
SMOLLM3 = (
    "{%- if enable_thinking is not defined -%}{%- set enable_thinking = true -%}{%- endif -%}"
    "{%- if enable_thinking -%}/think{%- else -%}/no_think{%- endif -%}{{ xml_tools }}{{ messages[0].content }}"
)
HI = [{"role": "user", "content": "Hi"}]


def test_values_are_json_else_text() -> None:
    """By hand; Python's spelling of false is not the text "False", which is true."""
    words = ["a=false", "b=8", 'c="8"', "d=Paris", 'e=["x"]', "f=False", "g=", "h=x=y", "i=null"]
    expected = {"a": False, "b": 8, "c": "8", "d": "Paris", "e": ["x"], "f": False, "g": "", "h": "x=y", "i": None}
    assert parse_chat_options(words) == expected


@pytest.mark.parametrize("words", [["a"], ["=1"], ["a b=1"], ["a=1", "a=2"]])
def test_what_is_no_option(words: list[str]) -> None:
    """By hand."""
    with pytest.raises(EdgeSkipError, match="--chat-option"):
        parse_chat_options(words)


@pytest.mark.parametrize("source", [QWEN3, SMOLLM3], ids=["qwen3", "smollm3"])
@pytest.mark.parametrize("options", [{}, {"enable_thinking": False}, {"enable_thinking": True}], ids=str)
def test_switches_are_transformers(source: str, options: dict[str, bool]) -> None:
    """Oracle: transformers' renderer with the same keyword."""
    from transformers.utils.chat_template_utils import render_jinja_template

    expected = render_jinja_template([HI], chat_template=source, add_generation_prompt=True, **options)[0][0]
    assert ChatTemplate(source).render(HI, chat_kwargs=options) == expected


def test_an_unknown_switch_is_named_with_those_there_are() -> None:
    """By hand: transformers passes over it, and the user believes that thinking is off."""
    with pytest.raises(EdgeSkipError, match=r"does not read 'enable_thinkin': its options are enable_thinking, xml"):
        ChatTemplate(SMOLLM3).render(HI, chat_kwargs={"enable_thinkin": False})
