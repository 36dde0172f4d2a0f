"""A causal checkpoint as a sequence classifier of one row, w(best) - w(worst), for vLLM and infinity."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from prorank.export.check import PROBES, causal_only, compare_scores, expected_scores, export_card
from prorank.model.backbone import Backbone
from prorank.model.weights import MARK
from prorank.reranker import Reranker
from prorank.util.errors import CheckpointError


def to_sequence_classification(reranker: Reranker, backbone: Backbone, folder: Path) -> None:
    """`AutoModelForSequenceClassification` with the one row w(best) - w(worst); its texts are whole prompts."""
    from transformers import AutoModelForSequenceClassification

    causal_only(reranker, "a causal sequence classifier")
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
    export_card(reranker, folder, f"`AutoModelForSequenceClassification` over this text:\n\n```text\n{whole}\n```\n\n")
    again = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    batch = reranker.tokenizer.collate(reranker.tokenizer.encode(PROBES)[0])
    with torch.inference_mode():
        found = again(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[:, 0].numpy()
    compare_scores(found, expected_scores(reranker), "the sequence classifier")
