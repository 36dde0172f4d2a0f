"""`prorank compare`: is one result better than another, or is it chance? Parses, calls, prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prorank.cli.shared import AsJson, print_json, refuse


def compare(
    context: typer.Context,
    results: Annotated[
        list[Path],
        typer.Argument(help="Folders of evaluations, per_query.tsv tables, or TREC runs; the first is the base."),
    ],
    collection: Annotated[str | None, typer.Option(help="Judgments, for TREC runs.")] = None,
    split: Annotated[str, typer.Option(help="Split of the judgments.")] = "test",
    metric: Annotated[str, typer.Option(help="As ir-measures writes it.")] = "nDCG@10",
    latex: Annotated[bool, typer.Option("--latex", help="Print a LaTeX table.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare results on the same queries with the first: intervals, paired tests, Holm's correction."""
    from prorank.data.collection import load_collection
    from prorank.evaluation.comparison import compared, comparison_latex, comparison_markdown, read_result
    from prorank.evaluation.metrics import metric_key
    from prorank.util.errors import InputError
    from prorank.util.files import distinct_names

    if len(results) < 2:
        raise InputError("give two results or more", hint="the others are compared with the first")
    if collection is None:
        refuse(context, "only with --collection", "split")
    if as_json:
        refuse(context, "not with --json", "latex")
    qrels = load_collection(collection).judgments(split) if collection is not None else None
    names = distinct_names(results)
    rows = compared({name: read_result(path, metric, qrels) for name, path in zip(names, results)}, metric_key(metric))
    if as_json:
        print_json(rows)
    else:
        print((comparison_latex if latex else comparison_markdown)(rows, metric_key(metric)))
