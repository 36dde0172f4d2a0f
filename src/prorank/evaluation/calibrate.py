"""How far a model's scores can be trusted as probabilities: calibrations fitted on dev, measured on test.

Expected calibration error and Brier score of each method, and a threshold for a wanted precision, all on reranked
first-stage lists at their own odds. Knows collections, first stages and the reranker's face.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from prorank.data.collection import Collection
from prorank.data.runs import Qrels, Run, top
from prorank.engine.scores import probabilities
from prorank.evaluation.calibration import (
    brier_score,
    calibration_error,
    fit_isotonic,
    fit_platt,
    fit_temperature,
    isotonic_probabilities,
    judged_scores,
    precision_threshold,
)
from prorank.evaluation.rerank import carved_sentence, rerank_collection, sampled_lists
from prorank.evaluation.streaming import Scorer
from prorank.evaluation.tables import markdown_lines
from prorank.util.errors import DataError

Numbers = Sequence[float] | np.ndarray
SAMPLES = 1_000  # of the bootstrap over queries
Pairs = tuple[Numbers, Numbers]  # scores, labels


class Interval(NamedTuple):
    """A number and its 95 % interval over other queries."""

    value: float
    low: float
    high: float


def _by(slope: float, intercept: float) -> Callable[[Sequence[float]], np.ndarray]:
    return lambda scores: probabilities(scores, {"slope": slope, "intercept": intercept})


def methods(scores: Sequence[float], labels: Sequence[int]) -> dict[str, Callable[[Sequence[float]], np.ndarray]]:
    """Each calibration as a function from scores to probabilities, fitted on these; `none` is the score's sigmoid.

    Raises:
        DataError: one class only, or scores that do not rise with relevance.
    """
    knots = fit_isotonic(scores, labels)
    return {
        "none": _by(1.0, 0.0),
        "temperature": _by(**fit_temperature(scores, labels)),
        "platt": _by(**fit_platt(scores, labels)),
        "isotonic": lambda others: isotonic_probabilities(others, knots),
    }


def calibrate_model(
    scorer: Scorer,
    collection: Collection,
    *,
    depth: int = 20,
    wanted: float | None = None,
    max_queries: int | None = None,
    seed: int = 13,
) -> dict[str, Any]:
    """Fit calibrations on a collection's dev lists and measure them on its test lists.

    What is not judged counts as not relevant.

    Args:
        scorer: the model.
        collection: with dev and test, as `load_with_splits` makes them.
        depth: first-stage documents that are reranked, and all that is looked at.
        wanted: precision that the threshold is to give, 0..1; None makes none.
        max_queries: a seeded sample of dev's and of test's queries.
        seed: of samples.

    Returns:
        `methods` (a row each with `ece` and `brier`), `threshold` (or None), and what it was measured on.

    Raises:
        DataError: a split without relevant documents in its lists, or scores that do not rise with relevance.
    """
    qrels, runs = {}, {}
    for split in ("dev", "test"):
        qrels[split], lists = sampled_lists(collection, split, depth, max_queries, seed)
        runs[split] = top(rerank_collection(scorer, collection, lists, depth, f"rerank {split}"), depth)
    dev, test = (judged_scores(runs[split], qrels[split]) for split in ("dev", "test"))
    for split, (_, labels) in (("dev", dev), ("test", test)):
        if not 0 < sum(labels) < len(labels):
            raise DataError(
                f"{collection.name}: the lists of {split} hold {sum(labels)} relevant documents of {len(labels)}",
                hint="calibration needs relevant and irrelevant ones; raise --depth, or judge more",
            )
    rows = []
    try:
        fitted = methods(*dev)
    except DataError as error:
        raise DataError(f"{collection.name}: {error}") from error
    for name, predict in fitted.items():
        predicted = predict(test[0]).tolist()
        ece, brier = calibration_error(predicted, test[1]), brier_score(predicted, test[1])
        rows.append({"method": name, "ece": ece, "brier": brier})
    found: dict[str, Any] = {"collection": collection.name, "depth": depth, "methods": rows}
    found |= {"dev_queries": len(qrels["dev"]), "test_queries": len(qrels["test"])}
    found |= {"relevant_share": float(np.mean(test[1])), "carved": carved_sentence(collection.carved)}
    return found | {"threshold": None if wanted is None else threshold(runs, qrels, wanted, seed)}


def threshold(runs: dict[str, Run], qrels: dict[str, Qrels], wanted: float, seed: int) -> dict[str, Any]:
    """The threshold of dev for a precision, its interval over other dev queries, and what it gives on test.

    `score` is None where no threshold gives the precision on dev.
    """
    own = precision_threshold(*judged_scores(runs["dev"], qrels["dev"]), wanted)
    if own is None:
        return {"wanted": wanted, "score": None}
    drawn = [
        found
        for pairs in resampled(runs["dev"], qrels["dev"], seed)
        if (found := precision_threshold(*pairs, wanted)) is not None
    ]
    low, high = np.quantile(drawn, [0.025, 0.975]) if drawn else (own, own)
    shares = [shares_above(pairs, own) for pairs in resampled(runs["test"], qrels["test"], seed)]
    precision, recall = shares_above(judged_scores(runs["test"], qrels["test"]), own)
    return {
        "wanted": wanted,
        "score": Interval(own, float(low), float(high))._asdict(),
        "precision": _interval(precision, [share[0] for share in shares]),
        "recall": _interval(recall, [share[1] for share in shares]),
    }


def resampled(run: Run, qrels: Qrels, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Scores and labels of queries drawn with replacement, again and again; one drawing in memory at a time."""
    queries = [judged_scores(run, {query: judged}) for query, judged in qrels.items()]
    scores, labels = (
        [np.array(own[0], dtype=float) for own in queries],
        [np.array(own[1], dtype=int) for own in queries],
    )
    for draw in np.random.default_rng(seed).integers(len(queries), size=(SAMPLES, len(queries))):
        yield np.concatenate([scores[i] for i in draw]), np.concatenate([labels[i] for i in draw])


def shares_above(pairs: Pairs, bound: float) -> tuple[float | None, float | None]:
    """Precision and recall of what scores at least `bound`; None where nothing could be counted.

    >>> shares_above(([2.0, 1.0, 0.0], [1, 0, 1]), 1.0)
    (0.5, 0.5)
    """
    labels = np.asarray(pairs[1])
    passed = np.asarray(pairs[0]) >= bound
    hits = int(labels[passed].sum())
    return hits / int(passed.sum()) if passed.any() else None, hits / int(labels.sum()) if labels.any() else None


def _interval(value: float | None, drawn: Sequence[float | None]) -> dict[str, float] | None:
    numbers = [one for one in drawn if one is not None]
    if value is None or not numbers:
        return None
    low, high = np.quantile(numbers, [0.025, 0.975])
    return Interval(value, float(low), float(high))._asdict()


def calibration_markdown(found: Sequence[dict[str, Any]]) -> str:
    """A table over collections, and a sentence on each threshold."""
    lines = [
        [one["collection"], row["method"], f"{row['ece']:.4f}", f"{row['brier']:.4f}"]
        for one in found
        for row in one["methods"]
    ]
    text = markdown_lines(["collection", "calibration", "ECE on test", "Brier on test"], lines, left=2)
    notes = [f"{one['collection']}: {one['carved']}." for one in found if one["carved"]]
    return "\n\n".join([text, *(threshold_sentence(one) for one in found if one["threshold"] is not None), *notes])


def threshold_sentence(found: dict[str, Any]) -> str:
    """What a wanted precision takes, and what it gives on test."""
    wanted, name = found["threshold"]["wanted"], found["collection"]
    if found["threshold"]["score"] is None:
        return f"{name}: no score gives a precision of {wanted} on dev."

    def cell(key: str) -> str:
        part = found["threshold"][key]
        return "none" if part is None else f"{part['value']:.3f} [{part['low']:.3f}, {part['high']:.3f}]"

    return (
        f"{name}: for a precision of {wanted} a score of {cell('score')}; on test precision {cell('precision')}, "
        f"recall {cell('recall')} of the relevant documents listed."
    )
