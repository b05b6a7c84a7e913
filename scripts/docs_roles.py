"""Griffe extension: roles of docstrings, such as ``:func:`rlopt.load```, as links where the name is on the site."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc|obj):`~?([\w.]+)(?:\(\))?`")


def linked(text: str, owner: Any) -> str:
    """``text`` with each role a reference that the site resolves if it can, and plain code otherwise."""

    def link(match: re.Match[str]) -> str:
        name = match[1]
        try:
            path = name if name.startswith("rlopt") else owner.resolve(name)
        except griffe.NameResolutionError:
            path = f"{owner.path}.{name}"
        return f'<autoref identifier="{path}" optional><code>{name}</code></autoref>'

    return ROLE.sub(link, text)


class Roles(griffe.Extension):
    """Rewrites the docstrings of everything that is loaded."""

    def on_object(self, *, obj: Any, **kwargs: Any) -> None:
        if not obj.is_alias and obj.docstring is not None:
            obj.docstring.value = linked(obj.docstring.value, obj)
