"""The sections of a recipe: every field of a training run, with its default and its limits.

A recipe knows names and numbers; it loads no torch.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from prorank.types import Precision, Scale, ScoreKind

CURRICULUM_DEPTH = 1000  # its easy negatives stand at ranks 101 to 1000


class Section(BaseModel):
    """Common ground of all sections: unknown keys are errors, numbers are finite, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _a_switch_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        """Refuse true and false where a number stands; pydantic would read 1 and 0."""
        kinds = _kinds(cls.model_fields[str(info.field_name)].annotation)
        if isinstance(value, bool) and {int, float} & kinds and bool not in kinds:
            raise ValueError("a number stands here, not true or false")
        return value


def _kinds(annotation: object) -> set[object]:
    """The types that an annotation names, at any depth.

    >>> _kinds(int | None) == {int, type(None)}
    True
    """
    parts = get_args(annotation)
    return set().union(*map(_kinds, parts)) if parts else {annotation}


class Lora(Section):
    """LoRA adapters on all linear layers; the published ERank setting is rank 32, alpha 64."""

    rank: int = Field(32, ge=1, le=1024)
    alpha: int = Field(64, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)


class BackboneSection(Section):
    """The model and how a pair is shown to it."""

    model: str = "embedded"
    family: Literal["causal", "masked"] | None = None
    precision: Precision = "auto"
    lora: Lora | None = None
    dropout: bool = Field(
        True, description="the model's own dropout in training; without it a CPU trains half as fast again"
    )
    trust_remote_code: bool = Field(False, description="always false: only the command line may allow foreign code")
    prompt: str | None = Field(None, description="None: the checkpoint's own, else `prorank`")
    instruction: str | None = None
    max_length: int | None = Field(
        None, ge=32, le=131_072, description="tokens of a pair, template included; None: the checkpoint's own, else 512"
    )
    score: ScoreKind | None = Field(None, description="None: the checkpoint's own, else by the answer set")

    @field_validator("trust_remote_code")
    @classmethod
    def _only_the_command_line_trusts(cls, value: bool) -> bool:
        if value:
            raise ValueError("a recipe may not allow a model's own code; say it yourself: train --trust-remote-code")
        return value


class Part(Section):
    """One collection of a union."""

    collection: str
    weight: float = Field(1.0, gt=0, description="how often its queries come, beside the others'")


class DataSection(Section):
    """The collection, or several that are trained on as one, and their splits."""

    collection: str = "cosqa"
    union: tuple[Part, ...] = Field((), description="in place of one collection")
    folder: str = Field("", description="where the union's collections lie")
    hold_out_documents: bool = Field(False, description="dev's and test's relevant documents are never trained on")
    train: str = "train"
    dev: str = "dev"
    test: str = "test"
    strict: bool = False
    leakage: Literal["refuse", "drop", "allow"] = Field(
        "refuse", description="training queries that dev or test hold too, by id or text; hold_out_documents drops them"
    )
    exclude_query_document: bool = Field(
        False, description="a document of the query's own id is never retrieved for it nor trained on, as in BEIR"
    )

    @model_validator(mode="after")
    def _one_collection_or_several(self) -> DataSection:
        """Refuse a collection beside a union; the default may stand there, since a run's own recipe writes it out."""
        if self.union and self.collection != type(self).model_fields["collection"].default:
            raise ValueError(
                f"collection '{self.collection}' and a union of {len(self.union)}: leave out the collection, "
                "or write union: [] to train on it alone"
            )
        return self


class FirstStageSection(Section):
    """Where the candidate lists come from."""

    method: Literal["bm25", "dense", "candidates"] = "bm25"
    language: Literal["auto", "en", "zh", "ja", "th", "other"] = "auto"
    dense_model: str = "embedded"
    depth: int = Field(100, ge=1, le=1000, description="documents kept a query")


class Quotas(Section):
    """Negatives per query, by first-stage rank tier (1-10, 11-100, 101-1000) and at random."""

    hard: int = Field(4, ge=0)
    medium: int = Field(2, ge=0)
    easy: int = Field(0, ge=0)
    random: int = Field(1, ge=0)

    @model_validator(mode="after")
    def _at_least_one(self) -> Quotas:
        if self.total == 0:
            raise ValueError("at least one negative per query is needed")
        return self

    @property
    def total(self) -> int:
        """Negatives per query."""
        return self.hard + self.medium + self.easy + self.random


# `exchanged`: no document is relevant or not by itself, see `warmup.pairs.exchanged_pairs`
Negatives = Quotas | Literal["exchanged"]


class Optimisation(Section):
    """What both stages' trainers share."""

    learning_rate: float = Field(1e-4, gt=0, lt=1)
    lr_warmup_ratio: float = Field(0.1, ge=0, lt=1, description="share of the steps with rising learning rate")
    weight_decay: float = Field(0.01, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    steps: int = Field(100, ge=1)
    evaluate_every: int = Field(25, ge=1, description="steps between held-out evaluations and checkpoints")
    patience: int = Field(0, ge=0, description="evaluations without gain before stopping; 0 never stops")
    token_budget: int | None = Field(
        None, ge=1, description="tokens of a forward and backward pass; None: what the free memory holds"
    )
    gradient_checkpointing: bool | None = Field(
        None, description="layers run again in the backward pass; None: where one pair exceeds the budget"
    )


class RankingSection(Optimisation):
    """What the stages share whose checkpoints are chosen by dev NDCG@10."""

    dev_queries: int = Field(100, ge=1, description="of each collection, for that choice")
    average_with: list[str] = Field(
        [], description="checkpoints, `start` for the stage's own: their mean with the final weights competes as well"
    )


class ExperimentalSection(Section):
    """Switches of warmup that change little once its other guards are in place (docs/warmup.md); defaults do."""

    fade_format: bool = Field(True, description="format reward fades as format is met")
    balance_verdicts: bool = Field(False, description="a verdict given less often earns more; the scale std needs it")
    policy_weight: float = Field(1.0, ge=0, description="weight of the GRPO loss; 0 leaves supervised training")
    supervised_weight: float = Field(0.0, ge=0, description="cross-entropy on the label, annealed to 0")
    supervised_share: float | None = Field(0.3, gt=0, le=1, description="part in which it anneals; None: never")
    epsilon_high: float | None = Field(None, gt=0, description="upper clip range (DAPO); None is epsilon")
    epochs: int = Field(1, ge=1, description="passes over a set of drawn verdicts")
    rollout_batches: int = Field(1, ge=1, description="batches in such a set")
    max_staleness: int | None = Field(None, ge=0, description="steps after which verdicts are drawn anew")
    curriculum: bool = Field(False, description="thirds: random negatives, ranks 101-1000, top 100")

    @model_validator(mode="after")
    def _something_is_trained(self) -> ExperimentalSection:
        if self.policy_weight == 0 and self.supervised_weight == 0:
            raise ValueError("policy_weight and supervised_weight are both 0: nothing would be trained")
        if self.policy_weight == 0 and self.supervised_share is not None and self.supervised_share < 1:
            raise ValueError("policy_weight is 0: after supervised_share nothing would be trained; set it to null")
        return self


class WarmupSection(Optimisation):
    """Stage 1: GRPO teaches the answer set and the verdict.

    A causal backbone has other defaults for what the recipe leaves out, see `recipe.families`.
    """

    learning_rate: float = Field(1e-4, gt=0, lt=1, description="a causal backbone with LoRA: 1e-3 if left out")
    pairs_per_step: int = Field(16, ge=2, description="half relevant, half not")
    negatives: Negatives = Field("exchanged", description="exchanged: positives of other queries; or quotas")
    num_generations: int | Literal["exact"] = Field(
        "exact", description="G verdicts per prompt, or the exact expectation"
    )
    scale_advantages: Scale = Field("mean", description="std: GRPO; mean: MaxRL; none: Dr. GRPO")
    separate_rewards: bool = Field(True, description="format and relevance are scaled apart, then added (GDPO)")
    epsilon: float = Field(0.2, gt=0, lt=1, description="clip range; bites only in the sampled form")
    end_of_turn: bool = Field(True, description="causal models: a verdict counts only if the turn ends after it")
    kl: float = Field(0.0, ge=0, description="weight of KL to the starting model")
    entropy_bonus: float = Field(
        0.1, ge=0, description="weight of the answers' entropy; a causal backbone: 0 if left out"
    )
    format_weight: float = Field(1.0, ge=0)
    held_out_pairs: int = Field(200, ge=10)
    experimental: ExperimentalSection = ExperimentalSection()

    @field_validator("num_generations")
    @classmethod
    def _groups_have_a_spread(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 2:
            raise ValueError("a group of fewer than 2 verdicts has nothing to compare; set 2 or more, or exact")
        return value

    @model_validator(mode="after")
    def _only_drawn_verdicts_are_kept(self) -> WarmupSection:
        reuse = self.experimental.epochs > 1 or self.experimental.rollout_batches > 1
        if self.num_generations == "exact" and reuse:
            raise ValueError(
                "the exact expectation draws nothing that could be used again; set num_generations, e.g. 16"
            )
        return self

    @property
    def batches(self) -> int:
        """Distinct batches of the run."""
        epochs, size = self.experimental.epochs, self.experimental.rollout_batches
        return -(-self.steps // (epochs * size)) * size


class TeacherSection(Section):
    """A bi-encoder whose similarities are distilled, several of them, or a reranker alone."""

    model: str | Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        "embedded",
        description="the bi-encoder; a list: their z-scores' mean; null: `reranker` teaches alone, by its own scores",
    )
    temperature: float = Field(0.05, gt=0, description="the teacher's score (a cosine, say) is divided by this")
    loss: Literal["kl", "margin_mse", "mse"] = "kl"
    weight: float = Field(1.0, gt=0)
    margin: float | None = Field(None, description="false-negative filter, in cosine; None keeps all")
    batch_size: int = Field(64, ge=1)
    first_stage: Annotated[float, Field(ge=0, lt=1)] | Literal["dev"] = Field(
        0.0, description="its share, joined by z-scores; dev: tuned there"
    )
    reranker: str | None = Field(None, description="a checkpoint that joins bi-encoder and first stage")
    reranker_share: float = Field(0.5, gt=0, lt=1, description="its share, by z-scores of each list")

    @model_validator(mode="after")
    def _someone_teaches(self) -> TeacherSection:
        if self.model is None and self.reranker is None:
            raise ValueError("model is null and there is no reranker: nobody teaches")
        if self.model is None and (self.margin is not None or self.first_stage != 0):
            raise ValueError("margin and first_stage need a bi-encoder, and model is null; leave them out")
        if len(self.models) > 1 and self.margin is not None:
            raise ValueError("margin is a cosine, and several bi-encoders have none in common; leave it out")
        return self

    @property
    def models(self) -> tuple[str, ...]:
        """The bi-encoders."""
        return () if self.model is None else (self.model,) if isinstance(self.model, str) else self.model


class ScoreLearningSection(RankingSection):
    """Stage 2: the logit difference itself is trained."""

    queries_per_step: int = Field(4, ge=1)
    negatives: Quotas = Quotas()
    mined: str | None = Field(
        None, description="file of `prorank data mine`: its queries are trained on, its negatives fill the lists first"
    )
    loss: Literal["pointwise", "pairwise", "margin", "listwise", "lambda"] = "listwise"
    label_weight: float = Field(1.0, ge=0)
    teacher: TeacherSection | None = None
    pseudo_queries: int = Field(0, ge=0, description="queries cut from documents (title or first sentence)")
    unlabelled: int = Field(
        0, ge=0, description="the collection's queries without judgments that a teacher is asked about; label_weight 0"
    )

    @model_validator(mode="after")
    def _something_is_learned(self) -> ScoreLearningSection:
        if self.label_weight == 0 and self.teacher is None:
            raise ValueError("label_weight is 0 and there is no teacher: nothing would be trained")
        if self.unlabelled and self.label_weight:
            raise ValueError("unlabelled queries have no labels: set label_weight to 0, and name a teacher")
        return self


class GradesSection(Section):
    """Whose grades 0..10 ERank's stages learn from, and of which documents."""

    teacher: str = Field("qrels", description="qrels; scorer:MODEL; local:MODEL; chat:MODEL")
    file: str | None = Field(None, description="of `prorank data synthesize`, in place of a teacher")
    base_url: str = "http://localhost:8000/v1"
    generations: int = Field(3, ge=1, description="of each pair; the one nearest their mean counts")
    temperature: float = Field(0.6, ge=0, le=100)
    max_new_tokens: int = Field(2_048, ge=8)
    documents: Quotas = Field(Quotas(hard=10, medium=5, easy=4, random=0), description="besides the relevant one")
    queries: int | None = Field(None, ge=1, description="a seeded sample of the training queries; None = all")


class SftSection(RankingSection):
    """ERank's first stage: language modelling of the grade, and of the reasoning before it where there is one."""

    pairs_per_step: int = Field(16, ge=1)


class ListwiseSection(RankingSection):
    """ERank's second stage: GRPO with rewards from the whole candidate list."""

    queries_per_step: int = Field(2, ge=1)
    lora: bool = Field(True, description="train the backbone's adapters, if it has any; false: every weight")
    reward: Literal["rr", "ndcg", "se"] = Field("rr", description="r_RR, r_nDCG or, pointwise, r_SE")
    num_generations: int = Field(5, ge=2, description="G grades per document")
    scale_advantages: Scale = Field("std", description="as for warmup")
    epsilon: float = Field(0.2, gt=0, lt=1)
    kl: float = Field(0.001, ge=0, description="weight of KL to the starting model")
    entropy_bonus: float = Field(0.0, ge=0, description="weight of the grades' entropy")
    format_weight: float = Field(1.0, ge=0, description="one-token grades: weight of giving a grade at all")
    max_new_tokens: int = Field(1_024, ge=4, description="of a generated answer")

    @model_validator(mode="after")
    def _rewards_may_be_negative(self) -> ListwiseSection:
        if self.scale_advantages == "mean":
            raise ValueError("scale_advantages: mean needs rewards that are not negative; use std or none")
        return self


class EvaluationSection(Section):
    """What is measured after each stage."""

    rerank_depth: int = Field(20, ge=1, le=1000, description="depth of the first stage that is reranked")
    max_queries: int | None = Field(None, ge=1, description="a seeded sample of the test queries; None = all")
    seed: int | None = Field(None, ge=0, lt=2**32, description="of samples of dev and test queries; None: the run's")
    max_length: int | None = Field(
        None,
        ge=32,
        le=131_072,
        description="tokens of a pair here, in dev lists and in the checkpoint; None: as in training",
    )
    hybrid_weight: Annotated[float, Field(ge=0, le=1)] | Literal["dev"] = Field(
        "dev", description="first stage's share; dev = tuned there"
    )
    cascade_loss: float | None = Field(
        None,
        ge=0,
        le=1,
        description="NDCG@10 that the checkpoint's cascade may lose on dev; None: no cascade",
    )


class Recipe(Section):
    """A whole training run, from collection to report."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(13, ge=0, lt=2**32)
    backbone: BackboneSection = BackboneSection()
    data: DataSection = DataSection()
    first_stage: FirstStageSection = FirstStageSection()
    warmup: WarmupSection | None = WarmupSection()
    score_learning: ScoreLearningSection | None = ScoreLearningSection()
    grades: GradesSection = GradesSection()
    sft: SftSection | None = None
    listwise: ListwiseSection | None = None
    evaluation: EvaluationSection = EvaluationSection()

    @model_validator(mode="after")
    def _curriculum_has_its_ranks(self) -> Recipe:
        if (
            self.warmup is not None
            and self.warmup.experimental.curriculum
            and self.first_stage.depth < CURRICULUM_DEPTH
        ):
            raise ValueError(f"warmup.experimental.curriculum needs first_stage.depth of {CURRICULUM_DEPTH}")
        return self

    @model_validator(mode="after")
    def _mined_ids_are_of_one_collection(self) -> Recipe:
        if self.score_learning is not None and self.score_learning.mined and self.data.union:
            raise ValueError("score_learning.mined names ids of one collection; it does not go with data.union")
        return self

    @model_validator(mode="after")
    def _easy_documents_have_their_ranks(self) -> Recipe:
        graded = (self.sft is not None or self.listwise is not None) and self.grades.file is None
        if graded and self.grades.documents.easy and self.first_stage.depth < CURRICULUM_DEPTH:
            raise ValueError(f"grades.documents.easy needs first_stage.depth of {CURRICULUM_DEPTH}")
        return self
