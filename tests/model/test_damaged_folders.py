"""Folders that are damaged, mixed or incomplete: the file is named, and nothing is made up in its place."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from prorank import Reranker
from prorank.export.export import export
from prorank.util.errors import CheckpointError

WEIGHTS, SETTINGS = "model.safetensors", "prorank.json"


@pytest.fixture
def copied(exported, tmp_path):
    """copied(kind) -> a copy that may be damaged."""
    return lambda kind="checkpoint": shutil.copytree(exported / kind, tmp_path / kind)


def changed(file, **values):
    """Change keys of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def rewritten(file, change):
    """Change tensors of a safetensors file."""
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def half(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def emptied(file):
    file.write_bytes(b"")


def garbled(file):
    file.write_bytes(b"\xff\x00garbage" * 50)


def removed(file):
    file.unlink()


def a_folder(file):
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("damage", [half, emptied, garbled])
@pytest.mark.parametrize(
    "kind, name",
    [
        ("checkpoint", WEIGHTS),
        ("int8-rowwise", "model.rows8.safetensors"),
        ("onnx", "model.onnx"),
        ("openvino", "openvino_model.xml"),
        ("openvino", "openvino_model.bin"),
        ("checkpoint", "config.json"),
        ("openvino", "config.json"),
        ("checkpoint", "tokenizer.json"),
        ("openvino", "tokenizer.json"),
        ("checkpoint", SETTINGS),
        ("openvino", SETTINGS),
    ],
)
def test_a_damaged_file_is_named(copied, kind, name, damage, call):
    folder = copied(kind)
    damage(folder / name)
    with pytest.raises(CheckpointError) as found:
        Reranker(folder, precision="fp32")
    assert name.removesuffix(".bin").removesuffix(".xml") in found.value.message and found.value.hint
    assert "\n" not in str(found.value)
    if kind == "checkpoint" and name == WEIGHTS:
        code, _, err = call("rerank", "apple", "river", "-m", folder)
        assert code == 2 and WEIGHTS in err and "unexpected" not in err


@pytest.mark.parametrize("damage", [removed, a_folder])
@pytest.mark.parametrize(
    "kind, name",
    [
        ("checkpoint", WEIGHTS),
        ("checkpoint", "config.json"),
        ("checkpoint", "tokenizer.json"),
        ("openvino", "tokenizer.json"),
        ("openvino", "openvino_model.bin"),
        ("onnx", "model.onnx"),
        ("int8-rowwise", "model.rows8.safetensors"),
    ],
)
def test_a_missing_file_is_no_other_model(copied, kind, name, damage):
    folder = copied(kind)
    damage(folder / name)
    with pytest.raises(CheckpointError, match=str(folder)):
        Reranker(folder, precision="fp32")


def test_a_tokenizer_is_not_made_up(copied):
    folder = copied()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(CheckpointError, match="knows no words"):
        Reranker(folder, precision="fp32")


@pytest.mark.parametrize(
    "values",
    [
        {"hidden_size": "big"},
        {"hidden_size": None},
        {"hidden_size": 0},
        {"hidden_size": -1},
        {"num_attention_heads": 0},
        {"num_attention_heads": 5},
        {"hidden_act": "nope"},
        {"max_position_embeddings": "x"},
        {"architectures": 3},
        {"model_type": "nope"},
        {"model_type": 7},
    ],
)
def test_a_config_that_describes_no_model_is_named(copied, values):
    folder = copied()
    changed(folder / "config.json", **values)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        Reranker(folder, precision="fp32")


@pytest.mark.parametrize("kind", ["checkpoint", "int8-rowwise"])
@pytest.mark.parametrize(
    "values, says",
    [
        ({"hidden_size": 64}, "of another shape than config.json says, .* stored, .* expected"),
        ({"vocab_size": 10}, "of another shape"),
        ({"num_hidden_layers": 3}, "lacks .* would be random"),
        ({"num_hidden_layers": 1}, "no place for 16 of its weights"),
    ],
)
def test_weights_that_config_does_not_describe_are_refused(copied, kind, values, says):
    folder = copied(kind)
    changed(folder / "config.json", **values)
    changed(folder / SETTINGS, config_fingerprint=None)
    with pytest.raises(CheckpointError, match=says):
        Reranker(folder, precision="fp32")


@pytest.mark.parametrize("kind, name", [("checkpoint", WEIGHTS), ("int8-rowwise", "model.rows8.safetensors")])
@pytest.mark.parametrize("lost", ["layer.1.output.dense.bias", "layer.0.output.dense.weight", "LayerNorm.weight"])
def test_a_weight_that_is_missing_is_not_made_up(copied, kind, name, lost):
    folder = copied(kind)
    rewritten(folder / name, lambda weights: {k: v for k, v in weights.items() if not k.endswith(lost)})
    with pytest.raises(CheckpointError, match=rf"lacks .*{lost}.* would be random"):
        Reranker(folder, precision="fp32")


def test_a_weight_of_another_shape_is_refused(copied):
    for kind, name in (("checkpoint", WEIGHTS), ("int8-rowwise", "model.rows8.safetensors")):
        folder = copied(kind)
        rewritten(folder / name, lambda weights: {k: v[:16] if v.ndim == 1 else v for k, v in weights.items()})
        with pytest.raises(CheckpointError, match=r"\[16\] stored, \[\d+\] expected"):
            Reranker(folder, precision="fp32")


@pytest.mark.parametrize("scales", [lambda scale: None, lambda scale: scale[:1]])
def test_rows_without_their_scales_are_refused(copied, scales):
    folder = copied("int8-rowwise")

    def change(weights):
        new = {k: scales(v) if k.endswith("layer.1.output.dense.weight::scale") else v for k, v in weights.items()}
        return {k: v for k, v in new.items() if v is not None}

    rewritten(folder / "model.rows8.safetensors", change)
    with pytest.raises(CheckpointError, match=r"rows8.*layer\.1\.output\.dense\.weight has no scale for each row"):
        Reranker(folder, precision="fp32")


def test_the_tokenizer_of_a_larger_model_is_refused(copied, qwen_folder):
    folder = copied()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(qwen_folder / name, folder / name)
    with pytest.raises(CheckpointError, match=r"words go up to number \d+, the model has 3\d"):
        Reranker(folder, precision="fp32")


@pytest.mark.parametrize(
    "text", ["", "{{", "[]", "1", "null", "{}", "[" * 100_000, '{"max_length": 1' + "0" * 5000 + "}"]
)
def test_settings_that_cannot_be_read_make_no_zero_shot_model(copied, text):
    folder = copied()
    (folder / SETTINGS).write_text(text)
    with pytest.raises(CheckpointError, match=r"prorank\.json"):
        Reranker(folder, precision="fp32")


@pytest.mark.parametrize("kind", ["checkpoint", "int8-rowwise", "onnx", "openvino"])
def test_settings_that_are_gone_are_missed(copied, kind):
    folder = copied(kind)
    (folder / SETTINGS).unlink()
    with pytest.raises(CheckpointError, match=r"without its prorank\.json \(copy prorank\.json back"):
        Reranker(folder, precision="fp32")
    (folder / SETTINGS).symlink_to("/nowhere/prorank.json")
    with pytest.raises(CheckpointError, match=r"prorank\.json"):
        Reranker(folder, precision="fp32")
    (folder / SETTINGS).unlink()
    (folder / SETTINGS).mkdir()
    with pytest.raises(CheckpointError, match=r"prorank\.json"):
        Reranker(folder, precision="fp32")


def test_the_model_that_ships_misses_its_settings_too(tmp_path):
    from prorank.shipped import FOLDERS, MINI

    folder = shutil.copytree(FOLDERS[MINI], tmp_path / "mini")
    (folder / SETTINGS).unlink()
    with pytest.raises(CheckpointError, match=r"without its prorank\.json"):
        Reranker(folder)


def test_the_bare_model_can_be_had_on_purpose(copied):
    folder = copied()
    (folder / SETTINGS).unlink()
    changed(folder / "config.json", prorank_checkpoint=False)
    assert Reranker(folder, prompt="prorank-short", precision="fp32").settings.base_model == str(folder)


def test_the_mark_outlives_another_save(copied, tmp_path):
    Reranker(copied(), precision="fp32").save_pretrained(tmp_path / "again")
    (tmp_path / "again" / SETTINGS).unlink()
    with pytest.raises(CheckpointError, match=r"without its prorank\.json"):
        Reranker(tmp_path / "again", precision="fp32")


def test_a_classifier_made_from_a_checkpoint_stands_by_itself(qwen_folder, tmp_path):
    Reranker(qwen_folder, max_length=400, precision="fp32").save_pretrained(tmp_path / "checkpoint")
    export(Reranker(tmp_path / "checkpoint", precision="fp32"), "sequence-classification", tmp_path / "classifier")
    assert "prorank_checkpoint" not in json.loads((tmp_path / "classifier" / "config.json").read_text())


@pytest.mark.parametrize(
    "values, says",
    [
        ({"max_length": True}, "max_length"),
        ({"max_length": "64"}, "max_length"),
        ({"max_length": 64.5}, "max_length"),
        ({"calibration": {"slope": float("nan"), "intercept": 0.0}}, "finite slope and intercept"),
        ({"calibration": {"slope": 1.0, "intercept": float("inf")}}, "finite slope and intercept"),
        ({"calibration": {}}, "finite slope and intercept"),
        ({"calibration": {"slope": -1.0, "intercept": 0.0}}, "slope must be positive"),
        ({"answer_ids": []}, "answer_ids: 0 for 2 answers"),
        ({"prompt": None}, "masked model without a prompt"),
        ({"family": "causal"}, "config.json describes a masked model, prorank.json a causal one"),
        ({"family": "classifier"}, "classifier model with a prompt"),
        ({"frame": ["a"]}, "frame"),
        ({"instruction": 5}, "instruction"),
        ({"unknown": 5}, "unknown"),
    ],
)
def test_settings_with_a_wrong_value_name_it(copied, values, says):
    folder = copied()
    changed(folder / SETTINGS, **values)
    with pytest.raises(CheckpointError, match=says):
        Reranker(folder, precision="fp32")


@pytest.mark.parametrize(
    "values, hint",
    [
        ({"calibration": {"slope": -1.0, "intercept": 0.0}}, "correct it, or copy prorank.json again"),
        ({"calibration": {"slope": float("nan"), "intercept": 0.0}}, "correct it, or copy prorank.json again"),
        ({"max_length": 0}, "correct it, or copy prorank.json again"),
        ({"unknown": 5}, "was it made by a newer prorank?"),
        ({"score": "unheard"}, "was it made by a newer prorank?"),
    ],
)
def test_only_what_is_not_known_here_is_taken_for_a_newer_proranks(copied, values, hint):
    folder = copied()
    changed(folder / SETTINGS, **values)
    with pytest.raises(CheckpointError) as found:
        Reranker(folder, precision="fp32")
    assert found.value.hint == hint and "Value error" not in found.value.message


def test_lack_of_memory_is_not_blamed_on_the_folder(copied, monkeypatch):
    def no_room(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("transformers.AutoModelForMaskedLM.from_pretrained", no_room)
    with pytest.raises(torch.OutOfMemoryError):
        Reranker(copied(), precision="fp32")


@pytest.mark.parametrize("kind", ["checkpoint", "int8-rowwise", "onnx", "openvino"])
def test_a_config_that_was_changed_is_refused(copied, kind):
    folder = copied(kind)
    heads = json.loads((folder / "config.json").read_text())["num_attention_heads"]
    changed(folder / "config.json", num_attention_heads=heads // 2)
    with pytest.raises(CheckpointError, match=r"config.json is not the one that was saved"):
        Reranker(folder)


def test_a_config_that_another_version_wrote_is_the_same(copied):
    folder = copied()
    changed(folder / "config.json", transformers_version="4.0", dtype="bfloat16")
    assert Reranker(folder).score([("apple", "river")])
