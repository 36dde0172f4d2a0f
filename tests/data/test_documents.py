"""Documents to rerank, as people hand them over: text, JSON of all shapes, gzip, and what is neither."""

import gzip
import io
import json
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank.data.documents import parse_documents, read_documents
from prorank.reranker import Reranker
from prorank.util.errors import DataError, InputError

OWLS, MOON = {"id": "d1", "title": "Owls", "text": "They hunt."}, {"text": "The moon."}
LINES = json.dumps(OWLS) + "\n" + json.dumps(MOON) + "\n"


def parsed(text, suffix=""):
    return list(parse_documents(text, "a", suffix))


@pytest.mark.parametrize("name", ["a.jsonl", "A.JSONL", "a.ndjson", "a.json", "a.txt", "a", "a.jsonl.gz", "A.JSONL.GZ"])
def test_json_lines_are_recognised_by_content_and_by_name(tmp_path, name):
    data = LINES.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.lower().endswith("gz") else data)
    assert read_documents(tmp_path / name) == [OWLS, MOON]


def test_gzip_is_recognised_without_its_suffix(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(gzip.compress(LINES.encode()))
    (tmp_path / "b.jsonl.gz").write_bytes(LINES.encode())
    assert read_documents(tmp_path / "a.jsonl") == read_documents(tmp_path / "b.jsonl.gz") == [OWLS, MOON]


@pytest.mark.parametrize("suffix", ["", ".json", ".txt"])
@pytest.mark.parametrize("indent", [None, 2])
def test_json_arrays_and_objects_are_recognised(suffix, indent):
    assert parsed(json.dumps([OWLS, "Moon."], indent=indent), suffix) == [OWLS, "Moon."]
    assert parsed(json.dumps(OWLS, indent=indent), suffix) == [OWLS]


@pytest.mark.parametrize("text", [LINES, json.dumps([OWLS, MOON], indent=1)])
def test_json_on_standard_input_is_recognised(monkeypatch, text):
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(b"\xef\xbb\xbf" + text.encode())))
    assert read_documents(None) == [OWLS, MOON]


def test_lines_of_json_strings_are_strings():
    assert parsed('"Owls hunt."\n"Moon."\n') == parsed('"Owls hunt."\n"Moon."\n', ".jsonl") == ["Owls hunt.", "Moon."]


@pytest.mark.parametrize("text", ['"To be," he said.', "[1] Owls hunt.", "{owls} hunt", "{}", "[1, 2]", '["a"].pop()'])
def test_prose_and_code_stay_text(text):
    assert parsed(text + "\nMoon.\n") == [text, "Moon."]


@pytest.mark.parametrize(
    ("text", "suffix", "message"),
    [
        ('{"title": 7, "text": "Owls"}', "", "'title' must be a string, got 7"),
        ('{"title": ["a"], "text": "Owls"}', ".jsonl", "a:1: 'title' must be a string"),
        ('{"title": 0, "text": "Owls"}', "", "'title' must be a string, got 0"),
        ('{"text": "Owls"}\n{"title": [], "text": "Owls"}', "", r"a:2: 'title' must be a string, got \[\]"),
        ('{"title": false, "text": "Owls"}', "", "'title' must be a string, got false"),
        ('{"text": "Moon"}\n{"text": "Owls", "n": NaN}', ".jsonl", "a:2: a number in it is NaN or infinite"),
        ('{"text": "Owls", "n": [{"m": -1e999}]}', ".jsonl", r"a:1: a number in it .*\(write null"),
        ('[{"text": "Owls", "n": Infinity}]', "", "document 1: a number in it is NaN or infinite"),
        ('{"text": null}', "", "'text' must be a string, got null"),
        ('{"id": "1", "contents": "Owls"}', "", "no 'text', but 'id', 'contents'"),
        ('{"docs": []}', ".json", "no 'text', but 'docs'"),
        ("{}", ".json", "no 'text', but nothing"),
        ("[1, 2]", ".json", "document 1: expected a string or an object, got int"),
        ("7\n", ".jsonl", "a:1: expected a string or an object, got int"),
        ('{"text": "Owls"}\nMoon.\n', "", "a:2: not valid JSON"),
        ('{"text": "Owls', "", "a:1: not valid JSON"),
        ("Owls hunt.\n", ".json", "a:1: not valid JSON"),
        ("[" * 100_000, "", "nested too deeply"),
        ('{"text": "a", "n": ' + "9" * 5_000 + "}\n", ".jsonl", "too many digits"),
        (
            '{"text": "Moon"}\n{"text": "Owls \\ud83d hunt"}\n',
            "",
            r"a:2: 'text' holds half of a surrogate pair \(U\+D83D",
        ),
        ('["Moon", "Owls \\ud83d hunt"]', "", "document 2: the document holds half of a surrogate pair"),
        ('{"text": "Moon", "title": "\\udc00"}', "", "'title' holds half"),
        ('{"text": "Moon", "url": "\\udc00"}', "", "the document holds half"),
    ],
)
def test_json_that_is_no_document_is_refused_with_its_place(text, suffix, message):
    with pytest.raises(DataError, match=message):
        parsed(text, suffix)


@pytest.mark.parametrize("name", ["a.csv", "a.TSV", "a.csv.gz"])
def test_tables_are_refused(tmp_path, name):
    (tmp_path / name).write_text("id,text\n1,Owls\n")
    with pytest.raises(DataError, match="a table is no list of documents"):
        read_documents(tmp_path / name)


def test_bytes_that_are_not_utf_8_are_named_with_their_line(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_bytes(b"The moon.\ncaf\xe9\n")
    with pytest.raises(DataError, match=r"a\.txt:2: byte 0xE9 is not UTF-8"):
        read_documents(tmp_path / "a.txt")
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(b"The moon.\ncaf\xe9\n")))
    with pytest.raises(DataError, match=r"standard input:2: byte 0xE9 is not UTF-8"):
        read_documents(None)


@pytest.mark.parametrize("separator", "\u2028\u2029\u0085\x0b\x0c\x1c\x1d\x1e\r")
def test_a_document_ends_at_a_line_feed_only(separator):
    text = f"Owls hunt.{separator}They sleep."
    assert parsed(f"{text}\r\nMoon.\n") == [text, "Moon."]
    raw = json.dumps({"text": text}, ensure_ascii=False)
    assert parsed(raw + "\r\n" + json.dumps(MOON), ".jsonl") == [{"text": text}, MOON]


@given(st.lists(st.text()))
def test_any_texts_survive_json_lines(texts):
    rows = [{"_id": str(i), "text": text} for i, text in enumerate(texts)]
    written = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    assert parsed(written, ".jsonl") == parsed(written) == rows


def test_the_command_reads_json_and_names_bad_bytes(call, qwen_folder, tmp_path):
    (tmp_path / "D.JSONL").write_text(LINES)
    code, out, _ = call("rerank", "-m", qwen_folder, "owls", "--file", tmp_path / "D.JSONL", "--json")
    assert code == 0 and sorted(row["text"]["text"] for row in json.loads(out)) == ["The moon.", "They hunt."]
    cafe = b"caf\xe9".decode("utf-8", "surrogateescape")
    code, _, err = call("rerank", "-m", qwen_folder, "owls", "The moon.", cafe)
    assert code == 2 and "document 2 holds a byte that is not UTF-8 (0xE9)" in err
    code, _, err = call("rerank", "-m", qwen_folder, cafe, "The moon.")
    assert code == 2 and "the query holds a byte that is not UTF-8 (0xE9)" in err


@pytest.mark.parametrize(
    "pairs",
    [[("owls", "moon"), ("owls", "a\ud83db")], [("owls", "moon"), ("owls\udce9", "a")]],
    ids=["document", "query"],
)
def test_half_a_surrogate_is_refused_with_the_pair(qwen_folder, pairs):
    reranker = Reranker(qwen_folder)
    with pytest.raises(InputError, match=r"pair 2: the (document|query) holds (half of a|a byte)"):
        reranker.score(pairs)
    with pytest.raises(InputError, match="holds"):
        reranker.rank(pairs[1][0], [pairs[1][1]])
    with pytest.raises(InputError, match="the document holds"):
        reranker.score([("owls", {"text": "moon", "title": "\ud83d"})])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("a bug"), 1),
        (TypeError("a bug"), 1),
        (KeyError("a bug"), 1),
        (DataError("a fault"), 2),
        (InputError("a fault"), 2),
        (OSError(28, "No space left on device", "a"), 2),
    ],
)
def test_only_errors_of_the_package_and_the_system_are_expected(call, monkeypatch, error, code):
    def fail(source):
        raise error

    monkeypatch.setattr("prorank.data.collection.load_collection", lambda source, strict=False: fail(source))
    found, _, err = call("data", "check", "cosqa")
    assert found == code and ("unexpected error (--debug shows more)" in err) == (code == 1)
