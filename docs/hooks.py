"""Tables of recipe fields for the documentation, made from the fields when the site is built."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from prorank.recipe.sections import Recipe

MARK = "<!-- recipe-fields -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for every page."""
    return markdown.replace(MARK, fields(Recipe)) if MARK in markdown else markdown


def fields(model: type[BaseModel], name: str = "") -> str:
    """A heading and a table for a section, then its own sections."""
    rows, inner = [], []
    for key, field in model.model_fields.items():
        section = _section(field.annotation)
        if section is not None:
            inner.append(fields(section, f"{name}.{key}".lstrip(".")))
        rows.append(f"| `{key}` | {_shown(field)} | {_bounds(field)} | {_told(field.description, section)} |")
    head = f"\n## `{name}`\n" if name else "\n## The recipe itself\n"
    text = " ".join((model.__doc__ or "").split())
    return "\n".join([head, text, "", "| field | default | limits | |", "| --- | --- | --- | --- |", *rows, "", *inner])


def _section(annotation: Any) -> type[BaseModel] | None:
    options = [annotation, *getattr(annotation, "__args__", ())]
    return next((one for one in options if isinstance(one, type) and issubclass(one, BaseModel)), None)


def _shown(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if field.is_required():
        return "required"
    return "a section" if isinstance(value, BaseModel) else f"`{'null' if value is None else value}`"


def _bounds(field: FieldInfo) -> str:
    names = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    found = [
        f"{sign} {getattr(item, key):g}" for item in field.metadata for key, sign in names.items() if hasattr(item, key)
    ]
    return ", ".join(found)


def _told(text: str | None, section: type[BaseModel] | None) -> str:
    own = " ".join((section.__doc__ or "").split()) if section is not None else ""
    return (text or own).replace("|", "\\|")
