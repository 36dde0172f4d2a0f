"""Without any extra the package loads its model, scores and ranks; everything else names the pip command."""

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from rich.console import Console

from prorank.bench.warmup import run_warmup_bench
from prorank.util.errors import MissingExtraError

ROOT = Path(__file__).parents[1]

# Packages that the extras bring and the core does not need cannot be imported in this process.
WITHOUT = """
import sys
from importlib.machinery import PathFinder

class Installed:
    find_distributions = staticmethod(PathFinder.find_distributions)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in MODULES else PathFinder.find_spec(name, path, target)

MODULES = set(sys.argv.pop(1).split(","))
sys.meta_path[sys.meta_path.index(PathFinder)] = Installed()
"""
LACKING = {"index": "eval", "train": "train", "mcp": "mcp"}
INTEGRATIONS = ("langchain", "llamaindex", "haystack", "lancedb", "pyterrier", "mcp", "mteb", "remote")
# One process does it all, since importing torch takes longer than any of it.
WORK = f"""
import contextlib, io, json
from importlib import import_module
from prorank import Reranker
from prorank.cli.main import main
from prorank.integrations.source import source

reranker = Reranker(precision="fp32")
(best, _) = reranker.rank("when do owls hunt", ["The moon is far.", "Owls hunt mice at night."], return_documents=True)
said = {{"best": best["text"], "chance": reranker.probability([best["score"]])[0]}}
said["place"] = source().rank("owls", ["The moon.", "Owls."])[0].place
for name in {INTEGRATIONS}:
    try:
        import_module(f"prorank.integrations.{{name}}")
    except ImportError as error:
        said[name] = str(error)
output = sys.argv.pop(1)
for command in (["index", "cosqa", "--output", output], ["train", "quickstart", "--output", output], ["mcp"]):
    sys.argv = ["prorank", *command]
    with contextlib.redirect_stderr(io.StringIO()) as error:
        try:
            main()
        except SystemExit as stop:
            said[f"prorank {{command[0]}}"] = [stop.code, error.getvalue()]
print(json.dumps(said))
"""


def needed(name, found=None, extra=""):
    """Distributions that one needs, without its extras; names as packaging compares them."""
    found = set() if found is None else found
    name = re.sub(r"[-_.]+", "-", name).lower()
    if name in found:
        return found
    found.add(name)
    try:
        requirements = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return found
    for requirement in map(Requirement, requirements):
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            needed(requirement.name, found)
    return found


@pytest.fixture(scope="module")
def absent():
    """Modules that only extras bring."""
    core = needed("prorank")
    extras = [r for r in map(Requirement, metadata.requires("prorank")) if "extra" in str(r.marker)]
    brought = {re.sub(r"[-_.]+", "-", r.name).lower() for r in extras} - {"prorank"} - core
    owners = metadata.packages_distributions()
    modules = {m for m, names in owners.items() if {re.sub(r"[-_.]+", "-", n).lower() for n in names} <= brought}
    assert {"bm25s", "peft", "scipy", "matplotlib", "onnxruntime"} <= modules
    assert not {"torch", "numpy", "yaml", "typer"} & modules
    return ",".join(sorted(modules))


@pytest.fixture(scope="module")
def said(absent, tmp_path_factory):
    """What the core alone answers."""
    output = tmp_path_factory.mktemp("core") / "out"
    command = [sys.executable, "-c", WITHOUT + WORK, absent, str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert not output.exists()
    return json.loads(done.stdout)


def test_the_core_reranks(said):
    assert said["best"] == "Owls hunt mice at night." and 0 < said["chance"] < 1


@pytest.mark.parametrize("name", INTEGRATIONS)
def test_integrations_name_their_extra(said, name):
    assert f"pip install 'prorank[{name}]'" in said[name]


def test_a_local_source_needs_no_extra(said):
    assert said["place"] == 1


@pytest.mark.parametrize("command", LACKING)
def test_what_needs_an_extra_names_it(said, command):
    code, error = said[f"prorank {command}"]
    assert code == 2 and f"pip install 'prorank[{LACKING[command]}]'" in error


def test_python_3_10_is_not_asked_for_packages_that_it_has_none_of(monkeypatch):
    asked = re.findall(r'"(trl>[^"]*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert len(asked) == 2
    for marker in (Requirement(one).marker for one in asked):
        assert not marker.evaluate({"python_version": "3.10"}) and marker.evaluate({"python_version": "3.11"})
    monkeypatch.setattr("prorank.bench.warmup.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"'trl' is not installed .*Python 3\.11"):
        run_warmup_bench("small", prompts=1, prompt_tokens=8, steps=1, device="cpu", console=Console(quiet=True))
