"""Collections from the Hugging Face hub, as rows in BEIR layout. Knows the layouts that data sets use there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prorank.data.beir import Files, bundled
from prorank.util.errors import DataError, require

SPLIT_NAMES = {"validation": "dev", "valid": "dev", "val": "dev"}


def hub_files(name: str) -> Files:
    """Rows of a hub data set: configs `corpus` and `queries`, judgments in `default`/`qrels` or `NAME-qrels`.

    Judgments without a score (NanoBEIR) are of grade 1.
    """
    datasets = require("datasets", "train")

    def rows(config: str) -> Iterator[tuple[str, int, dict[str, Any]]]:
        table = datasets.load_dataset(name, config)  # at once, so that a failure is caught below
        return (
            (f"{name}/{config}", i, _with_id(row)) for split in table for i, row in enumerate(table[split], start=1)
        )

    def judged(source: str, config: str | None) -> dict[str, Iterator[tuple[str, int, list[str]]]]:
        table = datasets.load_dataset(source, config)
        return {
            SPLIT_NAMES.get(split, split): iter(
                [
                    (
                        f"{source}/{split}",
                        i,
                        [str(row["query-id"]), str(row["corpus-id"]), whole(row.get("score", 1))],
                    )
                    for i, row in enumerate(table[split], start=1)
                ]
            )
            for split in table
        }

    try:
        configs = datasets.get_dataset_config_names(name)
        inside = next((config for config in ("qrels", "default") if config in configs), None)
        qrels = judged(name, inside) if inside else judged(f"{name}-qrels", None)
        return Files(rows("corpus"), rows("queries"), qrels, {})
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"'{name}' is no folder and cannot be loaded from the hub: {(str(error) or repr(error)).splitlines()[0]}",
            hint=f"bundled collections: {', '.join(bundled())}",
        ) from error


def whole(score: Any) -> str:
    """A hub score as a qrels cell: 1.0 is "1", while 0.5 stays as it is and is refused later.

    >>> whole(1.0), whole(0.5)
    ('1', '0.5')
    """
    return str(int(score)) if isinstance(score, float) and score.is_integer() else str(score)


def _with_id(row: dict[str, Any]) -> dict[str, Any]:
    """Hub rows write the id as `_id` or `id`."""
    return row if "_id" in row else row | {"_id": row.get("id")}
