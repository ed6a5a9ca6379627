"""Chat templates against transformers' renderer, and what a hostile template may not do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import write_tiny_tokenizer

from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.chat import ChatTemplate, read_chat_template

MESSAGES = [
    {"role": "system", "content": "Be <b>brief</b> & kind."},
    {"role": "user", "content": 'Say "hi" in 日本語'},
    {"role": "assistant", "content": "やあ"},
    {"role": "user", "content": "again"},
]
CHATML = """{% for message in messages %}
    {% if loop.first and message.role != 'system' %}
{{ '<|im_start|>system\\nYou help.<|im_end|>\\n' }}
    {% endif %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
LLAMA2 = """{{ bos_token }}{% for message in messages if message.role != 'system' %}
{%- if message.role == 'user' %}[INST] {{ message.content | trim }} [/INST]
{%- else %}{% generation %} {{ message.content }}{{ eos_token }}{% endgeneration %}{% endif %}{% endfor %}"""
TOOLS = """{%- if tools %}{{ tools | tojson }}{% endif %}{{ messages | tojson(indent=2) }}
{%- for message in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ message.role }}{% endfor %}
{%- set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}"""


@pytest.mark.parametrize("source", [CHATML, LLAMA2, TOOLS], ids=["chatml", "llama2", "tojson-break-namespace"])
@pytest.mark.parametrize("add_generation_prompt", [True, False])
@pytest.mark.parametrize("messages", [MESSAGES, MESSAGES[1:2]], ids=["conversation", "one"])
def test_renders_as_transformers_does(source: str, add_generation_prompt: bool, messages: list[dict[str, str]]) -> None:
    """Oracle: transformers' render_jinja_template with the same special tokens."""
    from transformers.utils.chat_template_utils import render_jinja_template

    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    rendered, _ = render_jinja_template(
        [messages], chat_template=source, add_generation_prompt=add_generation_prompt, **tokens
    )
    mine = ChatTemplate(source, tokens).render(messages, add_generation_prompt=add_generation_prompt)
    assert mine == rendered[0]


def test_strftime_now_gives_the_date() -> None:
    """By hand: four digits of a year."""
    assert ChatTemplate("{{ strftime_now('%Y') }}").render([]).isdigit()


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ raise_exception.__globals__ }}",
        "{{ messages.append(1) }}",
        "{{ self._TemplateReference__context }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ '%s' | format(messages.__class__.__base__.__subclasses__()) }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_a_template_cannot_leave_the_sandbox(source: str) -> None:
    """By hand: the usual ways out are errors, or print nothing of the interpreter."""
    try:
        printed = ChatTemplate(source).render(MESSAGES)
    except EdgeSkipError:
        return
    assert "class" not in printed
    assert "root" not in printed


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("{% if %}", "damaged"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[7].content }}", "refuses"),
        ("{{ 1 / 0 }}", "refuses"),
        ("{{ messages + 1 }}", "refuses"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "refuses"),
    ],
)
def test_a_template_that_fails_is_one_error(source: str, complaint: str) -> None:
    """By hand."""
    with pytest.raises(EdgeSkipError, match=complaint):
        ChatTemplate(source).render(MESSAGES)


@pytest.mark.parametrize(
    ("config", "file", "expected"),
    [
        ({}, None, None),
        ({"chat_template": "A{{ eos_token }}", "eos_token": "!"}, None, "A!"),
        ({"chat_template": "A{{ eos_token }}", "eos_token": {"content": "?", "special": True}}, None, "A?"),
        ({"chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]}, None, "D"),
        ({"chat_template": "A"}, "from the file", "from the file"),
        ({"chat_template": ["A", {"name": "tool_use"}]}, None, None),
    ],
)
def test_where_the_template_comes_from(
    tmp_path: Path, config: dict[str, Any], file: str | None, expected: str | None
) -> None:
    """By hand: transformers' rule, chat_template.jinja before tokenizer_config.json, `default` among named ones."""
    if file is not None:
        (tmp_path / "chat_template.jinja").write_text(file, encoding="utf-8")
    template = read_chat_template(tmp_path, json.loads(json.dumps(config)))
    assert (template.render([]) if template else None) == expected


@pytest.mark.parametrize("table", [None, "extra_special_tokens", "model_specific_special_tokens"])
def test_a_models_own_special_tokens_are_given(tmp_path: Path, table: str | None) -> None:
    """Oracle: AutoTokenizer's `apply_chat_template` on the same folder, for transformers 5's three places."""
    transformers = pytest.importorskip("transformers")
    if int(transformers.__version__.split(".")[0]) < 5 and table != "extra_special_tokens":
        pytest.skip("transformers 4.57 knows one place only")
    write_tiny_tokenizer(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    own = {"image_token": "<img>", "audio_token": "<audio>"}
    source = "{{ image_token }}|{{ audio_token }}|{{ eos_token }}|{{ messages[0].content }}"
    config = json.loads(path.read_text()) | {"chat_template": source} | ({table: own} if table else own)
    path.write_text(json.dumps(config))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    template = read_chat_template(tmp_path, config)
    assert template is not None
    messages = MESSAGES[1:2]
    assert template.render(messages) == theirs.apply_chat_template(messages, tokenize=False)
    assert template.options == ()
    with pytest.raises(EdgeSkipError, match="image_token is given by EdgeSkip"):
        template.render(messages, chat_kwargs={"image_token": "x"})


def test_a_token_takes_no_other_names_place(tmp_path: Path) -> None:
    """By hand: only texts whose names end in _token are given to the template."""
    named = {"messages": "x", "raise_exception": "x", "a b_token": "x", "_token": "x", "self_token": 5, "n_token": "n"}
    config = {"chat_template": "{{ messages[0].content }}{{ self_token }}{{ n_token }}", "extra_special_tokens": named}
    template = read_chat_template(tmp_path, config)
    assert template is not None
    assert template.render(MESSAGES[3:]) == "againn"
