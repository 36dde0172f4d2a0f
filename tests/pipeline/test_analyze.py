"""`prorank analyze`: formulas against hand-worked values, and the command on tiny models of both families."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from conftest import byte_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from prorank import Reranker
from prorank.data.collection import load_collection
from prorank.evaluation import analysis
from prorank.pipeline.analyze import ANSWER_TOKENS, Pair, asking, drawn_pairs, greedy, understanding, verdict_of
from prorank.prompts.builtin import PROMPTS, load_prompt
from prorank.util.errors import CheckpointError
from prorank.warmup.metrics import PairOutcome


def test_effective_rank_of_known_singular_values():
    # Deviations along two axes with singular values 3 and 1 (times the square root of 2): shares 3/4 and 1/4.
    states = np.array([[3.0, 0, 7], [-3, 0, 7], [0, 1, 7], [0, -1, 7]])
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert analysis.effective_rank(states) == pytest.approx(expected)
    assert analysis.effective_rank(np.ones((4, 3)) * 0.1) == 0


def test_isotropy_of_known_variances():
    # Variances 9, 1, 0: (10 ** 2 / 82 - 1) / 2.
    states = np.array([[3.0, 0, 7], [-3, 0, 7], [0, 1, 7], [0, -1, 7]])
    assert analysis.isotropy(states) == pytest.approx((100 / 82 - 1) / 2)
    assert analysis.isotropy(np.ones((4, 3)) * 0.1) == 0


def test_isotropy_is_the_published_isoscore():
    states = np.random.default_rng(0).normal(size=(50, 6)) * [1, 2, 3, 4, 5, 6]
    n = states.shape[1]
    variances = np.linalg.eigvalsh(np.cov(states.T))
    scaled = variances * math.sqrt(n) / np.linalg.norm(variances)
    defect = np.linalg.norm(scaled - 1) / math.sqrt(2 * (n - math.sqrt(n)))
    used = (n - defect**2 * (n - math.sqrt(n))) ** 2 / n**2
    assert analysis.isotropy(states) == pytest.approx((n * used - 1) / (n - 1))


@settings(max_examples=25)
@given(st.integers(2, 12), st.integers(2, 8), st.integers(0, 99), st.floats(0.01, 100))
def test_width_of_states_has_bounds_and_knows_no_scale_shift_or_turn(n, width, seed, scale):
    draw = np.random.default_rng(seed)
    states = draw.normal(size=(n, width))
    turn, _ = np.linalg.qr(draw.normal(size=(width, width)))
    moved = scale * states @ turn + draw.normal(size=width)
    for measure, most in ((analysis.effective_rank, min(n - 1, width)), (analysis.isotropy, 1)):
        assert measure(moved) == pytest.approx(measure(states), rel=1e-3, abs=1e-6)
        assert 0 <= measure(states) <= most + 1e-9


def test_cosines_without_such_a_pair_are_none():
    assert analysis.mean_cosines(np.eye(2), [0, 1]) == (None, 0.0)
    assert analysis.mean_cosines(np.eye(2), [0, 0]) == (0.0, None)


def test_order_without_negatives_is_none_and_ties_are_half():
    assert analysis.pairwise_order([[1.0]], [[]]) is None
    assert analysis.pairwise_order([[1.0], [2.0]], [[1.0], [0.0]]) == 0.75


def test_saturation_counts_both_ends():
    assert analysis.saturation([0.0, 1.0, 0.011, 0.989]) == 0.5


PAIRS = [Pair("q", "a", "relevant"), Pair("q", "b", "hard"), Pair("q", "c", "random"), Pair("r", "d", "relevant")]


def outcomes(mass):
    return [PairOutcome(-1, 0, 0.5, mass)] * len(PAIRS)


def test_a_model_that_never_answers_has_no_format_but_a_preference():
    found = understanding(PROMPTS["prorank"], PAIRS, outcomes(0.03), [-1] * 4, [1] * 4)
    assert found["format_rate"] == 0 and found["answer_mass"] == pytest.approx(0.03)
    assert found["spoken_answers"] == {} and found["preferred_answers"] == {"1": 1.0}
    assert found["spoken_balanced_random"] == 0 and found["preferred_balanced_random"] == 0.5


def test_verdicts_are_judged_against_each_kind_of_negative():
    found = understanding(PROMPTS["prorank"], PAIRS, outcomes(1.0), [1, 1, 0, 0], [1, 1, 0, 0])
    assert found["format_rate"] == 1 and found["spoken_answers"] == {"1": 0.5, "0": 0.5}
    assert found["spoken_balanced_hard"] == 0.25  # half of the relevant ones, none of the hard ones
    assert found["spoken_balanced_random"] == 0.75


def test_grades_of_the_better_half_mean_relevant():
    found = understanding(PROMPTS["erank"], PAIRS, outcomes(1.0), [10, 5, 2, 6], [10, 5, 2, 6])
    assert found["spoken_balanced_hard"] == found["spoken_balanced_random"] == 1.0


@pytest.fixture(scope="module")
def tiny(qwen_folder):
    return Reranker(qwen_folder, prompt="prorank-short", max_length=512, precision="fp32")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("1<|im_end|>", 1),
        ("0<|im_end|>", 0),
        ("1", -1),
        ("1a", -1),
        ("1.<|im_end|>", -1),
        (" 1<|im_end|>", -1),
        ("<|im_end|>", -1),
    ],
)
def test_a_verdict_is_one_answer_and_the_end_of_the_turn(tiny, said, expected):
    assert verdict_of(tiny.backbone.tokenizer(said).input_ids, tiny.pair_tokenizer) == expected


def test_a_verdict_of_a_prompt_that_closes_its_answer(tiny):
    tokenizer, ids = asking(tiny, PROMPTS["erank"]), tiny.backbone.tokenizer
    assert verdict_of(ids("10</answer><|im_end|>").input_ids, tokenizer) == 10
    assert verdict_of(ids("10<|im_end|>").input_ids, tokenizer) == -1


def test_greedy_answers_are_those_of_the_models_own_generation(tiny):
    pairs = [("owls", "they hunt"), ("the moon", "far away and much longer than the other one"), ("x", "y")]
    sequences, _ = tiny.pair_tokenizer.encode(pairs)
    found = greedy(tiny.backbone, tiny.pair_tokenizer, sequences)
    for ids, tokens in zip(sequences, found):
        whole = tiny.backbone.model.generate(torch.tensor([ids]), max_new_tokens=ANSWER_TOKENS, do_sample=False)
        assert whole[0, len(ids) :].tolist() == tokens


def test_pairs_hold_one_relevant_document_and_both_kinds_of_negatives(word_collection):
    collection = load_collection(str(word_collection))
    pairs = drawn_pairs(collection, "train", 24, 10, seed=13)
    assert pairs == drawn_pairs(collection, "train", 24, 10, seed=13)
    for query in {pair.query for pair in pairs}:
        own = [pair for pair in pairs if pair.query == query]
        assert len({pair.document for pair in own}) == len(own)
        assert sum(pair.kind == "relevant" for pair in own) == sum(pair.kind == "random" for pair in own) == 1
        for pair in own:
            assert (collection.qrels["train"][query].get(pair.document, 0) > 0) == (pair.kind == "relevant")


def test_the_command_sets_models_of_both_families_side_by_side(tiny, bert_folder, word_collection, tmp_path, call):
    tiny.save_pretrained(tmp_path / "checkpoint")
    arguments = ["analyze", tmp_path / "checkpoint", bert_folder, "--collection", word_collection]
    arguments += ["--queries", 4, "--max-length", 120, "--output", tmp_path / "out"]
    code, out, err = call(*arguments)
    assert code == 0, err
    result = json.loads((tmp_path / "out" / "analysis.json").read_text())
    assert {"understanding.png", "narrowness.png", "analysis.md"} <= {p.name for p in (tmp_path / "out").iterdir()}
    assert out.strip() == (tmp_path / "out" / "analysis.md").read_text().strip()
    assert [row["prompt"] for row in result["rows"] if row["own_prompt"]] == ["prorank-short", "prorank"]
    assert result["rows"][0]["prompt"] == "prorank-short"
    assert (
        all(model["fingerprint"] for model in result["models"].values())
        and result["seed"] == 13
        and result["data_fingerprint"]
    )
    assert {row["model"] for row in result["rows"]} == {"checkpoint", bert_folder.name}
    for row in result["rows"]:
        assert 0 <= row["answer_mass"] <= 1 and row["effective_rank"] <= row["effective_rank_limit"]
    code, _, err = call(*arguments)
    assert code == 2 and "--force" in err
    code, _, err = call("analyze", bert_folder, bert_folder, "--collection", word_collection)
    assert code == 2 and "given twice" in err


def test_scores_and_preferences_are_those_of_the_reranker(tiny, word_collection, qwen_folder, call):
    code, out, _ = call("analyze", qwen_folder, "--collection", word_collection, "--queries", 3, "--prompts",
                        "prorank-short", "--max-length", 256, "--precision", "fp32", "--json")  # fmt: skip
    (row,) = json.loads(out)["rows"]
    assert code == 0
    collection = load_collection(str(word_collection))
    pairs = drawn_pairs(collection, "test", 3, 2, seed=13)
    scores = tiny.score([(collection.queries[p.query], collection.documents[p.document].content) for p in pairs])
    assert row["preferred_answers"].get("1", 0) == pytest.approx(sum(s > 0 for s in scores) / len(scores))
    groups = [p.query for p in pairs]
    assert row["spread_within"] == pytest.approx(analysis.spreads(scores, groups)[0], rel=1e-3)


def test_a_prompt_that_was_asked_for_and_does_not_suit_is_an_error(qwen_folder, word_collection, call):
    code, _, err = call("analyze", qwen_folder, "--collection", word_collection, "--prompts", "erank-think")
    assert code == 2 and "asks for reasoning" in err


def test_a_shipped_prompt_that_does_not_suit_is_left_out_and_named(bert_folder, word_collection, tmp_path, call):
    Reranker(bert_folder, prompt="prorank-short", max_length=48).save_pretrained(tmp_path)
    code, out, err = call("analyze", tmp_path, "--collection", word_collection, "--queries", 2, "--json")
    result = json.loads(out)
    assert code == 0 and "prorank-short" in {row["prompt"] for row in result["rows"]}
    assert {"prorank", "instruction-first"} <= {left["prompt"] for left in result["left_out"]}
    assert "is left out" in err


def test_a_model_without_a_prompt_is_refused(tiny):
    exported = copy.copy(tiny)
    exported.backend = object()
    with pytest.raises(CheckpointError, match="reads no prompt"):
        asking(exported, PROMPTS["yesno"])


def test_a_saved_checkpoint_is_asked_other_prompts_in_the_turn_that_its_model_had(tmp_path):
    """Saving replaces the chat template by one of queries and documents, from which no turn can be read."""
    tokenizer = byte_tokenizer()
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1,
                         num_attention_heads=2)  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    fresh = Reranker(tmp_path / "model", prompt="prorank-short")
    fresh.save_pretrained(tmp_path / "checkpoint")
    other = load_prompt("prorank")
    expected = asking(fresh, other).encode([("when do owls hunt", "at night")])
    assert asking(Reranker(tmp_path / "checkpoint"), other).encode([("when do owls hunt", "at night")]) == expected
    assert expected == Reranker(tmp_path / "model", prompt=other).tokenizer.encode([("when do owls hunt", "at night")])
