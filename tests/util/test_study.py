"""Results are reused only for what they were made from; a live folder is held; Ctrl-C says what is kept."""

import json
import os
import signal
import subprocess
import sys

import pytest
from rich.console import Console

import prorank.util.study
from prorank.bench import quality
from prorank.data.collection import load_collection
from prorank.data.splits import load_with_split, with_splits
from prorank.pipeline.run import finished, prepare_folder, run_recipe
from prorank.recipe.loading import validate_recipe
from prorank.training.inputs import collection_files, load_collections, run_inputs, used_files
from prorank.util.errors import DataError, InputError, ProrankError
from prorank.util.files import distinct_names
from prorank.util.live import again, interruptible, kept, locked
from prorank.util.study import RECORD, Inputs, Study, model_fingerprint

MADE = Inputs({"seed": 13, "depth": 5}, {"corpus.jsonl": "a", "queries.jsonl": "b"})


@pytest.fixture
def study(tmp_path):
    """A folder with one finished product."""
    one = Study(tmp_path / "run")
    one.begin(MADE)
    (one.folder / "first_stage.run").write_text("q Q0 d 1 1.0 t\n")
    one.keep("first_stage.run")
    return one


def test_what_was_made_from_the_same_is_reused(study):
    study.check(MADE)
    assert study.has("first_stage.run") and study.reusable("first_stage.run", MADE)
    assert not study.has("summary.json") and not study.reusable("summary.json", MADE)


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (MADE._replace(files=MADE.files | {"corpus.jsonl": "c"}), "corpus.jsonl changed since first_stage.run"),
        (MADE._replace(files={"corpus.jsonl": "a"}), "queries.jsonl changed since first_stage.run"),
        (MADE._replace(files=MADE.files | {"excluded.tsv": "x"}), "excluded.tsv changed since first_stage.run"),
        (MADE._replace(settings={"seed": 14, "depth": 5}), "seed: 13 in the run, 14 now"),
        (MADE._replace(settings={"seed": 13}), "depth: 5 in the run, None now"),
    ],
)
def test_what_differs_is_named(study, now, words):
    with pytest.raises(ProrankError, match=words) as caught:
        study.check(now)
    assert "--force starts over" in caught.value.hint
    with pytest.raises(ProrankError, match=words):
        study.reusable("first_stage.run", now)
    assert not study.reusable("first_stage.run", now, force=True)


def test_another_version_of_prorank_is_said(study, monkeypatch):
    monkeypatch.setattr(prorank.util.study, "VERSION", "9.9.9")
    with pytest.raises(ProrankError, match=r"made it, this is 9\.9\.9.*--force"):
        study.check(MADE)


def test_a_product_that_changed_since_it_was_made_is_refused(study):
    (study.folder / "model").mkdir()
    (study.folder / "model" / "weights").write_text("1")
    study.keep("model")
    assert study.has("model")
    (study.folder / "model" / "weights").write_text("2")
    with pytest.raises(ProrankError, match="model changed since it was made"):
        study.has("model")
    (study.folder / "first_stage.run").unlink()  # what was deleted is made again
    assert not study.has("first_stage.run")


def test_results_that_do_not_say_what_they_were_made_from_are_refused(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ProrankError, match=r"study\.json is missing"):
        Study(tmp_path).reusable("run.json", MADE)
    for text in ("[]", '{"prorank": "1", "settings": 5}', "{"):
        (tmp_path / RECORD).write_text(text)
        with pytest.raises(ProrankError, match=RECORD):
            Study(tmp_path).reusable("run.json", MADE)
        assert not Study(tmp_path).reusable("run.json", MADE, force=True)


def recipe_of(collection, model="embedded", **sections):
    tree = {"name": "tiny", "backbone": {"model": str(model), "prompt": "prorank-short", "max_length": 48}}
    return validate_recipe(tree | {"data": {"collection": str(collection)}, "warmup": None} | sections)


@pytest.fixture
def own(word_collection, tmp_path):
    """A collection that a test may change."""
    folder = tmp_path / "words"
    (folder / "qrels").mkdir(parents=True)
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/train.tsv", "qrels/dev.tsv", "qrels/test.tsv"):
        (folder / name).write_text((word_collection / name).read_text())
    return folder


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/train.tsv", "qrels/test.tsv"])
def test_each_file_of_a_collection_has_a_fingerprint_of_its_own(name, own):
    before = collection_files(load_collection(own))
    lines = (own / name).read_text().splitlines()
    last = lines[-1][:-1] + "2" if name.startswith("qrels") else lines[-1].replace('text": "', 'text": "apple ')
    (own / name).write_text("\n".join([*lines[:-1], last]) + "\n")
    after = collection_files(load_collection(own))
    assert {key for key in before if before[key] != after[key]} == {name}


def test_exclusions_and_candidates_count_too(own):
    before = collection_files(load_collection(own))
    (own / "excluded.tsv").write_text("query-id\tcorpus-id\nq0\td1\n")
    (own / "candidates").mkdir()
    (own / "candidates" / "test.tsv").write_text("query-id\tcorpus-id\nq30\td1\n")
    after = collection_files(load_collection(own))
    assert after.keys() - before.keys() == {"excluded.tsv", "candidates/test.tsv"}


def test_files_of_models_teachers_and_grades_count(own, bert_folder, tmp_path):
    parts = {}
    for name in ("start", "teacher", "reranker", "other"):
        parts[name] = tmp_path / name
        parts[name].mkdir()
        (parts[name] / "model.safetensors").write_text(name)
    (tmp_path / "g.jsonl").write_text("{}\n")
    teacher = {"model": str(parts["teacher"]), "reranker": str(parts["reranker"])}
    score = {"teacher": teacher, "average_with": ["start", str(parts["other"])]}
    graded = {"grades": {"file": str(tmp_path / "g.jsonl"), "documents": {"easy": 0}}, "sft": {}}
    recipe = recipe_of(own, parts["start"], score_learning=score, **graded)
    before = used_files(recipe)
    assert len(before) == 5
    for file in (*(part / "model.safetensors" for part in parts.values()), tmp_path / "g.jsonl"):
        text = file.read_text()
        file.write_text(text + "changed")
        after = used_files(recipe)
        assert before.keys() == after.keys() and sum(before[key] != after[key] for key in before) == 1
        file.write_text(text)


def test_a_model_card_and_a_run_inside_a_models_folder_do_not_count(tmp_path):
    (tmp_path / "model.safetensors").write_text("1")
    before = model_fingerprint(tmp_path)
    (tmp_path / "README.md").write_text("a card")
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "results.json").write_text("{}")
    assert model_fingerprint(tmp_path) == before
    (tmp_path / "1_Dense").mkdir()
    (tmp_path / "1_Dense" / "model.safetensors").write_text("2")
    assert model_fingerprint(tmp_path) != before
    assert model_fingerprint("owner/name") is None


def change_corpus(folder):
    lines = (folder / "corpus.jsonl").read_text().splitlines()
    (folder / "corpus.jsonl").write_text("\n".join(reversed(lines)) + "\n")


def test_a_run_is_not_resumed_after_its_data_changed(own, bert_folder, tmp_path):
    recipe = recipe_of(own, bert_folder, score_learning=None, evaluation={"rerank_depth": 2, "hybrid_weight": 0.2})
    folder, quiet = tmp_path / "run", Console(quiet=True)
    results = run_recipe(recipe, folder, console=quiet)
    assert results["carved_splits"] == {} and results["notes"] == []
    assert not (folder / ".lock").exists()
    change_corpus(own)
    for finished_run in (True, False):
        if not finished_run:
            (folder / "results.json").unlink()
        with pytest.raises(ProrankError, match=r"corpus\.jsonl changed since first_stage\.run"):
            run_recipe(recipe, folder, resume=True, console=quiet)
    with pytest.raises(InputError, match="exclude each other"):
        run_recipe(recipe, folder, resume=True, force=True, console=quiet)
    again_ = run_recipe(recipe, folder, force=True, console=quiet)
    assert again_["data_fingerprint"] != results["data_fingerprint"]


def test_a_run_is_not_deleted_for_data_that_cannot_be_read(own, bert_folder, tmp_path):
    recipe = recipe_of(own, bert_folder, score_learning=None)
    prepare_folder(recipe, tmp_path / "run", force=False, resume=False)
    (own / "corpus.jsonl").write_text("{")
    with pytest.raises(DataError):
        run_recipe(recipe, tmp_path / "run", force=True, console=Console(quiet=True))
    assert (tmp_path / "run" / RECORD).is_file()


def test_studies_refuse_what_was_made_from_something_else(own, bert_folder, tmp_path):
    """What `bench guards` and `bench erank` read their runs by."""
    work = iter([{"figure": 1}, {"figure": 2}, {"figure": 3}])

    def read(recipe, force=False):
        inputs = run_inputs(recipe, load_collections(recipe))
        return finished(recipe, tmp_path / "run", "run.json", inputs, force, lambda: next(work))

    recipe = recipe_of(own, bert_folder)
    assert read(recipe) == read(recipe) == {"figure": 1}
    other = recipe_of(own, bert_folder, seed=14)
    with pytest.raises(ProrankError, match="seed: 13 in the run, 14 now"):
        read(other)
    assert read(other, force=True) == read(other) == {"figure": 2}
    change_corpus(own)
    with pytest.raises(ProrankError, match=r"corpus\.jsonl changed since run\.json"):
        read(other)
    assert read(other, force=True) == {"figure": 3}


def test_quality_measures_again_only_what_it_says(own, bert_folder, tmp_path, monkeypatch):
    measured = []

    def fake(model, collection, output, force, **settings):
        measured.append(settings)
        (output / "summary.json").write_text(json.dumps({"collection": "words", "queries": 3, "carved_splits": {}}))

    monkeypatch.setattr(quality, "evaluate_model", fake)
    monkeypatch.setattr(quality, "adjusted", lambda found: {})
    monkeypatch.setattr(quality, "passage_seconds", lambda reranker: {})
    monkeypatch.setattr(quality.Reranker, "from_pretrained", lambda *_, **__: None)
    settings = {"dense": "owner/name", "hybrid": 0.2, "depth": 5, "max_queries": None, "max_length": None}

    def run(collections=(own,), force=False, **changes):
        places = list(map(str, collections))
        options = settings | changes | {"force": force, "console": Console(quiet=True)}
        return quality.run_quality_bench(str(bert_folder), places, tmp_path / "q", **options)

    run(), run()
    assert len(measured) == 1
    for key, value in (("max_queries", 2), ("max_length", 64), ("depth", 6), ("hybrid", 0.3), ("dense", "another")):
        with pytest.raises(ProrankError, match=f"{key}: .* in the run, {value} now"):
            run(**{key: value})
    change_corpus(own)
    with pytest.raises(ProrankError, match=r"corpus\.jsonl changed since summary\.json"):
        run()
    run(force=True)
    assert len(measured) == 2
    for part in ("a", "b"):
        (tmp_path / part).mkdir()
        os.symlink(own, tmp_path / part / "de")
    found = run([tmp_path / "a" / "de", tmp_path / "b" / "de"])
    assert [one["collection"] for one in found["collections"]] == ["a-de", "b-de"] and len(measured) == 4


def test_folders_of_one_name_get_names_of_their_own(tmp_path):
    assert distinct_names(["a/de", "b/de", "c/fr/"]) == ["a-de", "b-de", "fr"]
    assert distinct_names(["x/a/de", "y/a/de"]) == ["x-a-de", "y-a-de"]
    assert distinct_names(["x/de", "x/de/fr"]) == ["de", "fr"]
    for twice in (["a/de", "a/./de"], ["de", "de/"]):
        with pytest.raises(InputError, match="given twice"):
            distinct_names(twice)


HOLD = """
import sys
from prorank.util.live import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_live_folder_is_refused_with_the_pid_and_a_killed_one_is_free(own, bert_folder, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"held\n"
    recipe = recipe_of(own, bert_folder, score_learning=None)
    for options in ({"resume": True}, {"force": True}, {}):
        with pytest.raises(ProrankError, match=rf"in use by a running process \(pid {process.pid}\)"):
            run_recipe(recipe, tmp_path / "run", console=Console(quiet=True), **options)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with locked(tmp_path / "run"), pytest.raises(ProrankError, match=f"pid {os.getpid()}"), locked(tmp_path / "run"):
        pass
    with locked(tmp_path / "run", "g.jsonl"), locked(tmp_path / "run", "h.jsonl"):
        pass
    assert list((tmp_path / "run").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(ProrankError, match="is a file"), locked(tmp_path / "file"):
        pass


def test_an_interrupt_says_what_is_kept_and_how_to_go_on(study):
    for step in (2, 10):
        (study.folder / "warmup" / "training" / f"checkpoint-{step}").mkdir(parents=True)
    assert kept(study.folder) == ["first_stage.run"]  # torn ones are not kept
    for step in (2, 10):
        (study.folder / "warmup" / "training" / f"checkpoint-{step}" / "complete").touch()
    assert kept(study.folder.parent) == ["run/first_stage.run", "run/warmup/training/checkpoint-10"]
    said = []
    command = again(["train", "my recipe.yaml", "--force"], resume=True)
    with pytest.raises(KeyboardInterrupt), interruptible(said.append, lambda: kept(study.folder), command):
        raise KeyboardInterrupt
    assert said == [
        "Interrupted. Kept: first_stage.run, warmup/training/checkpoint-10.",
        "Resume with: prorank train 'my recipe.yaml' --resume",
    ]
    assert again(["bench", "guards", "toy", "--force"]) == "prorank bench guards toy --force"


@pytest.mark.parametrize("command", [("train", "quickstart"), ("quickstart",), ("bench", "guards", "quickstart")])
def test_every_long_command_says_how_to_go_on(command, call, monkeypatch, tmp_path):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("prorank.pipeline.run.run_recipe", interrupt)
    monkeypatch.setattr("prorank.bench.guards.run_guards", interrupt)
    folder = "--work" if command[0] == "bench" else "--output"
    code, _, err = call(*command, folder, tmp_path / "run")
    resume = "" if command[0] == "bench" else " --resume"
    assert code == 130 and f"Resume with: prorank {' '.join(command)} {folder} {tmp_path / 'run'}{resume}" in err


def test_made_splits_are_named(own):
    assert with_splits(load_collection(own)).carved == {}
    (own / "qrels" / "dev.tsv").unlink()
    (own / "qrels" / "test.tsv").unlink()
    carved = with_splits(load_collection(own), seed=7).carved
    assert carved["test"] == "10 of the 24 queries of train, seed 7" and carved.keys() == {"test", "dev", "train"}
    os.rename(own / "qrels" / "train.tsv", own / "qrels" / "test.tsv")
    carved = with_splits(load_collection(own)).carved
    assert carved["test"] == "10 of the 24 queries of test, seed 13"
    assert load_with_split(str(own), "test").carved == {}  # the whole of it is measured
    assert load_with_split(str(own), "dev").carved.keys() == {"test", "dev", "train"}


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"score_learning": {"label_weight": 0}}, "there is no teacher: nothing would be trained"),
        (
            {"warmup": {"experimental": {"policy_weight": 0, "supervised_weight": 1}}},
            "after supervised_share nothing would be trained",
        ),
    ],
)
def test_training_that_cannot_change_anything_is_refused(sections, words):
    with pytest.raises(ProrankError, match=words):
        validate_recipe({"name": "a"} | sections)
    validate_recipe({"name": "a", "score_learning": {"label_weight": 0, "teacher": {}}})
