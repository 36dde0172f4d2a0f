"""The warmup trainer's parts: losses against other ways to the same number, rollouts, guards, what goes wrong."""

import json
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from safetensors.torch import load_file
from tiny_runs import tiny, trainer_of

from prorank.bench.guards import SUPERVISED
from prorank.engine.generate import completion_log_probs
from prorank.pipeline.run import prepare_folder
from prorank.recipe.sections import WarmupSection
from prorank.training.checkpoints import last_checkpoint
from prorank.training.context import prepare_data
from prorank.util.errors import DataError, TrainingError
from prorank.warmup import grpo, rewards
from prorank.warmup.answer_distribution import answer_distribution, drawn_log_probs
from prorank.warmup.metrics import VerdictMetrics, diagnosis
from prorank.warmup.pairs import exchanged_pairs, training_pairs
from prorank.warmup.rollouts import Rollout, Rollouts, batch_of_step


def logits_of(backbone, trainer, batch):
    return answer_distribution(backbone, trainer.pair_tokenizer, batch["sequences"], trainer.end_id).logits


def gradients(loss, backbone):
    """Every trained parameter's gradient, as one vector."""
    backbone.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in backbone.parameters() if p.grad is not None])


@given(st.lists(st.floats(-8, 8, width=32), min_size=3, max_size=6), st.integers(0, 2))
def test_mean_scaling_of_a_verdicts_reward_is_maximum_likelihood(values, right):
    logits = torch.tensor([values], dtype=torch.float64, requires_grad=True)
    reward = F.one_hot(torch.tensor([right]), len(values)).double()
    (exact,) = torch.autograd.grad(grpo.exact_loss(logits.log_softmax(-1), reward, scale="mean"), logits)
    (likelihood,) = torch.autograd.grad(F.cross_entropy(logits, torch.tensor([right])), logits)
    p = logits.detach().softmax(-1)[0, right]
    torch.testing.assert_close(exact * (p + grpo.EPS) / p, likelihood)


def test_mean_scaling_refuses_negative_rewards():
    with pytest.raises(ValueError, match="not negative"):
        grpo.group_advantages(torch.tensor([[-1.0, 0.0]]), "mean")
    torch.testing.assert_close(
        grpo.group_advantages(torch.tensor([[1.0, 0.0]]), "mean"), torch.tensor([[1.0, -1.0]]), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("separate", [False, True])
def test_separate_rewards_are_scaled_apart(separate):
    format_part, relevance = torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]])
    from prorank.warmup.trainer import Reward

    terms = Reward(format_part, relevance, 0.5, torch.ones(1, 3)).terms(separate)
    total = sum(weight * part for weight, part in terms)
    torch.testing.assert_close(total, torch.tensor([[0.5, 1.5, 0.0]]))
    assert len(terms) == 1 + separate


@pytest.mark.parametrize("kl", [0.0, 0.1])
def test_one_forward_loss_equals_the_general_path(qwen_folder, tmp_path, kl):
    trainer, batch = trainer_of(qwen_folder, tmp_path, num_generations=32, kl=kl, entropy_bonus=0.0)
    backbone = trainer.backbone
    with torch.no_grad():  # away from the reference, and towards the answers and the end, so that both are drawn
        for p in backbone.parameters():
            p.add_(0.01 * torch.randn_like(p))
        bias = torch.zeros(len(trainer.pair_tokenizer.tokenizer))
        bias[[*trainer.answer_ids.tolist(), trainer.end_id]] = 8.0
    for one in filter(None, (backbone, trainer.frozen)):
        one.project = lambda hidden, *_, usual=one.project: usual(hidden) + bias
    torch.manual_seed(3)
    loss = trainer.loss_on(backbone, batch)
    fast = gradients(loss, backbone)
    prompts, everything = batch["sequences"], slice(0, 4)
    torch.manual_seed(3)
    with torch.no_grad():  # the same draw
        trainer.prepare(backbone, batch, [everything])
        outputs = trainer.read(backbone, batch, everything)
        tokens, _ = drawn_log_probs(outputs["drawn"], outputs["after"], batch["first"], None)
    log_prob, mask = completion_log_probs(backbone, prompts, tokens.tolist())
    verdict, ended = rewards.verdicts(tokens[..., 0], trainer.answer_ids), tokens[..., 1] == trainer.end_id
    met = ((verdict >= 0) & ended).float().mean()
    assert 0.05 < met < 0.95
    weight = rewards.faded_format_weight(float(met))
    advantages = weight * grpo.group_advantages(rewards.format_reward(verdict, ended), "mean")
    advantages = advantages + grpo.group_advantages(rewards.relevance_reward(verdict, batch["label"][:, None]), "mean")
    reference = None
    if kl:
        with torch.no_grad():
            reference, _ = completion_log_probs(trainer.frozen, prompts, tokens.tolist())
    general = grpo.policy_loss(
        log_prob, log_prob.detach(), advantages.flatten(), mask, beta=kl, ref_log_prob=reference
    ).loss
    torch.testing.assert_close(loss, general, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(fast, gradients(general, backbone), atol=1e-5, rtol=1e-3)


def test_drawn_gradients_scatter_around_the_exact_one(bert_folder, tmp_path):
    from prorank.bench.variance import PLAIN, noise

    trainer, batch = trainer_of(bert_folder, tmp_path, **PLAIN)
    with torch.no_grad():  # answers likely enough to be drawn
        logits = logits_of(trainer.backbone, trainer, batch).mean(0)
        for name, p in trainer.backbone.named_parameters():
            if name.endswith("bias") and p.shape == logits.shape:
                p[trainer.answer_ids] += 6.0
    small, large = noise(trainer, (8, 512), 20, "test", Console(quiet=True))
    assert 32 < small["noise"] / large["noise"] < 128  # 1 / G
    assert large["noise_of_mean"] < 0.3 * large["noise"] and small["noise_of_mean"] < 0.3 * small["noise"]


def test_supervised_only_is_cross_entropy(bert_folder, tmp_path):
    trainer, batch = trainer_of(bert_folder, tmp_path, entropy_bonus=0.0, experimental=SUPERVISED["experimental"])
    trainer.backbone.eval()
    logits = logits_of(trainer.backbone, trainer, batch)
    expected = F.cross_entropy(logits, trainer.answer_ids[batch["label"]])
    torch.testing.assert_close(trainer.loss_on(trainer.backbone, batch), expected)


def test_the_supervised_term_anneals_to_nothing(bert_folder, tmp_path):
    trainer, _ = trainer_of(
        bert_folder, tmp_path, steps=20, experimental={"supervised_weight": 2.0, "supervised_share": 0.5}
    )
    weights = []
    for trainer.state.global_step in (0, 5, 10, 15):
        weights.append(trainer.supervised_weight())
    assert weights == [2.0, 1.0, 0.0, 0.0]


def test_the_reference_is_the_start_with_and_without_lora(qwen_folder, tmp_path):
    plain, batch = trainer_of(qwen_folder, tmp_path / "plain", kl=0.1)
    lora, _ = trainer_of(qwen_folder, tmp_path / "lora", lora=True, kl=0.1)
    assert plain.frozen is not None and lora.frozen is None
    start = logits_of(plain.backbone, plain, batch).detach()
    for trainer in (plain, lora):
        with torch.no_grad():
            for p in trainer.backbone.parameters():
                if p.requires_grad:
                    p.add_(0.05 * torch.randn_like(p))
        with trainer.reference() as reference:
            before = logits_of(reference, trainer, batch)
        torch.testing.assert_close(before, start, atol=1e-4, rtol=1e-4)
        assert trainer.backbone.training
        trainer.loss_on(trainer.backbone, batch)
        assert trainer.notes["kl"][0][0] > 1e-4


def rollout(step):
    return Rollout(torch.tensor([[[step]]]), torch.tensor([[-0.5]]), torch.tensor([0.25 * step]), step)


def test_rollouts_come_back_until_they_are_stale(tmp_path):
    settings = WarmupSection(num_generations=4, experimental={"epochs": 3, "rollout_batches": 2, "max_staleness": 3})
    assert [batch_of_step(step, settings) for step in range(14)] == [0, 1] * 3 + [2, 3] * 3 + [4, 5]
    kept = Rollouts(settings)
    drawn = []
    for step in range(12):
        if kept.get(step) is None:
            kept.keep(step, rollout(step))
            drawn.append(step)
    assert drawn == [0, 1, 4, 5, 6, 7, 10, 11]  # at step 4 the verdicts of step 0 are older than 3 steps
    kept.save(tmp_path / "rollouts.safetensors")
    again = Rollouts(settings)
    again.load(tmp_path / "rollouts.safetensors", torch.device("cpu"))
    assert again.kept.keys() == kept.kept.keys() == {2, 3}
    for number, one in kept.kept.items():
        assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(one, again.kept[number]))


def test_several_epochs_train_on_the_same_verdicts_and_clip(bert_folder, tmp_path):
    trainer, batch = trainer_of(
        bert_folder, tmp_path, num_generations=16, epsilon=0.01, format_weight=0.0, experimental={"epochs": 2}
    )
    trainer.backbone.eval()
    trainer.relevance_reward = lambda verdict, label: (verdict < 0).float() * (torch.rand(verdict.shape) > 0.5)
    trainer.loss_on(trainer.backbone, batch)
    first = trainer.rollouts.kept[0]
    assert trainer.notes["clip_fraction"][0][0] == 0
    with torch.no_grad():
        for p in trainer.backbone.parameters():
            p.add_(0.05 * torch.randn_like(p))
    trainer.state.global_step = 1
    trainer.loss_on(trainer.backbone, batch)
    assert torch.equal(trainer.rollouts.kept[0].tokens, first.tokens)
    assert trainer.notes["clip_fraction"][1][0] > 0.2 and trainer.notes["staleness"][1][0] == 1


def broken(verdict, label):
    raise KeyError("no such grade")


def short(verdict, label):
    return torch.zeros(1)


def not_a_number(verdict, label):
    return torch.full(verdict.shape, torch.nan)


@pytest.mark.parametrize(
    ("reward", "words"),
    [
        (broken, "reward function broken raised KeyError at step 3: 'no such grade' .*resume from checkpoint-2"),
        (short, "reward function short gave shape"),
        (not_a_number, "not finite"),
    ],
)
def test_a_failing_reward_function_is_named_and_loses_nothing(reward, words, bert_folder, tmp_path):
    def fails_later(verdict, label):
        if trainer.state.global_step >= 2:
            return reward(verdict, label)
        return rewards.relevance_reward(verdict, label)

    fails_later.__name__ = reward.__name__
    trainer, _ = trainer_of(bert_folder, tmp_path, relevance_reward=fails_later)
    with pytest.raises(TrainingError, match=words):
        trainer.run(resume=False)
    saved = last_checkpoint(tmp_path)
    assert saved.name == "checkpoint-2" and load_file(saved / "trainable.safetensors")
    trainer, _ = trainer_of(bert_folder, tmp_path)
    trainer.run(resume=True)
    assert trainer.state.global_step == 4


def test_equal_groups_are_said_aloud(bert_folder, tmp_path, capsys):
    trainer, _ = trainer_of(bert_folder, tmp_path, num_generations=2, console=Console(width=200), format_weight=0.0)
    trainer.relevance_reward = lambda verdict, label: torch.zeros(verdict.shape)
    trainer.run(resume=False)
    assert "all verdicts of each prompt earn the same" in capsys.readouterr().out
    log = json.loads((tmp_path / "log.json").read_text())
    assert any(entry.get("equal_groups") == 1.0 for entry in log)


judgments = st.dictionaries(
    st.sampled_from("abcdefgh"), st.dictionaries(st.sampled_from("123456"), st.integers(0, 2), min_size=1), min_size=1
)


@given(judgments, st.integers(1, 40), st.integers(0, 3))
def test_exchanged_pairs_are_true_and_balanced(qrels, count, seed):
    positives = {d for judged in qrels.values() for d, grade in judged.items() if grade > 0}
    possible = [q for q, judged in qrels.items() if any(judged.values()) and not positives <= judged.keys()]
    if not possible:
        with pytest.raises(DataError, match="no query has a negative"):
            exchanged_pairs(qrels, count, seed)
        return
    pairs = exchanged_pairs(qrels, count, seed)
    assert len(pairs) == count and pairs == exchanged_pairs(qrels, count, seed)
    for i, (query, document, relevant) in enumerate(pairs):
        assert relevant == (i % 2 == 0)
        assert (qrels[query].get(document, 0) > 0) if relevant else document not in qrels[query]
        assert document in positives


def test_documents_tell_nothing_about_the_verdict():
    qrels = {f"q{i}": {f"d{i}": 1} for i in range(40)}
    pairs = exchanged_pairs(qrels, 160, seed=5)
    for epoch in (pairs[:80], pairs[80:]):
        assert Counter(p.document_id for p in epoch if p.relevant) == Counter(
            p.document_id for p in epoch if not p.relevant
        )
    first, second = ({(p.query_id, p.document_id) for p in part if not p.relevant} for part in (pairs[:80], pairs[80:]))
    assert len(first & second) < 10  # other negatives in another epoch


def test_the_curriculum_goes_from_easy_to_hard(bert_folder, tmp_path):
    from prorank.bench.toy import write_collection

    words = [f"w{i}" for i in range(1200)]
    documents = {f"d{i}": f"common {word}" for i, word in enumerate(words)}
    queries = {f"q{i}": f"common {words[i]}" for i in range(12)}
    qrels = {"train": {f"q{i}": {f"d{i}": 1} for i in range(12)}, "dev": {"q0": {"d0": 1}}, "test": {"q1": {"d1": 1}}}
    write_collection(tmp_path / "data", documents, queries, qrels)
    recipe = tiny(
        bert_folder,
        tmp_path / "data",
        warmup__steps=9,
        warmup__experimental__curriculum=True,
        first_stage__depth=1000,
        data__leakage="allow",
    )
    prepare_folder(recipe, tmp_path / "run", force=False, resume=False)
    context = prepare_data(recipe, tmp_path / "run", Console(quiet=True))
    seen = {}
    import prorank.warmup.pairs as items_module

    original = items_module.encoded
    try:
        items_module.encoded = lambda context, tokenizer, pairs: seen.setdefault("pairs", pairs)
        training_pairs(context, None)
    finally:
        items_module.encoded = original
    ranks = {q: {d: r for r, d in enumerate(run, 1)} for q, run in context.first_stage.items()}
    thirds = [[p for p in seen["pairs"][i : i + 12] if not p.relevant] for i in (0, 12, 24)]
    assert all(p.document_id in {f"d{i}" for i in range(12)} for p in thirds[0])
    assert all(100 < ranks[p.query_id][p.document_id] <= 1000 for p in thirds[1])
    assert all(ranks[p.query_id][p.document_id] <= 100 for p in thirds[2])


def test_a_curriculum_needs_deep_lists(bert_folder, word_collection):
    with pytest.raises(Exception, match=r"first_stage\.depth"):
        tiny(bert_folder, word_collection, warmup__experimental__curriculum=True)


def test_training_without_gradients_is_said_aloud_and_without_parameters_refused(bert_folder, tmp_path, capsys):
    trainer, _ = trainer_of(bert_folder, tmp_path, console=Console(width=200))
    loss = trainer.loss_on
    trainer.loss_on = lambda model, inputs: loss(model, inputs) * 0.0
    trainer.run(resume=False)
    assert "every gradient that was logged is 0: nothing was learned" in capsys.readouterr().out
    trainer.backbone.requires_grad_(False)
    with pytest.raises(TrainingError, match="no parameter of the model is trained"):
        type(trainer)(trainer.context, [])


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ((0.0, 0.0, 0.0), "no reward found"),
        ((0.5, 0.2, 0.5), "format not learned"),
        ((1.0, 0.5, 0.0), "collapsed: 100%"),
        ((1.0, 0.5, 0.99), "collapsed: 99%"),
        ((1.0, 0.8, 0.45), ""),
    ],
)
def test_collapse_is_named(metrics, words):
    rate, accuracy, share = metrics
    found = diagnosis(VerdictMetrics(rate, accuracy, share, 0.5, rate, 0, 100))
    assert found.startswith(words) and bool(found) == bool(words)
