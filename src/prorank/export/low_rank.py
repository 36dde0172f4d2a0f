"""A checkpoint as the low-rank difference from its base model, for passing on what a training changed."""

from __future__ import annotations

import logging
from pathlib import Path

from prorank.export.check import as_it_was, export_card, save_without_weights
from prorank.model.backbone import Backbone
from prorank.model.loading import load_backbone, resolve_source
from prorank.model.low_rank import LOW_RANK_FILE, read_facts, save_low_rank
from prorank.model.st_files import remove_sentence_transformers_files
from prorank.reranker import Reranker
from prorank.util.errors import CheckpointError

logger = logging.getLogger(__name__)


def named_base(base: str, folder: Path, family: str, rank: int) -> str:
    """The base by the name that the folder will load it by: a folder of this machine by its whole path (a warning).

    Raises:
        CheckpointError: it is a low-rank difference itself, or lies where the export shall lie; no such rank; the
            checkpoint is a classifier.
    """
    if family == "classifier":
        raise CheckpointError("low-rank is for language models, and this is a classifier", hint="keep the checkpoint")
    if rank < 1:
        raise CheckpointError(f"the rank is 1 or more, not {rank}")
    source = resolve_source(base)
    if read_facts(source) is not None:
        raise CheckpointError(f"'{base}' is a low-rank difference itself", hint="give the model that it is added to")
    place = Path(source).resolve()
    if folder.resolve() in (place, *place.parents):
        raise CheckpointError(f"the base lies in {folder}, which would be replaced", hint="export to another folder")
    if not Path(base).exists():
        return base
    logger.warning("the export loads its base from %s: whoever gets it needs the base there too", place)
    return str(place)


def to_low_rank(reranker: Reranker, backbone: Backbone, folder: Path, base: str, rank: int) -> None:
    """Write a folder that is loaded on top of `base`; read back it gives nearly the same scores.

    Args:
        reranker: the checkpoint.
        backbone: its model.
        folder: to write.
        base: of `named_base`.
        rank: of each matrix's difference.

    Raises:
        CheckpointError: the base is another model, or the scores differ.
    """
    start = load_backbone(base, family=backbone.family, device="cpu", precision="fp32", for_training=True).model
    model = backbone.model
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    matrices = {id(end.weight) for end in ends if end is not None}
    weights = dict(model.named_parameters())
    save_without_weights(reranker, folder)
    remove_sentence_transformers_files(folder)
    export_card(reranker, folder, f"What training changed of `{base}`, on top of which it loads: rank {rank}, 8 bits")
    share = save_low_rank(
        dict(start.named_parameters()),
        weights,
        folder / LOW_RANK_FILE,
        name=base,
        rank=rank,
        vocabulary=[name for name, weight in weights.items() if id(weight) in matrices],
        rows=sorted({token for tokens in reranker.pair_tokenizer.answer_tokens for token in tokens}),
    )
    as_it_was(reranker, folder, f"rank {rank} (it holds {share:.2f} of the change)", "give a higher --rank")
