"""SVG made ready to stand in an HTML page: nothing runs, nothing is loaded, no id is used twice."""

from __future__ import annotations

import re
from xml.etree import ElementTree

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_HREFS = ("href", f"{{{_XLINK}}}href")
_LOST = ("metadata", "script", "style", "foreignObject")
_PIXELS = "data:image/png;base64,"  # a heat map's cells stand in the picture as a picture
_FOR_ALL = re.compile(r"\s*\*\s*\{([^{}<>@]*)\}\s*")  # a style sheet that speaks of every element
_LINK = re.compile(r"url\(\s*['\"]?([^)'\"]*)['\"]?\s*\)")


def safe_svg(svg: str, prefix: str) -> str:
    """The picture with its ids prefixed, without scripts, handlers, metadata and outside links.

    A style sheet in it would be the whole page's: what it says of every element goes to the root,
    from which it is inherited (matplotlib's line joins), the rest goes.
    prefix: differs for each picture of a page. ValueError for what is no SVG.
    """
    try:
        root = ElementTree.fromstring(svg)
    except ElementTree.ParseError as error:
        raise ValueError(f"not SVG: {error}") from None
    if _name(root.tag) != "svg":
        raise ValueError("not SVG")
    shared = ";".join(_shared_styles(root))
    _clean(root, prefix)
    if shared:
        root.set("style", shared)
    width, height = root.attrib.pop("width", None), root.attrib.pop("height", None)
    if "viewBox" not in root.attrib and width and height:
        root.set("viewBox", f"0 0 {_number(width)} {_number(height)}")
    text = ElementTree.tostring(root, encoding="unicode", short_empty_elements=True)
    return text.strip()


def _clean(element: ElementTree.Element, prefix: str) -> None:
    for child in list(element):
        if not isinstance(child.tag, str) or _name(child.tag) in _LOST or _foreign(child.tag):
            element.remove(child)
        else:
            _clean(child, prefix)
    element.tag = _name(element.tag)  # HTML knows an svg element without a namespace
    attributes = dict(element.attrib)
    element.attrib.clear()
    for key, value in attributes.items():
        for name, cleaned in _attribute(key, value, prefix):
            element.set(name, cleaned)


def _shared_styles(root: ElementTree.Element) -> list[str]:
    sheets = (one.text or "" for one in root.iter() if _is_style(one))
    found = (_FOR_ALL.fullmatch(text) for text in sheets)
    return [one[1].strip().rstrip(";") for one in found if one and "url" not in one[1].lower()]


def _is_style(element: ElementTree.Element) -> bool:
    return isinstance(element.tag, str) and _name(element.tag) == "style"


def _attribute(key: str, value: str, prefix: str) -> list[tuple[str, str]]:
    """The attribute as it may stand; nothing for one that may not."""
    if key in _HREFS:
        if value.startswith("#"):
            return [("href", f"#{prefix}-{value[1:]}")]
        return [("href", value)] if value.startswith(_PIXELS) else []
    if key.startswith("{") or key.lower().startswith("on"):
        return []
    if key == "id":
        return [(key, f"{prefix}-{value}")]
    return [(key, _LINK.sub(lambda found: _local(found, prefix), value))]


def _local(found: re.Match[str], prefix: str) -> str:
    target = found[1].strip()
    return f"url(#{prefix}-{target[1:]})" if target.startswith("#") else "none"


def _name(tag: str) -> str:
    return tag.rpartition("}")[2]


def _foreign(tag: str) -> bool:
    return tag.startswith("{") and not tag.startswith(f"{{{_SVG}}}")


def _number(length: str) -> str:
    found = re.match(r"[\d.]+", length)
    return found[0] if found else "0"
