"""What commands print: one line per document, nothing silent, nothing obeyed by the terminal; JSON where asked."""

import io
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from prorank import Reranker
from prorank.bench.toy import write_collection
from prorank.cli import rerank as cli_rerank
from prorank.pipeline import showcase
from prorank.util.terminal import PlainConsole, one_line, visible

LONG = "apple river stone tiger " * 60
ESCAPES = "\x1b[31mred\x1b[0m \x9b2J \x07 \u202eevil \r\x00"


@pytest.fixture(scope="module")
def checkpoint(bert_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    Reranker(bert_folder, prompt="prorank-short", max_length=64, precision="fp32").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def titled(tmp_path_factory):
    """A collection with titles, one of them hostile."""
    folder = write_collection(
        tmp_path_factory.mktemp("titled"),
        {"d1": "apple river", "d2": "stone"},
        {"q": "apple", "z": "zzz"},
        {"test": {}},
    )
    rows = [
        {"_id": "d1", "title": f"Fruit {ESCAPES}", "text": "apple river"},
        {"_id": "d2", "title": "", "text": "stone apple apple"},
        {"_id": "d3\x1b", "title": "", "text": "apple tree " * 40},
    ]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td1\t1\nz\td1\t1\n")
    return folder


def harmless(text):
    return not any((ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 or "\u202a" <= c <= "\u202e" for c in text)


def test_piped_output_has_one_line_a_document_with_an_ellipsis(checkpoint, call):
    code, out, _ = call("rerank", "-m", checkpoint, "apple", LONG, "a\nb", "stone")
    lines = out.splitlines()
    assert code == 0 and len(lines) == 3
    assert next(line for line in lines if "apple" in line).endswith("…")
    assert not any(line.endswith("…") for line in lines if "stone" in line and "apple" not in line)


def test_a_terminal_gets_one_line_a_document_too(checkpoint, monkeypatch, capsys):
    monkeypatch.setattr(cli_rerank, "out", SimpleNamespace(is_terminal=True, width=50, print=lambda *_, **__: None))
    cli_rerank.print_ranking([{"score": 1.0, "text": LONG}, {"score": 0.5, "text": "北京" * 60}])
    first, second = capsys.readouterr().out.splitlines()
    assert len(first) <= 50 and first.endswith("…") and len(second) <= 34


def test_title_id_and_probability_are_shown(checkpoint, tmp_path, call):
    rows = [{"_id": "d7", "title": "Owls", "text": "apple"}, {"id": 8, "text": "stone"}]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, out, _ = call("rerank", "-m", checkpoint, "apple", "--file", tmp_path / "d.jsonl")
    assert "d7  Owls: apple" in out and "8   stone" in out
    reranker = Reranker(checkpoint)
    found = json.loads(call("rerank", "-m", checkpoint, "apple", "stone", "--json")[1])
    assert found[0]["probability"] == pytest.approx(reranker.probability(reranker.score([("apple", "stone")]))[0])
    assert f"{found[0]['probability']:.3f}" in call("rerank", "-m", checkpoint, "apple", "stone")[1]


def test_scores_without_probability_have_no_such_column(bert_folder, tmp_path, call):
    options = {"prompt": "prorank-short", "max_length": 64}
    Reranker(bert_folder, score="expected_grade", **options).save_pretrained(tmp_path)
    code, out, _ = call("rerank", "-m", tmp_path, "apple", "stone")
    assert code == 0 and len(out.split()) == 3
    assert "probability" not in json.loads(call("rerank", "-m", tmp_path, "apple", "stone", "--json")[1])[0]
    assert call("rerank", "-m", tmp_path, "apple", "stone", "--threshold", 0.5)[0] == 2


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_an_empty_result_says_why(checkpoint, titled, tmp_path, call, more):
    code, out, err = call("rerank", "-m", checkpoint, "apple", "stone", "river", "--threshold", 1, *more)
    assert code == 0 and "0 of 2 documents reach 1; the best has 0." in err and out.strip() == ("[]" if more else "")
    (tmp_path / "empty.txt").write_text("\n\n")
    code, out, err = call("rerank", "-m", checkpoint, "apple", "--file", tmp_path / "empty.txt", *more)
    assert code == 0 and "no documents" in err and out.strip() == ("[]" if more else "")
    call("index", titled, "--output", tmp_path / "index")
    code, out, err = call("search", tmp_path / "index", "zzz", *more)
    assert code == 0 and "no document shares a term" in err and out.strip() == ("[]" if more else "")


def test_search_shows_titles_or_first_words_and_refuses_old_indexes(titled, tmp_path, call):
    call("index", titled, "--output", tmp_path / "index")
    _, out, _ = call("search", tmp_path / "index", "apple")
    assert "\td1\tFruit \\x1b[31mred" in out and "\td2\tstone apple apple" in out and harmless(out)
    assert len(out.splitlines()) == 3 and next(x for x in out.splitlines() if "d3" in x).endswith("…")
    headings = {
        row["id"]: row["heading"] for row in json.loads(call("search", tmp_path / "index", "apple", "--json")[1])
    }
    assert headings["d2"] == "stone apple apple" and headings["d1"].startswith("Fruit")
    settings = json.loads((tmp_path / "index" / "prorank_index.json").read_text())
    del settings["fingerprint"]
    (tmp_path / "index" / "prorank_index.json").write_text(json.dumps(settings))
    code, _, err = call("search", tmp_path / "index", "apple")
    assert code == 2 and "does not say which documents it was made of (make it again)" in err


def test_runs_and_files_that_were_written_are_named(checkpoint, tmp_path, call):
    texts = {"d1": "apple river", "d2": "stone"}, {"q": "apple", "z": "zzz"}, {"test": {"q": {"d1": 1}, "z": {"d2": 1}}}
    titled = write_collection(tmp_path / "collection", *texts)
    call("index", titled, "--output", tmp_path / "index")
    first, second = tmp_path / "first.run", tmp_path / "second.run"
    arguments = ["--collection", titled, "--output", first]
    _, out, _ = call("search", tmp_path / "index", *arguments, "--split", "test", "--top-k", 1)
    assert "2 queries searched, 1 of them found nothing" in out and str(first) in out
    _, out, err = call("rerank", "-m", checkpoint, "--run", first, "--collection", titled, "--output", second)
    assert "1 documents of 1 queries reranked" in out and f"written to {second}" in err
    command = ["rerank", "-m", checkpoint, "--run", first, "--collection", titled, "--output", second, "--force"]
    told = json.loads(call(*command, "--json")[1])
    assert told["queries"] == told["pairs"] == 1 and told["output"] == str(second) and told["seconds"] > 0


def test_documents_titles_and_ids_cannot_drive_the_terminal(checkpoint, tmp_path, call):
    (tmp_path / "d.jsonl").write_text(json.dumps({"_id": ESCAPES, "title": ESCAPES, "text": ESCAPES}) + "\n")
    for more in ([], ["--json"]):
        _, out, _ = call("rerank", "-m", checkpoint, "apple", "--file", tmp_path / "d.jsonl", *more)
        assert harmless(out)
    assert json.loads(out)[0]["text"]["text"] == ESCAPES


def test_names_and_errors_cannot_drive_the_terminal(titled, call):
    for arguments in (
        ["info", f"./{ESCAPES[:-1]}"],
        ["rerank", "-m", ESCAPES[:-1], "q", "d"],
        ["data", "check", titled],
    ):
        _, out, err = call(*arguments)
        assert harmless(out + err)


def test_a_console_shows_control_characters_of_tables_and_texts():
    from rich.table import Table

    file = io.StringIO()
    console = PlainConsole(file=file)
    table = Table("a")
    table.add_row(ESCAPES)
    console.print(ESCAPES, table)
    assert harmless(file.getvalue()) and "\\x1b" in file.getvalue()
    console.print("word " * 100)
    assert len(file.getvalue().splitlines()[-1]) > 400  # not wrapped where there is no terminal


def test_lines_are_cut_by_columns():
    assert one_line("北京上海", 5) == "北京…" and one_line("abc", 3) == "abc" and one_line("a\tb\x0cc", 9) == "a b c"
    assert visible("tab\tline\n") == "tab\tline\n" and visible("\ud83d") == "\\ud83d"


def test_the_showcase_cuts_texts_with_an_ellipsis():
    assert showcase.one_line(LONG, showcase.SHOWN_CHARACTERS).endswith("…")


def test_info_says_licence_language_size_calibration_and_answers(checkpoint, tmp_path, call):
    _, out, _ = call("info")
    for words in ("apache-2.0", "en\n", "MiB", "slope", "0 (token 1014), 1 (token 1015)", "all-MiniLM-L6-v2"):
        assert words in out
    found = json.loads(call("info", "--json")[1])
    assert found["base model"] == "sentence-transformers/all-MiniLM-L6-v2" and found["licence"] == "apache-2.0"
    assert found["size on disk"] > 10**7 and found["calibration"]["slope"] > 0 and found["answers"]["1"] == 1015
    (checkpoint / "README.md").write_text("---\nlanguage:\n- de\n- no\n---\n")
    _, out, _ = call("info", checkpoint)
    assert "not stated" in out and "de, no" in out.replace("False", "no") and "calibration[/bold]" not in out


def test_descriptions_of_recipes_begin_in_one_column(call):
    found = {row["name"]: row["description"] for row in json.loads(call("recipes", "--json")[1])}
    lines = call("recipes")[1].splitlines()[: len(found)]
    assert len({line.index(text) for line, text in zip(lines, found.values())}) == 1


def test_recipes_are_listed_and_shown(call):
    _, out, _ = call("recipes")
    assert "quickstart" in out and "two CPU cores" in out and len([x for x in out.splitlines() if x.strip()]) >= 12
    names = [row["name"] for row in json.loads(call("recipes", "--json")[1])]
    assert {"quickstart", "tune"} <= set(names)
    assert "name: quickstart" in call("recipes", "show", "quickstart")[1]
    code, _, err = call("recipes", "show", "quickstrat")
    assert code == 2 and "no recipe 'quickstrat' ships" in err


@pytest.mark.parametrize(
    "override",
    [
        "warmup.steps=x",
        "warmup.stpes=3",
        "seed=-1",
        "warmup=3",
        "warmup.experimental.policy_weight=0",
        "seed=2020-99-99",
        "name.x=1",
    ],
)
def test_errors_of_overrides_name_the_override(override, call):
    code, _, err = call("train", "quickstart", "evaluation.rerank_depth=5", override)
    assert code == 2 and f"override '{override}'" in err and "quickstart.yaml" not in err


def test_errors_of_a_recipe_name_its_file_beside_a_good_override(tmp_path, call):
    (tmp_path / "mine.yaml").write_text("name: mine\nseed: x\n")
    code, _, err = call("train", tmp_path / "mine.yaml", "warmup.steps=3")
    assert code == 2 and "mine.yaml: seed" in err and "override" not in err


def shell(command):
    python = f"{sys.executable} -m prorank.cli"
    return subprocess.run(["bash", "-c", command.replace("prorank", python, 1)], capture_output=True, text=True)


def test_a_full_disk_or_closed_output_is_an_error_of_one_line():
    full = "cannot write: no space left"
    for command, words in (
        ("recipes > /dev/full", full),
        ("recipes show quickstart > /dev/full", full),
        ("recipes >&-", "output is closed"),
    ):
        done = shell(f"prorank {command}")
        assert done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_reader_that_leaves_is_no_error_to_speak_of():
    done = shell("prorank recipes show quickstart | true; exit ${PIPESTATUS[0]}")
    assert done.returncode in (0, 1) and not done.stderr
