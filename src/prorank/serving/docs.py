"""The OpenAPI document as a page to read: plain HTML, since the usual viewers load scripts from elsewhere."""

from __future__ import annotations

import json
from html import escape
from typing import Any

HEAD = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>prorank: API</title>'
    '<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark"></head><body>'
)


def type_name(schema: dict[str, Any]) -> str:
    """A schema's type in few words.

    >>> type_name({"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]})
    'array of string or null'
    """
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return " or ".join(map(type_name, schema[choice]))
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if schema.get("type") == "array":
        return f"array of {type_name(schema.get('items', {}))}"
    return str(schema.get("type", "any"))


def fields_table(schema: dict[str, Any]) -> str:
    """An object's fields as an HTML table."""
    required = schema.get("required", [])
    rows = [
        f"<tr><td><code>{escape(name)}</code>{' (required)' if name in required else ''}</td>"
        f"<td>{escape(type_name(field))}</td><td>{escape(field.get('description', ''))}</td></tr>"
        for name, field in schema.get("properties", {}).items()
    ]
    return f"<table><tr><th>field</th><th>type</th><th></th></tr>{''.join(rows)}</table>"


def body_tables(operation: dict[str, Any]) -> str:
    """What a route takes."""
    content = operation.get("requestBody", {}).get("content", {})
    schema = content.get("application/json", {}).get("schema", {})
    return "".join(map(fields_table, schema.get("anyOf", [schema] if schema else [])))


def answer_name(operation: dict[str, Any]) -> str:
    """What a route gives."""
    content = operation.get("responses", {}).get("200", {}).get("content", {})
    return type_name(content.get("application/json", {}).get("schema", {}))


def docs_page(document: dict[str, Any]) -> str:
    """A page about every route, its fields and its answer.

    Args:
        document: OpenAPI 3.
    """
    parts = [HEAD, f"<h1>prorank {escape(document['info']['version'])}</h1>"]
    parts.append(f"<p>{escape(document['info']['description'])} <a href='openapi.json'>openapi.json</a></p>")
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts.append(f"<h2><code>{method.upper()} {escape(path)}</code></h2>")
            parts.append(f"<p>{escape(operation.get('summary', ''))}</p>{body_tables(operation)}")
            parts.append(f"<p>Answer: {escape(answer_name(operation))}</p>")
    parts.append("<h2>Answers</h2>")
    for name, schema in document.get("components", {}).get("schemas", {}).items():
        parts.append(f"<h3 id='{escape(name)}'>{escape(name)}</h3><p>{escape(schema.get('description', ''))}</p>")
        parts.append(fields_table(schema))
    parts.append(f"<details><summary>OpenAPI</summary><pre>{escape(json.dumps(document, indent=1))}</pre></details>")
    return "".join([*parts, "</body></html>"])
