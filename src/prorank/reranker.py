"""Reranker: the public face. Load a checkpoint, score pairs, rank documents, save.

A checkpoint is a folder with Hugging Face weights and tokenizer, `prorank.json` (everything that turns a pair
into a score) and a model card. This module knows nothing of training or evaluation.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from prorank.engine.backend import ScorerBackend
from prorank.engine.cascade import cascade_of, check_cascade, narrowed
from prorank.engine.load import LoadOptions, RerankerOptions, known_options, load_parts
from prorank.engine.passages import aggregate, excerpts_beside, passages_beside
from prorank.engine.reasoning import MAX_NEW_TOKENS, reason
from prorank.engine.scorer import ScoredPairs, answer_logits, log_flaws, query_numbers
from prorank.engine.scores import SCORES, probabilities
from prorank.model.backbone import Backbone
from prorank.model.cascade import Cascade
from prorank.model.checkpoint import CheckpointSettings, save_checkpoint
from prorank.model.loading import resolve_source
from prorank.prompts.cross_encoder import CrossEncoderTokenizer
from prorank.prompts.tokenization import PairTokenizer
from prorank.shipped import AUTO, MINI
from prorank.types import Passages, ScoreKind
from prorank.util.errors import CheckpointError, InputError, InputTypeError
from prorank.util.inputs import (
    Document,
    RankedDocument,
    checked_pairs,
    document_texts,
    finite,
    listed,
    of_type,
    one_of,
    pair_texts,
    query_text,
    share,
    whole_numbers,
)
from prorank.util.provenance import fingerprint
from prorank.util.study import model_fingerprint
from prorank.util.version import VERSION

if TYPE_CHECKING:
    from typing_extensions import Unpack

NOT_FINITE = "a weight is damaged, or the precision does not suffice: copy the checkpoint again, or use precision fp32"


class Reranker:
    """Scores and ranks documents for a query.

    Loads a prorank checkpoint, a published reranker, or any causal or masked language model (zero-shot). Published
    rerankers are known by name: mxbai-rerank-base-v2 and -large-v2, Qwen3-Reranker. A cross-encoder with a
    classification head (sentence-transformers') loads too, for comparison.

    Args:
        model: a name or folder, as for `from_pretrained`; or a backbone in memory, with the next two.
        tokenizer, settings: of a backbone in memory.
        passages: score a document that does not fit by its passages and take their `max` or `mean`, or the
            `first`; or by an `excerpt`, its beginning and where the query's words stand. None cuts the document.
        cascade: read most documents in part and the best in full (`prorank.engine.cascade`): True as the checkpoint
            says, or a `Cascade`. False reads all in full.
        max_new_tokens: of reasoning, for prompts that think before they answer.
        options: of loading, see `from_pretrained`.

    Attributes:
        backend: reads the pairs: a language model, a classifier or an exported graph (`prorank.engine.backend`).
        tokenizer: turns pairs into token ids.
        settings: what `prorank.json` records.
        passages: how over-long documents are read.
        cascade: how lists are read, or None.

    Raises:
        CheckpointError, PromptError: what does not fit, and how to mend it.

    >>> reranker = Reranker()
    >>> documents = ["The moon is far.", "Owls hunt mice at night."]
    >>> [result["corpus_id"] for result in reranker.rank("when do owls hunt", documents)]
    [1, 0]
    """

    def __new__(cls, model: str | Path | ScorerBackend = MINI, *_: Any, **__: Any) -> Reranker:
        """A reranker; for the name `auto` one that chooses by the query's script, see `prorank.by_script`."""
        from prorank.by_script import ByScript

        return super().__new__(ByScript if cls is Reranker and model == AUTO else cls)

    def __init__(
        self,
        model: str | Path | ScorerBackend = MINI,
        tokenizer: PairTokenizer | CrossEncoderTokenizer | None = None,
        settings: CheckpointSettings | None = None,
        *,
        passages: Passages | None = None,
        cascade: bool | Cascade = False,
        max_new_tokens: int = MAX_NEW_TOKENS,
        **options: Unpack[LoadOptions],
    ) -> None:
        known_options(options)
        whole_numbers(max_new_tokens=max_new_tokens)
        of_type((PairTokenizer, CrossEncoderTokenizer), "a PairTokenizer or CrossEncoderTokenizer", tokenizer=tokenizer)
        of_type(CheckpointSettings, "CheckpointSettings", settings=settings)
        one_of("passages", passages, Passages)
        check_cascade(cascade)
        if passages is not None and cascade:
            raise InputError("passages and a cascade", hint="give one of them: a cascade reads excerpts of documents")
        if not isinstance(model, (str, Path)) and not hasattr(model, "read"):
            raise InputTypeError(f"a model is a name or a folder, got {model!r}")
        if isinstance(model, (str, Path)):
            if tokenizer is not None or settings is not None:
                raise InputError("a model's name brings its own tokenizer and settings", hint="leave them out")
            model, tokenizer, settings = load_parts(model, **options)
        elif tokenizer is None or settings is None or options:
            raise InputError(
                "a backbone goes with its tokenizer and settings, and with no options of loading",
                hint="Reranker(backbone, tokenizer, settings), or Reranker.from_pretrained(name, ...)",
            )
        self.backend, self.tokenizer, self.passages = model, tokenizer, passages
        self.max_new_tokens = max_new_tokens
        self.settings = settings.model_copy(
            update={"answer_ids": [t if len(t) > 1 else t[0] for t in tokenizer.answer_tokens]}
        )
        self.cascade = cascade_of(self.settings, cascade)

    @classmethod
    def from_pretrained(cls, path_or_name: str | Path = MINI, **options: Unpack[RerankerOptions]) -> Reranker:
        """Load a reranker by name or from a folder.

        Args:
            path_or_name: as for `prorank.engine.load.load_parts`; or `auto`, which takes prorank-mini or
                prorank-mini-multilingual for each query (`prorank.by_script`).
            options: `passages`, `cascade`, `max_new_tokens`, and those of `prorank.engine.load.load_parts`: `prompt`,
                `max_length`, `instruction`, `score`, `family`, `device`, `precision`, `token_budget`, `compile_layers`,
                `for_training`, `trust_remote_code`.

        Raises:
            CheckpointError, PromptError: what does not fit, and how to mend it.
        """
        return cls(path_or_name, **options)

    def score_detailed(
        self, pairs: Iterable[tuple[str, Document]], progress: str | None = None, lists: Sequence[int] | None = None
    ) -> ScoredPairs:
        """Scores of pairs together with what was cut to fit; no warning is logged (see `warn`).

        Args:
            pairs: (query, document); a document is a string or a mapping with `text` and maybe `title`.
            progress: text of a progress bar, or None.
            lists: number of each pair's list, which a cascade goes by; None takes pairs of equal queries for one.

        Raises:
            InputTypeError: not pairs, or a query or document of another type.
            InputError: an empty query, a score that is not finite (with the pair's number), or too few `lists`.
        """
        texts = pair_texts(checked_pairs(pairs))
        if self.cascade is not None:
            return narrowed(self.cascade, self.tokenizer.plain, texts, partial(self._scored, progress=progress), lists)
        count = len(texts)
        owners = list(range(count))
        if self.passages == "excerpt":
            return self._scored(excerpts_beside(self.tokenizer, texts), owners, progress)
        if self.passages is not None:
            wanted = 1 if self.passages == "first" else None
            pieces = [passages_beside(self.tokenizer, query, document, wanted) for query, document in texts]
            owners = [i for i, own in enumerate(pieces) for _ in own]
            texts = [(texts[i][0], passage) for i, own in enumerate(pieces) for passage in own]
        result = self._scored(texts, owners, progress)
        if self.passages is None:
            return result
        return result._replace(scores=aggregate(result.scores, owners, count, self.passages))

    @property
    def whole_lists(self) -> bool:
        """Whether a document's score depends on the others of its list: a cascade reads on with the best."""
        return self.cascade is not None

    def _scored(self, texts: Sequence[tuple[str, str]], owners: Sequence[int], progress: str | None) -> ScoredPairs:
        """Scores of texts as they are; `owners` are the places that an error of a bad score names."""
        sequences, truncation = self.tokenizer.encode(texts)
        scores, malformed = self._any_scores(sequences, self.settings.score, query_numbers(texts), progress)
        finite(scores.numpy(), "score", NOT_FINITE, owners)
        return ScoredPairs(scores.numpy(), truncation, malformed, len(texts))

    def warn(self, found: ScoredPairs) -> None:
        """Log a warning of what `score_detailed` cut to fit, and one of generated answers without a grade."""
        log_flaws(found, self.settings.max_length, self.passages is not None)

    def score_sequences(
        self,
        sequences: Sequence[list[int]],
        *,
        kind: ScoreKind | None = None,
        groups: Sequence[int] | None = None,
        progress: str | None = None,
    ) -> tuple[torch.Tensor, int]:
        """Scores of pairs that are tokenised already.

        Args:
            sequences: token ids, from `tokenizer.encode`.
            kind: score formula; None takes the checkpoint's.
            groups: number of each pair's query, see `query_numbers`; None takes every pair alone.
            progress: text of a progress bar, or None.

        Returns:
            Scores (N,), and how many generated answers held no grade.

        Raises:
            InputError: a score is not finite.
        """
        scores, malformed = self._any_scores(sequences, kind or self.settings.score, groups, progress)
        finite(scores.numpy(), "the score of sequence", NOT_FINITE)
        return scores, malformed

    def _any_scores(
        self, sequences: Sequence[list[int]], kind: ScoreKind, groups: Sequence[int] | None, progress: str | None
    ) -> tuple[torch.Tensor, int]:
        """As `score_sequences`, NaN and infinity included."""
        tokenizer = self.tokenizer
        if isinstance(tokenizer, PairTokenizer) and tokenizer.prompt.thinks:
            found = reason(
                self.backbone, tokenizer, sequences, kind, max_new_tokens=self.max_new_tokens, progress=progress
            )
            return found.scores, found.grades.count(None)
        return SCORES[kind](answer_logits(self.backend, tokenizer, sequences, groups=groups, progress=progress)), 0

    @property
    def backbone(self) -> Backbone:
        """The backend as a model in torch, which can be trained, saved and exported.

        Raises:
            CheckpointError: it is an export, which can only score.
        """
        if isinstance(self.backend, Backbone):
            return self.backend
        raise CheckpointError(
            f"this is an export of '{self.settings.base_model}': it can score, but cannot be saved again or trained",
            hint="copy its folder, or load the checkpoint that it was made from",
        )

    @property
    def pair_tokenizer(self) -> PairTokenizer:
        """The prompt's tokenizer.

        Raises:
            CheckpointError: the model is a classifier and has no prompt.
        """
        if isinstance(self.tokenizer, PairTokenizer):
            return self.tokenizer
        raise CheckpointError(
            f"'{self.settings.base_model}' is a classifier without a prompt: it can score, but not be trained here",
            hint="start from a causal or masked language model",
        )

    def score(self, pairs: Iterable[tuple[str, Document]]) -> list[float]:
        """Ranking scores of (query, document) pairs: any real number, higher is more relevant.

        The score is a logit difference unless the checkpoint says otherwise; its sigmoid is the model's probability
        of "relevant". Over-long pairs are cut (document first), with a warning. Equal queries make a cascade's list.

        Args:
            pairs: (query, document); a document is a string or a mapping with `text` and maybe `title`.

        Returns:
            One score per pair, in order; an empty list for no pairs.

        Raises:
            InputTypeError: not pairs, or a query or document of another type.
            InputError: an empty query, or a score that is not finite; with the pair's number.
        """
        found = self.score_detailed(pairs)
        self.warn(found)
        return [float(score) for score in found.scores]

    def probability(self, scores: Iterable[float]) -> list[float]:
        """Scores as probabilities of relevance.

        A calibrated checkpoint's tell the relevant documents of first-stage lists from the others at even odds (see
        `evaluation.calibration`), so that 0.5 is a sensible threshold. Without calibration it is the score's sigmoid,
        the model's own probability.

        Args:
            scores: from `score`.

        Returns:
            One number in 0..1 per score.

        Raises:
            CheckpointError: no calibration, and the score is not a difference of logits.
            InputTypeError, InputError: not a list of numbers, or one that is not finite.
        """
        found = finite(listed(scores, "scores", "a list of numbers"), "score", "")
        calibration = self.settings.calibration
        if calibration is None and self.settings.score != "logit_difference":
            raise CheckpointError(f"the score '{self.settings.score}' has no sigmoid; the checkpoint is not calibrated")
        return [float(p) for p in probabilities(found.tolist(), calibration or {"slope": 1.0, "intercept": 0.0})]

    def rank(
        self,
        query: str,
        documents: Iterable[Document],
        top_k: int | None = None,
        return_documents: bool = False,
        threshold: float | None = None,
        cascade: bool | None = None,
    ) -> list[RankedDocument]:
        """Documents in order of relevance, as sentence-transformers' `CrossEncoder.rank` returns them.

        Args:
            query: a non-empty string.
            documents: strings, or mappings with `text` and maybe `title`.
            top_k: how many to return; None for all.
            return_documents: add each document under `text`.
            threshold: leave out documents whose `probability` is below this, 0..1; None keeps all.
            cascade: read this list by the checkpoint's cascade, or in full; None as the reranker was told.

        Returns:
            `[{"corpus_id": position in documents, "score": float, "text"?: document}]`, best first; ties keep
            the input order. Empty for no documents.

        Raises:
            InputTypeError: a query, document, number or cascade of another type, or a single document as `documents`.
            InputError: an empty query, `top_k` below 1, a threshold outside 0..1, or a score that is not finite.
        """
        documents = listed(documents, "documents", "a list of documents")
        whole_numbers(top_k=top_k)
        if threshold is not None:
            share("threshold", threshold)
        query_text(query)
        scores = np.array(self.reading(cascade).score([(query, text) for text in document_texts(documents)]))
        order = np.argsort(-scores, kind="stable")
        if threshold is not None and len(scores):
            order = order[np.array(self.probability(scores.tolist()))[order] >= threshold]
        found = [RankedDocument(corpus_id=int(i), score=float(scores[i])) for i in order[:top_k]]
        if return_documents:
            for result in found:
                result["text"] = documents[result["corpus_id"]]
        return found

    def reading(self, cascade: bool | Cascade | None) -> Reranker:
        """A reranker of the same parts that reads lists in full (False), by a cascade, or as this one does (None)."""
        if cascade is None or (cascade is True and self.cascade is not None):
            return self
        found = copy.copy(self)
        found.cascade, found.passages = cascade_of(self.settings, cascade), None if cascade else self.passages
        return found

    def save_pretrained(self, folder: str | Path, card: str | None = None) -> None:
        """Write the checkpoint: weights (safetensors), tokenizer, `prorank.json`, model card.

        Args:
            folder: where; made if absent, files of the same name are replaced.
            card: text of README.md; None writes a plain one, with the licence, languages and base of the loaded one.

        Causal checkpoints also get the files of sentence-transformers: `CrossEncoder(folder)` gives the same scores.
        """
        save_checkpoint(Path(folder), self.backbone, self.tokenizer, self.settings, card)

    def push_to_hub(self, repo_id: str, *, private: bool = True, token: str | None = None) -> str:
        """Upload the checkpoint to the Hugging Face hub.

        Args:
            repo_id: `owner/name`.
            private: make the repository private if it is new.
            token: access token; None uses the one of `hf auth login`.

        Returns:
            Address of the commit.
        """
        import tempfile

        from huggingface_hub import HfApi

        api = HfApi(token=token)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)  # refuses an export before anything is made there
            api.create_repo(repo_id, private=private, exist_ok=True)
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload reranker"))


def model_facts(reranker: Reranker, model: str) -> dict[str, Any]:
    """What scores depend on besides the texts, by names that a reader knows."""
    return {
        "prorank": VERSION,
        "the model's files": model_fingerprint(resolve_source(model)) or model,
        "the model's settings": fingerprint(reranker.settings.model_dump_json()),
        "passages": reranker.passages,
        "cascade": reranker.cascade and reranker.cascade.model_dump(mode="json"),
        "max_new_tokens": reranker.max_new_tokens,
        "precision": str(reranker.backend.compute_dtype),
    }
