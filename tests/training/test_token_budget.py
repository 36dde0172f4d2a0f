"""Steps in parts: the gradient is that of one pass, whatever the loss; memory that runs out halves the budget."""

import logging

import pytest
import torch
import yaml
from rich.console import Console
from tiny_runs import trainer_of

from prorank.erank.listwise import ListwiseTrainer
from prorank.erank.sft import SftItem, SftTrainer
from prorank.recipe.sections import ListwiseSection, ScoreLearningSection, SftSection
from prorank.reranker import Reranker
from prorank.score_learning.losses import LABEL_LOSSES, listwise_softmax
from prorank.score_learning.trainer import ScoreTrainer
from prorank.training import memory
from prorank.training.lists import ListItem
from prorank.training.reading import read_slots
from prorank.training.steps import Items
from prorank.training.trainer import TrainContext

DOCUMENTS = ["a river of stone", "a cloud", "stone", "the tiger and the river", "a lemon", "violin and piano"]
BALANCED = {"balance_verdicts": True}
TEACHER = {"model": "unused", "loss": "margin_mse", "weight": 0.5}


@pytest.fixture(scope="module")
def five(tmp_path_factory):
    """A prompt of five grades, each one token."""
    file = tmp_path_factory.mktemp("prompt") / "five.yaml"
    segments = ["{instruction}query: {query}", "\n", "document: {document}", "\n", "Relevance:"]
    file.write_text(yaml.safe_dump({"name": "five", "segments": segments, "answers": list("01234")}))
    return file


def reranker_of(model, prompt="prorank-short"):
    return Reranker.from_pretrained(model, prompt=prompt, max_length=512, precision="fp32", for_training=True)


def context_of(reranker, settings, items, folder):
    for module in reranker.backbone.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    backbone = reranker.backbone.train()
    return TrainContext(backbone, reranker.pair_tokenizer, settings, items, folder, 1, Console(quiet=True))


def lists_of(reranker):
    """Two lists of five with graded labels and teacher scores."""
    pairs = [(query, text) for query in ("river stone", "tiger") for text in DOCUMENTS[:5]]
    sequences, _ = reranker.pair_tokenizer.encode(pairs)
    return [
        ListItem(sequences[:5], (2, 1, 0, 0, 0), (3.0, 2.0, 1.0, 0.0, 1.0)),
        ListItem(sequences[5:], (1, 0, 0, 0, 0), (1.0, 0.0, 0.5, 0.2, 0.1)),
    ]


def score_trainer(model, folder, **settings):
    reranker = reranker_of(model)
    section = ScoreLearningSection(steps=1, queries_per_step=2, **settings)
    return ScoreTrainer(context_of(reranker, section, lists_of(reranker), folder), "logit_difference")


def sft_trainer(model, folder, prompt):
    reranker = reranker_of(model, prompt)
    sequences, _ = reranker.pair_tokenizer.encode([("river stone", text) for text in DOCUMENTS])
    items = [SftItem(ids, [7 + i] * (1 + i % 3)) for i, ids in enumerate(sequences)]
    return SftTrainer(context_of(reranker, SftSection(steps=1, pairs_per_step=6), items, folder))


def listwise_trainer(model, folder, prompt, **settings):
    reranker = reranker_of(model, prompt)
    section = ListwiseSection(steps=1, queries_per_step=2, num_generations=3, kl=0.1, **settings)
    return ListwiseTrainer(context_of(reranker, section, lists_of(reranker), folder))


def moved(trainer):
    """The trainer, its model away from the start: nothing is equal or zero by construction."""
    torch.manual_seed(8)
    with torch.no_grad():
        for p in trainer.backbone.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return trainer


def gradient_of(trainer, budget):
    """Gradient, loss and mean notes of one step, and how many tokens its forward passes took."""
    passes = []
    usual = type(trainer).read

    def counted(model, inputs, part):
        passes.append((sum(map(len, inputs["sequences"][part])), torch.is_grad_enabled()))
        return usual(trainer, model, inputs, part)

    trainer.read = counted
    trainer.token_budget, trainer.notes = budget, {}
    trainer.backbone.zero_grad()
    torch.manual_seed(6)
    loss = trainer.training_step(trainer.backbone, {"items": Items(list(trainer.context.items))})
    gradient = torch.cat([p.grad.flatten() for p in trainer.backbone.parameters() if p.grad is not None])
    notes = {name: float(sum(v * w for v, w in values)) for name, values in trainer.notes.items()}
    return gradient, loss, notes, passes


def assert_same_gradient(parts, whole):
    assert (parts - whole).abs().max() < 1e-6 * max(1.0, whole.abs().max())


def assert_parts_equal_the_whole(trainer, budget, without_gradient):
    whole, loss, notes, passes = gradient_of(moved(trainer), 10_000)
    assert sum(with_gradient for _, with_gradient in passes) == 1 and whole.abs().max() > 1e-4
    parts, again, noted, passes = gradient_of(trainer, budget)
    assert sum(with_gradient for _, with_gradient in passes) > 1
    first = [tokens for tokens, with_gradient in passes if not with_gradient and trainer.frozen is None]
    assert bool(first) == without_gradient or trainer.frozen is not None
    assert_same_gradient(parts, whole)
    torch.testing.assert_close(again, loss, atol=1e-6, rtol=1e-5)
    assert noted == pytest.approx(notes, abs=1e-5)


@pytest.mark.parametrize("budget", [60, 250])  # below a list, and a list at a time
@pytest.mark.parametrize("loss", sorted(LABEL_LOSSES))
def test_score_learning_in_parts_is_score_learning(loss, budget, qwen_folder, tmp_path):
    assert_parts_equal_the_whole(score_trainer(qwen_folder, tmp_path, loss=loss), budget, budget == 60)


@pytest.mark.parametrize("loss", ["kl", "margin_mse"])
def test_distillation_in_parts_is_distillation(loss, bert_folder, tmp_path):
    trainer = score_trainer(bert_folder, tmp_path, loss="pairwise", teacher=TEACHER | {"loss": loss})
    assert_parts_equal_the_whole(trainer, 40, True)
    trainer = score_trainer(bert_folder, tmp_path, loss="pairwise", teacher=TEACHER | {"loss": loss})
    assert_parts_equal_the_whole(trainer, 120, False)


@pytest.mark.parametrize(
    "settings",
    [
        {},  # the format weight fades with the whole step's format rate
        {"experimental": {"fade_format": False, "supervised_weight": 0.5}},
        {"experimental": BALANCED, "scale_advantages": "std", "separate_rewards": False, "kl": 0.1},
        {"num_generations": 6, "experimental": {"supervised_weight": 0.5}},
        {"num_generations": 6, "kl": 0.1, "experimental": BALANCED},
    ],
)
def test_warmup_in_parts_is_warmup(settings, qwen_folder, tmp_path):
    trainer, _ = trainer_of(qwen_folder, tmp_path, steps=1, **settings)
    assert_parts_equal_the_whole(trainer, 70, not trainer.separable())


@pytest.mark.parametrize("settings", [{}, {"num_generations": 6}])
def test_a_masked_models_warmup_in_parts_is_warmup(settings, bert_folder, tmp_path):
    trainer, _ = trainer_of(bert_folder, tmp_path, steps=1, **settings)
    for module in trainer.backbone.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    assert_parts_equal_the_whole(trainer, 40, True)


def test_supervised_grades_in_parts_are_supervised_grades(qwen_folder, bert_folder, five, tmp_path):
    assert_parts_equal_the_whole(sft_trainer(qwen_folder, tmp_path, five), 100, False)
    assert_parts_equal_the_whole(sft_trainer(bert_folder, tmp_path, "prorank-short"), 40, False)


@pytest.mark.parametrize("budget", [60, 260])
def test_listwise_reinforcement_in_parts_is_listwise_reinforcement(budget, qwen_folder, five, tmp_path):
    assert_parts_equal_the_whole(listwise_trainer(qwen_folder, tmp_path, five), budget, budget == 60)


def test_generated_answers_in_parts_are_generated_answers(qwen_folder, tmp_path, monkeypatch):
    trainer = listwise_trainer(qwen_folder, tmp_path, "erank", max_new_tokens=6)
    assert not trainer.one_forward
    words = trainer.pair_tokenizer.tokenizer

    def say(_, prompts, count, *__):
        said = [f"{(sum(ids) + g) % 11}</answer>" for ids in prompts for g in range(count)]
        tokens = [words(text, add_special_tokens=False)["input_ids"] for text in said]
        return [tokens[i : i + count] for i in range(0, len(tokens), count)]

    monkeypatch.setattr("prorank.erank.listwise.draw", say)
    assert_parts_equal_the_whole(trainer, 900, True)


@pytest.mark.parametrize("prompt", ["prorank", "instruction-first"])
def test_a_lists_documents_share_their_prefix_with_the_same_gradient(prompt, qwen_folder):
    reranker = reranker_of(qwen_folder, prompt)
    backbone, tokenizer = reranker.backbone.train(), reranker.pair_tokenizer
    sequences, _ = tokenizer.encode([(query, text) for query in ("river stone", "tiger") for text in DOCUMENTS])
    torch.manual_seed(8)
    with torch.no_grad():
        for p in backbone.parameters():
            p.add_(0.05 * torch.randn_like(p))
    assert backbone.supports_packing
    lengths, gradients = [], []
    usual = backbone.packed_hidden

    def watched(pack):
        lengths.append(pack.input_ids.numel())
        return usual(pack)

    backbone.packed_hidden = watched
    for groups in (None, [0] * 6 + [1] * 6):
        backbone.zero_grad()
        logits = read_slots(backbone, tokenizer, sequences, tokenizer.answer_ids, groups)
        listwise_softmax((logits[:, 1] - logits[:, 0]).view(2, 6), torch.eye(2, 6)).backward()
        gradients.append([p.grad.clone() for p in backbone.parameters()])
    assert lengths[0] == sum(map(len, sequences)) and lengths[1] < (0.5 if "first" in prompt else 0.8) * lengths[0]
    for alone, shared in zip(*gradients):
        torch.testing.assert_close(shared, alone, atol=1e-5, rtol=0)
    assert max(float(alone.abs().max()) for alone in gradients[0]) > 0.01


def test_dropout_is_the_same_in_both_passes(bert_folder, tmp_path):
    trainer = score_trainer(bert_folder, tmp_path)
    for module in trainer.backbone.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3
    seen, usual = [], trainer.read

    def watched(model, inputs, part):
        outputs = usual(model, inputs, part)
        seen.append(outputs["logits"].detach())
        return outputs

    trainer.read, trainer.token_budget = watched, 40
    for p in trainer.backbone.parameters():
        p.requires_grad_()
    trainer.training_step(trainer.backbone, {"items": Items(list(trainer.context.items))})
    half = len(seen) // 2
    assert half > 1 and all(torch.equal(one, two) for one, two in zip(seen[:half], seen[half:]))
    assert not torch.equal(seen[0], seen[1][: len(seen[0])])


def test_a_pair_beyond_the_budget_runs_its_layers_twice(qwen_folder, tmp_path):
    trainer = moved(score_trainer(qwen_folder, tmp_path))
    whole, *_ = gradient_of(trainer, 10_000)
    seen, usual = [], trainer.backbone.packed_hidden

    def watched(pack):
        seen.append(trainer.backbone.gradient_checkpointing)
        return usual(pack)

    trainer.backbone.packed_hidden = watched
    parts, *_ = gradient_of(trainer, 8)
    assert set(seen) == {True} and not trainer.backbone.gradient_checkpointing
    assert_same_gradient(parts, whole)
    seen.clear()
    gradient_of(trainer, 130)
    assert set(seen) == {False}
    trainer.settings = trainer.settings.model_copy(update={"gradient_checkpointing": True})
    seen.clear()
    gradient_of(trainer, 10_000)
    assert set(seen) == {True}


def test_memory_that_runs_out_halves_the_budget_once_per_size(qwen_folder, tmp_path, caplog):
    trainer = moved(score_trainer(qwen_folder, tmp_path))
    whole, *_ = gradient_of(trainer, 10_000)
    usual, limit = trainer.backbone.packed_hidden, 100

    def scarce(pack):
        if torch.is_grad_enabled() and pack.input_ids.numel() > limit:
            raise torch.OutOfMemoryError("no room")
        return usual(pack)

    trainer.backbone.packed_hidden = scarce
    with caplog.at_level(logging.WARNING, "prorank"):
        parts, *_ = gradient_of(trainer, 10_000)
        budget = trainer.token_budget
        gradient_of(trainer, budget)
    said = [record.getMessage() for record in caplog.records if "out of memory" in record.getMessage()]
    assert 50 <= budget <= limit and said and said[-1].endswith(f"with {budget} tokens per pass")
    assert len(said) == len(set(said))  # nothing is said about a budget that is known already
    assert_same_gradient(parts, whole)
    limit = 3
    with pytest.raises(torch.OutOfMemoryError):
        gradient_of(trainer, 100)


def test_the_default_budget_follows_the_free_memory(qwen_folder, monkeypatch):
    backbone = reranker_of(qwen_folder).backbone
    budgets = []
    for free in (2**24, 2**28, 2**40):
        monkeypatch.setattr(memory, "free_bytes", lambda _, free=free: free)
        budgets.append(memory.default_budget(backbone))
    shape = memory.shape_of(backbone.config, lora=0, compute=torch.float32)
    state = 12 * sum(p.numel() for p in backbone.parameters())
    assert budgets[0] >= memory.LEAST and budgets[2] == memory.MOST and budgets == sorted(budgets)
    assert budgets[1] * memory.token_bytes(shape) <= memory.SHARE * (2**28 - state)
    assert budgets[1] * 2 * memory.token_bytes(shape) > memory.SHARE * (2**28 - state)
