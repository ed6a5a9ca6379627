"""A figure as SVG inside a page: without inline styles, with ids that no other figure has, in the page's colors.

Styles become classes of one stylesheet, so that a page may forbid all others; hex colors become CSS variables.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from edgeskip.bench.report.plot_style import VARIABLES, plot_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
_BY_COLOR = {light: f"var(--{name})" for name, (light, _) in VARIABLES.items()} | {"#000000": "var(--ink)"}
_COLOR = re.compile(r"#[0-9a-fA-F]{6}\b")
_FONTS = "'DejaVu Sans', Verdana, 'Segoe UI', Roboto, sans-serif"  # as wide as what was laid out with, or narrower


@dataclass
class Stylesheet:
    """Classes of all figures of a page."""

    classes: dict[str, str] = field(default_factory=dict)

    def class_of(self, declarations: str) -> str:
        return self.classes.setdefault(declarations, f"f{len(self.classes)}")

    @property
    def css(self) -> str:
        return "\n".join(f".{name}{{{declarations}}}" for declarations, name in self.classes.items())


def svg(draw: Callable[[int], Figure], width: int, prefix: str, title: str, words: str, sheet: Stylesheet) -> str:
    """Return the figure as an <svg> element; `prefix` begins its ids, `title` and `words` are for screen readers."""
    data = io.BytesIO()
    with plot_style():
        figure = draw(width)
        figure.savefig(data, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    # Made a moment ago by matplotlib, which escapes what the names hold.
    root = ElementTree.fromstring(data.getvalue())
    for child in [child for child in root if child.tag.endswith("metadata") or _is_style(child)]:
        root.remove(child)
    for element in root.iter():
        _rewrite(element, prefix, sheet)
    height = float(root.get("viewBox", "0 0 1 1").split()[3])
    root.attrib.pop("version", None)
    root.set("width", str(width))
    root.set("height", f"{height:g}")
    root.set("role", "img")
    root.set("aria-labelledby", f"{prefix}t {prefix}d")
    for at, (tag, text) in enumerate((("title", title), ("desc", words))):
        added = ElementTree.Element(f"{_SVG}{tag}", {"id": f"{prefix}{tag[0]}"})
        added.text = text
        root.insert(at, added)
    ElementTree.register_namespace("", "http://www.w3.org/2000/svg")
    return ElementTree.tostring(root, encoding="unicode")


def png(draw: Callable[[int], Figure], width: int, title: str, words: str) -> bytes:
    """Return the figure in the light page's colors, two pixels to one of CSS."""
    data = io.BytesIO()
    with plot_style():
        draw(width).savefig(data, format="png", dpi=144, metadata={"Title": title, "Description": words})
    return data.getvalue()


def _is_style(element: ElementTree.Element) -> bool:
    return element.tag == f"{_SVG}defs" and any(child.tag == f"{_SVG}style" for child in element)


def _rewrite(element: ElementTree.Element, prefix: str, sheet: Stylesheet) -> None:
    if element.tag == f"{_SVG}g" and not element.get("clip-path"):
        element.attrib.pop("id", None)  # names of matplotlib's, nobody refers to them
    declarations = [part.strip() for part in element.attrib.pop("style", "").split(";") if part.strip()]
    declarations += [f"{name}: {element.attrib.pop(name)}" for name in ("fill", "stroke") if name in element.attrib]
    if declarations:
        element.set("class", sheet.class_of("; ".join(_declaration(part, prefix) for part in declarations)))
    target = element.attrib.pop(f"{_XLINK}href", None)
    if target is not None:
        element.set("href", "#" + prefix + target.removeprefix("#"))
    if "id" in element.attrib:
        element.set("id", prefix + element.attrib["id"])
    if "clip-path" in element.attrib:
        element.set("clip-path", _prefixed(element.attrib["clip-path"], prefix))


def _declaration(text: str, prefix: str) -> str:
    if text.startswith("font-family"):
        return f"font-family: {_FONTS}"
    colored = _COLOR.sub(lambda found: _BY_COLOR.get(found[0].lower(), found[0]), text)
    return _prefixed(colored, prefix)


def _prefixed(text: str, prefix: str) -> str:
    return text.replace("url(#", f"url(#{prefix}")
