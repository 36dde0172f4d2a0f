"""What a recipe names besides its collections, looked at before any work is done: models, a prompt, a file of grades.

Knows names and files; loads no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prorank.data.collection import Collection
from prorank.data.union import merge, with_prefixed_ids
from prorank.erank.synthesis import read_graded
from prorank.first_stage.dense import biencoder_source
from prorank.model.loading import resolve_source
from prorank.prompts.builtin import load_prompt
from prorank.recipe.sections import Recipe
from prorank.training.inputs import used_models
from prorank.util.errors import CheckpointError, DataError, PromptError

BIENCODERS = ("first_stage.dense_model", "score_learning.teacher.model")


def check_named(recipe: Recipe, collections: Sequence[Collection]) -> None:
    """Refuse a recipe that names a model, a prompt or a file of grades that a later stage could not use.

    Args:
        recipe: resolved.
        collections: its own, with splits.

    Raises:
        CheckpointError: no such model; with the recipe's field.
        PromptError: no such prompt, or a malformed file of one.
        DataError: a malformed file of grades, or one without a training query.
    """
    for field, model in used_models(recipe).items():
        if model is not None:
            try:
                biencoder_source(model) if field.startswith(BIENCODERS) else resolve_source(model)
            except CheckpointError as error:
                raise CheckpointError(f"{field}: {error.message}", hint=error.hint) from error
    if recipe.backbone.prompt is not None:
        try:
            load_prompt(recipe.backbone.prompt)
        except PromptError as error:
            raise PromptError(f"backbone.prompt: {error.message}", hint=error.hint) from error
    file = recipe.grades.file
    if file is not None and (recipe.sft is not None or recipe.listwise is not None):
        parts = [with_prefixed_ids(one) for one in collections] if recipe.data.union else collections
        lists = read_graded(Path(file), merge(parts) if len(parts) > 1 else parts[0])
        split = recipe.data.train
        if not any(query in part.judgments(split) for part in parts for query in lists):
            raise DataError(f"{file}: none of its {len(lists)} graded queries is in split '{split}'")
