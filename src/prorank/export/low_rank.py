"""A checkpoint as the low-rank difference from its base model, for passing on what a training changed."""

from __future__ import annotations

import logging
from pathlib import Path

from prorank.export.check import as_it_was
from prorank.model.backbone import Backbone
from prorank.model.loading import load_backbone, resolve_source
from prorank.model.low_rank import LOW_RANK_FILE, read_facts, save_low_rank
from prorank.model.st_files import remove_sentence_transformers_files
from prorank.reranker import Reranker
from prorank.util.errors import CheckpointError

logger = logging.getLogger(__name__)


def to_low_rank(reranker: Reranker, backbone: Backbone, folder: Path, base: str, rank: int) -> None:
    """Write a folder that is loaded on top of `base`; read back it gives nearly the same scores.

    Args:
        reranker: the checkpoint.
        backbone: its model.
        folder: to write.
        base: name or folder of the model that the training began with, as whoever loads the folder has it.
        rank: of each matrix's difference.

    Raises:
        CheckpointError: the base is another model or itself such a folder, or the scores differ.
    """
    if read_facts(resolve_source(base)) is not None:
        raise CheckpointError(f"'{base}' is a low-rank difference itself", hint="give the model that it is added to")
    start = load_backbone(base, family=backbone.family, device="cpu", precision="fp32", for_training=True).model
    model = backbone.model
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    matrices = {id(end.weight) for end in ends if end is not None}
    weights = dict(model.named_parameters())
    reranker.save_pretrained(folder)
    for file in folder.glob("model*.safetensors*"):
        file.unlink()
    remove_sentence_transformers_files(folder)
    share = save_low_rank(
        dict(start.named_parameters()),
        weights,
        folder / LOW_RANK_FILE,
        name=base,
        rank=rank,
        vocabulary=[name for name, weight in weights.items() if id(weight) in matrices],
        rows=sorted({token for tokens in reranker.pair_tokenizer.answer_tokens for token in tokens}),
    )
    logger.info("rank %d holds %.3f of the change", rank, share)
    as_it_was(reranker, folder, f"rank {rank} (it holds {share:.2f} of the change)", "give a higher --rank")
