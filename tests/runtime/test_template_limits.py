"""Hostile chat templates are stopped; what models ship renders as transformers renders it, long texts too."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.chat import ChatTemplate
from edgeskip.runtime.templates.limits import TemplateLimitError

_NS = "{% set ns = namespace(s=VALUE) %}{% for i in range(99999) %}{% set ns.s = NEXT %}{% endfor %}{{ ns.s }}"


def _grown(value: str, following: str) -> str:
    return _NS.replace("VALUE", value).replace("NEXT", following)


HOSTILE = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% for a in range(99999) if a == 'x' %}{% endfor %}" * 60,
    "{{ 'x' * 10**10 }}",
    "{{ 10**10 * 'x' }}",
    "{{ [0] * 10**9 }}",
    "{{ (0,) * 10**9 }}",
    "{{ 10**(10**10) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%.1000000000f' % 1 }}",
    "{{ '%*d' % (1000000000, 1) }}",
    "{{ '%1000000000d' | format(1) }}",
    "{{ ['%1000000000d'] | map('format', 1) | list }}",
    "{{ ('%(a)s' * 100000) % {'a': 'x' * 1000000} }}",
    "{{ '{:>1000000000}'.format('a') }}",
    "{{ '{:>{w}}'.format('a', w=1000000000) }}",
    "{{ '{a:>1000000000}'.format_map({'a': 1}) }}",
    "{{ ('{:>1000000000}' | attr('format'))('a') }}",
    "{{ ('{0}' * 100000).format('x' * 1000000) }}",
    "{{ 'a' | center(10**10) }}",
    "{{ 'a'.rjust(10**10) }}",
    "{{ '1'.zfill(10**10) }}",
    "{{ '\\t'.expandtabs(10**9) }}",
    "{{ 'a\\nb' | indent(10**10) }}",
    "{{ ('\\n' * 4000000) | indent(1000, true, true) }}",
    "{{ ('a' * 1000000).replace('a', 'b' * 1000000) }}",
    "{{ ('a' * 1000000) | replace('', 'b' * 1000000) }}",
    "{{ range(99999) | join('x' * 100000) }}",
    "{{ ('x' * 100000).join(['a'] * 100000) }}",
    "{{ ('x' * 1000000) | wordwrap(1) }}",
    "{{ [1] | batch(10**9, 'x') | list }}",
    "{{ [1, 2] | slice(10**9) | list }}",
    "{{ 5 | round(-1000000000) }}",
    "{{ (5).to_bytes(10**10, 'big') }}",
    "{{ {}.fromkeys(range(99999)) }}",
    "{{ ('a' * 10000).translate({97: 'b' * 4000000}) }}",
    "{{ ('é' * 1000000).encode('punycode') }}",
    "{{ ('f' * 4000000) | int(base=16) }}",
    "{{ ('a' * 4000000).rfind('b' ~ 'a' * 2000000) }}",
    "{{ ('a' * 4000000).strip('b' * 2000000 ~ 'a') }}",
    "{{ ('<!--' * 500000) | striptags }}",
    "{{ ('http://a.b/' ~ '(' * 1000000) | urlize }}",
    "{{ messages | tojson(indent=10**9) }}",
    "{{ lipsum(n=10**6) }}",
    "{{ strftime_now('%1000000000d') }}",
    "{{ ([[0] * 1000] * 1000) | sum(start=[]) | length }}",
    "{{ ([range(99999)] * 99999) | map('sum') | list | length }}",
    "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "{% set x %}{% for i in range(99999) %}{% for j in range(99) %}aaaaaaaaaa{% endfor %}{% endfor %}{% endset %}",
    "{% macro m() %}{% for i in range(99999) %}{{ 'x' * 100000 }}{% endfor %}{% endmacro %}{{ m() | length }}",
    "{% filter center(10**9) %}a{% endfilter %}",
    _grown("'x'", "ns.s + ns.s"),
    _grown("'x'", "ns.s ~ ns.s"),
    _grown("[1]", "[ns.s, ns.s]"),
    _grown("{'a': 1}", "{'a': ns.s, 'b': ns.s}"),
    _grown("2", "ns.s * ns.s"),
    # Python hashes nested tuples by recursion in C without a limit: this ends the process with SIGSEGV.
    _grown("()", "(ns.s,)") + "{{ {ns.s: 1} }}",
    "{% set a = 'x' * 4000000 %}{% for i in range(99999) %}{{ a.upper() | length }}{% endfor %}",
    "{% set a = [0] * 400000 %}{% for i in range(99999) %}{% if 1 in a %}{% endif %}{% endfor %}",
    "{% set v = {'a': 'x' * 1000000}.values() %}{{ [v] * 400000 }}",
    "{{ " + "(" * 100000 + "1" + ")" * 100000 + " }}",
    "{{ " + "[" * 180 + "1" + "]" * 180 + " }}",
    "{{ " + "+".join(["1"] * 60000) + " }}",
    "{{ 0x" + "f" * 200000 + " }}",
    "".join(f"{{% set a{i} = 1 %}}" for i in range(5000)),
    "x" * 10_000_000,
]
_CHILD = """
import json, resource, signal, sys, time
from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.chat import ChatTemplate
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
def peak_kb():  # ru_maxrss counts what the process that started this one had
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
for source in json.load(sys.stdin):
    signal.alarm(100)
    before = time.thread_time()
    try:
        answer = f"{len(ChatTemplate(source).render([{'role': 'user', 'content': 'Hi'}]))} characters"
    except EdgeSkipError as error:
        answer = str(error)
    print(json.dumps([answer, time.thread_time() - before, peak_kb() if sys.platform == "linux" else 0]))
    sys.stdout.flush()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no rlimits")
def test_hostile_templates_are_stopped() -> None:
    """By hand: every one ends in an error within seconds and 1 GB; the child has 3 GB, and no time without end."""
    child = subprocess.run([sys.executable, "-c", _CHILD], input=json.dumps(HOSTILE), capture_output=True, text=True)
    answers = [json.loads(line) for line in child.stdout.splitlines()]
    assert len(answers) == len(HOSTILE), (HOSTILE[len(answers)][:100], child.returncode, child.stderr[-500:])
    for source, (answer, seconds, _) in zip(HOSTILE, answers, strict=True):
        assert "the chat template" in answer, (source[:100], answer)
        assert len(answer) < 500
        assert seconds < 12, (source[:100], seconds)
    if sys.platform == "linux":
        assert max(peak for *_, peak in answers) < 1 << 20  # kB


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("{{ 'x' * 10**10 }}", "makes a text or list of more than"),
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "takes more than .* steps|computes for",
        ),
        ("{{ '%1000000000d' % 1 }}", "formats a field wider"),
        ("{{ 10**(10**10) }}", "computes a number of more than 4096 bits"),
        ("{{ 'a'.encode() }}", r"calls str\.encode"),
        ("x" * 1_000_000, "is longer than"),
    ],
)
def test_the_error_names_the_limit_the_template_and_the_way_without(source: str, complaint: str) -> None:
    """By hand."""
    with pytest.raises(EdgeSkipError, match=rf"here\.jinja: the chat template ({complaint}).* --raw \(chat=False\)"):
        ChatTemplate(source, origin=Path("here.jinja")).render([{"role": "user", "content": "Hi"}])


@pytest.mark.parametrize("expression", ["'x' * 10**10", "10**(10**10)", "'a' | center(10**10)", "(0,) * 10**9"])
def test_what_jinja2_would_compute_while_compiling_is_found(expression: str) -> None:
    """By hand: in a branch that no rendering takes; transformers must not be asked to compile it."""
    template = ChatTemplate("{% if false %}{{ " + expression + " }}{% endif %}{{ messages[0].content }}")
    assert template.render([{"role": "user", "content": "Hi"}]) == "Hi"
    with pytest.raises(TemplateLimitError):
        template.check_constants()
    ChatTemplate(RICH).check_constants()


# What the templates of today's models do, in a few lines: look back from the end, split off thoughts, count roles in a
# namespace, call macros recursively over schemas, slice, pad, join, sort, escape as JSON.
RICH = """{%- macro kinds(schema) -%}
{%- if schema.type is string -%}{{ schema.type }}{%- else -%}{{ schema.type | join }}
{%- endif -%}{%- if schema.properties is defined -%}({%- for name, one in schema.properties | dictsort -%}
{{ name }}: {{ kinds(one) }}{% if not loop.last %}, {% endif %}{%- endfor -%}){%- endif -%}{%- endmacro -%}
{%- set ns = namespace(last=-1, text='', roles=[]) -%}
{%- for message in messages[::-1] -%}{%- if message.role == 'user' and ns.last < 0 -%}
{%- set ns.last = messages | length - 1 - loop.index0 -%}{%- endif -%}{%- endfor -%}
{%- if messages[0]['role'] == 'system' -%}{{ bos_token + messages[0]['content'].strip() + '\\n' }}
{%- set rest = messages[1:] -%}
{%- else -%}{%- set rest = messages -%}{%- endif -%}
{%- if tools -%}{{ tools | tojson(indent=4) }}
{%- for tool in tools %}{{ kinds(tool.function.parameters) }};{% endfor %}{%- endif -%}
{%- for message in rest -%}{%- set content = message.content -%}{%- set ns.roles = ns.roles + [message.role] -%}
{%- if message.role == 'assistant' and '</think>' in content -%}
{%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') -%}
{%- set content = content.split('</think>')[-1].lstrip('\\n') -%}
{%- set ns.text = ns.text ~ thought[:20] ~ '|' -%}{%- endif -%}
{{ '<|' ~ message.role ~ '|>' }}{{ content | trim }}{{ eos_token }}{% if loop.index0 % 2 == 0 %}.{% endif %}
{%- if loop.index0 == ns.last %}!{% endif %}{{ (loop.previtem | default({})).role | default('none') | upper }}
{%- endfor -%}{{ ns.roles | unique | sort | join(',') }} {{ ns.text | length }} {{ '%s-%05.1f' | format('a', 2.25) }}
{{- '{:>8}{}'.format('b', 3) }}
{{- rest | selectattr('role', 'equalto', 'user') | map(attribute='content') | list | count }}
{{- 'a\\nb' | indent(2) }}{{ [3, 1, 2] | sort(reverse=true) | first }}{{ range(5) | batch(2) | list | tojson }}
{{- {'b': 1, 'a': [true, none]} | tojson }}{{ ([1] * 3) | sum }}{{ 7 // 2 }}
{{- 2 ** 8 }}{{ 'x' * 3 }}{{ none }}{{ 1.5 | round }}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"n": {"type": ["number", "null"]}, "city": {"type": "string"}}},
    },
}
DOCUMENT = "The river runs past the mill. 12 345, naïve café, 你好 🙂\n" * 20_000  # 1 MB
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "short": [{"role": "user", "content": " Hi "}],
    "system": [{"role": "system", "content": "Be brief. "}, {"role": "user", "content": "Hi"}],
    "long": [
        {"role": "system", "content": "s"},
        *(
            {"role": role, "content": f"<think>\n{i}\n</think>\n\n{role} {i} " * (i % 7 + 1)}
            for i in range(400)
            for role in ("user", "assistant")
        ),
        {"role": "user", "content": "last"},
    ],
    "documents": [{"role": role, "content": DOCUMENT} for role in ("user", "assistant", "user", "assistant", "user")],
}


@pytest.mark.parametrize("name", list(CONVERSATIONS))
@pytest.mark.parametrize("tools", [None, [TOOL] * 50], ids=["", "tools"])
def test_long_conversations_render_as_transformers_renders_them(name: str, tools: list[Any] | None) -> None:
    """Oracle: transformers' renderer, on 800 messages and on 5 MB of text; a first small one takes milliseconds."""
    from transformers.utils.chat_template_utils import render_jinja_template

    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    messages = CONVERSATIONS[name]
    expected = render_jinja_template([messages], chat_template=RICH, tools=tools, add_generation_prompt=True, **tokens)[
        0
    ][0]
    template = ChatTemplate(RICH, tokens)
    before = time.thread_time()
    assert template.render(messages, chat_kwargs={"tools": tools} if tools else None) == expected
    assert time.thread_time() - before < 2
