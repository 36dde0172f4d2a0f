import json
import math
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer

import prorank.first_stage.dense
from prorank.data.collection import Collection, Document
from prorank.first_stage.bm25 import BM25Index, candidate_run
from prorank.first_stage.dense import dense_run, encode_texts
from prorank.first_stage.terms import check_language, detect_language, term_numbers, tokenize
from prorank.util.errors import DataError, ProrankError


def documents(**texts):
    return {key: Document(key, "", text) for key, text in texts.items()}


ANIMALS = documents(a="tiger cat", b="tiger dog", c="piano")


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("the cat sat", "en"),
        ("机器学习很有趣", "zh"),
        ("日本語を勉強する", "ja"),
        ("ภาษาไทย", "th"),
        ("кошка и собака", "other"),
        ("हिन्दी भाषा", "other"),
        ("123 456", "other"),
        ("", "other"),
    ],
)
def test_language_by_script(text, language):
    assert detect_language([text]) == language


def test_unknown_language_is_refused():
    assert check_language("auto") == "auto" and check_language("th") == "th"
    with pytest.raises(DataError, match="unknown language 'fr'"):
        check_language("fr")


@pytest.mark.parametrize(
    ("text", "language", "terms"),
    [
        ("The cats' owner's running", "en", ["cat", "owner", "run"]),
        ("get_file_name(x)", "en", ["get", "file", "name", "x"]),
        ("the cats", "other", ["the", "cats"]),
        ("学GPU机器学", "zh", ["学", "gpu", "机器", "器学"]),
        ("人々の", "ja", ["人々", "々の"]),
        ("ไทย 2024", "th", ["ไท", "ทย", "2024"]),
        ("हिन्दी भाषा।", "other", ["हिन्दी", "भाषा"]),
        ("বাংলা ভাষা", "other", ["বাংলা", "ভাষা"]),
        ("தமிழ் மொழி", "other", ["தமிழ்", "மொழி"]),
        ("العَرَبِيَّة لغة", "other", ["العَرَبِيَّة", "لغة"]),
        ("... !", "en", []),
    ],
)
def test_terms(text, language, terms):
    assert tokenize(text, language) == terms


@given(st.text(), st.sampled_from(["en", "zh", "ja", "th", "other"]))
def test_terms_are_never_empty_and_never_hold_spaces(text, language):
    assert all(term and not any(c.isspace() for c in term) for term in tokenize(text, language))


@given(st.lists(st.text()), st.text(), st.sampled_from(["en", "zh", "other"]))
def test_numbers_stand_for_the_terms_in_their_order_and_queries_add_none(texts, query, language):
    numbers, known = term_numbers(language), {}
    expected = [[known.setdefault(term, len(known)) for term in tokenize(text, language)] for text in texts]
    assert numbers.tokenize(texts, update_vocab=True, allow_empty=False, show_progress=False) == expected
    assert numbers.get_vocab_dict() == known
    again = term_numbers(language, known)
    (found,) = again.tokenize([query], update_vocab=False, allow_empty=False, show_progress=False)
    assert found == [known[term] for term in tokenize(query, language) if term in known]
    assert again.get_vocab_dict() == known and not again.word_to_stem


def test_bm25_score_worked_by_hand():
    # "cat" in 1 of 3 documents; a has 2 words, the mean is 5/3. Lucene's variant, without the factor k1 + 1.
    idf = math.log(1 + (3 - 1 + 0.5) / (1 + 0.5))
    expected = idf * 1 / (1 + 0.9 * (1 - 0.4 + 0.4 * 2 / (5 / 3)))
    assert BM25Index.build(ANIMALS).search({"q": "cats"})["q"] == pytest.approx({"a": expected}, rel=1e-5)


def test_k1_and_b_are_used():
    idf = math.log(1 + (3 - 1 + 0.5) / (1 + 0.5))
    found = BM25Index.build(ANIMALS, k1=2.0, b=0.0).search({"q": "cat"})["q"]
    assert found == pytest.approx({"a": idf / 3}, rel=1e-5)


def test_ties_go_by_id_and_zero_scores_stay_out():
    index = BM25Index.build(documents(c="tiger", a="tiger", b="tiger", z="piano"))
    assert list(index.search({"q": "tiger"})["q"]) == ["a", "b", "c"]
    assert list(index.search({"q": "tiger"}, top_k=2)["q"]) == ["a", "b"]  # also when the tie is cut


def test_every_query_is_in_the_run():
    run = BM25Index.build(ANIMALS).search({"none": "zebra", "stop": "the", "one": "piano"}, top_k=1000)
    assert run["none"] == {} and run["stop"] == {} and list(run["one"]) == ["c"]
    assert list(run) == ["none", "stop", "one"]


def test_title_is_searched():
    index = BM25Index.build({"a": Document("a", "owl", "bird"), "b": Document("b", "", "bird")})
    assert list(index.search({"q": "owl"})["q"]) == ["a"]


WORDS = st.lists(st.sampled_from(["tiger", "piano", "river", "stone"]), min_size=1, max_size=6).map(" ".join)


@given(st.lists(WORDS, min_size=1, max_size=8), WORDS, st.integers(1, 10))
def test_search_is_the_head_of_all_scores(texts, query, top_k):
    index = BM25Index.build(documents(**{f"d{i}": text for i, text in enumerate(texts)}))
    everything = index.scores(query, [f"d{i}" for i in range(len(texts))])
    positive = sorted((-score, key) for key, score in everything.items() if score > 0)
    assert list(index.search({"q": query}, top_k)["q"].items()) == [(key, -score) for score, key in positive[:top_k]]


def test_scores_of_unknown_documents_are_refused():
    with pytest.raises(DataError, match="'zz' is not in the index"):
        BM25Index.build(ANIMALS).scores("cat", ["a", "zz"])


def test_nothing_to_index():
    with pytest.raises(DataError, match="no words"):
        BM25Index.build(documents(a="...", b=""))


def test_empty_document_among_others():
    assert list(BM25Index.build(documents(a="", b="cat")).search({"q": "cat"})["q"]) == ["b"]


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "index"
    BM25Index.build(documents(x="机器学习", y="深度学习"), language="zh").save(folder)
    return folder


def test_saved_index_finds_the_same(saved):
    index = BM25Index.load(saved)
    before = BM25Index.build(documents(x="机器学习", y="深度学习"), language="zh")
    assert index.language == "zh"
    assert index.search({"q": "机器学习"}) == before.search({"q": "机器学习"}) and index.search({"q": "机器"})["q"]


def test_save_overwrites_only_by_force(saved):
    index = BM25Index.build(ANIMALS)
    with pytest.raises(ProrankError, match="already exists"):
        index.save(saved)
    index.save(saved, force=True)
    assert list(BM25Index.load(saved).search({"q": "piano"})["q"]) == ["c"]


def test_save_that_breaks_off_leaves_no_index(saved, monkeypatch):
    index = BM25Index.build(ANIMALS)
    monkeypatch.setattr(index._engine, "save", lambda folder: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        index.save(saved, force=True)
    with pytest.raises(DataError, match="holds no index"):
        BM25Index.load(saved)


def change_settings(folder, change):
    path = folder / "prorank_index.json"
    settings = json.loads(path.read_text())
    change(settings)
    path.write_text(json.dumps(settings))


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("the index was unpickled",))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: next(folder.glob("data*.npy")).unlink(),
        lambda folder: change_settings(folder, lambda s: s.pop("ids")),
        lambda folder: change_settings(folder, lambda s: s["ids"].append("extra")),
        lambda folder: np.save(next(folder.glob("data*.npy")), np.array([Bomb()], dtype=object), allow_pickle=True),
    ],
    ids=["no array", "no ids", "too many ids", "pickle"],
)
def test_damaged_index_is_a_data_error(saved, damage):
    damage(saved)
    with pytest.raises(DataError, match="the index is damaged"):
        BM25Index.load(saved)


def test_folder_without_index(tmp_path):
    with pytest.raises(DataError, match="holds no index"):
        BM25Index.load(tmp_path)


def test_dense_run_ranks_by_cosine(monkeypatch):
    vectors = {"east": [1, 0], "north": [0, 1], "northeast": [0.8, 0.6], "go east": [1, 0]}

    def encode_texts(model, texts, role, batch_size):
        assert (model, batch_size) == ("m", 2)
        return np.array([vectors[text] for text in texts], dtype=np.float32)

    monkeypatch.setattr(prorank.first_stage.dense, "encode_texts", encode_texts)
    collection = Collection("c", documents(e="east", n="north", ne="northeast"), {}, {}, {}, (), "")
    run = dense_run("m", collection, {"q": "go east"}, top_k=2, batch_size=2)
    assert list(run["q"]) == ["e", "ne"] and run["q"] == pytest.approx({"e": 1.0, "ne": 0.8})
    assert list(dense_run("m", collection, {"q": "go east"}, top_k=9, batch_size=2)["q"]) == ["e", "ne", "n"]
    assert dense_run("m", collection, {}, batch_size=2) == {}
    twins = Collection("c", documents(d="east", c="east", a="north", b="east"), {}, {}, {}, (), "")
    assert list(dense_run("m", twins, {"q": "go east"}, top_k=2, batch_size=2)["q"]) == ["b", "c"]  # ties by id


@pytest.mark.parametrize(("role", "prompt"), [("query", "query: "), ("document", "passage: ")])
def test_a_bi_encoder_reads_queries_and_documents_after_its_own_prompts(role, prompt, encoder_folder, tmp_path):
    plain = SentenceTransformer(str(encoder_folder))
    SentenceTransformer(modules=list(plain), prompts={"query": "query: ", "document": "passage: "}).save_pretrained(
        str(tmp_path / "e5")
    )
    found = encode_texts(str(tmp_path / "e5"), ["owl hunt night"], role, progress=False)
    expected = encode_texts(str(encoder_folder), [f"{prompt}owl hunt night"], role, progress=False)
    assert found == pytest.approx(expected, abs=1e-5)
    assert found != pytest.approx(encode_texts(str(encoder_folder), ["owl hunt night"], role, progress=False), abs=1e-3)


def test_candidate_run_scores_the_list_and_nothing_else():
    collection = Collection("c", ANIMALS, {"q": "tiger cat"}, {}, {"test": {"q": ["c", "b"]}}, (), "")
    run = candidate_run(collection, "test")
    assert set(run["q"]) == {"b", "c"} and run["q"]["b"] > 0 and run["q"]["c"] == 0
    with pytest.raises(DataError, match="no candidates for split 'dev'"):
        candidate_run(collection, "dev")


def test_the_embedded_bi_encoder_finds_meaning_not_words():
    collection = Collection(
        "c", documents(c="a small kitten sleeps", s="stocks fell on friday", r="rain is forecast"), {}, {}, {}, (), ""
    )
    run = dense_run("embedded", collection, {"q": "cat", "w": "weather"}, top_k=3, batch_size=2)
    assert [max(run[q], key=run[q].get) for q in ("q", "w")] == ["c", "r"]
    assert all(-1.01 <= score <= 1.01 for scores in run.values() for score in scores.values())


def test_an_index_of_other_documents_is_refused(word_collection, tmp_path, call):
    assert call("index", word_collection, "--output", tmp_path / "index")[0] == 0
    search = ("search", tmp_path / "index", "--output", tmp_path / "run", "--collection")
    assert call(*search, word_collection)[0] == 0
    changed = shutil.copytree(word_collection, tmp_path / "changed")
    lines = (changed / "corpus.jsonl").read_text().replace("apple", "pear", 1)
    (changed / "corpus.jsonl").write_text(lines)
    code, _, said = call(*search, changed, "--force")
    assert code == 2 and "other documents than changed holds now" in said and "index the collection again" in said
