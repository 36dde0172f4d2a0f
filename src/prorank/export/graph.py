"""A checkpoint as one graph, (input ids, attention mask) -> answer logits, for ONNX Runtime and OpenVINO."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prorank.engine.runtime import ONNX_FILE, OPENVINO_FILE, Graph, onnx_graph, openvino_graph
from prorank.engine.scorer import length_batches
from prorank.export.activations import HELD_OUT, quantized
from prorank.export.check import PROBES, compare_scores, compare_spread, expected_scores, export_card
from prorank.export.start import cached, read_start
from prorank.model.backbone import Backbone
from prorank.model.checkpoint import mark_checkpoint, write_settings
from prorank.model.last_layer import TokenWise, narrowed_feed_forward
from prorank.prompts.tokenization import PairTokenizer
from prorank.reranker import Reranker
from prorank.util.errors import CheckpointError, require

INT8_BLOCK = 128  # weights that share a scale in ONNX int8
PROTOBUF_LIMIT = 2**31 - 2**20  # bytes of an ONNX file that holds its weights itself


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
        self.start = read_start(backbone, tokenizer.shared_start)
        self.built_in = tokenizer.shared_start if self.start else []  # ids that are not read

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Answer logits at the slot."""
        base = self.backbone.core.base_model
        slot = attention_mask.sum(-1) - self.slot_from_end - len(self.built_in)  # (B,)
        with narrowed_feed_forward(base, partial(_only_at_slot, slot)):
            states = base(
                input_ids=input_ids[:, len(self.built_in) :],
                attention_mask=attention_mask,
                **(cached(self.start, input_ids.shape[0]) if self.start else self.backbone.uncached),
            ).last_hidden_state  # (B, T - start, H)
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


def to_graph(
    reranker: Reranker,
    backbone: Backbone,
    tokenizer: PairTokenizer,
    target: str,
    folder: Path,
    int8: bool,
    calibration: Sequence[tuple[str, str]],
) -> None:
    """`model.onnx` or `openvino_model.xml` with tokenizer, settings and card."""
    expected = expected_scores(reranker)  # a model that cannot run is found out here, with a plain message
    folder.mkdir(parents=True)
    batch = tokenizer.collate(tokenizer.encode(PROBES)[0])
    with _quietly():
        module, example = SlotLogits(backbone, tokenizer).eval(), (batch.input_ids, batch.attention_mask)
    if target == "onnx":
        file, write, compress, load = folder / ONNX_FILE, _to_onnx, _onnx_int8, onnx_graph
    else:
        shown = [pair for number, pair in enumerate(calibration) if number % HELD_OUT]
        sequences = tokenizer.encode(shown)[0] if shown else []
        file, write = folder / OPENVINO_FILE, _to_openvino
        load = partial(openvino_graph, config=backbone.config, precision="fp32")
        compress = partial(_openvino_int8, sequences=sequences)
    with backbone.inference(), _quietly(), torch.no_grad():
        write(module, example, file)
    compared = [*PROBES, *calibration[::HELD_OUT]]
    exact = _graph_scores(reranker, load(file), compared)
    compare_scores(exact[: len(PROBES)], expected, target)
    if int8:
        with _quietly():
            compress(file)
        rough = _graph_scores(reranker, load(file), compared)
        if not np.isfinite(rough).all():
            raise CheckpointError(f"{target} int8 gives scores that are not numbers")
        if calibration:
            hint = "give more calibration pairs, like those to come, or none"
            compare_spread(rough, exact, "a graph with 8-bit activations", hint)
    backbone.config.save_pretrained(folder)
    mark_checkpoint(folder)
    backbone.tokenizer.save_pretrained(folder)
    count = len(module.built_in)
    unread = f"; the first {count} ids, the prompt's, are to be given but not read" if count else ""
    words = f", 8-bit weights{' and activations' if calibration else ''}" if int8 else ""
    kind = f"{'ONNX' if target == 'onnx' else 'OpenVINO'} graph{words}"
    what = f"{kind}: (input_ids, attention_mask), padded on the right, to the answers' logits (B, K){unread}"
    export_card(reranker, folder, what)
    write_settings(folder, reranker.settings.model_copy(update={"built_in": module.built_in or None}))


def _graph_scores(reranker: Reranker, graph: Graph, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """Scores by a graph, in batches of several shapes."""
    from prorank.engine.scores import SCORES

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
    least = len(module.built_in) + 2
    dynamic = {0: torch.export.Dim("batch", min=1, max=65_536), 1: torch.export.Dim("tokens", min=least, max=65_536)}
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


def _openvino_int8(file: Path, sequences: Sequence[Sequence[int]]) -> None:
    """8-bit weights by rows, and activations where sequences show their ranges; else those stay floats, or are
    quantised in groups when the graph runs (`prorank.engine.runtime`)."""
    openvino, nncf = require("openvino", "export"), require("nncf", "export")
    if sequences:
        model = quantized(file, sequences)
    else:
        model = nncf.compress_weights(openvino.Core().read_model(str(file)), mode=nncf.CompressWeightsMode.INT8_SYM)
    openvino.save_model(model, str(file.with_stem("int8")), compress_to_fp16=False)
    del model  # it reads the old weights from disk
    for suffix in (".xml", ".bin"):
        file.with_stem("int8").with_suffix(suffix).replace(file.with_suffix(suffix))
