"""Every export is reloaded in its own runtime and compared with the reranker it came from."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from conftest import ONE_LAYER, SIZE, bert_tokenizer, byte_tokenizer, save
from safetensors.torch import load_file, save_file
from scipy.stats import kendalltau

from prorank import Reranker
from prorank.cli.main import app
from prorank.data.collection import load_collection
from prorank.export.activations import calibration_pairs
from prorank.export.export import export
from prorank.model.saved_files import refuse_model_overwrite
from prorank.util.errors import CheckpointError, DataError, InputError, InputTypeError

PAIRS = [
    ("what is a river?", "a stone.\n\n"),
    ("apple", ""),
    ("käse 🧀 river", "мир apple"),
    ("apple river", "stone cloud " * 14),
    ("tiger ", " \n candle"),
]


VOCABULARY = 5_000  # of the model with an untied head


@pytest.fixture(scope="module")
def folders(tmp_path_factory, one_layer_folder, bert_folder, encoder_folder):
    torch.manual_seed(5)
    tokenizer = byte_tokenizer()
    config = transformers.Qwen3Config(
        vocab_size=VOCABULARY, tie_word_embeddings=False, num_key_value_heads=2, head_dim=8, **ONE_LAYER
    )
    qwen3 = save(transformers.Qwen3ForCausalLM(config), tokenizer, tmp_path_factory.mktemp("qwen3"))
    return {"qwen2": one_layer_folder, "qwen3": qwen3, "bert": bert_folder, "encoder": encoder_folder}


def load(folders, name, **changes):
    masked = name in ("bert", "encoder")
    prompt = "prorank-short" if masked else "prorank"
    options = {"prompt": prompt, "max_length": 100 if masked else 420, "precision": "fp32", "device": "cpu"}
    return Reranker.from_pretrained(folders[name], **(options | changes))


@pytest.mark.parametrize(
    ("target", "name"),
    [*(("onnx", name) for name in ("qwen2", "qwen3", "bert", "encoder")), ("openvino", "qwen2"), ("openvino", "bert")],
)
def test_graphs_give_equal_scores_in_their_own_runtime(folders, exported, tmp_path, name, target):
    if name == "bert":
        reranker, folder = Reranker(exported / "checkpoint", precision="fp32", device="cpu"), exported / target
    else:
        reranker = load(folders, name, passages="max" if name == "qwen3" else None)
        folder = export(reranker, target, tmp_path / "export")
    again = Reranker.from_pretrained(folder, precision="fp32")
    refuse_model_overwrite(folder, force=True)  # it holds nothing that keeps it from being replaced
    expected = reranker.score(PAIRS)
    np.testing.assert_allclose(again.score(PAIRS), expected, atol=1e-3)
    again.backend.token_budget = 1  # one pair at a time: other shapes than the traced ones
    np.testing.assert_allclose(again.score(PAIRS), expected, atol=1e-3)
    assert [r["corpus_id"] for r in again.rank("river", ["stone", "river"])] == [
        r["corpus_id"] for r in reranker.rank("river", ["stone", "river"])
    ]
    if target == "onnx":  # and without prorank
        import onnxruntime

        session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
        batch = reranker.tokenizer.collate(reranker.tokenizer.encode(PAIRS[:3])[0])
        feed = {"input_ids": batch.input_ids.numpy(), "attention_mask": batch.attention_mask.numpy()}
        (logits,) = session.run(None, feed)
        assert logits.shape == (3, 2)  # the answers only, never the vocabulary
        np.testing.assert_allclose(logits[:, 1] - logits[:, 0], expected[:3], atol=1e-3)
        if name == "qwen3":
            import onnx

            matrices = [i for i in onnx.load(folder / "model.onnx").graph.initializer if VOCABULARY in i.dims]
            assert len(matrices) == 1  # the embeddings; the untied head is left out but for the answers' rows
    with pytest.raises(CheckpointError, match="export already"):
        export(again, "onnx", tmp_path / "twice")
    with pytest.raises(CheckpointError, match="cannot be saved again"):
        again.save_pretrained(tmp_path / "saved")
    with pytest.raises(CheckpointError, match="not be trained"):
        Reranker.from_pretrained(folder, for_training=True)


@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
@pytest.mark.parametrize("prompt", ["prorank", "instruction-first", "yesno", "qwen3-reranker"])
def test_sentence_transformers_gives_equal_scores(folders, tmp_path, name, prompt):
    from sentence_transformers import CrossEncoder

    reranker = load(folders, name, prompt=prompt, max_length=600, instruction="be strict")
    folder = export(reranker, "sentence-transformers", tmp_path / "export")
    refuse_model_overwrite(folder, force=True)  # it holds nothing that keeps it from being replaced
    theirs = CrossEncoder(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    np.testing.assert_allclose(theirs.predict(PAIRS), reranker.score(PAIRS), atol=1e-3)
    ranked = theirs.rank("river", ["stone cloud", "river"])
    ours = reranker.rank("river", ["stone cloud", "river"])
    assert [r["corpus_id"] for r in ranked] == [r["corpus_id"] for r in ours]
    again = Reranker.from_pretrained(folder, precision="fp32")  # the folder is a prorank checkpoint too
    np.testing.assert_allclose(again.score(PAIRS), reranker.score(PAIRS), atol=1e-5)


def test_a_saved_causal_checkpoint_is_a_cross_encoder_folder(folders, tmp_path):
    load(folders, "qwen2").save_pretrained(tmp_path)
    again = Reranker.from_pretrained(tmp_path, precision="fp32")
    again.save_pretrained(tmp_path / "second")  # and stays one
    from sentence_transformers import CrossEncoder

    theirs = CrossEncoder(str(tmp_path / "second"), device="cpu", model_kwargs={"dtype": torch.float32})
    np.testing.assert_allclose(theirs.predict(PAIRS), again.score(PAIRS), atol=1e-3)


def test_a_prompt_that_would_be_tokenised_otherwise_is_refused(folders, tmp_path, caplog):
    from prorank.prompts.prompt import Prompt

    segments = ("query: {query}", " rele", "vance: {document}", "\nRelevant?")  # a seam inside a word
    reranker = load(folders, "qwen2", prompt=Prompt(name="odd", segments=segments, frame=("", "")))
    with pytest.raises(CheckpointError, match="would tokenise this prompt otherwise"):
        export(reranker, "sentence-transformers", tmp_path / "export")
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
def test_a_sequence_classifier_gives_equal_scores(folders, tmp_path, name):
    reranker = load(folders, name)
    folder = export(reranker, "sequence-classification", tmp_path / "export")
    refuse_model_overwrite(folder, force=True)  # it holds nothing that keeps it from being replaced
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.num_labels == 1
    batch = reranker.tokenizer.collate(reranker.tokenizer.encode(PAIRS)[0])
    with torch.no_grad():
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[:, 0]
    np.testing.assert_allclose(logits, reranker.score(PAIRS), atol=1e-3)


def test_what_cannot_be_exported_is_refused(folders, tmp_path):
    masked = load(folders, "bert")
    for target in ("sentence-transformers", "sequence-classification"):
        with pytest.raises(CheckpointError, match="answers at its mask token"):
            export(masked, target, tmp_path / "export")
    graded = load(folders, "qwen2", score="expected_grade")
    with pytest.raises(CheckpointError, match="knows no 'expected_grade'"):
        export(graded, "sequence-classification", tmp_path / "export")
    with pytest.raises(CheckpointError, match="int8 is for onnx and openvino"):
        export(load(folders, "qwen2"), "sequence-classification", tmp_path / "export", int8=True)
    with pytest.raises(CheckpointError, match="calibration pairs are for int8 in openvino"):
        export(load(folders, "bert"), "onnx", tmp_path / "export", int8=True, calibration=PAIRS)
    with pytest.raises(CheckpointError, match="fp32 on the CPU"):
        export(load(folders, "qwen2", precision="bf16"), "onnx", tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_a_refused_export_leaves_what_was_there(folders, tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "prorank.json").write_text("an earlier export")
    with pytest.raises(CheckpointError, match="answers at its mask token"):
        export(load(folders, "bert"), "sequence-classification", tmp_path / "kept", force=True)
    assert (tmp_path / "kept" / "prorank.json").read_text() == "an earlier export"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]  # no half-made folder beside it
    load(folders, "bert").save_pretrained(tmp_path / "checkpoint")
    reranker = Reranker.from_pretrained(tmp_path / "checkpoint", precision="fp32", device="cpu")
    with pytest.raises(CheckpointError, match="own folder"):
        export(reranker, "onnx", tmp_path / "checkpoint", force=True)


def test_adapters_are_to_be_merged_first(folders, tmp_path):
    reranker = load(folders, "qwen2")
    reranker.backbone.add_lora(2, 4)
    with pytest.raises(CheckpointError, match="LoRA"):
        export(reranker, "onnx", tmp_path / "export")


def test_a_broken_export_is_not_kept(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("prorank.export.graph._to_onnx", lambda module, example, file: file.touch())
    monkeypatch.setattr(
        "prorank.export.graph.onnx_graph", lambda file: lambda ids, mask: np.ones((len(ids), 2), np.float32)
    )
    with pytest.raises(CheckpointError, match="differ by"):
        export(load(folders, "bert"), "onnx", tmp_path / "export")
    assert not (tmp_path / "export").exists()


@pytest.fixture(scope="module")
def tuned():
    """One layer of the embedded backbone, trained on CoSQA for some seconds: their scores mean something then."""
    torch.manual_seed(0)
    options = {"prompt": "prorank-short", "max_length": 48, "precision": "fp32", "device": "cpu"}
    reranker = Reranker.from_pretrained("embedded", **options)
    layers = reranker.backbone.model.encoder.layer
    del layers[1:]
    reranker.backbone.config.num_hidden_layers = 1
    collection, chance = load_collection("cosqa"), random.Random(0)
    documents = [document.content for document in collection.documents.values()]
    right = [(collection.queries[q], collection.documents[d].content) for q, j in train(collection) for d in j]
    optimizer = torch.optim.AdamW(layers.parameters(), lr=5e-4)
    for _ in range(60):
        chosen = chance.sample(right, 8)
        pairs = [*chosen, *((query, chance.choice(documents)) for query, _ in chosen)]
        batch = reranker.tokenizer.collate(reranker.tokenizer.encode(pairs)[0])
        logits = reranker.backbone(batch.input_ids, batch.attention_mask, batch.slot, reranker.tokenizer.answer_ids)
        labels = torch.tensor([1.0] * 8 + [0.0] * 8)
        torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 1] - logits[:, 0], labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    lists = [(query, chance.sample(documents, 20)) for query in list(collection.queries.values())[:10]]
    return reranker, [(query, document) for query, sample in lists for document in sample]


def train(collection):
    return list(collection.judgments("train").items())[:200]


@pytest.mark.parametrize("family", ["qwen2", "bert", "encoder"])
def test_8_bit_rows_load_like_a_checkpoint(folders, qwen_folder, family, tmp_path):
    reranker = load(folders | {"qwen2": qwen_folder}, family)
    small = export(reranker, "int8-rowwise", tmp_path / "int8-rowwise")
    assert not list(small.glob("model.safetensors"))
    again = Reranker.from_pretrained(small, precision="fp32")
    before = dict(reranker.backbone.named_parameters())
    assert before.keys() == dict(again.backbone.named_parameters()).keys()
    for name, p in again.backbone.named_parameters():
        step = before[name].abs().amax(-1, keepdim=True) / 127 if p.ndim == 2 else before[name].abs() / 1000 + 1e-6
        assert ((p - before[name]).abs() <= step * 0.51).all(), name
    assert kendalltau(reranker.score(PAIRS), again.score(PAIRS)).statistic > 0.9
    weights = load_file(small / "model.rows8.safetensors")
    name = next(name for name in weights if name.endswith("weight") and weights[name].ndim == 1)
    save_file({key: value for key, value in weights.items() if key != name}, small / "model.rows8.safetensors")
    with pytest.raises(CheckpointError, match="lacks 1 weights"):
        Reranker.from_pretrained(small)


@pytest.mark.parametrize(
    ("target", "calibrated"), [("onnx", False), ("openvino", False), ("openvino", True), ("int8-rowwise", False)]
)
def test_int8_keeps_the_ranks_on_a_real_collection(tuned, target, calibrated, tmp_path):
    """Kendall's tau within a query, mean over ten queries of CoSQA."""
    reranker, pairs = tuned
    calibration = calibration_pairs(load_collection("cosqa")) if calibrated else None
    small = export(reranker, target, tmp_path / "int8", int8=target != "int8-rowwise", calibration=calibration)
    size = sum(file.stat().st_size for file in small.glob("*model.*"))
    sizes = [parameter.numel() for parameter in reranker.backbone.parameters()]
    assert size < 4 * max(sizes) + 2 * (sum(sizes) - max(sizes))  # ONNX keeps the embeddings in 32 bits
    exact = np.array(reranker.score(pairs)).reshape(10, 20)
    # fp32: where bf16 is fast, OpenVINO would compute in it and lose some ranks by that, not by the 8 bits
    rough = np.array(Reranker.from_pretrained(small, precision="fp32").score(pairs)).reshape(10, 20)
    assert np.mean([kendalltau(a, b).statistic for a, b in zip(exact, rough)]) >= 0.95


def test_the_command_exports(folders, tmp_path, capsys, monkeypatch):
    from typer.testing import CliRunner

    load(folders, "bert").save_pretrained(tmp_path / "checkpoint")
    command = ["export", str(tmp_path / "checkpoint"), "--to", "int8-rowwise", "--output", str(tmp_path / "small")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0 and "int8-rowwise in" in result.output
    assert json.loads((tmp_path / "small" / "prorank.json").read_text())["prompt"]["name"] == "prorank-short"
    assert CliRunner().invoke(app, command).exit_code != 0  # not overwritten without --force
    assert CliRunner().invoke(app, [*command, "--force"]).exit_code == 0


def test_calibration_pairs_are_relevant_and_random_in_turn_and_stay_the_same():
    collection = load_collection("cosqa")
    pairs, judged = calibration_pairs(collection), dict(train(collection))
    assert len(pairs) == 200 and pairs == calibration_pairs(collection) != calibration_pairs(collection, seed=1)
    ids = {text: query for query, text in collection.queries.items()}
    for query, document in pairs[::2]:
        grades = collection.judgments("train")[ids[query]]
        assert document in {collection.documents[d].content for d, grade in grades.items() if grade > 0}
    with pytest.raises(DataError, match="no training query has a relevant document"):
        calibration_pairs(replace(collection, qrels={"train": {query: {} for query in judged}}))


@pytest.mark.parametrize(
    ("pairs", "told"),
    [
        ([("a", "b")] * 39, "39 calibration pairs are too few"),
        ([], "0 calibration pairs are too few"),
        ("ab", "pairs must be a list"),
        (["ab"] * 50, "pair 1 must be .query, document."),
        ([("a", None)] * 50, "pair 1"),
    ],
)
def test_calibration_pairs_that_show_nothing_are_refused(folders, tmp_path, pairs, told):
    with pytest.raises((InputError, InputTypeError), match=told):
        export(load(folders, "bert"), "openvino", tmp_path / "export", int8=True, calibration=pairs)
    assert not list(tmp_path.iterdir())


def test_ranges_of_other_texts_than_those_to_come_are_refused(tmp_path):
    """prorank-mini by ranges of one short pair: its scores of whole sentences would be off by a third."""
    reranker = Reranker(precision="fp32", device="cpu")
    with pytest.raises(CheckpointError, match=r"8-bit activations gives scores .*more calibration pairs"):
        export(reranker, "openvino", tmp_path / "export", int8=True, calibration=iter([("a", "b")] * 50))
    assert not list(tmp_path.iterdir())


def test_the_command_exports_8_bit_activations(tuned, tmp_path):
    from typer.testing import CliRunner

    tuned[0].save_pretrained(tmp_path / "checkpoint")
    command = ["export", str(tmp_path / "checkpoint"), "--output", str(tmp_path / "small"), "--int8"]
    command += ["--calibration-data", "cosqa", "--to"]
    assert CliRunner().invoke(app, [*command, "onnx"]).exit_code != 0
    result = CliRunner().invoke(app, [*command, "openvino"])
    assert result.exit_code == 0, result.output
    assert "pairs of cosqa, scores compared on" in result.output
    assert "8-bit weights and activations" in (tmp_path / "small" / "README.md").read_text()


def test_a_tokenizer_without_padding_token_cannot_be_a_classifier(tmp_path):
    tokenizer = bert_tokenizer()
    assert tokenizer.pad_token_id is not None
    causal = byte_tokenizer()
    causal.pad_token = None
    config = transformers.LlamaConfig(vocab_size=len(causal), num_key_value_heads=2, **SIZE)
    save(transformers.LlamaForCausalLM(config), causal, tmp_path / "llama")
    reranker = Reranker.from_pretrained(tmp_path / "llama", max_length=420, precision="fp32", device="cpu")
    with pytest.raises(CheckpointError, match="no pad token"):
        export(reranker, "sequence-classification", tmp_path / "export")
