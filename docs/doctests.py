"""Examples at the end of docstrings, shown as code: the documentation's reader wants a heading before them."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object


def headed(text: str) -> str:
    """A docstring whose closing lines, from the first `>>>` on, stand under `Examples:`.

    >>> headed("Adds.\\n\\n>>> 1 + 1\\n2")
    'Adds.\\n\\nExamples:\\n    >>> 1 + 1\\n    2'
    """
    found = re.search(r"^>>> ", text, re.MULTILINE)
    if found is None:
        return text
    example = "\n".join(f"    {line}".rstrip() for line in text[found.start() :].splitlines())
    return f"{text[: found.start()].rstrip()}\n\nExamples:\n{example}"


class Doctests(Extension):
    """Gives every docstring with an example its heading."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Called for every module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = headed(obj.docstring.value)
