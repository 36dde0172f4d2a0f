"""Rules of the house that a reader relies on: short files, short bodies."""

import ast
from pathlib import Path

import pytest

import prorank

PACKAGE = Path(prorank.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST_FILE, LONGEST_BODY = 400, 60


def body_lines(function):
    """Lines of a function's body, its docstring left out."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def test_the_measure_counts_bodies_without_signature_and_docstring():
    (function,) = ast.parse(
        'def f(\n    a,\n):\n    """Says.\n\n    More.\n    """\n    b = (\n        a\n    )\n    return b'
    ).body
    assert body_lines(function) == 4


@pytest.mark.parametrize("folder", sorted({file.parent for file in FILES}), ids=lambda folder: folder.name)
def test_files_and_bodies_are_short(folder):
    too_long = []
    for file in folder.glob("*.py"):
        text = file.read_text(encoding="utf-8")
        if len(text.splitlines()) > LONGEST_FILE:
            too_long.append(f"{file.name}: {len(text.splitlines())} lines")
        functions = (n for n in ast.walk(ast.parse(text)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)))
        too_long += [f"{file.name}: {f.name}, {body_lines(f)} lines" for f in functions if body_lines(f) > LONGEST_BODY]
    assert not too_long
