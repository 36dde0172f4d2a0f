"""Checkpoints for other runtimes: sentence-transformers, sequence classification, ONNX Runtime, OpenVINO.

Every export is made in a folder of its own, read back and compared with the reranker it came from, and only then put
where it belongs; what was there before goes last. Knows rerankers and file formats; nothing of training.
"""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from prorank.backbone import Backbone
from prorank.checkpoint import SETTINGS_FILE, mark_checkpoint
from prorank.engine import length_batches
from prorank.errors import CheckpointError, require
from prorank.files import atomic_writer, refuse_overwrite, write_json
from prorank.loading import MARK
from prorank.packing import TokenWise, narrowed_feed_forward
from prorank.reranker import Reranker
from prorank.rows8 import ROWS8_FILE, save_rows8
from prorank.runtime import ONNX_FILE, OPENVINO_FILE, Graph, RuntimeBackbone, onnx_graph, openvino_graph
from prorank.tokenization import PairTokenizer

Target = Literal["sentence-transformers", "sequence-classification", "onnx", "openvino", "rows8"]
TOLERANCE = 1e-3  # largest difference of scores that an fp32 export may show
ROWS8_TOLERANCE = 0.1  # the same for 8-bit rows, as a share of the scores' spread (or of 1, where that is larger)
INT8_BLOCK = 128  # weights that share a scale in ONNX int8
PROTOBUF_LIMIT = 2**31 - 2**20  # bytes of an ONNX file that holds its weights itself
PROBES = [
    ("what is a stone?", "A stone is a piece of rock.\n\nIt is hard."),
    ("river", ""),
    ("käse 🧀", "Der Käse kommt aus der Schweiz. " * 12),
    ("what is a stone?", "Rivers flow."),
]


def export(reranker: Reranker, target: Target, folder: str | Path, *, int8: bool = False, force: bool = False) -> Path:
    """Write a reranker for another runtime, and check that its scores there are the same.

    Args:
        reranker: a causal or masked reranker, loaded in fp32 on the CPU.
        target: `sentence-transformers` (a CrossEncoder folder) and `sequence-classification` (one label) for causal
            models; `onnx` and `openvino` (a graph to the answers' logits, loaded by `Reranker.from_pretrained`) for
            both families; `rows8` (a checkpoint with 8-bit rows, a quarter of float32's size) for both too.
        folder: where to write.
        int8: 8-bit weights; `onnx` and `openvino` only. Scores then differ a little; ranks hardly.
        force: replace what is in the folder.

    Returns:
        The folder.

    Raises:
        CheckpointError: this model cannot be written so, or would score otherwise.
        MissingExtraError: the runtime is not installed.
    """
    folder = Path(folder)
    if int8 and target not in ("onnx", "openvino"):
        raise CheckpointError(f"int8 is for onnx and openvino, not for {target}")
    backbone, tokenizer = reranker.backbone, reranker.pair_tokenizer
    if isinstance(backbone, RuntimeBackbone):
        raise CheckpointError("this is an export already", hint="export from the checkpoint it was made from")
    if backbone.device.type != "cpu" or backbone.compute_dtype != torch.float32:
        raise CheckpointError("export needs the model in fp32 on the CPU", hint='precision="fp32", device="cpu"')
    if backbone.has_lora:
        raise CheckpointError("the model has LoRA adapters attached", hint="save the checkpoint and export that")
    if Path(str(backbone.config._name_or_path)).resolve() == folder.resolve():
        raise CheckpointError(f"{folder} is the model's own folder", hint="export to another one")
    refuse_overwrite(folder, force)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as place:
        fresh = Path(place) / "export"
        if target == "sentence-transformers":
            _to_sentence_transformers(reranker, fresh)
        elif target == "sequence-classification":
            _to_sequence_classification(reranker, backbone, fresh)
        elif target == "rows8":
            _to_rows8(reranker, backbone, fresh)
        else:
            _to_graph(reranker, backbone, tokenizer, target, fresh, int8)
        if folder.exists():  # only now, with the new one whole and verified
            folder.rename(Path(place) / "old")
        fresh.rename(folder)
    return folder


def _expected(reranker: Reranker) -> np.ndarray:
    sequences, _ = reranker.tokenizer.encode(PROBES)  # whole, also where the model reads by passages
    return reranker.score_sequences(sequences)[0].numpy()


def _compare(found: np.ndarray, expected: np.ndarray, runtime: str) -> None:
    difference = float(np.abs(found - expected).max())
    if not difference <= TOLERANCE:  # also when it is not a number
        raise CheckpointError(f"{runtime} gives scores that differ by {difference:.2g}", hint="the export is not kept")


def _causal_only(reranker: Reranker, what: str) -> None:
    if reranker.settings.family != "causal":
        raise CheckpointError(
            f"{what} reads a model's last token; this one answers at its mask token", hint="export to onnx or openvino"
        )
    if reranker.settings.score != "logit_difference":
        raise CheckpointError(f"{what} knows no '{reranker.settings.score}' scores", hint="export to onnx or openvino")


def _to_sentence_transformers(reranker: Reranker, folder: Path) -> None:
    """A causal checkpoint is such a folder already; read it with that library and compare."""
    library = require("sentence_transformers", "train")
    _causal_only(reranker, "sentence-transformers' LogitScore")
    reranker.save_pretrained(folder)
    if not (folder / "modules.json").is_file():  # said as a warning when saving
        raise CheckpointError(
            "sentence-transformers would tokenise this prompt otherwise", hint="export to onnx or openvino instead"
        )
    theirs = library.CrossEncoder(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    found = theirs.predict(PROBES, show_progress_bar=False)
    _compare(np.asarray(found), _expected(reranker), "sentence-transformers")


def _to_sequence_classification(reranker: Reranker, backbone: Backbone, folder: Path) -> None:
    """`AutoModelForSequenceClassification` with the one row w(best) - w(worst); its texts are whole prompts."""
    from transformers import AutoModelForSequenceClassification

    _causal_only(reranker, "a causal sequence classifier")
    config = copy.deepcopy(backbone.config)
    weight, bias = backbone.head()
    worst, best = reranker.pair_tokenizer.answer_ids[0], reranker.pair_tokenizer.answer_ids[-1]
    row = (weight[best].float() - weight[worst].float()).detach()
    if bias is not None and float(bias[best] - bias[worst]) != 0.0:
        raise CheckpointError("the head has a bias, a sequence classifier has none", hint="export to onnx")
    if getattr(config, "final_logit_softcapping", None):
        raise CheckpointError("this model caps its logits, which a classifier's row cannot", hint="export to onnx")
    row = backbone.rescale(row)
    config.num_labels, config.problem_type = 1, "regression"
    vars(config).pop(MARK, None)  # the classifier stands by itself
    config.pad_token_id = backbone.tokenizer.pad_token_id
    if config.pad_token_id is None:
        raise CheckpointError("a sequence classifier finds the last token by padding: the tokenizer has no pad token")
    try:
        model = AutoModelForSequenceClassification.from_config(config).float()
    except ValueError as error:
        raise CheckpointError(f"no sequence classifier of type {config.model_type} is known") from error
    model.base_model.load_state_dict(backbone.core.base_model.state_dict())
    with torch.no_grad():
        model.score.weight.copy_(row[None])
    folder.mkdir(parents=True)
    model.save_pretrained(folder)
    backbone.tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)  # its input is no chat
    before, after = reranker.settings.frame
    whole = (
        before + reranker.pair_tokenizer.prompt.render("{query}", "{document}", reranker.settings.instruction) + after
    )
    _card(reranker, folder, f"`AutoModelForSequenceClassification` over this text:\n\n```text\n{whole}\n```\n\n")
    again = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    batch = reranker.tokenizer.collate(reranker.tokenizer.encode(PROBES)[0])
    with torch.inference_mode():
        found = again(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[:, 0].numpy()
    _compare(found, _expected(reranker), "the sequence classifier")


def _to_rows8(reranker: Reranker, backbone: Backbone, folder: Path) -> None:
    """A checkpoint whose matrices are stored in 8 bits by rows; read back it gives nearly the same scores."""
    reranker.save_pretrained(folder)
    for file in folder.glob("model*.safetensors*"):
        file.unlink()
    save_rows8(dict(backbone.model.named_parameters()), folder / ROWS8_FILE)
    again = Reranker.from_pretrained(folder, precision="fp32", device="cpu")
    found, expected = again.score(PROBES), _expected(reranker)
    spread = float(np.ptp(expected))
    if not float(np.abs(np.asarray(found) - expected).max()) <= ROWS8_TOLERANCE * max(spread, 1.0):
        raise CheckpointError("8-bit rows give other scores", hint="keep the checkpoint as it is")


def _at_slot(states: torch.Tensor, slot: torch.Tensor) -> torch.Tensor:
    """(B, T, H) and (B,) -> (B, 1, H), each row's state at its slot."""
    return states.gather(1, slot[:, None, None].expand(-1, 1, states.shape[-1]))


def _only_at_slot(slot: torch.Tensor, function: TokenWise) -> TokenWise:
    """A token-wise function that runs at the slots alone; its value there stands at every other position too."""
    return lambda hidden: function(_at_slot(hidden, slot)).expand(-1, hidden.shape[1], -1)


class SlotLogits(torch.nn.Module):
    """(input_ids, attention_mask), both (B, T) and padded on the right, -> logits of the answers (B, K)."""

    def __init__(self, backbone: Backbone, tokenizer: PairTokenizer) -> None:
        super().__init__()
        self.backbone, self.slot_from_end = backbone, tokenizer.slot_from_end
        weight, bias = backbone.head()
        rows = torch.tensor(tokenizer.answer_ids)
        self.weight = weight[rows].detach().float()  # (K, H): the rest of the vocabulary stays out of the graph
        self.bias = None if bias is None else bias[rows].detach().float()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Answer logits at the slot."""
        base = self.backbone.core.base_model
        slot = attention_mask.sum(-1) - self.slot_from_end  # (B,)
        with narrowed_feed_forward(base, partial(_only_at_slot, slot)):
            states = base(
                input_ids=input_ids, attention_mask=attention_mask, **self.backbone.uncached
            ).last_hidden_state  # (B, T, H)
        hidden = _at_slot(states, slot)[:, 0]
        logits = torch.nn.functional.linear(self.backbone.transformed(hidden.float()), self.weight, self.bias)
        return self.backbone.rescale(logits)


@contextmanager
def _quietly() -> Any:
    """Exporters print and warn about what they leave out on the way; the comparison afterwards is what counts."""
    import logging

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _to_graph(
    reranker: Reranker, backbone: Backbone, tokenizer: PairTokenizer, target: str, folder: Path, int8: bool
) -> None:
    """`model.onnx` or `openvino_model.xml` with tokenizer, settings and card."""
    expected = _expected(reranker)  # a model that cannot run is found out here, with a plain message
    folder.mkdir(parents=True)
    batch = tokenizer.collate(tokenizer.encode(PROBES)[0])
    module, example = SlotLogits(backbone, tokenizer).eval(), (batch.input_ids, batch.attention_mask)
    if target == "onnx":
        file, write, compress, load = folder / ONNX_FILE, _to_onnx, _onnx_int8, onnx_graph
    else:
        file, write, compress, load = folder / OPENVINO_FILE, _to_openvino, _openvino_int8, _openvino_fp32
    with backbone.inference(), _quietly(), torch.no_grad():
        write(module, example, file)
    _compare(_graph_scores(reranker, load(file), PROBES), expected, target)
    if int8:
        with _quietly():
            compress(file)
        if not np.isfinite(_graph_scores(reranker, load(file), PROBES)).all():
            raise CheckpointError(f"{target} int8 gives scores that are not numbers")
    backbone.config.save_pretrained(folder)
    mark_checkpoint(folder)
    backbone.tokenizer.save_pretrained(folder)
    kind = f"{'ONNX' if target == 'onnx' else 'OpenVINO'} graph{', 8-bit weights' if int8 else ''}"
    _card(reranker, folder, f"{kind}: (input_ids, attention_mask), padded on the right, to the answers' logits (B, K)")
    write_json(folder / SETTINGS_FILE, reranker.settings.model_dump(mode="json"))


def _graph_scores(reranker: Reranker, graph: Graph, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """Scores by a graph, in batches of several shapes."""
    from prorank.scores import SCORES

    sequences, _ = reranker.tokenizer.encode(pairs)
    found = np.zeros(len(sequences), dtype=np.float32)
    longest = max(map(len, sequences))
    for indices in length_batches([len(ids) for ids in sequences], 2 * longest):
        batch = reranker.tokenizer.collate([sequences[i] for i in indices])
        logits = torch.from_numpy(graph(batch.input_ids.numpy(), batch.attention_mask.numpy()))
        found[indices] = SCORES[reranker.settings.score](logits).numpy()
    return found


Example = tuple[torch.Tensor, torch.Tensor]


def _to_onnx(module: SlotLogits, example: Example, file: Path) -> None:
    require("onnx", "export")
    require("onnxscript", "export")
    dynamic = {0: torch.export.Dim("batch", min=1, max=65_536), 1: torch.export.Dim("tokens", min=2, max=65_536)}
    torch.onnx.export(
        module,
        example,
        str(file),
        dynamo=True,
        dynamic_shapes=(dynamic, dynamic),
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        external_data=sum(p.numel() for p in module.parameters()) * 4 > PROTOBUF_LIMIT,
    )


def _onnx_int8(file: Path) -> None:
    """8-bit weights in blocks; activations are quantised block by block on the way (docs/log.md compares)."""
    onnx = require("onnx", "export")
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    apart = len(list(file.parent.glob(f"{file.name}*"))) > 1  # weights beside the graph
    quantizer = MatMulNBitsQuantizer(
        onnx.load(str(file)), bits=8, block_size=INT8_BLOCK, is_symmetric=True, accuracy_level=4
    )
    quantizer.process()
    for old in file.parent.glob(f"{file.name}*"):
        old.unlink()
    quantizer.model.save_model_to_file(str(file), use_external_data_format=apart)


def _to_openvino(module: SlotLogits, example: Example, file: Path) -> None:
    """Straight from torch: its attention stays one operation, which by way of ONNX falls apart (docs/log.md)."""
    openvino = require("openvino", "export")
    any_size = dict.fromkeys((0, 1), torch.export.Dim.AUTO)
    program = torch.export.export(module, example, dynamic_shapes=(any_size, any_size))
    openvino.save_model(openvino.convert_model(program), str(file), compress_to_fp16=False)


def _openvino_fp32(file: Path) -> Graph:
    return openvino_graph(file, "fp32")


def _openvino_int8(file: Path) -> None:
    """8-bit weights by rows; activations are quantised in groups when the graph runs (`prorank.runtime`)."""
    openvino, nncf = require("openvino", "export"), require("nncf", "export")
    model = nncf.compress_weights(openvino.Core().read_model(str(file)), mode=nncf.CompressWeightsMode.INT8_SYM)
    openvino.save_model(model, str(file.with_stem("int8")), compress_to_fp16=False)
    del model  # it reads the old weights from disk
    for suffix in (".xml", ".bin"):
        file.with_stem("int8").with_suffix(suffix).replace(file.with_suffix(suffix))


def _card(reranker: Reranker, folder: Path, what: str) -> None:
    prompt = reranker.pair_tokenizer.prompt
    with atomic_writer(folder / "README.md") as file:
        file.write(
            "---\nlibrary_name: prorank\npipeline_tag: text-ranking\ntags:\n- reranker\n- prorank\n---\n\n"
            f"# Exported reranker\n\n{what}. Made from `{reranker.settings.base_model}`; the answers of the prompt "
            f"`{prompt.name}` are {', '.join(prompt.answers)}, worst to best, and the score is "
            f"`{reranker.settings.score}`.\n"
        )
