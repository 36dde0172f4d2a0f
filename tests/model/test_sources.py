"""Where names lead: mistyped paths, files for folders, runs for checkpoints, the hub out of reach."""

import logging
import sys
import types

import pytest

from prorank import Reranker
from prorank.data.collection import load_collection
from prorank.first_stage.dense import encode_texts
from prorank.model.checkpoint import public_base, read_settings
from prorank.model.loading import load_backbone, resolve_source
from prorank.util import sources
from prorank.util.errors import CheckpointError, DataError


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sources.on_hub.cache_clear()


@pytest.fixture
def no_hub(monkeypatch):
    """A hub that must not be asked."""

    def asked(*_):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(sources, "on_hub", asked)
    monkeypatch.setattr("prorank.data.collection.on_hub", asked)


LOADERS = [Reranker, load_backbone, load_collection, lambda name: encode_texts(name, ["a"], "query")]
PATHS = ["runs/mien", "./mien", "~/mien", "/mien/x", "a/b/c", "model.safetensors", "x/data.jsonl", "runs/", "two words"]


@pytest.mark.parametrize("load", LOADERS, ids=["reranker", "backbone", "collection", "bi-encoder"])
@pytest.mark.parametrize("name", PATHS)
def test_a_mistyped_path_is_told_without_asking_the_hub(load, name, tmp_path, no_hub):
    if name == "runs/mien":
        (tmp_path / "runs").mkdir()
    with pytest.raises((CheckpointError, DataError), match="no such folder"):
        load(name)


def test_the_nearest_name_is_proposed(tmp_path, no_hub):
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="did you mean runs/mine"):
        resolve_source("runs/mien")
    with pytest.raises(DataError, match="did you mean runs/mine"):
        load_collection("runs/mien")
    with pytest.raises(CheckpointError, match="there is no /absent either"):
        resolve_source("/absent/deeper/model")


def test_a_run_in_place_of_its_checkpoint(bert_folder, tmp_path):
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "recipe.yaml").write_text("name: mine\n")
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        Reranker("runs/mine")
    for stage in ("checkpoint", "warmup"):
        (tmp_path / "runs" / "mine" / stage).mkdir()
        (tmp_path / "runs" / "mine" / stage / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="did you mean runs/mine/checkpoint"):
        Reranker("runs/mine")


def test_a_file_in_place_of_a_folder(bert_folder, word_collection):
    with pytest.raises(CheckpointError, match=f"a file, not a folder.*did you mean {bert_folder}"):
        Reranker(bert_folder / "model.safetensors")
    with pytest.raises(DataError, match="a file, not a folder"):
        load_collection(word_collection / "corpus.jsonl")


def test_the_home_folder_is_expanded(bert_folder, word_collection, monkeypatch):
    monkeypatch.setenv("HOME", str(bert_folder.parent))
    assert resolve_source(f"~/{bert_folder.name}") == str(bert_folder)
    monkeypatch.setenv("HOME", str(word_collection.parent))
    assert load_collection(f"~/{word_collection.name}").documents


@pytest.mark.parametrize("name", ["", "  "])
def test_an_empty_name(name):
    with pytest.raises(CheckpointError, match="name is empty"):
        resolve_source(name)
    with pytest.raises(DataError, match="no such folder"):
        load_collection(name)


def test_an_unreachable_hub_is_asked_once_and_told_in_one_line(monkeypatch):
    asked = []

    class Unreachable:
        def repo_info(self, name, **options):
            asked.append((name, options))
            raise ConnectionError("[Errno -2] Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi", Unreachable)
    for load, error in ((Reranker, CheckpointError), (load_collection, DataError)):
        with pytest.raises(error, match="hub cannot be reached") as caught:
            load("owner/name")
        assert "\n" not in str(caught.value)
    assert [name for name, _ in asked] == ["owner/name"] * 2
    assert all(options["timeout"] <= 10 for _, options in asked)


@pytest.mark.parametrize(
    ("status", "words"), [(404, "no such model on the hub"), (503, "answers with status 503"), (429, "status 429")]
)
def test_a_hub_that_refuses_is_told_in_one_line(status, words, monkeypatch):
    from huggingface_hub.errors import HfHubHTTPError

    class Refusing:
        def repo_info(self, name, **_):
            error = HfHubHTTPError.__new__(HfHubHTTPError)
            error.response = types.SimpleNamespace(status_code=status)
            raise error

    monkeypatch.setattr("huggingface_hub.HfApi", Refusing)
    with pytest.raises(CheckpointError, match=words):
        Reranker("owner/name")


def test_an_earlier_download_is_used_where_the_hub_cannot_be_reached(monkeypatch, bert_folder):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(bert_folder))
    assert resolve_source("owner/name") == str(bert_folder)


def test_libraries_do_not_print_beside_our_handler(call, capsys, monkeypatch):
    monkeypatch.setattr("prorank.model.checkpoint.describe", lambda _: {})
    call("info", "x")
    for name in ("transformers", "huggingface_hub", "datasets"):
        logger = logging.getLogger(name)
        logger.addHandler(logging.StreamHandler(sys.stderr))  # as the libraries do when they are imported
        logger.getChild("module").error("told once")
        assert capsys.readouterr().err.count("told once") == 1


def test_the_base_model_is_the_first_of_a_chain_of_checkpoints(bert_folder, tmp_path):
    assert public_base("embedded") == public_base("prorank-mini") == "sentence-transformers/all-MiniLM-L6-v2"
    assert public_base("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    first = Reranker(bert_folder, prompt="prorank-short", max_length=64)
    first.settings = first.settings.model_copy(update={"base_model": "owner/base"})
    first.save_pretrained(tmp_path / "first")
    Reranker(tmp_path / "first").save_pretrained(tmp_path / "second")
    assert read_settings(str(tmp_path / "second")).base_model == "owner/base"
    assert public_base(tmp_path / "second") == "owner/base"
