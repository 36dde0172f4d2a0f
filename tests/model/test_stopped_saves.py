"""A save that is stopped: the folder is refused when it is loaded, whatever was in it before."""

import shutil

import pytest

from prorank import Reranker
from prorank.model import checkpoint
from prorank.model.backbone import Backbone
from prorank.util.errors import CheckpointError


def stop(*_, **__):
    raise KeyboardInterrupt


def before_the_weights(reranker, monkeypatch):
    """As transformers begins: the configuration comes first."""
    save = lambda self, folder, **_: self.config.save_pretrained(folder) or stop()  # noqa: E731
    monkeypatch.setattr(type(reranker.backbone.model), "save_pretrained", save)


def before_the_tokenizer(reranker, monkeypatch):
    monkeypatch.setattr(type(reranker.backbone.tokenizer), "save_pretrained", stop)


def after_weights_and_tokenizer(reranker, monkeypatch):
    whole = Backbone.save
    monkeypatch.setattr(Backbone, "save", lambda self, folder: whole(self, folder) or stop())


def before_the_settings(reranker, monkeypatch):
    monkeypatch.setattr(checkpoint, "write_settings", stop)


@pytest.mark.parametrize("held", ["nothing", "a checkpoint", "a bare model"])
@pytest.mark.parametrize(
    "stopped", [before_the_weights, before_the_tokenizer, after_weights_and_tokenizer, before_the_settings]
)
def test_a_folder_in_which_a_save_was_stopped_is_not_loaded(stopped, held, bert_folder, tmp_path, monkeypatch):
    reranker = Reranker(bert_folder, prompt="prorank-short", max_length=64, precision="fp32")
    folder = tmp_path / "model"
    if held == "a checkpoint":
        reranker.save_pretrained(folder)
        reranker = Reranker(bert_folder, prompt="prorank-short", max_length=48, precision="fp32")
    elif held == "a bare model":
        shutil.copytree(bert_folder, folder)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        stopped(reranker, patched)
        reranker.save_pretrained(folder)
    with pytest.raises(CheckpointError, match=r"without its prorank\.json .*save it again where a save was stopped"):
        Reranker(folder)
    reranker.save_pretrained(folder)
    assert Reranker(folder, precision="fp32").score([("river", "a river")]) == reranker.score([("river", "a river")])
