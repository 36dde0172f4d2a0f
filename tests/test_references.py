"""What docs, docstrings and comments name is there: paths, `module.name`, `prorank.module.name`, "see `name`"."""

import ast
import pkgutil
import re
from functools import lru_cache
from pathlib import Path

import pytest
from pages import ROOT

from prorank.recipe.sections import Recipe

PACKAGE = ROOT / "src" / "prorank"
HISTORY = ("docs/log.md", "CHANGELOG.md")  # they tell of what was there once
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *PACKAGE.rglob("*.md")]
FILES = [path for path in (*PAGES, *PACKAGE.rglob("*.py")) if path.relative_to(ROOT).as_posix() not in HISTORY]
FOLDERS = "|".join(["src", "docs", "tests", "examples", "deploy", *(p.name for p in PACKAGE.iterdir() if p.is_dir())])
PATH = re.compile(rf"(?<![\w/.-])((?:{FOLDERS})/[\w./-]+\.(?:py|md))\b")
SCRIPT = re.compile(r"`([a-z_]\w*\.py)`")
DOTTED = re.compile(r"`((?:[A-Za-z_]\w*\.)+[A-Za-z_]\w*)`")
SEEN = re.compile(r"\bsee `(\w+)`")
ENDINGS = ("json", "jsonl", "py", "md", "tex", "tsv", "yaml", "png", "safetensors", "onnx")


@lru_cache
def names(module):
    """What a module defines, imports, or sets on its classes and objects."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        found |= {getattr(node, key) for key in ("name", "asname", "id", "attr", "arg") if hasattr(node, key)}
    return found


MODULES = {}
for file in PACKAGE.rglob("*.py"):
    MODULES.setdefault(file.parent.name if file.stem == "__init__" else file.stem, []).append(file)
EVERY = set(MODULES).union(*(names(file) for files in MODULES.values() for file in files))


def is_setting(dotted):
    """Whether `section.key` stands in a recipe."""
    section, _, key = dotted.partition(".")
    field = Recipe.model_fields.get(section)
    return field is not None and re.search(rf"\b{key}\b", str(settings(field.annotation))) is not None


def settings(annotation):
    """Fields of a section, or of the sections that may stand in its place."""
    found = getattr(annotation, "model_fields", {})
    return [*found, *(name for part in getattr(annotation, "__args__", ()) for name in settings(part))]


def resolves(dotted):
    """Whether `prorank.a.b.c` leads to a module, a class, a function or an attribute."""
    try:
        return pkgutil.resolve_name(dotted) is not None
    except (ImportError, AttributeError):
        return False


def missing(text, folder):
    """References of a text that lead nowhere; `folder` is where relative paths begin."""
    for path in PATH.findall(text):
        if not any((place / path).is_file() for place in (ROOT, PACKAGE, folder)):
            yield path
    for name in SCRIPT.findall(text):
        if not any((place / name).is_file() for place in (ROOT, folder)):
            yield name
    for dotted in DOTTED.findall(text):
        *modules, name = dotted.split(".")
        if name in ENDINGS:
            continue
        if modules[0] == "prorank":
            known = resolves(dotted)
        elif modules[0] in MODULES and modules[-1] in MODULES:
            known = name in MODULES or is_setting(dotted) or any(name in names(file) for file in MODULES[modules[-1]])
        else:
            known = True  # another library's, or an object's attribute
        if not known:
            yield dotted
    yield from (name for name in SEEN.findall(text) if name not in EVERY)


@pytest.mark.parametrize(
    "text",
    [
        "tests/never_written.py",
        "`never_written.py`",
        "`prorank.model.backbone.Backbone.never`",
        "`backbone.never_written`",
        "`warmup.never_written`",
        "see `never_written`",
    ],
)
def test_a_reference_that_leads_nowhere_is_found(text):
    assert list(missing(f"So it is, {text}.", ROOT))


@pytest.mark.parametrize(
    "text", ["tests/pages.py", "model/packing.py", "`warmup.steps`", "`packing.plan_packs`", "`prorank.Reranker.rank`"]
)
def test_a_reference_that_leads_somewhere_is_passed(text):
    assert not list(missing(f"So it is, {text}.", ROOT))


def test_what_docs_and_comments_name_is_there():
    found = {str(file.relative_to(ROOT)): list(missing(Path.read_text(file), file.parent)) for file in FILES}
    assert {name: lost for name, lost in found.items() if lost} == {}
