"""Pairs of questions and answers become collections."""

import gzip
import json

import pytest

from prorank.data.collection import load_collection
from prorank.data.pairs import from_pairs
from prorank.util.errors import DataError, ProrankError

ROWS = [
    {"query": "when do owls hunt", "pos": "At night.", "neg": ["By day.", "The moon."]},
    {"query": "how far is the moon", "pos": ["Far.", "Very far."]},
    {"query": "when do owls hunt", "pos": ["At night.", "By day."], "neg": "Far."},
]


def made(tmp_path, name, text, split="train"):
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    return from_pairs(tmp_path / name, tmp_path / "o", split, force=True)


@pytest.mark.parametrize("name", ["a.jsonl", "A.JSONL", "a.ndjson", "a.jsonl.gz"])
def test_json_lines_become_a_collection_with_equal_texts_once(tmp_path, name):
    found = made(tmp_path, name, "\ufeff" + "".join(json.dumps(row) + "\n" for row in ROWS))
    assert found == {"queries": 2, "documents": 5, "relevant": 4, "not relevant": 2}
    loaded = load_collection(tmp_path / "o", strict=True)
    assert loaded.queries == {"q1": "when do owls hunt", "q2": "how far is the moon"}
    texts = {document.text: key for key, document in loaded.documents.items()}
    judged = loaded.judgments("train")
    assert {text: judged["q1"].get(key) for text, key in texts.items()} == {
        "At night.": 1,
        "By day.": 1,  # not relevant in one line, relevant in another
        "The moon.": 0,
        "Far.": 0,
        "Very far.": None,
    }


@pytest.mark.parametrize("header", ["", "question,answer\r\n", "Query,Passage\n"])
def test_tables_of_two_columns_become_a_collection(tmp_path, header):
    long = "x" * 200_000
    text = f'{header}when do owls hunt,"At night, they say.\nNot by day."\r\nhow far,{long}\n\n'
    assert made(tmp_path, "a.csv", "\ufeff" + text, "test")["relevant"] == 2
    loaded = load_collection(tmp_path / "o")
    assert [d.text for d in loaded.documents.values()] == ["At night, they say.\nNot by day.", long]
    assert set(loaded.qrels) == {"test"}


def test_tabs_separate_the_columns_of_tsv(tmp_path):
    assert made(tmp_path, "a.tsv", "who, me\tyou\u2028there\n")["queries"] == 1
    assert load_collection(tmp_path / "o").documents["d1"].text == "you\u2028there"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"query": "a"}\n', "a.jsonl:1: no 'pos'"),
        ("a.jsonl", '{"pos": "a"}\n', "a.jsonl:1: no 'query'"),
        ("a.jsonl", '\n{"query": ["a"], "pos": "b"}\n', "a.jsonl:2: 'query' must be one string"),
        ("a.jsonl", '{"query": "a", "pos": [7]}\n', "'pos' must be a string or a list"),
        ("a.jsonl", '{"query": "a", "pos": []}\n', "'pos' is empty"),
        ("a.jsonl", '{"query": " ", "pos": "b"}\n', "'query' is empty"),
        ("a.jsonl", '{"query": "a", "pos": "b\\ud83d"}\n', "'pos' holds half of a surrogate"),
        ("a.jsonl", '{"query": "a", "pos": "b", "neg": {"x": 1}}\n', "'neg' must be"),
        ("a.jsonl", "[1]\n", "expected an object"),
        ("a.jsonl", "{\n", "a.jsonl:1: not valid JSON"),
        ("a.jsonl", "\n", "no pairs"),
        ("a.csv", "a,b,c\n", "a.csv:1: expected 2 columns"),
        ("a.csv", "a,b\nc,\n", "a.csv:2: a cell is empty"),
        ("a.csv", 'a,"b"c\n', "a.csv:1: "),
        ("a.csv", "a,b\rc,d\n", "a.csv:1: new-line character"),
        ("a.txt", "a\tb\n", "pairs stand in"),
    ],
)
def test_malformed_pairs_are_refused_with_their_line(tmp_path, name, text, message):
    with pytest.raises(DataError, match=message):
        made(tmp_path, name, text)
    assert not (tmp_path / "o").exists()


def test_what_is_there_stays(tmp_path, call):
    (tmp_path / "a.csv").write_text("who,you\n")
    code, out, _ = call("data", "from-pairs", tmp_path / "a.csv", "--output", tmp_path / "o")
    assert code == 0 and "1 queries, 1 documents, 1 relevant" in out
    with pytest.raises(ProrankError, match="already exists"):
        from_pairs(tmp_path / "a.csv", tmp_path / "o", "train", force=False)


@pytest.mark.parametrize("header", ["question,answer", "answer,question", "Document,Query", "my notes,QUERY", ""])
def test_a_table_is_read_by_its_headers_names(tmp_path, header):
    swapped = header.lower().endswith(("question", "query"))
    cells = ["At night.", "when do owls hunt"] if swapped else ["when do owls hunt", "At night."]
    made(tmp_path, "a.csv", f"{header}\n{','.join(cells)}\n")
    loaded = load_collection(tmp_path / "o")
    assert loaded.queries == {"q1": "when do owls hunt"}
    assert [document.text for document in loaded.documents.values()] == ["At night."]


@pytest.mark.parametrize("before", ["\n", "\r\n\r\n", ",\n", " , \n\n", "\ufeff\n"])
def test_the_first_row_that_is_not_empty_may_be_a_header(tmp_path, before):
    made(tmp_path, "a.csv", f"{before}answer,question\nAt night.,when do owls hunt\n")
    assert load_collection(tmp_path / "o").queries == {"q1": "when do owls hunt"}
    with pytest.raises(DataError, match=r"a.csv:\d+: the header names 'answer'"):
        made(tmp_path, "a.csv", f"{before}answer,frage\n")


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("Frage,Antwort\n", "a.csv:2: taken for a pair, not for a header: 'Frage' and 'Antwort'"),
        ("answer,Query\n", "a.csv:2: taken for a header: 'answer' and 'Query'; the question is 'Query'"),
    ],
)
def test_what_the_first_line_of_a_table_was_taken_for_is_said(tmp_path, call, header, says):
    (tmp_path / "a.csv").write_text(f"\n{header}when do owls hunt,At night.\n")
    code, out, err = call("data", "from-pairs", tmp_path / "a.csv", "--output", tmp_path / "o", "--json")
    assert code == 0 and says in " ".join(err.split()) and json.loads(out)["queries"] == 1 + ("pair" in says)
    (tmp_path / "a.jsonl").write_text('{"query": "q", "pos": "p"}\n')
    assert "taken for" not in call("data", "from-pairs", tmp_path / "a.jsonl", "--output", tmp_path / "p")[2]


@pytest.mark.parametrize("line", ["sep=,\r\n", "sep=;\n", '"sep=;"\n', "sep=\t\n"])
def test_a_first_line_that_names_the_separator_is_no_pair(tmp_path, line):
    separator = line.strip('"\r\n')[4:]
    made(tmp_path, "a.csv", f"\ufeff{line}question{separator}answer\nwhen do owls hunt{separator}At night.\n")
    assert load_collection(tmp_path / "o").queries == {"q1": "when do owls hunt"}
    with pytest.raises(DataError, match=r"a\.csv:3: expected 2 columns"):
        made(tmp_path, "a.csv", f"{line}when{separator}At night.\nalone\n")


def test_a_header_that_does_not_name_the_question_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"a.csv:1: the header names 'answer'.*not 'frage'"):
        made(tmp_path, "a.csv", "answer,frage\nAt night.,when do owls hunt\n")
