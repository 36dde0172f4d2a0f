"""Recipes from YAML files, shipped names and overrides to checked sections, and back."""

from __future__ import annotations

import copy
import difflib
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from prorank.recipe.sections import ExperimentalSection, Recipe
from prorank.util.errors import DataError, RecipeError
from prorank.util.files import read_text, split_lines
from prorank.util.provenance import fingerprint, hardware, versions
from prorank.util.yaml_text import parse_yaml

RECIPES = Path(__file__).parent / "recipes"
MOVED = {f"warmup.{name}": f"warmup.experimental.{name}" for name in ExperimentalSection.model_fields}
RENAMED = {  # in every section that has the new name
    "samples": "num_generations",
    "warmup_share": "lr_warmup_ratio",
    "recomputes": "gradient_checkpointing",
    "rerank": "rerank_depth",
}
WANTED = "Input should be "  # how pydantic begins where a value is of another type or out of range
PLAIN = {
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid string": "a text",
    "a valid boolean": "true or false",
    "a valid tuple": "a list",
    "a valid list": "a list",
}


def shipped_recipes() -> dict[str, Path]:
    """Name -> file of the recipes inside the package.

    >>> "quickstart" in shipped_recipes()
    True
    """
    return {path.stem: path for path in sorted(RECIPES.glob("*.yaml"))}


def described_recipes() -> dict[str, str]:
    """Name -> first sentence of the comment at the head of each recipe inside the package.

    >>> described_recipes()["prorank-0.5b"]
    "ProRank's two stages at 0.5B: Qwen2.5-0.5B-Instruct with the published prompt."
    """
    found = {}
    for name, path in shipped_recipes().items():
        lines = itertools.takewhile(lambda line: line.startswith("#"), split_lines(read_text(path)))
        comment = " ".join(line.removeprefix("#").strip() for line in lines)
        found[name] = re.split(r"(?<=\.)\s", comment, maxsplit=1)[0]
    return found


def load_recipe(source: str | Path | dict[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe.

    Args:
        source: a shipped recipe's name, a YAML file or what such a file would hold.
        overrides: `key=value` with dotted keys, for instance `warmup.steps=50`; values are YAML.

    Raises:
        RecipeError: no such recipe, not YAML, an unknown key or a value out of range; says which.

    >>> load_recipe("quickstart", ["seed=7"]).seed
    7
    """
    tree, name = (copy.deepcopy(source), "recipe") if isinstance(source, dict) else _read(source)
    for override in overrides:
        _apply_override(tree, override)
    return validate_recipe(tree, name, overrides)


def _read(name_or_path: str | Path) -> tuple[dict[str, Any], str]:
    path = shipped_recipes().get(str(name_or_path), Path(name_or_path))
    if not path.is_file():
        raise RecipeError(
            f"no recipe '{name_or_path}'",
            hint=f"shipped: {', '.join(shipped_recipes())}; or give a YAML file",
        )
    try:
        tree = parse_yaml(read_text(path), str(path))
    except DataError as error:
        raise RecipeError(error.message, error.hint) from error
    if not isinstance(tree, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of sections")
    return tree, str(path)


def validate_recipe(tree: dict[str, Any], source: str = "recipe", overrides: Sequence[str] = ()) -> Recipe:
    """Check a recipe given as a nested mapping; `source`, or an override that put the value there, is named in errors.

    >>> validate_recipe({"name": "a", "sed": 1})
    Traceback (most recent call last):
    prorank.util.errors.RecipeError: recipe: unknown key 'sed' (did you mean 'seed'?)
    """
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        where = _place(first["loc"], first["type"] == "extra_forbidden")
        source = _culprit(where, source, overrides)
        if first["type"] == "extra_forbidden":
            raise RecipeError(f"{source}: unknown key '{where}'", hint=_meant(where)) from error
        here = [one["msg"] for one in error.errors() if _place(one["loc"], unknown=False) == where]
        value = first.get("input")
        got = "" if isinstance(value, (dict, BaseModel)) else f", got {value!r}"
        raise RecipeError(f"{source}: {where}{': ' if where else ''}{_plainly(here)}{got}") from error


def _meant(unknown: str) -> str:
    """A hint for an unknown key: its new name, or the key of the same section whose name is near.

    >>> _meant("warmup.stpes"), _meant("warmup.samples")
    ("did you mean 'warmup.steps'?", "it is 'warmup.num_generations' now")
    """
    if unknown in MOVED:
        return f"it is '{MOVED[unknown]}' now"
    section, dot, name = unknown.rpartition(".")
    names = [key.rpartition(".")[2] for key, _ in _known_keys(Recipe) if key.rpartition(".")[0] == section]
    if (new := RENAMED.get(name)) in names:
        return f"it is '{section}{dot}{new}' now"
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.7)
    return f"did you mean '{section}{dot}{near[0]}'?" if near else "see the shipped recipes for valid keys"


def _plainly(messages: Sequence[str]) -> str:
    """What is wrong with one value; `messages` are pydantic's, one for each type that the field takes.

    >>> _plainly(["Input should be a valid integer, unable to parse string as an integer", "Input should be 'exact'"])
    "must be a whole number, or 'exact'"
    """
    if not messages[0].startswith(WANTED):
        return messages[0].removeprefix("Value error, ")
    found = []
    for message in messages:
        if message.startswith(WANTED):
            wanted = re.split(", (?:unable|got) ", message.removeprefix(WANTED))[0]
            section = wanted.startswith("a valid dictionary")
            found.append("a section (a mapping)" if section else PLAIN.get(wanted, wanted))
    return f"must be {', or '.join(dict.fromkeys(found))}"


def _place(location: Sequence[str | int], unknown: bool) -> str:
    """The dotted key of an error; pydantic's names of a field's several types, which stand between, are left out.

    >>> _place(["evaluation", "hybrid_weight", "constrained-float"], unknown=False)
    'evaluation.hybrid_weight'
    """
    keys = {part for key, _ in _known_keys(Recipe) for part in key.split(".")}
    parts = [str(part) for part in location if part in keys or isinstance(part, int)]
    if unknown and location[-1] not in keys:
        parts.append(str(location[-1]))
    return ".".join(parts)


def _culprit(where: str, source: str, overrides: Sequence[str]) -> str:
    """What an error at a key is blamed on: the overrides at, above or below that key, else the recipe itself.

    >>> _culprit("warmup.steps", "a.yaml", ["seed=3", "warmup.steps=x"]), _culprit("name", "a.yaml", ["seed=3"])
    ("override 'warmup.steps=x'", 'a.yaml')
    """
    keys = {override: override.partition("=")[0] for override in overrides}
    inside, around = f"{where}.", f"{where}." if where else ""
    found = [o for o, key in keys.items() if inside.startswith(f"{key}.") or key.startswith(around)]
    if not found:
        return source
    return f"override{'s' if len(found) > 1 else ''} {', '.join(map(repr, found))}"


def _known_keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All dotted keys that a recipe may hold."""
    for name, info in model.model_fields.items():
        yield prefix + name, info
        for option in [info.annotation, *getattr(info.annotation, "__args__", ())]:
            if isinstance(option, type) and issubclass(option, BaseModel):
                yield from _known_keys(option, f"{prefix}{name}.")


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"'{override}' is not an override", hint="write key=value, e.g. warmup.steps=50")
    node = tree
    *parents, leaf = key.strip().split(".")
    for part in parents:
        if node.get(part) is None:
            node[part] = {}
        node = node[part]
        if not isinstance(node, dict):
            raise RecipeError(f"override '{override}': '{part}' is a value, not a section")
    try:
        # YAML 1.1 reads 1e-4 as text; a number is what is meant.
        parsed = parse_yaml(value, f"override '{override}'")
        node[leaf] = float(parsed) if isinstance(parsed, str) and _is_number(parsed) else parsed
    except DataError as error:
        raise RecipeError(f"override '{override}': the value is not valid YAML") from error


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.strip().lower() not in ("nan", "inf", "-inf", "infinity", "-infinity")


def made_from(recipe: Recipe) -> dict[str, Any]:
    """What is written beside a result that a recipe gave: the recipe, its fingerprint, machine and versions."""
    return {
        "recipe": recipe.model_dump(mode="json"),
        "recipe_fingerprint": fingerprint(dump_recipe(recipe)),
        "hardware": hardware(),
        "versions": versions(),
    }


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML, every default written out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
