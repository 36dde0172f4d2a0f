"""YAML that people wrote, read with bounds: no code, no documents that unfold without end.

Knows nothing of what the documents mean.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

import yaml

from prorank.util.errors import DataError

LARGEST = 100_000  # values of a document, its aliases unfolded


class _Loader(yaml.SafeLoader):
    """Refuses documents that unfold to too many values, and a key that stands twice in a mapping."""

    def construct_document(self, node: yaml.Node) -> Any:
        """The document's value."""
        if _unfolded(node, {}) > LARGEST:
            raise yaml.YAMLError("the aliases unfold to too many values")
        return super().construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping's value."""
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((name for i, name in enumerate(names) if name in names[:i] and name != "<<"), None)
        if twice is not None:
            raise yaml.MarkedYAMLError(problem=f"the key '{twice}' stands twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def _unfolded(node: yaml.Node, known: dict[int, float]) -> float:
    """How many values a node holds when its aliases are written out; without end if it holds itself."""
    if id(node) not in known:
        known[id(node)] = math.inf
        children: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            children = node.value
        elif isinstance(node, yaml.MappingNode):
            children = [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_unfolded(child, known) for child in children)
    return known[id(node)]


def parse_yaml(text: str, name: str) -> Any:
    """The value of a YAML text; `name` says in errors where it stands.

    Raises:
        DataError: not YAML, or beyond its bounds; with the line where it is known.

    >>> parse_yaml("steps: 50", "a.yaml")
    {'steps': 50}
    """
    line, problem = "", ""
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except RecursionError:
        problem = "nested too deeply"
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    except ValueError as error:  # a date that is none, an integer of too many digits
        problem = str(error).split(";")[0]
    raise DataError(f"{name}{line}: not valid YAML: {problem}")
