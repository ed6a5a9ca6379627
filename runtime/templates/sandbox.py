"""jinja2's sandbox with limits of time and memory: the environment that chat templates are compiled in and run in.

Before a template is compiled, its syntax tree is rewritten: loops, literals, comparisons, slices and `~` go through
filters of our own, which count them. Operators, calls and the filters themselves are met where jinja2's sandbox lets
them be met. Nothing is computed while compiling: jinja2 would fold `'x' * 10**10` into a constant.
"""

from __future__ import annotations

import re
import time
import types
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.parser
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.runtime import BlockReference, Context, LoopContext, Macro, Undefined, markup_join, str_join
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.utils import Cycler, Joiner, Namespace, pass_environment, pass_eval_context

from edgeskip.runtime.templates.limits import Buffer, TemplateLimitError, TemplateLimits, TemplateMeter
from edgeskip.runtime.templates.operations import (
    LimitedFormat,
    check_method,
    check_operator,
    limited_filter,
    limited_sum,
    limited_tojson,
)

_COMPILE_SECONDS = 10.0


class _Code(CodeGenerator):
    """Generates code whose output goes into buffers that are weighed, and folds no constants."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._until = time.perf_counter() + _COMPILE_SECONDS

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        if time.perf_counter() > self._until:
            raise TemplateLimitError(f"takes more than {_COMPILE_SECONDS:g} s to compile")
        return super().visit(node, *args, **kwargs)

    def buffer(self, frame: Frame) -> None:
        frame.buffer = self.temporary_identifier()
        self.writeline(f"{frame.buffer} = environment.new_buffer()")

    def _output_child_to_const(self, node: nodes.Expr, frame: Frame, finalize: Any) -> str:
        if not isinstance(node, nodes.TemplateData):
            raise nodes.Impossible
        return super()._output_child_to_const(node, frame, finalize)


class _Namespace(Namespace):
    """`namespace()`, which is never printed: it can hold itself, and what it holds changes."""

    def __repr__(self) -> str:
        return "<Namespace>"


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """One template's environment. `meter` counts the rendering that goes on; one at a time."""

    code_generator_class = _Code
    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self, limits: TemplateLimits) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_GenerationMark, jinja2.ext.loopcontrols],
            optimized=False,
            finalize=self._printed,
        )
        self.limits = limits
        self.meter = TemplateMeter(limits, {})
        functions: dict[str, Callable[..., Any]] = {
            "range": safe_range,
            "dict": self._dict,
            "namespace": _Namespace,
            "cycler": Cycler,
            "joiner": Joiner,
            "raise_exception": _raise_exception,
            "strftime_now": self._strftime_now,
        }
        self.globals = dict(functions)
        self._callable = tuple(functions.values())
        self.filters = {
            name: limited_filter(name, function, self)
            for name, function in self.filters.items()
            if name not in ("sum", "tojson")
        } | {
            "sum": pass_environment(limited_sum),
            "tojson": pass_environment(limited_tojson),
            "_steps": self._steps,
            "_made": self._made,
            "_counted": self._counted,
            "_joined": self._joined,
            "_slice": self._slice,
        }

    def compile_limited(self, source: str) -> jinja2.Template:
        """Compile `source`; a TemplateLimitError if it is too long or takes too long, else jinja2's own errors."""
        if len(source) > self.limits.source:
            raise TemplateLimitError(f"is longer than {self.limits.source:,} characters")
        return self.from_string(source)

    def check_constants(self, source: str) -> None:
        """Compute, under limits, every expression that jinja2 without them computes while it compiles `source`.

        A TemplateLimitError for one that is too large, be it in a branch that is never taken.
        """
        for expression in _constants(self.parse(source)):
            body = nodes.Template([nodes.Output([expression], lineno=1)], lineno=1)
            body.set_environment(self)
            self.meter = TemplateMeter(self.limits, {})
            try:
                self.from_string(body).render()  # from_string compiles a tree as well
            except TemplateLimitError:
                raise
            except Exception:
                continue  # jinja2 leaves it to the rendering then

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        names = {node.name for node in source.find_all(nodes.Name) if node.ctx != "load"}
        if len(names) > self.limits.names:
            raise TemplateLimitError(f"sets more than {self.limits.names:,} variables")
        _rewrite(source, self.limits)
        return super()._generate(source, *args, **kwargs)

    # What the generated code calls

    def new_buffer(self) -> Buffer:
        return Buffer(self.meter)

    def concat(self, pieces: Iterable[str]) -> str:
        """Join the pieces of output, which may be a generator over the whole template."""
        if not isinstance(pieces, Buffer):
            buffer = self.new_buffer()
            buffer.extend(pieces)
            pieces = buffer
        return str(self.meter.made("".join(pieces)))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        check_operator(self.meter, operator, left, right)
        return self.meter.made(super().call_binop(context, operator, left, right))

    def getattr(self, obj: Any, attribute: str) -> Any:
        self.meter.tick()
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        self.meter.tick()
        return super().getitem(obj, argument)

    def wrap_str_format(self, value: Any) -> Any:
        if not isinstance(value, types.MethodType | types.BuiltinMethodType):
            return None
        owner, name = value.__self__, value.__name__
        if not isinstance(owner, str) or name not in ("format", "format_map"):
            return None
        return LimitedFormat(self, owner, mapping=name == "format_map")

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Call what templates may call: macros, the functions they are given, methods that `check_method` knows."""
        self, arguments = __self, list(args)
        self.meter.tick()
        owner = getattr(__obj, "__self__", None)
        if isinstance(__obj, LoopContext):
            if arguments:
                arguments[0] = self._steps(arguments[0])
        elif isinstance(__obj, types.MethodType | types.BuiltinMethodType) and not any(
            __obj is one or __obj == one for one in self._callable
        ):
            allowed = isinstance(owner, Cycler | LoopContext) or check_method(
                self.meter, owner, __obj.__name__, arguments, kwargs
            )
            if not allowed:
                raise TemplateLimitError(
                    f"calls {type(owner).__name__}.{__obj.__name__}(), which EdgeSkip's templates cannot"
                )
        elif not isinstance(__obj, Macro | BlockReference | Joiner | LimitedFormat | Undefined) and not any(
            __obj is one for one in self._callable
        ):
            raise TemplateLimitError(f"calls {type(__obj).__name__}, which EdgeSkip's templates cannot")
        return self.meter.made(super().call(__context, __obj, *arguments, **kwargs))

    # What the rewritten tree calls

    def _steps(self, values: Any) -> Any:
        return self.meter.iterate(values) if isinstance(values, Iterable) else values

    def _made(self, value: Any) -> Any:
        self.meter.tick()
        return self.meter.made(value)

    def _counted(self, value: Any) -> Any:
        self.meter.tick()
        return value

    @pass_eval_context
    def _joined(self, context: nodes.EvalContext, values: list[Any]) -> Any:
        self.meter.tick()
        self.meter.room(self.meter.weight(values))
        join = markup_join if context.autoescape or context.volatile else str_join
        return self.meter.made(join(values))

    def _slice(self, value: Any, start: Any, stop: Any, step: Any) -> Any:
        self.meter.tick()
        return self.meter.made(value[start:stop:step])

    def _printed(self, value: Any) -> Any:
        self.meter.tick()
        return value

    # The functions that templates are given

    def _dict(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        pairs = [arg if isinstance(arg, Mapping) else self.meter.collect(arg) for arg in args]
        return dict(*pairs, **kwargs)

    def _strftime_now(self, form: str) -> str:
        if not isinstance(form, str) or len(form) > self.limits.width or re.search(r"\d{4}", form):
            self.meter.refuse(f"asks for a date in a form wider than {self.limits.width} characters")
        return datetime.now().strftime(form)


class _GenerationMark(jinja2.ext.Extension):
    """`{% generation %} … {% endgeneration %}` marks the assistant's part for training; here it prints its body."""

    tags = {"generation"}  # noqa: RUF012  (jinja2's own declaration)

    def parse(self, parser: jinja2.parser.Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _rewrite(node: Any, limits: TemplateLimits) -> Any:
    """Return the node that stands for `node`, after its children have been rewritten in place."""
    for name, value in node.iter_fields():
        if isinstance(value, list):
            setattr(node, name, [_rewrite(one, limits) if isinstance(one, nodes.Node) else one for one in value])
        elif isinstance(value, nodes.Node):
            setattr(node, name, _rewrite(value, limits))
    line = node.lineno
    match node:
        case nodes.For():
            node.iter = _through("_steps", node.iter, line)
        case nodes.Const() if isinstance(node.value, int) and node.value.bit_length() > limits.number_bits:
            raise TemplateLimitError(f"has a number of more than {limits.number_bits} bits")
        case nodes.Compare() | nodes.Test():
            return _through("_counted", node, line)
        case nodes.List() | nodes.Dict():
            return _through("_made", node, line)
        case nodes.Tuple() if node.ctx == "load":
            return _through("_made", node, line)
        case nodes.Concat():
            return _through("_joined", nodes.List(node.nodes, lineno=line), line)
        case nodes.Getitem() if isinstance(node.arg, nodes.Slice):
            nothing = nodes.Const(None, lineno=line)
            ends = [node.arg.start or nothing, node.arg.stop or nothing, node.arg.step or nothing]
            return _through("_slice", node.node, line, ends)
    return node


def _constants(node: nodes.Node) -> list[Any]:
    """Return the largest expressions below `node` that name no variable and compute something."""
    if isinstance(node, nodes.Expr) and not isinstance(node, nodes.Literal | nodes.Name):
        varies = (nodes.Name, nodes.Call, nodes.NSRef)
        if not isinstance(node, varies) and all(node.find(kind) is None for kind in varies):
            return [node]
    return [found for child in node.iter_child_nodes() for found in _constants(child)]


def _through(name: str, node: Any, line: int, arguments: list[nodes.Expr] | None = None) -> nodes.Filter:
    return nodes.Filter(node, name, arguments or [], [], None, None, lineno=line)
