"""What a release must say alike in several files: its version, its date, its public address."""

import re
from pathlib import Path

import yaml

from prorank.util.version import VERSION

ROOT = Path(__file__).parents[1]


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_citation_is_of_this_version_and_dated_once_the_changelog_is():
    citation = yaml.safe_load(text("CITATION.cff"))
    (date,) = re.findall(rf"^## {re.escape(VERSION)} \((.*)\)$", text("CHANGELOG.md"), re.MULTILINE)
    assert citation["version"] == VERSION
    assert str(citation.get("date-released", "unreleased")) == date


def test_the_public_address_stands_in_both_places_or_is_promised_in_both():
    names = re.findall(r"^(\w+) = .https://", text("pyproject.toml").partition("[project.urls]")[2], re.MULTILINE)
    published = bool({"Repository", "Source"} & set(names))
    assert ("comes with publication" in text("SECURITY.md")) != published
    assert ("public address of the source comes with publication" in text("pyproject.toml")) != published


def test_the_checks_of_a_release_run_on_the_version_that_is_released():
    steps = text("CONTRIBUTING.md").partition("## Release")[2]
    assert 0 < steps.index("version.py") < steps.index("make lint docs test") < steps.index("python -m build")
    assert "public address" in steps


def test_every_continuous_integration_runs_the_same_checks():
    (workflow,) = (ROOT / ".github" / "workflows").glob("*.yml")
    here = set(re.findall(r"^make (\w+)$", text(".ci/run"), re.MULTILINE))
    runs = re.findall(r"run: make (.*)", workflow.read_text(encoding="utf-8"))
    assert here == {"install", "lint", "docs", "test"} and here <= set(" ".join(runs).split())
