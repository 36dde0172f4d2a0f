"""`prorank compare`: is one result better than another, or is it chance? Parses, calls, prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from prorank.cli.shared import AsJson, Force, err, print_json, refuse, written


def compare(
    context: typer.Context,
    results: Annotated[
        list[Path],
        typer.Argument(help="Folders of evaluations, per_query.tsv tables, or TREC runs; the first is the base."),
    ],
    collection: Annotated[str | None, typer.Option(help="Judgments, for TREC runs.")] = None,
    split: Annotated[str, typer.Option(help="Split of the judgments.")] = "test",
    seed: Annotated[int, typer.Option(help="Seed of splits that are made.")] = 13,
    metric: Annotated[str, typer.Option(help="As ir-measures writes it.")] = "nDCG@10",
    latex: Annotated[bool, typer.Option("--latex", help="Print a LaTeX table.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page with plots and the queries that change.")] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Compare results on the same queries with the first: intervals, paired tests, Holm's correction."""
    from prorank.data.splits import load_with_split
    from prorank.evaluation.comparison import compared, comparison_latex, comparison_markdown, read_results, run_of
    from prorank.evaluation.html_report import write_page
    from prorank.evaluation.metrics import metric_key
    from prorank.evaluation.rerank import carved_sentence, few_queries
    from prorank.util.errors import InputError
    from prorank.util.files import distinct_names, refuse_file_overwrite

    if len(results) < 2:
        raise InputError("give two results or more", hint="the others are compared with the first")
    if collection is None:
        refuse(context, "only with --collection", "split", "seed")
    if as_json:
        refuse(context, "not with --json", "latex")
    if html is None:
        refuse(context, "only with --html", "force")
    elif collection is None:
        raise InputError("--html shows texts", hint="add --collection (and --split)")
    else:
        refuse_file_overwrite(html, force)
    loaded = load_with_split(collection, split, seed=seed) if collection is not None else None
    found = dict(zip(distinct_names(results), read_results(results, metric, loaded, split)))
    rows = compared(found, metric_key(metric))
    for note in filter(None, (few_queries(rows[0]["queries"]), carved_sentence(loaded.carved) if loaded else "")):
        err.print(f"[yellow]{escape(note)}[/yellow]", soft_wrap=True, highlight=False)
    if html is not None and loaded is not None:
        runs = {name: (one, run_of(path)) for (name, one), path in zip(found.items(), results)}
        write_page(html, rows, runs, loaded, split, metric)
        written(html)
    if as_json:
        print_json(rows)
    else:
        print((comparison_latex if latex else comparison_markdown)(rows, metric_key(metric)))
