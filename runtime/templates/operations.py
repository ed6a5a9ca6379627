"""What a chat template may call: every operator, method and filter that can grow or take long, checked before it runs.

What is not named here is refused (methods) or taken for small values only (filters): a later version of Python or
jinja2 adds nothing unseen.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jinja2.filters import make_attrgetter
from jinja2.sandbox import SandboxedEscapeFormatter, SandboxedFormatter
from markupsafe import Markup, soft_str

from edgeskip.runtime.templates.limits import TemplateMeter

_PLAIN_METHODS: dict[type, frozenset[str]] = {
    str: frozenset(
        [
            "capitalize",
            "casefold",
            "count",
            "endswith",
            "find",
            "index",
            "isalnum",
            "isalpha",
            "isascii",
            "isdecimal",
            "isdigit",
            "isidentifier",
            "islower",
            "isnumeric",
            "isprintable",
            "isspace",
            "istitle",
            "isupper",
            "lower",
            "partition",
            "removeprefix",
            "removesuffix",
            "split",
            "splitlines",
            "startswith",
            "swapcase",
            "title",
            "upper",
        ]
    ),
    list: frozenset(("index", "count", "copy")),
    tuple: frozenset(("index", "count")),
    dict: frozenset(("get", "items", "keys", "values", "copy")),
    range: frozenset(("index", "count")),
    int: frozenset(("bit_length", "bit_count", "conjugate", "is_integer", "as_integer_ratio")),
    float: frozenset(("is_integer", "hex", "conjugate", "as_integer_ratio")),
}
_PADDING = frozenset(("center", "ljust", "rjust", "zfill"))
_STRIPPING = frozenset(("strip", "lstrip", "rstrip"))
_FROM_THE_RIGHT = frozenset(("rfind", "rindex", "rsplit", "rpartition"))
_SMALL = 20_000  # weight of what a filter may be given whose cost is not known to be linear
_PRINTF = re.compile(
    r"%(?:\((?P<key>[^)]*)\))?[#0\- +]*(?P<width>\*|\d+)?(?:\.(?P<precision>\*|\d+))?[hlL]?(?P<kind>.)?", re.S
)
_PLAIN_FILTERS = frozenset(
    [
        "abs",
        "attr",
        "capitalize",
        "count",
        "d",
        "default",
        "dictsort",
        "e",
        "escape",
        "first",
        "float",
        "forceescape",
        "items",
        "last",
        "length",
        "lower",
        "random",
        "reverse",
        "safe",
        "string",
        "truncate",
        "upper",
    ]
)
_LAZY_FILTERS = frozenset(("map", "select", "reject", "selectattr", "rejectattr"))
_WHOLE_FILTERS = frozenset(("list", "sort", "unique", "groupby", "min", "max", "batch", "slice"))


# Operators


def check_operator(meter: TemplateMeter, operator: str, left: Any, right: Any) -> None:
    """Refuse an operation whose result would be too large."""
    meter.tick()
    if operator == "+":
        if not isinstance(left, int | float):
            meter.room(meter.weight(left) + meter.weight(right))
    elif operator == "*":
        for one, times in ((left, right), (right, left)):
            if isinstance(one, str | list | tuple | bytes) and isinstance(times, int):
                meter.room((meter.weight(one) if not isinstance(one, bytes) else len(one)) * max(0, times))
                return
        if isinstance(left, int) and isinstance(right, int):
            _number(meter, left.bit_length() + right.bit_length())
    elif operator == "**" and isinstance(left, int) and isinstance(right, int):
        _number(meter, left.bit_length() * max(0, right))
        if right < 0:
            _number(meter, left.bit_length() - right)
    elif operator == "%" and isinstance(left, str):
        check_printf(meter, left, right)


def _number(meter: TemplateMeter, bits: int) -> None:
    if bits > meter.limits.number_bits + 64:
        meter.refuse(f"computes a number of more than {meter.limits.number_bits} bits")


def check_printf(meter: TemplateMeter, form: str, values: Any) -> None:
    """Refuse `form % values` with wide fields, or so many of them that the result is too large."""
    fields = 0
    for field in _PRINTF.finditer(form):
        fields += field["kind"] != "%"
        for size in (field["width"], field["precision"]):
            if size is not None and (size == "*" or len(size) > 4 or int(size) > meter.limits.width):
                meter.refuse(f"formats a field wider than {meter.limits.width} characters")
    each = meter.weight(values)
    # Positional values are printed once each, a mapping's as often as they are named.
    meter.room(
        len(form) + fields * meter.limits.width + (each * max(1, fields) if isinstance(values, Mapping) else each)
    )


# Methods


def check_method(meter: TemplateMeter, owner: Any, name: str, arguments: list[Any], named: Mapping[str, Any]) -> bool:
    """Refuse a call that grows too large; returns False for a method that templates may not call at all.

    `arguments` is changed if an iterator must be read to be weighed.
    """
    kind = next((kind for kind in _PLAIN_METHODS if isinstance(owner, kind)), None)
    if kind is None:
        return False
    if name in _PLAIN_METHODS[kind]:
        return True
    if kind is not str:
        return False
    if name in _PADDING:
        meter.room(_whole(arguments[:1], named.get("width")))
    elif name in _STRIPPING:
        _search(meter, owner, arguments[:1])
    elif name in _FROM_THE_RIGHT:
        _search(meter, owner, [*arguments[:1], named.get("sep")])
    elif name == "replace":
        _replacing(meter, owner, arguments, named)
    elif name == "join":
        if arguments and isinstance(arguments[0], Iterable):
            items = meter.collect(arguments[0])
            arguments[0] = items
            meter.room(meter.weight(items) + len(owner) * len(items))
    else:
        return False
    return True


def _whole(arguments: Sequence[Any], otherwise: Any) -> int:
    value = arguments[0] if arguments else otherwise
    return value if isinstance(value, int) else 0


def _search(meter: TemplateMeter, text: str, needles: Sequence[Any]) -> None:
    for needle in needles:
        if isinstance(needle, str) and len(needle) * len(text) > meter.limits.search:
            meter.refuse("searches for too long a text")


def _replacing(meter: TemplateMeter, text: str, arguments: Sequence[Any], named: Mapping[str, Any]) -> None:
    old, new = (arguments[n] if n < len(arguments) else named.get(key) for n, key in enumerate(("old", "new")))
    if not isinstance(old, str) or not isinstance(new, str):
        return
    times = text.count(old)
    count = arguments[2] if len(arguments) > 2 else named.get("count")
    if isinstance(count, int) and count >= 0:
        times = min(times, count)
    meter.room(len(text) + times * max(0, len(new) - len(old)))


class LimitedFormat:
    """`'…'.format` and `'…'.format_map` of a template."""

    def __init__(self, environment: Any, text: str, *, mapping: bool) -> None:
        self._environment, self._text, self._mapping = environment, text, mapping

    def __call__(self, *args: Any, **kwargs: Any) -> str:
        if self._mapping:
            if kwargs or len(args) != 1:
                raise TypeError("format_map() takes exactly one argument")
            (kwargs,), args = args, ()
        if isinstance(self._text, Markup):
            escaping = _EscapeFormatter(self._environment, escape=self._text.escape)
            return type(self._text)(escaping.vformat(self._text, args, kwargs))
        return _Formatter(self._environment).vformat(self._text, args, kwargs)


class _Fields:
    """Weighs the fields of one call of `format`."""

    _env: Any
    _length = 0

    def format_field(self, value: Any, format_spec: str) -> Any:
        meter: TemplateMeter = self._env.meter
        meter.tick()
        if any(len(size) > 4 or int(size) > meter.limits.width for size in re.findall(r"\d+", format_spec)):
            meter.refuse(f"formats a field wider than {meter.limits.width} characters")
        text = super().format_field(value, format_spec)  # type: ignore[misc]
        self._length += len(text)
        meter.room(self._length)
        return text


class _Formatter(_Fields, SandboxedFormatter):
    pass


class _EscapeFormatter(_Fields, SandboxedEscapeFormatter):
    pass


# Filters


def limited_filter(name: str, function: Callable[..., Any], environment: Any) -> Callable[..., Any]:
    """Return the filter with its arguments checked and its result weighed by `environment.meter`."""
    at = 1 if hasattr(function, "jinja_pass_arg") else 0
    prepare = _PREPARE.get(name)
    if prepare is None and name not in _PLAIN_FILTERS:
        prepare = _lazy if name in _LAZY_FILTERS else _whole_list if name in _WHOLE_FILTERS else _small

    @functools.wraps(function)
    def limited(*args: Any, **kwargs: Any) -> Any:
        meter: TemplateMeter = environment.meter
        meter.tick()
        arguments = list(args)
        if prepare is not None:
            value, *rest = arguments[at:]
            arguments[at:] = [prepare(meter, value, rest, kwargs), *rest]
        return meter.made(function(*arguments, **kwargs))

    return limited


def _lazy(meter: TemplateMeter, value: Any, rest: list[Any], named: Mapping[str, Any]) -> Any:
    return meter.iterate(value) if isinstance(value, Iterable) and value else value


def _whole_list(meter: TemplateMeter, value: Any, rest: list[Any], named: Mapping[str, Any]) -> Any:
    for number in (*rest, *named.values()):  # how many lists, how long each
        if isinstance(number, int) and abs(number) > 100_000:
            meter.refuse("makes more than 100,000 parts of a list")
    return meter.collect(value) if isinstance(value, Iterable) else value


def _join(meter: TemplateMeter, value: Any, rest: list[Any], named: Mapping[str, Any]) -> Any:
    if not isinstance(value, Iterable):
        return value
    items = meter.collect(value)
    between = rest[0] if rest else named.get("d", "")
    meter.room(meter.weight(items) + meter.weight(between) * len(items))
    return items


def _small(meter: TemplateMeter, value: Any, rest: list[Any], named: Mapping[str, Any]) -> Any:
    everything = [value, *rest, *named.values()]
    if sum(map(meter.weight, everything)) > _SMALL:
        meter.refuse(f"gives a filter more than {_SMALL:,} characters")
    if any(isinstance(one, int) and abs(one) > meter.limits.width for one in [*rest, *named.values()]):
        meter.refuse(f"gives a filter a number above {meter.limits.width}")
    return value


def _text(value: Any) -> str:
    return soft_str(value)


def _center(meter: TemplateMeter, value: Any, rest: list[Any], named: Mapping[str, Any]) -> Any:
    meter.room(_whole(rest[:1], named.get("width")))
    return value


def _indent(meter: TemplateMeter, value: Any, rest: list[Any], named: Mapping[str, Any]) -> Any:
    width = rest[0] if rest else named.get("width", 4)
    size = len(width) if isinstance(width, str) else width if isinstance(width, int) else 0
    text = _text(value)
    if size > meter.limits.width:
        meter.room(size)
    meter.room(len(text) + (len(text.splitlines()) + 2) * max(0, size))
    return value


def _replace(meter: TemplateMeter, value: Any, rest: list[Any], named: Mapping[str, Any]) -> Any:
    old, new = (_text(one) for one in (*rest, named.get("old", ""), named.get("new", ""))[:2])
    # Of escaped text all three are escaped first, up to five times as long.
    factor = 6 if any(hasattr(one, "__html__") for one in (value, *rest)) else 1
    _replacing(meter, _text(value), [old, new * factor, *rest[2:]], named)
    return value


def _format(meter: TemplateMeter, value: Any, rest: list[Any], named: Mapping[str, Any]) -> Any:
    check_printf(meter, _text(value), dict(named) if named else tuple(rest))
    return value


def _round(meter: TemplateMeter, value: Any, rest: list[Any], named: Mapping[str, Any]) -> Any:
    if abs(_whole(rest[:1], named.get("precision"))) > 300:
        meter.refuse("rounds to more than 300 digits")
    return value


def _int(meter: TemplateMeter, value: Any, rest: list[Any], named: Mapping[str, Any]) -> Any:
    if isinstance(value, str) and len(value) > 1200:
        meter.refuse(f"computes a number of more than {meter.limits.number_bits} bits")
    return value


def _trim(meter: TemplateMeter, value: Any, rest: list[Any], named: Mapping[str, Any]) -> Any:
    _search(meter, _text(value), [*rest[:1], named.get("chars")])
    return value


def _title(meter: TemplateMeter, value: Any, rest: list[Any], named: Mapping[str, Any]) -> Any:
    meter.room(4 * len(_text(value)))  # cut into words
    return value


_PREPARE: dict[str, Callable[[TemplateMeter, Any, list[Any], Mapping[str, Any]], Any]] = {
    **{"join": _join, "center": _center, "indent": _indent, "replace": _replace, "format": _format},
    **{"round": _round, "int": _int, "trim": _trim, "title": _title, "wordcount": _title},
}


def limited_sum(environment: Any, iterable: Iterable[Any], attribute: str | int | None = None, start: Any = 0) -> Any:
    """Return jinja2's `sum`, adding by the checked operator: lists and tuples can be added too."""
    meter: TemplateMeter = environment.meter
    values: Iterable[Any] = iterable
    if attribute is not None:
        values = map(make_attrgetter(environment, attribute), iterable)
    if isinstance(start, str | bytes):
        return sum([], start)  # Python's own refusal
    total = start
    for value in values:
        check_operator(meter, "+", total, value)
        total = meter.made(total + value)
    return total


def limited_tojson(
    environment: Any,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return transformers' `tojson`: no HTML is escaped. Indented text is weighed as it is made."""
    meter: TemplateMeter = environment.meter
    meter.tick()
    wide = indent if isinstance(indent, int) else len(indent) if isinstance(indent, str) else 0
    if wide > 64 or any(isinstance(one, str) and len(one) > 64 for one in separators or ()):
        meter.refuse("writes JSON with an indent or separators of more than 64 characters")
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    if indent is None:
        return str(meter.made(encoder.encode(value)))
    pieces: list[str] = []
    length = 0
    for piece in encoder.iterencode(value):
        meter.tick()
        length += len(piece)
        meter.room(length)
        pieces.append(piece)
    return str(meter.made("".join(pieces)))
