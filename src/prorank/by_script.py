"""Two models behind one face: English queries go to the small English model, all others to the multilingual one.

What decides is the script of the query, never that of the documents: a letter outside a to z calls for the
multilingual model. A German, Spanish or romanised query without such a letter is taken for English, and an English one
with a name like Zürich is not; whoever knows the language names the model. Nothing is chosen unless `Reranker("auto")`
asks for it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from prorank.engine.cascade import list_numbers
from prorank.engine.scorer import ScoredPairs
from prorank.engine.scores import probabilities
from prorank.model.cascade import Cascade
from prorank.prompts.truncation import Truncation, all_cuts
from prorank.reranker import Reranker
from prorank.shipped import AUTO, MINI, MULTILINGUAL, two_models
from prorank.util.errors import InputError
from prorank.util.inputs import Document, checked_pairs, finite, listed, naming, pair_texts, query_text


def beyond_english(query: str) -> bool:
    """Whether a query has a letter outside a to z, or a mark that changes one.

    >>> [beyond_english(query) for query in ("when do owls hunt?", "wann schläft sie", "梟", "wann jagt sie")]
    [False, True, True, False]
    """
    return any(unicodedata.category(letter)[0] in "LM" and not letter.isascii() for letter in query)


class ByScript(Reranker):
    """`prorank-mini` and `prorank-mini-multilingual`, one of them for each query; made by `Reranker("auto")`.

    Scores are the calibrated logits of either model, so that those of queries of different scripts can be compared;
    their sigmoid is the probability.

    Args:
        model: `auto`.
        options: of both models, see `Reranker.from_pretrained`.

    >>> reranker = Reranker("auto")
    >>> reranker.model_of("when do owls hunt"), reranker.model_of("何時")
    ('prorank-mini', 'prorank-mini-multilingual')
    """

    def __init__(self, model: str = AUTO, **options: Any) -> None:
        if model != AUTO:
            raise InputError(f"'{model}' is one model", hint=f"Reranker('{model}') loads it")
        self.models = {name: Reranker(name, **options) for name in (MINI, MULTILINGUAL)}

    def __getattr__(self, name: str) -> Any:
        if name in ("backend", "tokenizer", "settings", "passages", "cascade", "max_new_tokens"):
            raise two_models()
        raise AttributeError(name)

    def model_of(self, query: str) -> str:
        """Name of the model that reads this query."""
        return MULTILINGUAL if beyond_english(query_text(query)) else MINI

    def score_detailed(
        self, pairs: Iterable[tuple[str, Document]], progress: str | None = None, lists: Sequence[int] | None = None
    ) -> ScoredPairs:
        """Calibrated logits of pairs, see `Reranker.score_detailed`."""
        given = pair_texts(checked_pairs(pairs))
        numbers = list_numbers(given, lists)
        scores, cuts, malformed, read = np.zeros(len(given), dtype=np.float32), [Truncation(0, 0)], 0, 0
        for name, model in self.models.items():
            rows = [i for i, (query, _) in enumerate(given) if self.model_of(query) == name]
            own = [numbers[i] for i in rows]
            with naming(f"of the pairs that {name} reads"):  # a score's number counts these
                found = model.score_detailed([given[i] for i in rows], progress, own)
            scale = model.settings.calibration
            assert scale is not None, "both models ship with a calibration"
            scores[rows] = scale["slope"] * found.scores + scale["intercept"]
            cuts.append(found.truncation)
            malformed, read = malformed + found.malformed, read + found.read
        return ScoredPairs(scores, all_cuts(cuts), malformed, read)

    @property
    def whole_lists(self) -> bool:
        """Whether either model reads by a cascade."""
        return any(model.whole_lists for model in self.models.values())

    def warn(self, found: ScoredPairs) -> None:
        """Log a warning of what was cut to fit."""
        self.models[MULTILINGUAL].warn(found)  # both read pairs of one length

    def probability(self, scores: Iterable[float]) -> list[float]:
        """The sigmoid of scores, which are calibrated already."""
        found = finite(listed(scores, "scores", "a list of numbers"), "score", "")
        return [float(p) for p in probabilities(found.tolist(), {"slope": 1.0, "intercept": 0.0})]

    def reading(self, cascade: bool | Cascade | None) -> Reranker:
        """The same pair of models, reading lists in full (False), by a cascade, or as they do (None)."""
        if cascade is None:
            return self
        found: ByScript = object.__new__(ByScript)
        found.models = {name: model.reading(cascade) for name, model in self.models.items()}
        return found
