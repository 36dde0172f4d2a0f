"""Request bodies that mean harm: what a fuzzer sends to a rerank API. Knows bytes and JSON only."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

FIELDS = (
    "query",
    "documents",
    "texts",
    "text_1",
    "text_2",
    "queries",
    "top_n",
    "return_documents",
    "return_text",
    "rank_fields",
    "max_tokens_per_doc",
    "truncate",
    "truncate_prompt_tokens",
    "raw_scores",
    "instruction",
    "model",
)
STRANGE: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**63,
    -(10**40),
    1e308,
    0.5,
    "",
    " ",
    "\x00",
    "a\x00b",
    "\u202e\ufeff\u2028",
    "𝕆𝕨𝕝𝕤 🦉 \u0301\u0301",
    "[MASK] <|im_end|> {query}",
    "../../etc/passwd",
    [],
    {},
    [[]],
    [None],
    [""],
    [{"text": None}],
    [{"text": {"text": "a"}}],
    {"text": "a"},
)
BROKEN = (
    b"",
    b"\x00",
    b"\xff\xfe",
    b"{",
    b"[" * 5_000,
    b'{"query":' * 500,
    b'{"query": NaN, "documents": [Infinity]}',
    b'{"query": "\\ud83d", "documents": ["\\udc00"], "texts": ["\\ud83d"]}',
    b'{"query": "\xc3\x28", "documents": ["a"]}',
    b'{"query": "a", "documents": ["a"], "texts": ["a"], "top_n": 1e999}',
    b'{"query": "a", "query": 1, "documents": ["a"]}',
    b'{"query": "a", "texts": ["a"]} trailing',
    b'"query"',
    b"query=a&documents=b",
)


def _value(generator: random.Random) -> Any:
    """Something that a field may hold, sensible or not."""
    kind = generator.randrange(6)
    if kind == 0:
        return generator.choice(STRANGE)
    if kind == 1:
        return [generator.choice(STRANGE) for _ in range(generator.randrange(5))]
    if kind == 2:
        return "".join(
            chr(generator.choice((0x20, 0x61, 0x4E00, 0x1F989, 0x0))) for _ in range(generator.randrange(99))
        )
    if kind == 3:
        return [{"text": "red stone", "title": generator.choice(STRANGE)}, "blue"]
    return "red stone" if kind == 4 else ["red stone", "blue river"] * generator.randrange(1, 9)


def _fields(generator: random.Random, largest: int) -> bytes:
    """An object with some of the fields that rerank APIs have."""
    found = {"query": "red stone", "documents": ["red"], "texts": ["stone"], "text_1": "red", "text_2": ["stone"]}
    chosen = {name: _value(generator) for name in generator.sample(FIELDS, generator.randrange(1, 5))}
    return json.dumps(found | chosen).encode()


def _broken(generator: random.Random, largest: int) -> bytes:
    return generator.choice(BROKEN)


def _flipped(generator: random.Random, largest: int) -> bytes:
    """A good body in which some bytes are changed."""
    body = bytearray(_fields(generator, largest))
    for _ in range(generator.randrange(1, 5)):
        body[generator.randrange(len(body))] = generator.randrange(256)
    return bytes(body)


def _noise(generator: random.Random, largest: int) -> bytes:
    return generator.randbytes(generator.randrange(500))


def _many(generator: random.Random, largest: int) -> bytes:
    """More things than are allowed: items, nesting, characters or bytes."""
    return generator.choice(
        (
            lambda: json.dumps({"query": "a", "documents": [1] * 50_000, "texts": [{}] * 10}).encode(),
            lambda: b'{"query": "a", "texts": ["' + b"a" * 50_000 + b'"]}',
            lambda: b'{"query": "a", "documents": ' + b"[" * 150 + b"]" * 150 + b"}",
            lambda: b'{"query": "' + b"a" * (largest + 1) + b'"}',
            lambda: json.dumps(
                {"query": "a b", "documents": ["red " * 500] * 20, "text_1": "a", "text_2": "b"}
            ).encode(),
        )
    )()


KINDS: tuple[Callable[[random.Random, int], bytes], ...] = (_fields, _fields, _broken, _flipped, _noise, _many)


def hostile_body(generator: random.Random, largest: int) -> bytes:
    """A body to be refused, or to be answered: anything but a failure.

    Args:
        generator: decides which.
        largest: bytes that the server takes; some bodies are larger.
    """
    return generator.choice(KINDS)(generator, largest)
