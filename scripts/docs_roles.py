"""Griffe extension: roles of docstrings, such as ``:func:`rlopt.load```, as links where the name is on the site."""

import logging
import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc|obj):`~?([\w.]+)(?:\(\))?`")
_log = logging.getLogger("mkdocs.docs_roles")  # whose warnings make a strict build fail


def linked(text: str, owner: Any) -> str:
    """``text`` with each role a reference that the site resolves if it can, and plain code otherwise.

    A name of rlopt's that does not exist is warned of.
    """

    def link(match: re.Match[str]) -> str:
        name = match[1]
        first, dot, rest = name.partition(".")
        try:
            path = name if first == "rlopt" else owner.resolve(first) + dot + rest
        except griffe.NameResolutionError:
            path = f"{owner.path}.{name}"
        else:
            if path.startswith("rlopt.") and not _exists(owner.package, path.removeprefix("rlopt.")):
                _log.warning("the docstring of %s names %s, which does not exist", owner.path, path)
        return f'<autoref identifier="{path}" optional><code>{name}</code></autoref>'

    return ROLE.sub(link, text)


def _exists(package: Any, path: str) -> bool:
    try:
        return package[path] is not None
    except KeyError:
        return False


class Roles(griffe.Extension):
    """Rewrites the docstrings of everything that is loaded."""

    def on_object(self, *, obj: Any, **kwargs: Any) -> None:
        if not obj.is_alias and obj.docstring is not None:
            obj.docstring.value = linked(obj.docstring.value, obj)
