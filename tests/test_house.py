"""Rules of the house that a reader relies on: short files, short bodies."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(file for top in ("src", "tests", "examples", "docs") for file in (ROOT / top).rglob("*.py"))
LONGEST_FILE, LONGEST_BODY = 400, 60
MEANT_FOR_USERS = {"__getattr__", "cut_vocabulary"}


def body_lines(function):
    """Lines of a function's body, its docstring left out."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def test_the_measure_counts_bodies_without_signature_and_docstring():
    (function,) = ast.parse(
        'def f(\n    a,\n):\n    """Says.\n\n    More.\n    """\n    b = (\n        a\n    )\n    return b'
    ).body
    assert body_lines(function) == 4


FOLDERS = sorted({file.parent for file in FILES})


def test_tests_examples_and_scripts_of_the_documentation_are_measured_too():
    assert {ROOT / top for top in ("src/prorank", "tests", "tests/cli", "examples", "docs")} <= set(FOLDERS)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_files_and_bodies_are_short(folder):
    too_long = []
    for file in folder.glob("*.py"):
        text = file.read_text(encoding="utf-8")
        if len(text.splitlines()) > LONGEST_FILE:
            too_long.append(f"{file.name}: {len(text.splitlines())} lines")
        functions = (n for n in ast.walk(ast.parse(text)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)))
        too_long += [f"{file.name}: {f.name}, {body_lines(f)} lines" for f in functions if body_lines(f) > LONGEST_BODY]
    assert not too_long


def named(text):
    """Names, attributes and one-word strings of Python code."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_no_function_is_there_for_its_tests_alone():
    code = {file: file.read_text(encoding="utf-8") for file in FILES if file.is_relative_to(ROOT / "src")}
    used = {name for text in code.values() for name in named(text)}
    pages = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").iterdir(), ROOT / "README.md"]
    shown = [page.read_text(encoding="utf-8") for page in pages if page.suffix in (".md", ".py", ".ipynb")]
    shown.append((ROOT / "tests" / "test_results.py").read_text(encoding="utf-8"))  # prints the tables of the pages
    used |= set(re.findall(r"\w+", " ".join(shown))) | MEANT_FOR_USERS
    unused = [
        f"{file.name}: {node.name}"
        for file, text in code.items()
        for node in ast.parse(text).body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        and not node.decorator_list
        and node.name not in used
    ]
    assert not unused
