"""ERank's stages: losses against plain formulas, and the whole way on a toy language."""

import io
import json
import random
from itertools import count, islice

import pytest
import torch
import transformers
import yaml
from rich.console import Console
from torch.nn import functional as F

from prorank import Reranker
from prorank.bench.erank import varied
from prorank.bench.toy import WORDS, toy_document, toy_recipe
from prorank.data.runs import scored_lists
from prorank.erank.graded import completion_of
from prorank.erank.listwise import REWARDS, ListwiseTrainer
from prorank.erank.sft import SftItem, SftTrainer
from prorank.erank.synthesis import GradedDocument
from prorank.evaluation.metrics import evaluate_run
from prorank.recipe.loading import load_recipe, validate_recipe
from prorank.recipe.sections import ListwiseSection, SftSection
from prorank.training.lists import ListItem, forever
from prorank.training.reading import read_slots
from prorank.training.trainer import TrainContext
from prorank.util.errors import RecipeError
from prorank.warmup import grpo

QUIET = Console(file=io.StringIO())
FIVE = {  # grades that the toy language has as single tokens
    "name": "five",
    "segments": ["{instruction}query: {query}", "\n", "document: {document}", "\n", "Relevance:"],
    "answers": ["0", "1", "2", "3", "4"],
}


@pytest.fixture(scope="module")
def toy(toy_folder, tmp_path_factory):
    """The toy language's recipe, with grades in place of verdicts."""
    folder = tmp_path_factory.mktemp("prompt")
    tree = toy_recipe(toy_folder)
    (folder / "five.yaml").write_text(yaml.safe_dump(FIVE))
    tree["backbone"] |= {"prompt": str(folder / "five.yaml"), "score": "expected_grade"}
    tree |= {"warmup": None, "score_learning": None}
    tree["evaluation"] |= {"rerank_depth": 20}
    return tree


def trainers(toy, settings, items, tmp_path, kind):
    reranker = Reranker(
        toy["backbone"]["model"], prompt=toy["backbone"]["prompt"], max_length=64, precision="fp32", for_training=True
    )
    return kind(TrainContext(reranker.backbone, reranker.pair_tokenizer, settings, items, tmp_path, 1, QUIET))


def test_only_the_answer_carries_loss(toy, tmp_path):
    reranker = Reranker(toy["backbone"]["model"], prompt=toy["backbone"]["prompt"], max_length=64, precision="fp32")
    tokenizer = reranker.pair_tokenizer
    sequences, _ = tokenizer.encode([("apple river", "stone"), ("apple river", "stone cloud tiger")])
    completions = [
        completion_of(tokenizer, GradedDocument("a", 7, False, "")),
        [*completion_of(tokenizer, GradedDocument("b", 0, False, "")), 5],
    ]
    assert tokenizer.tokenizer.decode(completions[0]) == "3<end>"
    items = [SftItem(ids, completion) for ids, completion in zip(sequences, completions)]
    trainer = trainers(toy, SftSection(steps=1, pairs_per_step=2), items, tmp_path, SftTrainer)
    loss = trainer.loss_on(trainer.backbone, trainer.collate(items))
    expected = []
    for ids, completion in items:
        logits = trainer.backbone.model(torch.tensor([[*ids, *completion]])).logits[0].log_softmax(-1)
        places = torch.arange(len(ids) - 1, len(ids) + len(completion) - 1)
        expected.append(-logits[places, completion].mean())
    torch.testing.assert_close(loss, torch.stack(expected).mean(), atol=1e-4, rtol=1e-4)


def test_a_masked_answer_is_its_slot(bert_folder, tmp_path):
    prompt = {**FIVE, "answers": ["river", "stone", "cloud"]}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(prompt))
    reranker = Reranker(bert_folder, prompt=tmp_path / "p.yaml", max_length=40, precision="fp32", for_training=True)
    tokenizer = reranker.pair_tokenizer
    sequences, _ = tokenizer.encode([("apple", "tiger"), ("apple", "tiger lemon")])
    graded = [GradedDocument("a", grade, False, "") for grade in (10, 0)]
    items = [SftItem(ids, completion_of(tokenizer, document)) for ids, document in zip(sequences, graded)]
    settings = SftSection(steps=1, pairs_per_step=2)
    trainer = SftTrainer(TrainContext(reranker.backbone, tokenizer, settings, items, tmp_path, 1, QUIET))
    trainer.backbone.eval()
    batch = trainer.collate(items)
    logits = read_slots(trainer.backbone, tokenizer, batch["sequences"])
    target = torch.tensor([tokenizer.answer_ids[2], tokenizer.answer_ids[0]])
    torch.testing.assert_close(trainer.loss_on(trainer.backbone, batch), F.cross_entropy(logits, target))


def lists(tokenizer):
    sequences, _ = tokenizer.encode(
        [("apple river", d) for d in ("apple river stone", "stone", "cloud", "apple tiger")]
    )
    return [
        ListItem(sequences[:3], (1, 0, 0), (4.0, 1.0, 0.0)),
        ListItem([sequences[3], *sequences[1:]], (0, 0, 0, 1), (1.0, 0.0, 0.0, 3.0)),
    ]


@pytest.mark.parametrize("reward", sorted(REWARDS))
def test_one_forward_loss_is_the_gradient_of_the_drawn_grades(toy, tmp_path, reward):
    settings = ListwiseSection(steps=1, reward=reward, num_generations=4, kl=0.0, format_weight=0.0)
    plain = Reranker(toy["backbone"]["model"], prompt=toy["backbone"]["prompt"], max_length=64, precision="fp32")
    items = lists(plain.pair_tokenizer)
    trainer = trainers(toy, settings, items, tmp_path, ListwiseTrainer)
    batch = trainer.collate(items)
    assert trainer.one_forward and batch["sizes"] == [3, 4]
    torch.manual_seed(5)
    trainer.backbone.zero_grad()
    trainer.loss_on(trainer.backbone, batch).backward()
    found = trainer.backbone.head()[0].grad.clone()
    # by hand: the same draw, each list's own reward, -A log p
    torch.manual_seed(5)
    trainer.backbone.zero_grad()
    logits = read_slots(trainer.backbone, trainer.pair_tokenizer, batch["sequences"])
    grades = logits[:, trainer.pair_tokenizer.answer_ids].log_softmax(-1)
    drawn = torch.multinomial(grades.detach().exp(), 4, replacement=True)
    rewards = []
    for rows, item in zip(drawn.float().split([3, 4]), items):
        relevant = torch.tensor([label > 0 for label in item.labels])
        rewards.append(REWARDS[reward](rows, relevant, torch.tensor(item.teacher), 4.0))
    advantages = grpo.group_advantages(torch.cat(rewards))
    (-(advantages * grades.gather(-1, drawn)).mean()).backward()
    torch.testing.assert_close(found, trainer.backbone.head()[0].grad, atol=1e-5, rtol=1e-3)


SHARED = (2, 1, 1, 1, 0, 0, 0, 0)  # words that a list's documents share with the query; the first is relevant


def toy_lists(tokenizer, queries, draw):
    """For each query the tokens of eight documents, one of which holds all its words."""
    texts = [[(" ".join(q), " ".join(toy_document(draw, list(q), n))) for n in SHARED] for q in queries]
    return [tokenizer.encode(pairs)[0] for pairs in texts]


def ndcg(reranker, lists):
    """NDCG@10 where only the first document of each list is relevant."""
    places = [(f"q{i}", f"d{j}") for i in range(len(lists)) for j in range(len(SHARED))]
    scores, _ = reranker.score_sequences([ids for one in lists for ids in one])
    qrels = {f"q{i}": {"d0": 1} for i in range(len(lists))}
    return evaluate_run(scored_lists(qrels, zip(places, scores)), qrels, ("nDCG@10",)).mean("ndcg@10")


def test_reinforcement_passes_its_supervised_start_on_held_out_queries(toy, tmp_path):
    """The teacher's grades cannot tell half an answer from a whole one; the judgments behind r_RR can."""
    transformers.set_seed(2)
    reranker = Reranker(
        toy["backbone"]["model"],
        prompt=toy["backbone"]["prompt"],
        max_length=64,
        precision="fp32",
        score="expected_grade",
        for_training=True,
    )
    tokenizer, draw = reranker.pair_tokenizer, random.Random(2)
    queries = draw.sample([(a, b) for a in WORDS for b in WORDS if a < b], 105)
    training, held_out = toy_lists(tokenizer, queries[:70], draw), toy_lists(tokenizer, queries[70:], draw)

    def train(kind, settings, items, size):
        order = [item for _, item in islice(forever(items, 2), settings.steps * size)]
        later_is_better = count()
        places = (tmp_path / kind.__name__, 2, QUIET, (), lambda: {"dev_ndcg@10": next(later_is_better)})
        kind(TrainContext(reranker.backbone, tokenizer, settings, order, *places)).run(resume=False)
        return ndcg(reranker, held_out)

    pairs = [
        SftItem(ids, completion_of(tokenizer, GradedDocument("", 8 if shared else 1, False, "")))
        for one in training
        for ids, shared in zip(one, SHARED)
    ]
    settings = SftSection(steps=40, pairs_per_step=16, learning_rate=1e-3, evaluate_every=40)
    supervised = train(SftTrainer, settings, pairs, 16)
    scored = [reranker.score_sequences(one)[0].tolist() for one in training]
    labels = tuple(int(shared == 2) for shared in SHARED)
    lists = [ListItem(one, labels, tuple(grades)) for one, grades in zip(training, scored)]
    settings = ListwiseSection(
        steps=200, queries_per_step=8, learning_rate=5e-4, evaluate_every=200, num_generations=16, kl=0.0, reward="rr"
    )
    reinforced = train(ListwiseTrainer, settings, lists, 8)
    assert supervised > 0.7  # it has learned what its teacher knows
    assert reinforced > supervised + 0.03


def test_generated_answers_are_parsed_and_paid(toy, tmp_path, monkeypatch):
    prompt = {**FIVE, "answers": [str(g) for g in range(11)], "opening": "<answer>", "closing": "</answer>"}
    (tmp_path / "ten.yaml").write_text(yaml.safe_dump({**prompt, "name": "ten"}))
    ten = {**toy, "backbone": {**toy["backbone"], "prompt": str(tmp_path / "ten.yaml")}}
    settings = ListwiseSection(steps=1, num_generations=2, kl=0.1, max_new_tokens=12)
    plain = Reranker(ten["backbone"]["model"], prompt=ten["backbone"]["prompt"], max_length=96, precision="fp32")
    items = lists(plain.pair_tokenizer)[:1]
    trainer = trainers(ten, settings, items, tmp_path, ListwiseTrainer)
    assert not trainer.one_forward and trainer.pair_tokenizer.stem == 1
    words = trainer.pair_tokenizer.tokenizer
    said = [["10</answer><end>", "7</answer><end>"], ["3</answer><end>", "3"], ["0</answer><end>", "0</answer><end>"]]
    tokens = [[words(text, add_special_tokens=False)["input_ids"] for text in own] for own in said]
    monkeypatch.setattr("prorank.erank.listwise.draw", lambda *_, **__: tokens)
    seen = {}
    reward = REWARDS["rr"]
    monkeypatch.setitem(
        REWARDS, "rr", lambda scores, *rest: seen.setdefault("reward", reward(seen.setdefault("scores", scores), *rest))
    )
    loss = trainer.loss_on(trainer.backbone, trainer.collate(items))
    assert torch.equal(seen["scores"].nan_to_num(nan=-1), torch.tensor([[10.0, 7.0], [3.0, -1.0], [0.0, 0.0]]))
    assert seen["reward"][1, 1] == -1.0 and torch.isfinite(loss)
    assert trainer.notes["malformed"][0][0] == pytest.approx(1 / 6)
    assert trainer.notes["kl"][0][0] == pytest.approx(0.0, abs=1e-5)  # nothing has moved yet


def test_recipe_refuses_what_cannot_be():
    with pytest.raises(RecipeError, match=r"first_stage\.depth of 1000"):
        validate_recipe({"name": "a", "sft": {}})
    with pytest.raises(RecipeError, match="not negative"):
        validate_recipe({"name": "a", "listwise": {"scale_advantages": "mean"}})


def test_bench_trains_on_the_named_collection_whatever_the_recipe_holds(tmp_path):
    recipe = load_recipe({"name": "a", "sft": {}, "listwise": {}, "first_stage": {"depth": 1000}})
    recipe = load_recipe(recipe.model_dump(mode="json"), ["data.union=[{collection: b}, {collection: c}]"])
    data = varied(recipe, "sft", 1, "named", tmp_path).data
    assert data.collection == "named" and not data.union


def test_bench_compares_variants_on_the_same_queries(toy, tmp_path, call):
    tree = {
        **toy,
        "grades": {"teacher": "qrels", "documents": {"hard": 1, "medium": 0, "easy": 0, "random": 2}, "queries": 4},
        "sft": {"steps": 2, "pairs_per_step": 2, "evaluate_every": 2, "dev_queries": 2},
        "listwise": {"steps": 2, "queries_per_step": 1, "evaluate_every": 2, "dev_queries": 2, "num_generations": 2},
    }
    tree["evaluation"] = {"rerank_depth": 5, "max_queries": 4}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree))
    command = ["bench", "erank", toy["data"]["collection"], "--recipe", tmp_path / "recipe.yaml", "--seeds", "1,2"]
    command += ["--variants", "sft,rl-rr,sft+se", "--work", tmp_path / "runs", "--output", tmp_path / "erank.json"]
    code, out, err = call(*command)
    assert code == 0, err
    found = json.loads((tmp_path / "erank.json").read_text())
    rows = {(row["variant"], row["score"]): row for row in found["rows"]}
    assert {variant for variant, _ in rows} == {"sft", "rl-rr", "sft+se"}
    assert "difference" not in rows[("sft", "expected_grade")]
    for row in found["rows"]:
        assert row["ndcg@10"] == pytest.approx(sum(row["seeds"]) / 2) and 1 <= row["distinct"] <= 5
    assert rows[("sft", "argmax_grade")]["distinct"] <= rows[("sft", "expected_grade")]["distinct"]
    assert out.count("\n") == (2 + len(found["rows"]) / 4) + 1 + (2 + len(found["rows"]))  # by training, by score
    assert not list((tmp_path / "runs").rglob("checkpoint-*"))
    assert list((tmp_path / "runs").rglob("model.safetensors"))
    # the second time nothing is trained
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "runs").rglob("*"))
    assert call(*command, "--force")[0] == 0
    assert before == sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "runs").rglob("*"))
    assert "variants build on 'sft'" in call(*command, "--force", "--variants", "rl-rr")[2]
