"""Without any extra the package loads its model, scores and ranks; everything else names the pip command."""

import re
import subprocess
import sys
from importlib import metadata

import pytest
from packaging.requirements import Requirement

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
RANK = """
from prorank import Reranker
reranker = Reranker(precision="fp32")
found = reranker.rank("when do owls hunt", ["The moon is far.", "Owls hunt mice at night."], return_documents=True)
print(found[0]["text"], 0 < reranker.probability([found[0]["score"]])[0] < 1)
"""
INTEGRATE = """
from importlib import import_module
from prorank.integrations.source import source
for name in ("langchain", "llamaindex", "haystack", "lancedb", "pyterrier", "mcp", "mteb", "remote"):
    try:
        import_module(f"prorank.integrations.{name}")
    except ImportError as error:
        print(f"pip install 'prorank[{name}]'" in str(error), name)
print(source().rank("owls", ["The moon.", "Owls."])[0].place)
"""
COMMAND = "from prorank.cli.main import main\nmain()\n"


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


def run(absent, code, *arguments):
    command = [sys.executable, "-c", WITHOUT + code, absent, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_core_reranks(absent):
    done = run(absent, RANK)
    assert done.stdout == "Owls hunt mice at night. True\n", done.stderr


def test_integrations_name_their_extra_and_a_local_source_needs_none(absent):
    done = run(absent, INTEGRATE)
    names = ("langchain", "llamaindex", "haystack", "lancedb", "pyterrier", "mcp", "mteb", "remote")
    assert done.stdout == "".join(f"True {name}\n" for name in names) + "1\n", done.stdout + done.stderr


@pytest.mark.parametrize(
    "arguments", [("index", "cosqa", "--output", "OUT"), ("train", "quickstart", "--output", "OUT"), ("mcp",)]
)
def test_what_needs_an_extra_names_it(absent, tmp_path, arguments):
    done = run(absent, COMMAND, *(tmp_path / "out" if a == "OUT" else a for a in arguments))
    assert done.returncode == 2 and re.search(r"pip install 'prorank\[(eval|train|mcp)\]'", done.stderr), done.stderr
    assert not (tmp_path / "out").exists()
