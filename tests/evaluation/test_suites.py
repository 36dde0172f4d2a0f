"""Suites: every system on every collection once, resumed, cached by content, reported; and each kind of system."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from conftest import bert_tokenizer, save
from served import serving, tiny_service
from tiny_runs import killed_at_the_third_block

from prorank import Reranker
from prorank.data.beir import BUNDLED
from prorank.data.collection import load_collection
from prorank.evaluation import systems as kinds
from prorank.evaluation.suites import SUITES, tasks_of
from prorank.evaluation.systems import folder_names, open_system
from prorank.first_stage import cached
from prorank.integrations.source import Ranked
from prorank.util.errors import DataError, InputError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own, and no plots of each collection: test_comparison.py has them, and they are slow."""
    monkeypatch.setattr(
        "prorank.evaluation.suite.collection_sections", lambda entries, *rest: [f"plots {len(entries)}"]
    )
    monkeypatch.setenv("PRORANK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(word_collection, tmp_path):
    """Two collections, one of them a level deeper and with lists of its own."""
    shutil.copytree(word_collection, tmp_path / "all" / "words")
    deeper = tmp_path / "all" / "more" / "lists"
    shutil.copytree(word_collection, deeper)
    rows = [f"q{q}\td{d}" for q in range(30, 40) for d in (q, q + 1, q + 2)]
    (deeper / "candidates").mkdir()
    (deeper / "candidates" / "test.tsv").write_text("query-id\tcorpus-id\n" + "\n".join(rows) + "\n")
    return tmp_path / "all"


@pytest.fixture
def model(bert_folder, tmp_path):
    Reranker(bert_folder, prompt="prorank-short", max_length=48, precision="fp32").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_suite_gives_tables_a_page_and_is_not_measured_twice(folder, model, encoder_folder, tmp_path, call, cache):
    beside = ("--beside", f"bi-encoder:{encoder_folder}")
    words = ("evaluate", model, folder, "--suite", "open", "--output", tmp_path / "out", "--depth", 5, *beside)
    code, out, err = call(*words, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert [one["name"] for one in found["collections"]] == ["more/lists", "words"]
    assert [one["own_lists"] for one in found["collections"]] == [True, False]
    assert [len(one["rows"]) for one in found["collections"]] == [3, 3]
    mean = sum(one["rows"][1]["ndcg@10"] for one in found["collections"]) / 2
    assert found["means"][1]["ndcg@10"] == pytest.approx(mean)
    low, high = found["means"][1]["ndcg@10_interval"]
    assert low < mean < high
    assert found["collections"][1]["rows"][1]["pairs"] == 10 * 5
    page, latex = ((tmp_path / "out" / name).read_text() for name in ("report.html", "suite.tex"))
    labels = re.findall(r'<svg role="img" aria-label="([^"]+)"', page)
    assert labels == ["Mean NDCG@10 over the collections, 95 % intervals", "Cost against quality"]
    assert page.count("<details>") == page.count("plots 3") == 2
    assert "<script" not in page and not re.findall(r'(?:src|href)="(?!#)', page.replace("xlink:href", "x"))
    assert latex.count(r"\\") == 1 + 4 and f"{mean:.3f} [" in latex
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("run.trec")}
    code, out, err = call(*words)
    assert code == 0 and f"| mean | 20 | {found['means'][0]['ndcg@10']:.3f} [" in out
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("run.trec")} == times
    code, _, err = call(*words[:-3], 4, *beside)
    assert code == 2 and "depth: 5 in the run, 4 now" in err and "--force" in err
    code, _, err = call(*words[:-2])
    assert code == 2 and f"would lose bi-encoder:{encoder_folder}" in " ".join(err.split()) and "--force" in err
    shutil.rmtree(folder / "more")
    code, _, err = call(*words)
    assert code == 2 and "would lose more/lists" in " ".join(err.split())
    found = json.loads((tmp_path / "out" / "suite.json").read_text())
    assert (len(found["systems"]), len(found["collections"])) == (3, 2)


def test_a_killed_suite_goes_on_inside_a_collection(folder, model, tmp_path, call, monkeypatch):
    words = ("evaluate", model, folder, "--suite", "open", "--output", tmp_path / "out", "--depth", 5)
    scored = killed_at_the_third_block(monkeypatch, 15)
    code, _, err = call(*words)
    assert code == 130 and "Resume with" in err
    before = sum(scored[:2])
    code, out, err = call(*words, "--json")
    assert code == 0, err
    assert before + sum(scored[3:]) == 10 * 3 + 10 * 5  # nothing twice
    code, whole, _ = call(*words[:-3], tmp_path / "whole", "--depth", 5, "--json")
    rows = [[one["rows"][1]["ndcg@10"] for one in json.loads(text)["collections"]] for text in (out, whole)]
    assert rows[0] == rows[1]


def test_a_first_stage_is_searched_once_for_the_same_texts(folder, model, tmp_path, call, cache, monkeypatch):
    words = ("evaluate", model, folder / "more", "--suite", "open", "--max-queries", 3, "--depth", 2, "--output")
    assert call(*words, tmp_path / "a")[0] == 0
    assert len(list(cache.rglob("*.run"))) == 1
    monkeypatch.setattr(cached, "candidate_run", None)  # a search would fail
    assert call(*words, tmp_path / "b")[0] == 0
    with (folder / "more" / "lists" / "corpus.jsonl").open("a") as file:
        file.write('{"_id": "new", "title": "", "text": "stone"}\n')
    assert call(*words, tmp_path / "c")[0] == 1


def test_a_system_that_changes_no_list_ties_with_the_first_stage(folder, model, tmp_path, call):
    judged = "".join(f"q{q}\td{q + 1}\t1\n" for q in range(30, 40))  # second or third in their lists: 0.63 or 0.5
    (folder / "more" / "lists" / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    words = ("evaluate", model, folder / "more", "--suite", "open", "--output", tmp_path / "out", "--depth", 1)
    for _ in range(2):  # measured, and read back
        code, out, err = call(*words, "--json")
        assert code == 0, err
        found = json.loads(out)["collections"][0]["rows"][1]
        assert 0 < found["ndcg@10"] < 1
        assert [found["versus_first"][key] for key in ("ties", "difference", "t_p_value")] == [10, 0.0, 1.0]


def test_the_page_is_made_again_when_a_run_was(folder, model, tmp_path, call, monkeypatch):
    words = ("evaluate", model, folder / "more", "--suite", "open", "--output", tmp_path / "out", "--depth", 2)
    assert call(*words)[0] == 0
    monkeypatch.setattr("prorank.evaluation.suite.collection_sections", lambda *_: ["new plots"])
    assert call(*words)[0] == 0 and "new plots" not in (tmp_path / "out" / "report.html").read_text()
    (run,) = (tmp_path / "out" / "lists").glob("*/run.trec")
    run.write_text(run.read_text() + "q30 Q0 d59 9 -99.0 x\n")
    code, _, err = call(*words)
    assert code != 0 and "changed since it was made" in " ".join(err.split())  # and is no result
    shutil.rmtree(run.parent)
    real = Reranker.score_detailed

    def reversed_scores(self, pairs, progress=None, lists=None):  # as a server that was changed meanwhile
        found = real(self, pairs, progress, lists)
        return found._replace(scores=-found.scores)

    monkeypatch.setattr(Reranker, "score_detailed", reversed_scores)
    assert call(*words)[0] == 0 and "new plots" in (tmp_path / "out" / "report.html").read_text()


def test_a_server_is_asked_once_for_each_list_also_where_queries_have_one_text(monkeypatch):
    asked = []

    def rank(self, query, texts):
        asked.append((query, texts))
        return [Ranked(place, float(len(text))) for place, text in enumerate(texts)]

    monkeypatch.setattr("prorank.integrations.remote.Remote.rank", rank)
    scorer, pairs = open_system("http://127.0.0.1:1", {}), [("red", "a"), ("red", "bb"), ("red", "a"), ("blue", "ccc")]
    assert scorer.score_detailed(pairs, lists=[0, 0, 1, 2]).scores.tolist() == [1, 2, 1, 3]
    assert asked == [("red", ["a", "bb"]), ("red", ["a"]), ("blue", ["ccc"])]


def test_systems_of_every_kind_score_the_same_pairs(qwen_folder, encoder_folder, model, tmp_path):
    torch.manual_seed(2)
    tokenizer = bert_tokenizer()
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = transformers.BertConfig(vocab_size=len(tokenizer), num_labels=1, max_position_embeddings=64, **shape)
    save(transformers.BertForSequenceClassification(config), tokenizer, tmp_path / "ce")
    pairs = [("red stone", "green tree water"), ("red stone", "red stone"), ("blue river", "red stone")]
    found = {}
    with serving(tiny_service(model)) as url:
        names = [f"bi-encoder:{encoder_folder}", f"cross-encoder:{tmp_path / 'ce'}", f"yes-no:{qwen_folder}", url]
        for name in names:
            scorer = open_system(name, {"device": "cpu", "precision": "fp32"})
            found[name] = scorer.score_detailed(pairs).scores.tolist()
    bi, cross, asked, served = found.values()
    assert bi[1] == pytest.approx(1.0, abs=1e-5) and bi[0] < 1
    ours = Reranker(tmp_path / "ce", device="cpu", precision="fp32").score(pairs)  # logits, as sentence-transformers'
    assert cross == pytest.approx(ours, abs=1e-4)
    assert asked == pytest.approx(Reranker(qwen_folder, prompt="yesno", precision="fp32").score(pairs), abs=1e-4)
    assert all(0 < score < 1 for score in served) and len(set(served)) == 3
    assert kinds.system_files(url) == {} and len(kinds.system_files(str(qwen_folder))) == 1


def test_names_are_checked_before_anything_is_measured(folder, model, tmp_path, call):
    words = ("evaluate", model, folder, "--output", tmp_path / "o", "--suite")
    assert "there are open, beir" in call(*words, "bier")[2]
    assert "lacks trec-covid, nfcorpus" in call(*words, "beir")[2]
    assert "no collection in it" in call("evaluate", model, model, "--suite", "open")[2]
    assert "it is one itself" in call("evaluate", model, folder / "words", "--suite", "open")[2]
    assert "not with --suite" in call(*words, "open", "--split", "dev")[2]
    assert "given twice" in call(*words, "open", "--beside", model)[2]
    assert "only with --suite" in call("evaluate", model, folder / "words", "--beside", "x")[2]
    assert "--suite NAME" in call("evaluate", model)[2]
    code, _, err = call(*words, "open", "--beside", "bi-encoder:./absent")
    assert code == 2 and "absent" in err and not (tmp_path / "o" / "words").exists()


def test_a_cache_that_cannot_be_written_stops_nothing(word_collection, tmp_path, monkeypatch, caplog):
    loaded = load_collection(word_collection)
    kept = cached.cached_first_stage(loaded, "test", loaded.qrels["test"], 5, False)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PRORANK_CACHE", str(tmp_path / "file"))
    assert cached.cached_first_stage(loaded, "test", loaded.qrels["test"], 5, False) == kept
    assert "PRORANK_CACHE names another folder" in caplog.text


def test_a_key_goes_to_one_host_and_options_in_vain_are_named(tmp_path, monkeypatch, caplog):
    servers = ["https://api.one.example#m", "https://api.two.example#m"]
    kinds.check_systems(servers, {})  # without a key there is nothing to tell
    monkeypatch.setenv(kinds.KEY_VARIABLE, "SECRET")
    kinds.check_systems([servers[0], "http://127.0.0.1:8000"], {})
    with pytest.raises(InputError, match=r"sent to api.one.example and api.two.example") as caught:
        kinds.check_systems(servers, {})
    assert "SECRET" not in str(caught.value)
    with pytest.raises(InputError, match="https"):
        kinds.check_systems(["http://api.one.example"], {})
    assert not caplog.records
    options = {"max_length": 64, "prompt": "yesno", "passages": None, "device": "cpu", "precision": "auto"}
    kinds.check_systems(["bi-encoder:a", "cross-encoder:b", "yes-no:c", "d"], options)
    told = [record.getMessage().split(" has")[0] for record in caplog.records]
    assert told == ["bi-encoder:a: max_length, prompt", "cross-encoder:b: prompt", "yes-no:c: prompt"]


def test_a_cross_encoder_with_several_outputs_is_refused(tmp_path):
    tokenizer = bert_tokenizer()
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    config = transformers.BertConfig(vocab_size=len(tokenizer), num_labels=3, max_position_embeddings=64, **shape)
    save(transformers.BertForSequenceClassification(config), tokenizer, tmp_path / "nli")
    with pytest.raises(InputError, match="3 numbers for a pair"):
        open_system(f"cross-encoder:{tmp_path / 'nli'}", {"device": "cpu"})


def test_the_registry_reads_folders_by_their_collections_names(tmp_path):
    shutil.copytree(BUNDLED / "cosqa", tmp_path / "cosqa")
    with pytest.raises(DataError, match="lacks apps"):
        tasks_of("code", tmp_path)
    with pytest.raises(InputError, match="needs a folder"):
        tasks_of("open", None)
    assert [task.source for task in tasks_of("open", tmp_path)] == [str(tmp_path / "cosqa")]
    assert SUITES["followir"].tasks[0].source == "followir:core17" and SUITES["trec-dl"].relevant_from == 2
    with pytest.raises(InputError, match="too like"):
        folder_names(["a/b", "a-b"])


def test_a_suite_of_instructions_shows_p_mrr(tmp_path, model, call):
    lines = {
        "corpus.jsonl": [{"_id": d, "text": f"stone {d}"} for d in "abc"],
        "queries.jsonl": [{"_id": f"1-{kind}", "text": f"red {kind}"} for kind in ("og", "changed")],
    }
    tables = {"qrels": "1-og\ta\t1\n1-og\tb\t1\n1-changed\ta\t1\n1-changed\tb\t0\n"}
    tables["candidates"] = "".join(f"1-{kind}\t{d}\n" for kind in ("og", "changed") for d in "abc")
    for name in ("core17", "robust04", "news21"):
        for file, rows in lines.items():
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
        for table, rows in tables.items():
            (tmp_path / name / table).mkdir()
            header = "query-id\tcorpus-id\tscore\n" if table == "qrels" else "query-id\tcorpus-id\n"
            (tmp_path / name / table / "test.tsv").write_text(header + rows)
    output = Path(tmp_path / "out")
    code, out, err = call("evaluate", model, tmp_path, "--suite", "followir", "--output", output)
    assert code == 0, err
    found = json.loads((output / "suite.json").read_text())
    row = found["collections"][0]["rows"][1]
    assert f"| core17 | 2 | +0.0 | {100 * row['p_mrr']:+.1f} |" in out and "mean NDCG@10" in out
    code, _, err = call("evaluate", model, tmp_path, "--suite", "followir", "--output", output, "--max-queries", 1)
    assert code != 0 and "no query in both versions" in err and "--max-queries" in err
