"""The folder of a run: what it may hold, when it may be taken, and how it is started over.

Knows the names of a run's files; nothing of how they are made.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from prorank.evaluation.metrics import EVALUATION_FILES
from prorank.model.saved_files import SAVED_FILES
from prorank.pipeline.stages import STAGES
from prorank.recipe.loading import dump_recipe
from prorank.recipe.sections import Recipe
from prorank.training.inputs import load_collections, run_inputs, used_paths
from prorank.util.errors import ProrankError
from prorank.util.files import atomic_writer, refuse_no_folder
from prorank.util.live import LOCK
from prorank.util.own_files import PARTS, below, refuse_foreign
from prorank.util.study import RECIPE, RECORD, Inputs, Study

CHECKPOINT = "checkpoint"  # the final model
CHECKPOINT_PART = f".{CHECKPOINT}.part"
_EVALUATION = (*EVALUATION_FILES, "row.json", *PARTS)
_STAGE = (
    *("training/**", "curves.png*", "metrics.json", "done.json", "dev.run", "reference.run", "teacher*.run*", *PARTS),
    *below("model", SAVED_FILES),
    *below("test", _EVALUATION),
)
RUN_FILES = (
    *(RECORD, LOCK, RECIPE, "first_stage.run", "results.json", "stages.png*"),
    *("grades.jsonl", "grades.cache.jsonl", "run.json", "training/**", "variance/**", *PARTS),  # the last of benchmarks
    *(pattern for name in ("zero-shot", "warmup", *(one.name for one in STAGES)) for pattern in below(name, _STAGE)),
    *below("hybrid", _EVALUATION),
    *below(CHECKPOINT, SAVED_FILES),
    *below(CHECKPOINT_PART, SAVED_FILES),
)


def contents(folder: Path) -> set[str]:
    """Names of what a folder holds, this process's lock left out."""
    return {path.name for path in folder.iterdir()} - {LOCK} if folder.is_dir() else set()


def refuse_taken(folder: Path, force: bool, resume: bool) -> None:
    """Refuse a folder that holds something else, or a run when neither `force` nor `resume` is given.

    Raises:
        ProrankError: what it holds, and what can be done.
    """
    refuse_no_folder(folder)
    found = contents(folder)
    a_run = Study(folder).begun()
    if a_run and not force and not resume:
        raise ProrankError(f"{folder} holds a run", hint="--resume continues it, --force starts over")
    if found and not a_run:
        hint = "--force deletes only runs of prorank" if force else "choose another output"
        raise ProrankError(f"{folder} is not empty and not a run's folder", hint=hint)
    if force and not resume:
        refuse_foreign(folder, RUN_FILES, "a run")


def prepare_folder(recipe: Recipe, folder: Path, force: bool, resume: bool, inputs: Inputs | None = None) -> None:
    """Make the run's folder with the resolved recipe and what it starts from; refuse to mix two runs.

    Args:
        recipe: resolved.
        folder: of the run.
        force: delete what a run left there; together with `resume` only one of another recipe, data or models.
        resume: continue a run of the same recipe, data and models.
        inputs: what the run is made from; None reads the recipe's data to find out.

    Raises:
        ProrankError: the folder is taken, or holds a run of something else; the difference is named.
    """
    refuse_taken(folder, force, resume)
    inputs = run_inputs(recipe, load_collections(recipe)) if inputs is None else inputs
    study, text, saved = Study(folder), dump_recipe(recipe), folder / RECIPE
    if contents(folder):
        if resume and not (force and study.differences(inputs)):
            study.check(inputs)
            if saved.is_file() and saved.read_text(encoding="utf-8") != text:
                raise ProrankError(f"{saved} changed since the run was begun", hint="--force starts over")
        else:
            clear(folder, recipe)
    if not study.file.is_file():
        study.begin(inputs)
    if not saved.is_file():
        with atomic_writer(saved) as file:
            file.write(text)


def clear(folder: Path, recipe: Recipe) -> None:
    """Delete what a run left in its folder, the record that it is a run last; its lock stays.

    Args:
        folder: of the run.
        recipe: of the run that will be made there.

    Raises:
        ProrankError: the folder holds files that no run makes, or a model or file that the recipe starts from.
    """
    refuse_foreign(folder, RUN_FILES, "a run")
    for use, path in used_paths(recipe).items():
        refuse_inside(path, folder, f"the recipe's {use}")
    Study(folder).begin(Inputs({}, {}))  # what a kill leaves from here on is resumed by no recipe
    for name in sorted(contents(folder), key=lambda name: name == RECORD):
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def refuse_inside(path: str | Path, folder: Path, what: str) -> None:
    """Refuse to delete a folder in which something lies that is needed.

    Args:
        path: where that lies.
        folder: that would be deleted.
        what: it is, for the error.

    Raises:
        ProrankError: it lies there.
    """
    inside = Path(path).resolve()
    if folder.resolve() in (inside, *inside.parents):
        raise ProrankError(
            f"{what} lies in {folder}, which --force would delete: {path}", hint="move it, or choose another output"
        )
