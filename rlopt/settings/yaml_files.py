"""Settings files in YAML, read as plain data. Imports no torch."""

import os
import re
from pathlib import Path
from typing import Any

from rlopt.errors import ConfigError, one_line, resource_error
from rlopt.storage.budget import open_plain

_MAX_BYTES = 2**20
_MAX_DEPTH = 32
_INTEGER = re.compile(r"[-+]?[0-9]{1,300}$")
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]{1,300}(\.[0-9]*)?)([eE][-+]?[0-9]{1,9})?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"
)


def read_yaml(path: Path, name: str, python: bool = False) -> Any:
    """What a YAML file holds: mappings, lists, texts, numbers, booleans and none.

    Numbers are those of YAML 1.2: 010 is not eight, and a date or 1:30 is text. Aliases are not read, as a few lines of
    them make gigabytes.

    :param name: what errors call the file
    :param python: whether Python's objects may be in it, which are errors else: those written as sequences are read as
        lists, others as None
    :raises rlopt.errors.ConfigError: no plain file, no UTF-8, not valid, too large, nested too deeply, an alias, or a
        key twice
    """
    try:
        with open_plain(path, follow=True) as file:
            if os.fstat(file.fileno()).st_size > _MAX_BYTES:
                raise ValueError(f"it is over {_MAX_BYTES} bytes")
            return parse_yaml(file.read().decode("utf-8"), python)
    except UnicodeDecodeError:
        raise ConfigError(f"{name}: it is not UTF-8 text: save it as UTF-8") from None
    except (OSError, ValueError) as error:
        if (lack := resource_error(error, f"{name} cannot be read")) is not None:
            raise lack from None
        reason = error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)
        raise ConfigError(f"{name} cannot be read: {reason}") from None


def parse_yaml(text: str, python: bool = False) -> Any:
    """:func:`read_yaml` for a text; ``ValueError`` where that raises."""
    import yaml

    class Loader(yaml.SafeLoader):
        """YAML's own, with the numbers of YAML 1.2, and without aliases and depth."""

        yaml_implicit_resolvers = {  # noqa: RUF012 (PyYAML's way to say it)
            first: [(tag, pattern) for tag, pattern in found if tag.rpartition(":")[2] in ("null", "bool", "merge")]
            for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }
        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise ValueError(f"line {self.peek_event().start_mark.line + 1}: an alias (*): write the value out")
            self.depth += 1
            if self.depth > _MAX_DEPTH:
                raise ValueError("it is nested too deeply")
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen: set[str] = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value in seen:
                    line = key.start_mark.line + 1
                    raise ValueError(f"line {line}: {one_line(repr(key.value))} is there twice: keep one of them")
                seen.add(str(key.value))
            return super().construct_mapping(node, deep)

    Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INTEGER, list("-+0123456789"))
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
    Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))
    if python:

        def plain(loader: Any, kind: str, node: Any) -> Any:
            return loader.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode) else None

        Loader.add_multi_constructor("tag:yaml.org,2002:python/", plain)
    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"not valid YAML: {one_line(error) or 'nested too deeply'}") from None
