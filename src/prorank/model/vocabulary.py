"""A smaller vocabulary for a multilingual model: only the pieces that some texts need, with their own vectors.

A Unigram tokenizer takes the likeliest way to cut a text into pieces. Where all pieces of that way are kept, it stays
the likeliest, so texts that the kept pieces cover get the same pieces and the model gives them the same states. Other
texts fall into smaller pieces, in the end single characters. Knows tokenizer files and weights; nothing of scores.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from prorank.util.errors import CheckpointError
from prorank.util.files import read_json, write_json

WEIGHTS, TOKENIZER, CONFIG = "model.safetensors", "tokenizer.json", "config.json"
BATCH = 1_000  # texts tokenised at once


class Cut(NamedTuple):
    """How many pieces there were and are, and which share of the texts' tokens is kept."""

    before: int
    after: int
    covered: float


def cut_vocabulary(
    source: str | Path,
    output: str | Path,
    texts: Iterable[Sequence[str]],
    coverage: float = 0.999,
    extra: int = 0,
) -> Cut:
    """Write a model folder with the vocabulary cut to what texts need.

    Kept are the special tokens; of each group of texts the commonest pieces that make up `coverage` of its tokens and
    every single character; and `extra` more pieces, the likeliest by the tokenizer's own scores among those whose
    characters all occur in the texts.

    Args:
        source: folder with a Unigram `tokenizer.json`, `config.json` and `model.safetensors` without output head.
        output: a new folder.
        texts: groups of texts, a language each, say: a small group counts as much as a large one.
        coverage: share of each group's tokens whose pieces are kept, 0..1.
        extra: pieces kept besides.

    Raises:
        CheckpointError: another kind of tokenizer, or weights that are not what is expected.
    """
    from tokenizers import Tokenizer

    source, output = Path(source), Path(output)
    described = read_json(source / TOKENIZER)
    vocabulary = unigram_pieces(described, source)
    tokenizer = Tokenizer.from_file(str(source / TOKENIZER))
    tokenizer.no_truncation()
    kept, counts, alphabet = set(special_ids(described)), Counter[int](), set[str]()
    for group in texts:
        own, characters = counted(tokenizer, group)
        kept.update(commonest(own, coverage))
        counts += own
        alphabet |= characters
    kept |= {i for i, (piece, _) in enumerate(vocabulary) if len(piece) == 1 and piece in alphabet}
    spare = (i for i, (piece, _) in enumerate(vocabulary) if i not in kept and alphabet.issuperset(piece))
    kept |= set(islice(sorted(spare, key=lambda i: -vocabulary[i][1]), extra))
    rows = sorted(kept)
    _write(source, output, described, rows)
    return Cut(len(vocabulary), len(rows), sum(counts[i] for i in rows) / max(1, counts.total()))


def unigram_pieces(described: dict[str, Any], source: Path) -> list[tuple[str, float]]:
    """(piece, log probability) by token id.

    Raises:
        CheckpointError: the tokenizer is of another kind.
    """
    model = described["model"]
    if model.get("type") != "Unigram":
        raise CheckpointError(
            f"{source / TOKENIZER}: a {model.get('type')} tokenizer; only a Unigram one can be cut without harm",
            hint="multilingual-e5 and XLM-R have one",
        )
    return [(piece, score) for piece, score in model["vocab"]]


def special_ids(described: dict[str, Any]) -> list[int]:
    """Ids of special tokens, and of the byte pieces that stand for unknown characters where a tokenizer has them."""
    model = described["model"]
    fallback = [i for i, (piece, _) in enumerate(model["vocab"]) if len(piece) == 6 and piece.startswith("<0x")]
    added = [token["id"] for token in described["added_tokens"] if token["id"] < len(model["vocab"])]
    return [*added, model["unk_id"], *(fallback if model.get("byte_fallback") else [])]


def counted(tokenizer: Any, texts: Sequence[str]) -> tuple[Counter[int], set[str]]:
    """How often each piece occurs in texts, and which characters the pieces are made of."""
    counts = Counter[int]()
    for start in range(0, len(texts), BATCH):
        for found in tokenizer.encode_batch(list(texts[start : start + BATCH]), add_special_tokens=False):
            counts.update(found.ids)
    return counts, {character for i in counts for character in tokenizer.id_to_token(i)}


def commonest(counts: Counter[int], coverage: float) -> list[int]:
    """The commonest ids that together make up at least a share of all occurrences.

    >>> commonest(Counter({7: 90, 8: 9, 9: 1}), 0.99)
    [7, 8]
    """
    wanted, found, kept = coverage * counts.total(), 0, []
    for i, count in counts.most_common():
        if found >= wanted:
            break
        found += count
        kept.append(i)
    return kept


def cut_tokenizer(described: dict[str, Any], rows: Sequence[int]) -> dict[str, Any]:
    """A tokenizer's description with the pieces `rows` alone, numbered anew in their order.

    Args:
        described: what `tokenizer.json` holds, of a Unigram tokenizer.
        rows: ids to keep, special tokens among them.
    """
    number = {row: new for new, row in enumerate(rows)}
    model = described["model"]
    model = model | {"unk_id": number[model["unk_id"]], "vocab": [model["vocab"][row] for row in rows]}
    added = [token | {"id": number[token["id"]]} for token in described["added_tokens"] if token["id"] in number]
    processor = described.get("post_processor")
    if processor and "special_tokens" in processor:
        special = {
            name: token | {"ids": [number[i] for i in token["ids"]]}
            for name, token in processor["special_tokens"].items()
        }
        processor = processor | {"special_tokens": special}
    return described | {"model": model, "added_tokens": added, "post_processor": processor}


def _write(source: Path, output: Path, described: dict[str, Any], rows: Sequence[int]) -> None:
    """The cut folder: tokenizer, configuration and weights."""
    config = read_json(source / CONFIG)
    weights = load_file(source / WEIGHTS)
    tables = [name for name, tensor in weights.items() if tensor.shape[:1] == (config["vocab_size"],)]
    if len(tables) != 1 or not tables[0].endswith("word_embeddings.weight"):
        raise CheckpointError(f"{source / WEIGHTS}: expected one table of word embeddings, found {tables}")
    with safe_open(source / WEIGHTS, framework="pt") as file:
        metadata = file.metadata()
    output.mkdir(parents=True)
    weights[tables[0]] = weights[tables[0]][list(rows)].contiguous()
    save_file(weights, output / WEIGHTS, metadata=metadata)
    number = {row: new for new, row in enumerate(rows)}
    ids = {name: number[value] for name, value in config.items() if name.endswith("_token_id") and value in number}
    write_json(output / CONFIG, config | ids | {"vocab_size": len(rows)})
    (output / TOKENIZER).write_text(json.dumps(cut_tokenizer(described, rows), ensure_ascii=False), encoding="utf-8")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (source / name).is_file():
            shutil.copyfile(source / name, output / name)
