"""What a run's results depend on: its recipe, the parts of its collections, and the files of the models it starts from.

A recipe's open fields are filled in here (`settled`), since that takes a look at the backbone's configuration.

Knows recipes, collections and where models lie; loads no model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prorank.data.collection import Collection, documents_fingerprint, load_collection
from prorank.model.checkpoint import read_settings
from prorank.model.loading import OFFLINE, family_of, resolve_source
from prorank.recipe.families import for_family
from prorank.recipe.sections import Recipe
from prorank.shipped import FOLDERS
from prorank.util.provenance import fingerprint
from prorank.util.sources import expanded
from prorank.util.study import Inputs, file_fingerprint, flat, model_fingerprint


def settled(recipe: Recipe, trust_remote_code: bool = False) -> Recipe:
    """The recipe with what it leaves out filled in for its backbone's family (`recipe.families`).

    Raises:
        CheckpointError: the backbone cannot be found, or is of no known family.
    """
    section = recipe.backbone
    if recipe.warmup is None:
        return recipe
    saved = None if section.family else read_settings(resolve_source(section.model))
    known = section.family or (saved.family if saved else None)
    return for_family(recipe, known or family_of(section.model, trust_remote_code))


def load_collections(recipe: Recipe) -> list[Collection]:
    """The recipe's collection, or its union's, as they are on the disk."""
    data = recipe.data
    paths = [str(Path(data.folder) / part.collection) for part in data.union] or [data.collection]
    return [load_collection(path, strict=data.strict) for path in paths]


def collection_files(collection: Collection) -> dict[str, str]:
    """Fingerprint of what each of a collection's files holds, the same for plain and gzipped ones.

    >>> from prorank.data.collection import load_collection
    >>> sorted(collection_files(load_collection("cosqa")))
    ['corpus.jsonl', 'qrels/test.tsv', 'qrels/train.tsv', 'queries.jsonl']
    """

    def of(value: Any) -> str:
        return fingerprint(json.dumps(value, ensure_ascii=False))

    found = {"corpus.jsonl": documents_fingerprint(collection.documents), "queries.jsonl": of(collection.queries)}
    for kind, splits in (("qrels", collection.qrels), ("candidates", collection.candidates)):
        found |= {f"{kind}/{split}.tsv": of(rows) for split, rows in splits.items()}
    return found | ({"excluded.tsv": of(collection.excluded)} if collection.excluded else {})


def data_files(collections: Sequence[Collection]) -> dict[str, str]:
    """`collection_files` of one collection, or of several with the collection's name in front."""
    if len(collections) == 1:
        return collection_files(collections[0])
    return {f"{one.name}/{name}": value for one in collections for name, value in collection_files(one).items()}


def model_files_fingerprint(model: str) -> str | None:
    """Fingerprint of a model that lies on this machine; None for a name of the hub, which is not asked here."""
    return model_fingerprint(resolve_source(model) if model in (*FOLDERS, *OFFLINE) else expanded(model))


def model_files(models: Mapping[str, str | None]) -> dict[str, str]:
    """Fingerprints of models that lie in folders or files here; names of the hub have none.

    Args:
        models: what the model is used for -> its name or folder.
    """
    found = {}
    for use, model in models.items():
        value = None if model is None else model_files_fingerprint(model)
        if value is not None:
            found[f"{use} ({model})"] = value
    return found


def used_models(recipe: Recipe) -> dict[str, str | None]:
    """Recipe field -> the model that it names, for every model that a run loads."""
    backbone, score, grades = recipe.backbone, recipe.score_learning, recipe.grades
    models: dict[str, str | None] = {"backbone.model": backbone.model}
    if recipe.first_stage.method == "dense":
        models["first_stage.dense_model"] = recipe.first_stage.dense_model
    if score is not None and score.teacher is not None:
        several = len(score.teacher.models) > 1
        for number, model in enumerate(score.teacher.models):
            models["score_learning.teacher.model" + f".{number}" * several] = model
        models["score_learning.teacher.reranker"] = score.teacher.reranker
    for stage in ("score_learning", "sft", "listwise"):
        section = getattr(recipe, stage)
        others = [] if section is None else [name for name in section.average_with if name != "start"]
        models |= {f"{stage}.average_with.{number}": other for number, other in enumerate(others)}
    graded = recipe.sft is not None or recipe.listwise is not None
    kind, _, grader = grades.teacher.partition(":")
    if graded and grades.file is None and kind in ("scorer", "local"):
        models["grades.teacher"] = grader
    return models


def used_paths(recipe: Recipe) -> dict[str, Path]:
    """Recipe field -> the folder or file on this machine that it names, for all that a run's stages read."""
    score = recipe.score_learning
    named = used_models(recipe) | {"grades.file": recipe.grades.file, "backbone.prompt": recipe.backbone.prompt}
    named |= {"score_learning.mined": score.mined if score is not None else None}
    paths = {use: expanded(name) for use, name in named.items() if name is not None}
    return {use: path for use, path in paths.items() if path.exists()}


def used_files(recipe: Recipe) -> dict[str, str]:
    """Fingerprints of the models and files that a recipe's stages read."""
    backbone, score, grades = recipe.backbone, recipe.score_learning, recipe.grades
    graded = recipe.sft is not None or recipe.listwise is not None
    found = model_files(used_models(recipe))
    if graded and grades.file is not None:
        found[f"grades.file ({grades.file})"] = file_fingerprint(grades.file)
    if score is not None and score.mined is not None:
        found[f"score_learning.mined ({score.mined})"] = file_fingerprint(score.mined)
    if backbone.prompt is not None and Path(backbone.prompt).is_file():
        found[f"backbone.prompt ({backbone.prompt})"] = file_fingerprint(backbone.prompt)
    return found


def run_inputs(recipe: Recipe, collections: Sequence[Collection]) -> Inputs:
    """What everything in a run's folder is made from.

    Args:
        recipe: resolved.
        collections: its own, see `load_collections`.
    """
    return Inputs(flat(recipe.model_dump(mode="json")), data_files(collections) | used_files(recipe))
