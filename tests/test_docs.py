"""README and docs: links lead somewhere, commands and recipe fields exist, Python runs, and so do cheap commands.

Commands that need the hub, a GPU, a cluster or hours (`LONG`) are only parsed: names, options, recipes and overrides.
"""

import json
import re
import runpy
import shlex
import shutil
from functools import lru_cache
from pathlib import Path

import pytest
import yaml
from pages import ROOT, blocks
from torch.distributed.run import get_args_parser
from typer.testing import CliRunner

from prorank import Reranker
from prorank.cli import main as cli
from prorank.model.cascade import Cascade
from prorank.model.checkpoint import save_cascade
from prorank.prompts.prompt import Prompt
from prorank.recipe.loading import load_recipe

PAGES = [ROOT / f"{name}.md" for name in ("README", "ARCHITECTURE", "CONTRIBUTING", "SECURITY")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs" / "guide").glob("*.md"))]
RUN = [*GUIDES, *(ROOT / "docs" / f"{name}.md" for name in ("index", "inference", "from-scratch", "slm"))]
CARD = ROOT / "src" / "prorank" / "shipped" / "prorank-mini" / "README.md"
ELSEWHERE = {  # pages whose Python needs more than this desk -> (the test that runs it, why)
    "docs/guide/evaluate.md": ("tests/integrations/test_mteb.py", "takes a task from the hub"),
    "docs/integrations.md": ("tests/integrations/test_integrations.py", "calls a server"),
    "docs/serving.md": ("tests/serving/test_serving_clients.py", "calls a server"),
}
GROUPS = ("data", "bench", "recipes")
LONG = re.compile(
    r"^prorank (bench|quickstart|ablate|serve|mcp|analyze|cascade|data (convert|synthesize)|"
    r"train (?!tune|minilm (?!warmup))|"
    r"export prorank-mini|evaluate prorank-smol|"
    r"export .* --to (openvino|onnx)|.* --ray )"  # graphs are exported in tests/export
)
HUB = re.compile(r"(?<![\w./])(BeIR|Qwen|mixedbread-ai|Alibaba-NLP)/")
SHORT = [
    *("warmup.steps=2", "warmup.pairs_per_step=4", "warmup.evaluate_every=2", "warmup.held_out_pairs=10"),
    *("score_learning.steps=2", "score_learning.queries_per_step=2", "score_learning.evaluate_every=2"),
    *("score_learning.teacher=null", "score_learning.pseudo_queries=0", "evaluation.max_queries=4"),
    "score_learning.negatives={hard: 1, medium: 1, easy: 0, random: 1}",
]


def commands(page):
    """The `prorank ...` lines of a page, continued lines joined, comments dropped, variables of a block filled in.

    What a launcher of several processes starts counts as such a line.
    """
    lines = []
    for block in blocks(page, "bash", "sh"):
        text = re.sub(r"^torchrun .* -m prorank\.cli ", "prorank ", block.replace("\\\n", " "), flags=re.MULTILINE)
        for name, value in re.findall(r'^(\w+)="([^"]*)"', text, re.MULTILINE):
            text = text.replace(f"${name}", " ".join(value.split()))
        lines += [line.split(" #")[0].strip() for line in text.splitlines() if line.startswith("prorank ")]
    return lines


@lru_cache
def help_of(*name):
    shown = CliRunner().invoke(cli.app, [*name, "--help"], terminal_width=200)
    assert shown.exit_code == 0, name
    return shown.output


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), target


NARROW = [*PAGES, CARD, ROOT / "CHANGELOG.md"]


def prose(page):
    """(number, line) of a page but for tables, fenced blocks, comments and lines that are one link."""
    text = page.read_text(encoding="utf-8")
    for block in (r"^( *)```.*?^\1```$", r"^( *)<!--.*?-->$"):  # their lines stay, empty
        text = re.sub(block, lambda match: "\n" * match[0].count("\n"), text, flags=re.DOTALL | re.MULTILINE)
    for number, line in enumerate(text.splitlines(), 1):
        if not re.fullmatch(r"\|.*|!?\[[^\]]*\]\([^)]*\)[.,;:]?", line.strip()):
            yield number, line


@pytest.mark.parametrize("page", NARROW, ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_have_at_most_110_columns(page):
    assert [f"{page.name}:{number}: {len(line)}" for number, line in prose(page) if len(line) > 110] == []


def test_the_measure_of_lines_passes_over_tables_code_comments_and_links(tmp_path):
    long = "word " * 30
    page = tmp_path / "page.md"
    page.write_text(f"{long}\n\n| {long} |\n```bash\n{long}\n```\n<!--\n{long}\n-->\n![{long}](a.png)\n\n{long} `a`\n")
    assert [number for number, line in prose(page) if len(line) > 110] == [1, 12]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_options_and_recipes_exist(page):
    for line in commands(page):
        words = shlex.split(line)[1:]
        name = words[: 2 if words[0] in GROUPS else 1]
        for option in re.findall(r"(?<!\S)--[a-z0-9-]+", line):
            assert option in help_of(*name), f"{option} in: {line}"
        if name == ["train"]:
            overrides = [word for word in words[2:] if re.match(r"[a-z_.]+=", word)]
            load_recipe(words[1], [value for value in overrides if not value.startswith("grades.file")])


def test_launchers_take_the_options_that_the_guides_give_them():
    lines = re.findall(
        r"torchrun (.*? -m prorank\.cli .*?)(?:`|$)", "\n".join(map(Path.read_text, PAGES)), re.MULTILINE
    )
    assert len(lines) >= 2
    for line in lines:
        found = get_args_parser().parse_args(shlex.split(line))
        assert found.module and found.training_script == "prorank.cli" and int(found.nproc_per_node) > 1, line


@pytest.fixture
def desk(bert_folder, qwen_folder, word_collection, tmp_path, monkeypatch):
    """A folder in which the documents' paths exist."""
    monkeypatch.chdir(tmp_path)
    for name in ("path/to/collection", "collections/mine", "collections/cosqa", "collections/scifact"):
        shutil.copytree(word_collection, tmp_path / name)
    shutil.copytree(ROOT / "docs" / "results", tmp_path / "docs" / "results")
    reranker = Reranker(bert_folder, prompt="prorank-short", max_length=48, precision="fp32")
    for name in ("runs/quickstart/checkpoint", "runs/scifact/checkpoint", "exports/int8"):
        reranker.save_pretrained(tmp_path / name)
        save_cascade(tmp_path / name, Cascade(tokens=(1,), shares=(0.5,), at_least=2))
    causal = Reranker(qwen_folder, max_length=256, precision="fp32")
    for name in ("runs/longer/checkpoint", "runs/two-1/checkpoint", "runs/qwen/checkpoint"):
        causal.save_pretrained(tmp_path / name)
    rows = [f"when do owls hunt {i},At night {i}." for i in range(40)]
    (tmp_path / "faq.csv").write_text("question,answer\n" + "\n".join(rows) + "\n")
    log = [json.dumps({"query": f"reset {i}", "pos": [f"Open {i}."], "neg": [f"Close {i}."]}) for i in range(9)]
    (tmp_path / "logs.jsonl").write_text("\n".join(log) + "\n")
    (tmp_path / "documents.jsonl").write_text('{"text": "def load(path): return path"}\n{"text": "apple"}\n')
    return tmp_path


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_commands_run_as_they_stand(page, desk, bert_folder, call):
    checkpoint = desk / "runs" / "quickstart" / "checkpoint"
    for line in commands(page):
        if LONG.match(line) or HUB.search(line):
            continue
        arguments = shlex.split(line)[1:]
        for index in [i for i, word in enumerate(arguments) if word == "--output"]:
            taken = Path(arguments[index + 1])
            if taken.exists() and "--resume" not in arguments:
                shutil.rmtree(taken) if taken.is_dir() else taken.unlink()
        if arguments[0] == "train":
            model = checkpoint if arguments[1] == "tune" else bert_folder
            short = [one for one in SHORT if not (arguments[1] == "tune" and one.startswith("warmup"))]
            arguments += [f"backbone.model={model}", "backbone.precision=fp32", *short]
            arguments += [] if arguments[1] == "tune" else ["backbone.max_length=48"]
        code, _, err = call(*arguments)
        assert code == 0, f"{line}\n{err}"


def test_recipes_and_prompts_in_the_guides_are_valid():
    fragments = [text for page in PAGES for text in blocks(page, "yaml")]
    assert len(fragments) >= 2
    for text in fragments:
        tree = yaml.safe_load(text)
        if "segments" in tree:
            Prompt.model_validate(tree)
        else:
            load_recipe({"name": "fragment", **tree}, [])


def python_pages():
    return {page.relative_to(ROOT).as_posix(): page for page in [*PAGES, CARD] if blocks(page, "python")}


@pytest.mark.parametrize("name", sorted(python_pages().keys() - ELSEWHERE.keys()))
def test_python_runs(name, desk):
    names = {}
    for block in blocks(ROOT / name, "python"):
        exec(compile(block, name, "exec"), names)
    if name == "README.md":
        assert names["reranker"].rank("read a csv file", names["documents"])[0]["corpus_id"] == 1


@pytest.mark.parametrize("name", ELSEWHERE)
def test_python_that_needs_more_is_run_by_another_test(name):
    text = (ROOT / ELSEWHERE[name][0]).read_text(encoding="utf-8")
    assert f'"{python_pages()[name].name}"' in text and re.search(r'blocks\([^\n]*"python"\)', text)


def test_collected_figures_are_those_of_the_commands(monkeypatch, capsys):
    """docs/slm.md's files from the metrics per query beside them."""
    monkeypatch.chdir(ROOT)
    calls = re.findall(
        r"^python (\S+) (.+) > (\S+)$", "\n".join(blocks(ROOT / "docs" / "slm.md", "bash")), re.MULTILINE
    )
    assert len(calls) == 14
    for script, arguments, file in calls:
        monkeypatch.setattr("sys.argv", [script, *arguments.split()])
        runpy.run_path(script, run_name="__main__")
        texts = capsys.readouterr().out, Path(file).read_text(encoding="utf-8")
        told, kept = ([row.values() for row in json.loads(text)] for text in texts)
        for now, then in zip(told, kept, strict=True):
            assert list(now) == [pytest.approx(value, abs=1e-9) for value in then]
