"""What a recipe leaves out and a causal backbone wants otherwise than a masked one. Names and numbers only.

Measured on SmolLM2-135M-Instruct (docs/log.md): with LoRA, warmup learns the verdict at a learning rate of 1e-3 and not
at 2e-4; every weight learns it at 1e-4; and the entropy bonus, which a masked model needs in a cold start, holds the
verdict back.
"""

from __future__ import annotations

from typing import Any

from prorank.recipe.sections import Recipe
from prorank.types import Family

CAUSAL = {"entropy_bonus": 0.0}
CAUSAL_LORA = CAUSAL | {"learning_rate": 1e-3}


def for_family(recipe: Recipe, family: Family) -> Recipe:
    """The recipe with its warmup's open fields filled in for a backbone; what the recipe says stays.

    Args:
        recipe: as it was read.
        family: of its backbone.

    >>> lora = Recipe(name="a", backbone={"lora": {}}, warmup={"kl": 0.001})
    >>> found = for_family(lora, "causal").warmup
    >>> found.learning_rate, found.entropy_bonus, found.kl
    (0.001, 0.0, 0.001)
    >>> for_family(lora, "masked") == lora
    True
    """
    section = recipe.warmup
    if section is None or family != "causal":
        return recipe
    defaults = CAUSAL if recipe.backbone.lora is None else CAUSAL_LORA
    left_out = {key: value for key, value in defaults.items() if key not in section.model_fields_set}
    return recipe.model_copy(update={"warmup": section.model_copy(update=left_out)})


def as_said(recipe: Recipe) -> dict[str, Any]:
    """The recipe as a tree to make variants from: what `for_family` would fill in stays left out.

    >>> as_said(Recipe(name="a", warmup={"entropy_bonus": 0.1}))["warmup"].keys() & {"entropy_bonus", "learning_rate"}
    {'entropy_bonus'}
    """
    tree = recipe.model_dump(mode="json")
    if recipe.warmup is not None:
        for key in CAUSAL_LORA.keys() - recipe.warmup.model_fields_set:
            del tree["warmup"][key]
    return tree


def differences(before: Recipe, after: Recipe) -> str:
    """What `for_family` filled in, as overrides; empty where that is nothing.

    >>> recipe = Recipe(name="a")
    >>> differences(recipe, for_family(recipe, "causal"))
    'warmup.entropy_bonus=0.0'
    """
    if before.warmup is None or after.warmup is None:
        return ""
    old, new = before.warmup.model_dump(), after.warmup.model_dump()
    return " ".join(f"warmup.{key}={new[key]}" for key in new if new[key] != old[key])
