import gzip
import json
import sys
import types
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank.data.beir import bundled
from prorank.data.collection import Collection, Document, load_collection
from prorank.data.runs import ranked
from prorank.data.splits import with_splits
from prorank.data.trec import read_qrels, read_run, write_run
from prorank.util.errors import DataError

CORPUS = [{"_id": "d1", "title": "Owls", "text": "They hunt."}, {"_id": "d2", "text": "Cats sleep."}]
QUERIES = [{"_id": "q1", "text": "who hunts"}, {"_id": "q2", "text": "who sleeps"}]
HEADER = "query-id\tcorpus-id\tscore\n"


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def make(folder, corpus=None, queries=None, qrels="q1\td1\t2\nq2\td1\t0\n"):
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text(lines(CORPUS) if corpus is None else corpus, encoding="utf-8")
    (folder / "queries.jsonl").write_text(lines(QUERIES) if queries is None else queries, encoding="utf-8")
    (folder / "qrels" / "test.tsv").write_text(HEADER + qrels, encoding="utf-8")
    return folder


def gzipped(path):
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()


def test_reads_a_folder(tmp_path):
    loaded = load_collection(make(tmp_path / "owls"))
    assert loaded.name == "owls"
    assert loaded.documents["d1"] == Document("d1", "Owls", "They hunt.")
    assert loaded.documents["d2"].content == "Cats sleep."
    assert loaded.queries == {"q1": "who hunts", "q2": "who sleeps"}
    assert loaded.qrels == {"test": {"q1": {"d1": 2}, "q2": {"d1": 0}}}
    assert loaded.problems == () and loaded.candidates == {}


def test_gzip_gives_the_same_collection_and_fingerprint(tmp_path):
    plain, packed = make(tmp_path / "a"), make(tmp_path / "b")
    for path in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv"):
        gzipped(packed / path)
    one, two = load_collection(plain), load_collection(packed)
    assert (one.documents, one.queries, one.qrels) == (two.documents, two.queries, two.qrels)
    assert one.fingerprint == two.fingerprint


@pytest.mark.parametrize("packed", ["train", "test"])
def test_fingerprint_is_the_same_if_only_one_split_is_gzipped(tmp_path, packed):
    folder = make(tmp_path / "a")
    (folder / "qrels" / "train.tsv").write_text(HEADER + "q1\td2\t1\n")
    before = load_collection(folder)
    gzipped(folder / "qrels" / f"{packed}.tsv")
    after = load_collection(folder)
    assert before.fingerprint == after.fingerprint and before.qrels == after.qrels


def test_fingerprint_sees_candidates(tmp_path):
    folder = make(tmp_path / "a")
    seen = {load_collection(folder).fingerprint}
    (folder / "candidates").mkdir()
    for rows in ("q1\td1\nq1\td2\n", "q1\td2\nq1\td1\n"):
        (folder / "candidates" / "test.tsv").write_text(rows)
        seen.add(load_collection(folder).fingerprint)
    assert len(seen) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"corpus": lines([CORPUS[0], CORPUS[1] | {"text": "Cats sleep!"}])},
        {"queries": lines([QUERIES[0], QUERIES[1] | {"text": "who sleeps?"}])},
        {"qrels": "q1\td1\t1\nq2\td1\t0\n"},
    ],
)
def test_fingerprint_sees_every_change(tmp_path, change):
    before, after = load_collection(make(tmp_path / "a")), load_collection(make(tmp_path / "b", **change))
    assert before.fingerprint != after.fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"corpus": lines(CORPUS) + "{oops\n"}, r"corpus\.jsonl:3: not valid JSON"),
        ({"corpus": "[1]\n"}, r"corpus\.jsonl:1: expected a JSON object, got list"),
        ({"corpus": '{"text": "x"}\n'}, r"corpus\.jsonl:1: '_id' is missing"),
        ({"corpus": '{"_id": "d1"}\n'}, r"corpus\.jsonl:1: 'text' is missing"),
        ({"corpus": '{"_id": 7, "text": "x"}\n'}, r"corpus\.jsonl:1: '_id' must be a string, got 7"),
        ({"corpus": lines([CORPUS[0], CORPUS[0]])}, r"corpus\.jsonl:2: duplicate document id 'd1'"),
        ({"corpus": '{"_id": "d", "text": "\\ud800"}\n'}, r"corpus\.jsonl:1: 'text' holds half of a surrogate"),
        ({"queries": lines([QUERIES[1], QUERIES[1]])}, r"queries\.jsonl:2: duplicate query id 'q2'"),
        ({"queries": '\n{"_id": "", "text": "x"}\n'}, r"queries\.jsonl:2: empty query id"),
        ({"qrels": "q1\td1\n"}, r"test\.tsv:2: expected 3 tab-separated columns .*, got 2"),
        ({"qrels": "q1\td1\t1\nq2\td1\t0.5\n"}, r"test\.tsv:3: score must be an integer, got '0\.5'"),
        ({"corpus": ""}, "no documents"),
        ({"queries": ""}, "no queries"),
    ],
)
def test_malformed_input_names_file_and_line(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        load_collection(make(tmp_path / "bad", **change))


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
def test_missing_file_is_named(tmp_path, name):
    folder = make(tmp_path / "bad")
    (folder / name).unlink()
    with pytest.raises(DataError, match=name.split("/")[0]):
        load_collection(folder)


def test_damaged_gzip_is_a_data_error(tmp_path):
    folder = make(tmp_path / "bad", corpus=lines([{"_id": str(i), "text": f"t{i * 7919}"} for i in range(500)]))
    gzipped(folder / "corpus.jsonl")
    path = folder / "corpus.jsonl.gz"
    raw = bytearray(path.read_bytes())
    raw[40:60] = b"\xff" * 20
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"corpus\.jsonl\.gz"):
        load_collection(folder)


def test_only_tsv_files_are_splits_and_plain_wins_over_gzip(tmp_path):
    folder = make(tmp_path / "a", qrels="q1\td1\t1\n")
    (folder / "qrels" / "test.tsv.bak").write_text("junk")
    (folder / "qrels" / "test.tsv.gz").write_bytes(gzip.compress(b"q1\td2\t1\n"))
    assert load_collection(folder).qrels == {"test": {"q1": {"d1": 1}}}


DOUBTS = [
    ({"corpus": lines([*CORPUS, {"_id": "d3", "text": " "}])}, "corpus.jsonl", 3, "empty document"),
    ({"queries": lines([*QUERIES, {"_id": "q3", "text": ""}])}, "queries.jsonl", 3, "empty query"),
    ({"qrels": "q1\td1\t1\nzz\td1\t1\n"}, "test.tsv", 3, "judgment of an unknown id"),
    ({"qrels": "q1\td1\t1\nq1\tzz\t1\n"}, "test.tsv", 3, "judgment of an unknown id"),
    ({"qrels": "q1\td1\t1\nq1\td1\t0\n"}, "test.tsv", 3, "second judgment of a pair"),
]


@pytest.mark.parametrize(("change", "file", "line", "kind"), DOUBTS)
def test_doubtful_entries_are_reported_and_fatal_only_if_strict(tmp_path, change, file, line, kind):
    folder = make(tmp_path / "doubt", **change)
    loaded = load_collection(folder)
    (problem,) = loaded.problems
    assert (problem.file.rsplit("/")[-1], problem.line, problem.kind) == (file, line, kind)
    if "qrels" in change:
        assert loaded.judgments("test") == {"q1": {"d1": 1}}  # the doubtful row is dropped, the first one stays
    with pytest.raises(DataError, match=rf"1 doubtful entries: .*{file}:{line}: {kind}"):
        load_collection(folder, strict=True)


def test_strict_accepts_clean_data(tmp_path):
    assert load_collection(make(tmp_path / "a"), strict=True).problems == ()


def test_candidates_are_read_in_order(tmp_path):
    folder = make(tmp_path / "a")
    (folder / "candidates").mkdir()
    (folder / "candidates" / "test.tsv").write_text("query-id\tcorpus-id\nq1\td2\nq1\td1\nq1\tzz\n")
    loaded = load_collection(folder)
    assert loaded.candidates == {"test": {"q1": ["d2", "d1"]}}
    assert [(p.line, p.kind) for p in loaded.problems] == [(4, "candidate of an unknown id")]


def test_judgments_name_the_splits_that_exist(tmp_path):
    with pytest.raises(DataError, match=r"no split 'dev' \(it has test\)"):
        load_collection(make(tmp_path / "a")).judgments("dev")


def test_bundled_collection_is_whole():
    loaded = load_collection("cosqa", strict=True)
    assert (len(loaded.documents), len(loaded.queries)) == (6267, 1000)
    assert {split: len(judged) for split, judged in loaded.qrels.items()} == {"train": 500, "test": 500}


def test_unknown_source_lists_the_bundled_names():
    with pytest.raises(DataError, match=f"nowhere: no such folder .*{', '.join(bundled())}"):
        load_collection("nowhere")


def fake_hub(monkeypatch, tables):
    """A stand-in for `datasets`: {(name, config): {split: rows}}."""

    def load_dataset(name, config=None):
        return tables[name, config]

    def get_dataset_config_names(name):
        found = [config for owner, config in tables if owner == name and config]
        if not found:
            raise FileNotFoundError("")
        return found

    module = types.ModuleType("datasets")
    module.load_dataset, module.get_dataset_config_names = load_dataset, get_dataset_config_names
    monkeypatch.setitem(sys.modules, "datasets", module)


def hub_tables(score=1.0):
    rows = [{"query-id": "q1", "corpus-id": "d1", "score": score}]
    return {
        ("o/n", "corpus"): {"corpus": [{"_id": "d1", "title": None, "text": "Owls"}]},
        ("o/n", "queries"): {"queries": [{"id": "q1", "text": "who"}]},
    }, {"validation": rows}


@pytest.mark.parametrize("place", [("o/n", "default"), ("o/n", "qrels"), ("o/n-qrels", None)])
def test_hub_layouts(monkeypatch, place):
    tables, judged = hub_tables()
    fake_hub(monkeypatch, tables | {place: judged})
    loaded = load_collection("o/n")
    assert loaded.documents == {"d1": Document("d1", "", "Owls")}
    assert loaded.qrels == {"dev": {"q1": {"d1": 1}}}


def test_hub_score_between_grades_is_refused(monkeypatch):
    tables, judged = hub_tables(score=0.5)
    fake_hub(monkeypatch, tables | {("o/n", "default"): judged})
    with pytest.raises(DataError, match=r"score must be an integer, got '0\.5'"):
        load_collection("o/n")


def test_hub_failure_without_a_message_is_a_data_error(monkeypatch):
    fake_hub(monkeypatch, {})
    with pytest.raises(DataError, match="cannot be loaded from the hub"):
        load_collection("o/n")


def test_hub_set_without_a_corpus_is_a_data_error(monkeypatch):
    tables, judged = hub_tables()
    del tables["o/n", "corpus"]
    fake_hub(monkeypatch, tables | {("o/n", "default"): judged})
    with pytest.raises(DataError, match="cannot be loaded from the hub"):
        load_collection("o/n")


def collection_of(**counts):
    qrels = {split: {f"{split}{i}": {"d": 1} for i in range(count)} for split, count in counts.items()}
    return Collection("c", {}, {}, qrels, {}, (), "")


def sizes(collection):
    return {split: len(judged) for split, judged in collection.qrels.items()}


@pytest.mark.parametrize(
    ("have", "want"),
    [
        ({"test": 100}, {"train": 50, "dev": 10, "test": 40}),
        ({"train": 100}, {"train": 54, "dev": 6, "test": 40}),  # dev is a tenth of the 60 that test leaves
        ({"train": 100, "test": 7}, {"train": 90, "dev": 10, "test": 7}),
        ({"train": 100, "dev": 7}, {"train": 60, "dev": 7, "test": 40}),
        ({"dev": 7, "test": 100}, {"train": 60, "dev": 7, "test": 40}),
        ({"all": 100}, {"train": 50, "dev": 10, "test": 40}),
        ({"test": 3}, {"train": 1, "dev": 1, "test": 1}),
    ],
)
def test_missing_splits_are_carved(have, want):
    before = collection_of(**have)
    after = with_splits(before)
    assert sizes(after) == want
    every = [query for judged in after.qrels.values() for query in judged]
    assert sorted(every) == sorted(query for judged in before.qrels.values() for query in judged)


def test_full_splits_are_untouched():
    collection = collection_of(train=5, dev=1, test=2)
    assert with_splits(collection) is collection


def test_two_queries_cannot_be_split():
    with pytest.raises(DataError, match="too few judged queries"):
        with_splits(collection_of(test=2))


@given(st.sets(st.text(min_size=1), min_size=3, max_size=40), st.integers(0, 99), st.randoms())
def test_splits_depend_on_ids_and_seed_not_on_order(ids, seed, shuffler):
    order = sorted(ids)
    shuffled = list(order)
    shuffler.shuffle(shuffled)
    made = [
        with_splits(replace(collection_of(), qrels={"test": {i: {"d": 1} for i in some}}), seed=seed)
        for some in (order, shuffled)
    ]
    assert made[0].qrels == made[1].qrels
    assert all(made[0].qrels[split] for split in ("train", "dev", "test"))


def test_another_seed_gives_another_split():
    collection = collection_of(test=100)
    assert with_splits(collection, seed=1).qrels["test"] != with_splits(collection, seed=2).qrels["test"]


IDS = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=6)
SCORES = st.dictionaries(IDS, st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=6)


@given(run=st.dictionaries(IDS, SCORES, max_size=4))
def test_runs_survive_writing_and_reading(tmp_path_factory, run):
    path = tmp_path_factory.mktemp("run") / "a.run"
    write_run(run, path)
    again = read_run(path)
    assert again == run
    assert all(list(again[query].items()) == ranked(scores) for query, scores in run.items())


def test_run_file_is_trec_best_first_ties_by_id(tmp_path):
    write_run({"q": {"b": 0.1, "c": 2, "a": 0.1}}, tmp_path / "r", tag="t")
    assert (tmp_path / "r").read_text() == "q Q0 c 1 2.0 t\nq Q0 a 2 0.1 t\nq Q0 b 3 0.1 t\n"


@pytest.mark.parametrize(
    ("run", "tag"),
    [
        ({"q": {"d": float("nan")}}, "t"),
        ({"q": {"d": float("inf")}}, "t"),
        ({"q": {"d 1": 1.0}}, "t"),
        ({"q\t1": {"d": 1.0}}, "t"),
        ({"q": {"": 1.0}}, "t"),
        ({"q": {"d": 1.0}}, "my tag"),
    ],
)
def test_bad_runs_are_refused_and_leave_the_old_file(tmp_path, run, tag):
    path = tmp_path / "r"
    path.write_text("old")
    with pytest.raises(DataError):
        write_run(run, path, tag=tag)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q Q0 d 1 1.0 t\nq Q0 e 2 t\n", r"r:2: expected 6 columns .*, got 5"),
        ("q Q0 d 1 high t\n", r"r:1: score must be a finite number, got 'high'"),
        ("q Q0 d 1 nan t\n", r"r:1: score must be a finite number"),
        ("q Q0 d 1 1 t\nq Q0 d 2 0 t\n", r"r:2: document 'd' stands twice"),
    ],
)
def test_malformed_run_names_the_line(tmp_path, text, message):
    (tmp_path / "r").write_text(text)
    with pytest.raises(DataError, match=message):
        read_run(tmp_path / "r")


def test_run_reads_gzip(tmp_path):
    (tmp_path / "r.gz").write_bytes(gzip.compress(b"q Q0 d 1 0.5 t\n"))
    assert read_run(tmp_path / "r.gz") == {"q": {"d": 0.5}}


@pytest.mark.parametrize("read", [read_run, read_qrels])
@pytest.mark.parametrize(("name", "content"), [("a.gz", b"\x1f\x8bnot gzip"), ("a", b"\xff\xfe"), ("none", None)])
def test_unreadable_files_are_data_errors(tmp_path, read, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}: (cannot be read|no such file)"):
        read(tmp_path / name)
