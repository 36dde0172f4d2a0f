"""Text files as people make them: byte-order marks, odd line ends, other encodings, damaged or hostile content."""

import gzip
import json
import os
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank.data.collection import load_collection
from prorank.data.convert import Tables, convert, write_collection
from prorank.data.trec import read_qrels, read_run, write_run
from prorank.erank.synthesis import GradedDocument, read_graded, write_graded
from prorank.prompts.builtin import load_prompt
from prorank.recipe.loading import load_recipe
from prorank.util.errors import DataError, PromptError, ProrankError, RecipeError
from prorank.util.files import atomic_writer, json_line, read_json, read_text, text_lines
from prorank.util.yaml_text import parse_yaml

BOM = b"\xef\xbb\xbf"
SEPARATORS = "\u2028\u2029\u0085\x0b\x0c\x1c\x1d\x1e\r"
PROMPT = "name: mine\nsegments: ['query: {query}', ' document: {document}', ' Answer:']\nanswers: ['0', '1']\n"


@pytest.fixture
def folder(tmp_path):
    """A collection of two documents and two queries with every kind of table."""
    return write_folder(tmp_path / "owls")


def write_folder(folder):
    tables = Tables(
        [("d1", "", "Owls hunt mice at night."), ("d2", "", "The moon is far away.")],
        [("q1", "when do owls hunt"), ("q2", "how far is the moon")],
        [("q1", "d1", 1), ("q2", "d2", 1)],
        [("q1", "d1"), ("q1", "d2")],
        [("q1", "d2")],
    )
    write_collection(tables, folder)
    return folder


def with_mark(path, packed=False):
    data = BOM + path.read_bytes()
    path.unlink()
    if packed:
        path = path.with_name(path.name + ".gz")
        data = gzip.compress(data)
    path.write_bytes(data)


@pytest.mark.parametrize("packed", [False, True])
def test_byte_order_marks_in_a_collection_are_dropped(folder, tmp_path, packed):
    clean = load_collection(folder)
    marked = write_folder(tmp_path / "marked")
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv", "candidates/test.tsv"):
        with_mark(marked / name, packed)
    with_mark(marked / "excluded.tsv")
    loaded = load_collection(marked, strict=True)
    assert loaded.fingerprint == clean.fingerprint and loaded.excluded == {"q1": ["d2"]}


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (read_run, "q1 Q0 d1 1 3.0 x\nq1 Q0 d2 2 2.0 x\n"),
        (read_qrels, "q1 0 d1 1\nq1 0 d2 0\n"),
        (read_qrels, "query-id\tcorpus-id\tscore\nq1\td1\t1\n"),
    ],
    ids=["run", "TREC qrels", "BEIR qrels"],
)
def test_byte_order_marks_in_runs_and_qrels_are_dropped(tmp_path, read, text):
    (tmp_path / "plain").write_text(text)
    (tmp_path / "marked").write_bytes(BOM + text.encode())
    (tmp_path / "marked.gz").write_bytes(gzip.compress(BOM + text.encode()))
    assert read(tmp_path / "marked") == read(tmp_path / "marked.gz") == read(tmp_path / "plain")


def test_byte_order_marks_in_prompts_recipes_json_and_graded_files_are_dropped(folder, tmp_path):
    (tmp_path / "p.yaml").write_bytes(BOM + PROMPT.encode())
    (tmp_path / "r.yaml").write_bytes(BOM + b"name: mine\n")
    (tmp_path / "a.json").write_bytes(BOM + b"[1]")
    assert load_prompt(tmp_path / "p.yaml").name == load_recipe(tmp_path / "r.yaml").name == "mine"
    assert read_json(tmp_path / "a.json") == [1]
    write_graded({"q1": [GradedDocument("d1", 7, True, "It fits.")]}, tmp_path / "g.jsonl")
    with_mark(tmp_path / "g.jsonl")
    assert read_graded(tmp_path / "g.jsonl", load_collection(folder))["q1"][0].grade == 7


def test_byte_order_marks_in_benchmark_files_are_dropped(tmp_path):
    source = tmp_path / "dl"
    source.mkdir()
    texts = {
        "q-queries.tsv": "7\tfar moon\n",
        "qrels.txt": "7 0 p1 3\n",
        "x-top1000.tsv": "7\tp1\tfar moon\tThe moon.\n",
    }
    for name, text in texts.items():
        (source / name).write_bytes(BOM + text.encode())
    convert("trec-dl", source, tmp_path / "o", part=None, long=False, force=False)
    assert load_collection(tmp_path / "o").qrels == {"test": {"7": {"p1": 3}}}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("read", [read_text, read_run, read_qrels, read_json, lambda path: list(text_lines(path))])
def test_other_encodings_are_named(tmp_path, read, encoding):
    (tmp_path / "a").write_bytes("q1 Q0 d1 1 3.0 x\n".encode(encoding))
    with pytest.raises(DataError, match=f"{encoding[:6].upper()}.*save the file as UTF-8"):
        read(tmp_path / "a")


def test_binary_recipes_and_prompts_are_refused(tmp_path):
    (tmp_path / "r").write_bytes(b"PK\x03\x04\x00\x00\xff\xfe")
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path / "r")
    with pytest.raises(PromptError, match="cannot be read"):
        load_prompt(tmp_path / "r")


def test_latin_1_is_named_with_its_line(tmp_path):
    (tmp_path / "a").write_bytes(b"q1 Q0 d1 1 3.0 x\nq1 Q0 caf\xe9 2 2.0 x\n")
    for read in (read_run, read_text):
        with pytest.raises(DataError, match=r"a:2: byte 0xE9 is not UTF-8"):
            read(tmp_path / "a")


@pytest.mark.parametrize("separator", SEPARATORS)
def test_only_line_feeds_end_a_line(folder, separator):
    text = f"Owls hunt.{separator}They sleep."
    escaped = text if separator not in "\x0b\x0c\x1c\x1d\x1e\r" else json.dumps(text)[1:-1]  # JSON has no raw controls
    (folder / "corpus.jsonl").write_text(
        f'{{"_id": "d1", "text": "{escaped}"}}\r\n{{"_id": "d2", "text": "Moon."}}\n', encoding="utf-8", newline=""
    )
    loaded = load_collection(folder, strict=True)
    assert loaded.documents["d1"].text == text and len(loaded.documents) == 2


@pytest.mark.parametrize("separator", SEPARATORS)
def test_table_cells_keep_odd_separators(tmp_path, separator):
    (tmp_path / "a.tsv").write_bytes(f"7\tfar{separator}moon\r\n8\tmice\r\n".encode())
    from prorank.data.trec import tsv_rows

    assert [cells for _, _, cells in tsv_rows(tmp_path / "a.tsv")] == [["7", f"far{separator}moon"], ["8", "mice"]]


def test_cells_longer_than_the_csv_module_takes(tmp_path):
    source = tmp_path / "dl"
    source.mkdir()
    long = "moon " * 40_000
    (source / "q-queries.tsv").write_text("7\tfar moon\n")
    (source / "qrels.txt").write_text("7 0 p1 3\n")
    (source / "x-top1000.tsv").write_text(f"7\tp1\tfar moon\t{long}\n")
    convert("trec-dl", source, tmp_path / "o", part=None, long=False, force=False)
    assert load_collection(tmp_path / "o").documents["p1"].text == long


@given(text=st.text(), title=st.text())
def test_any_text_survives_a_corpus(tmp_path_factory, text, title):
    folder = tmp_path_factory.mktemp("c") / "c"
    write_collection(Tables([("d", title, text)], [("q", text)], [("q", "d", 1)], [], []), folder)
    loaded = load_collection(folder)
    assert loaded.documents["d"][1:] == (title, text) and loaded.queries["q"] == text


@given(text=st.text())
def test_any_answer_survives_a_graded_file(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("g")
    collection = load_collection("cosqa") if not COLLECTION else COLLECTION[0]
    COLLECTION[:] = [collection]
    query, document = next(iter(collection.queries)), next(iter(collection.documents))
    lists = {query: [GradedDocument(document, 7, True, text)]}
    write_graded(lists, folder / "g.jsonl")
    assert read_graded(folder / "g.jsonl", collection) == lists


COLLECTION = []  # read once


@given(query=st.text(), document=st.text())
def test_an_id_survives_a_run_or_is_refused(tmp_path_factory, query, document):
    path = tmp_path_factory.mktemp("r") / "a.run"
    run = {query: {document: 1.5}}
    try:
        write_run(run, path)
    except DataError:
        assert not path.exists()
    else:
        assert read_run(path) == run


def test_half_a_surrogate_in_an_answer_does_not_stop_the_writing(tmp_path):
    collection = load_collection("cosqa")
    query, document = next(iter(collection.queries)), next(iter(collection.documents))
    write_graded({query: [GradedDocument(document, 7, True, "a\ud83db")]}, tmp_path / "g.jsonl")
    assert read_graded(tmp_path / "g.jsonl", collection)[query][0].text == "a\ufffdb"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"_id": ' + "9" * 5_000 + "}", "too many digits"),
        ("nonsense", "not valid JSON"),
    ],
    ids=["deep", "digits", "prose"],
)
def test_hostile_json_is_refused_with_its_line(folder, tmp_path, line, message):
    corpus = (folder / "corpus.jsonl").read_text()
    (folder / "corpus.jsonl").write_text(corpus + line + "\n")
    with pytest.raises(DataError, match=rf"corpus\.jsonl:3: .*{message}"):
        load_collection(folder)
    (tmp_path / "a.json").write_text(line)
    with pytest.raises(DataError, match=message):
        read_json(tmp_path / "a.json")


LAUGHS = "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]\n" for i in range(9))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a0: &a0 [x]\n" + LAUGHS, "unfold to too many"),
        ("a: &a [*a]\n", "unfold to too many"),
        ("[" * 5_000, "nested too deeply"),
        ("name: " + "9" * 5_000, "Exceeds the limit"),
        ("name: 2020-99-99", "month must be in"),
        ("name: a\nname: b\n", "the key 'name' stands twice"),
        ("name: !!python/object:os.system x", "could not determine a constructor"),
    ],
    ids=["aliases", "itself", "deep", "digits", "date", "twice", "code"],
)
def test_hostile_yaml_is_refused(tmp_path, text, message):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(tmp_path / "a.yaml")
    with pytest.raises(PromptError, match=message):
        load_prompt(tmp_path / "a.yaml")


def test_aliases_that_stay_small_are_read():
    assert parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}\n", "a") == {"a": {"x": 1}, "b": {"x": 1, "y": 2}}


def test_a_device_is_never_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ProrankError, match="device or pipe"), atomic_writer(tmp_path / "pipe") as file:
        file.write("x")


def test_a_full_disk_is_named_with_the_file(tmp_path):
    with pytest.raises(OSError, match=r"No space left.*a\.txt"), atomic_writer(tmp_path / "a.txt"):
        raise OSError(28, "No space left on device")


def test_json_lines_hold_no_line_feed_inside():
    assert json_line({"a": "b\nc"}).count("\n") == 1


@pytest.mark.parametrize("read", [read_text, read_run, read_qrels, read_json, lambda path: list(text_lines(path))])
def test_lines_that_end_in_carriage_returns_alone_are_refused(tmp_path, read):
    (tmp_path / "a").write_bytes(b"query-id\tcorpus-id\tscore\rq1\td1\t1\rq1\td2\t1\r")
    with pytest.raises(DataError, match=r"carriage returns without line feeds.*tr "):
        read(tmp_path / "a")


def test_judgments_with_old_line_ends_are_no_empty_split(word_collection, tmp_path):
    folder = shutil.copytree(word_collection, tmp_path / "c")
    file = next((folder / "qrels").iterdir())
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r"))
    with pytest.raises(DataError, match=f"{file.name}.*carriage returns"):
        load_collection(folder)
