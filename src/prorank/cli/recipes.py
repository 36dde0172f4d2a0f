"""`prorank recipes`: the recipes that ship. Parses, calls, prints."""

from __future__ import annotations

from typing import Annotated

import typer

from prorank.cli.shared import AsJson, out, print_json, refuse

recipes = typer.Typer(help="List the recipes that ship, or show one.", invoke_without_command=True)


@recipes.callback()
def list_recipes(context: typer.Context, as_json: AsJson = False) -> None:
    """List the recipes that ship, a line each."""
    from prorank.recipe.loading import described_recipes

    if context.invoked_subcommand is not None:
        refuse(context, "only with the list", "as_json")
        return
    found = described_recipes()
    if as_json:
        print_json([{"name": name, "description": text} for name, text in found.items()])
        return
    width = max(map(len, found))
    for name, text in found.items():
        out.print(f"[bold]{name:<{width}}[/bold] {text}", highlight=False, soft_wrap=not out.is_terminal)
    out.print("\nprorank recipes show NAME prints one; prorank train NAME runs it", highlight=False)


@recipes.command()
def show(name: Annotated[str, typer.Argument(help="A shipped recipe's name.")]) -> None:
    """Print a shipped recipe's YAML."""
    from prorank.recipe.loading import shipped_recipes
    from prorank.util.errors import RecipeError

    shipped = shipped_recipes()
    if name not in shipped:
        raise RecipeError(f"no recipe '{name}' ships", hint=f"shipped: {', '.join(shipped)}")
    print(shipped[name].read_text(encoding="utf-8"), end="")
