"""Loss and gradients equal TRL's GRPOTrainer on the same samples, rewards and settings."""

import pytest
import torch
import transformers
from conftest import SIZE, byte_tokenizer

from prorank.engine.generate import build_tree, completion_log_probs, draw, token_log_probs
from prorank.model.backbone import Backbone
from prorank.warmup import grpo

trl = pytest.importorskip("trl", reason="TRL is not installed; it needs Python 3.11")

PROMPTS = [[5, 9, 11, 40, 41, 42], [7, 8, 9], [30, 31, 32, 33]]
COMPLETIONS = [
    [[50, 51, 2], [52, 2], [53, 54, 55, 56]],
    [[60, 2], [60, 2], [61, 62, 63]],
    [[70, 71, 72, 2], [73], [70, 2]],
]


def model(seed=0):
    torch.manual_seed(seed)
    config = transformers.Qwen2Config(vocab_size=600, num_key_value_heads=2, pad_token_id=0, eos_token_id=2, **SIZE)
    made = transformers.Qwen2ForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    return made


def trl_trainer(tmp_path, **settings):
    from datasets import Dataset

    tokenizer = byte_tokenizer()
    arguments = trl.GRPOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=9,
        num_generations=3,
        max_completion_length=6,
        use_cpu=True,
        bf16=False,
        report_to="none",
        **settings,
    )
    return trl.GRPOTrainer(
        model=model(),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt": ["a", "b", "c"]}),
        processing_class=tokenizer,
    )


def their_inputs(advantages, old, reference):
    """The batch as TRL pads it: prompts on the left, completions on the right."""
    flat = [(p, c) for p, branches in zip(PROMPTS, COMPLETIONS) for c in branches]
    longest, most = max(len(p) for p, _ in flat), max(len(c) for _, c in flat)
    batch = {
        "prompt_ids": torch.tensor([[0] * (longest - len(p)) + p for p, _ in flat]),
        "prompt_mask": torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p, _ in flat]),
        "completion_ids": torch.tensor([c + [0] * (most - len(c)) for _, c in flat]),
        "completion_mask": torch.tensor([[1] * len(c) + [0] * (most - len(c)) for _, c in flat]),
        "advantages": advantages,
        "num_items_in_batch": torch.tensor(sum(len(c) for _, c in flat)),
    }
    if old is not None:
        batch["old_per_token_logps"] = old
    if reference is not None:
        batch["ref_per_token_logps"] = reference
    return batch


@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize("high", [None, 0.4])
def test_loss_and_gradients_equal_trl(tmp_path, beta, high):
    trainer = trl_trainer(
        tmp_path,
        loss_type="grpo",
        epsilon=0.2,
        epsilon_high=high,
        steps_per_generation=1,
        use_bias_correction_kl=False,
    )
    rewards = torch.tensor([[1.0, 0.0, 2.0], [0.5, 0.5, 0.0], [0.0, 1.0, 1.0]])
    advantages = grpo.group_advantages(rewards).flatten()
    ours = Backbone(model(), None, "causal")
    with torch.no_grad():
        log_prob, mask = completion_log_probs(ours, PROMPTS, COMPLETIONS)
    generator = torch.Generator().manual_seed(1)  # an older policy and a reference, so that clipping and KL bite
    old = log_prob + 0.3 * torch.randn(log_prob.shape, generator=generator) * mask
    reference = log_prob + 0.2 * torch.randn(log_prob.shape, generator=generator) * mask

    trainer.model.eval()
    trainer.beta = beta  # at construction it would load a reference model; its log-probabilities are given here
    trainer.current_gradient_accumulation_steps = 1
    theirs = trainer._compute_loss(trainer.model, their_inputs(advantages, old, reference if beta else None))
    theirs.backward()

    log_prob, mask = completion_log_probs(ours, PROMPTS, COMPLETIONS)
    found = grpo.policy_loss(
        log_prob,
        old,
        advantages,
        mask,
        epsilon_high=high,
        beta=beta,
        ref_log_prob=reference,
    )
    found.loss.backward()
    assert 0 < found.clip_fraction < 1  # the test would prove little if nothing were clipped
    torch.testing.assert_close(found.loss, theirs, atol=1e-5, rtol=1e-5)
    expected = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
    for name, parameter in ours.model.named_parameters():
        if parameter.grad is not None or name in expected:
            torch.testing.assert_close(parameter.grad, expected[name], atol=1e-5, rtol=1e-4, msg=name)


def test_the_tree_gives_the_models_own_log_probabilities():
    backbone = Backbone(model(), None, "causal")
    found, mask = completion_log_probs(backbone, PROMPTS, COMPLETIONS)
    row = 0
    for prompt, branches in zip(PROMPTS, COMPLETIONS):
        for branch in branches:
            with torch.no_grad():
                logits = backbone.model(torch.tensor([prompt + branch])).logits[0].log_softmax(-1)
            expected = [logits[len(prompt) - 1 + i, token].item() for i, token in enumerate(branch)]
            assert found[row, : len(branch)].tolist() == pytest.approx(expected, abs=1e-4)
            assert mask[row].sum() == len(branch)
            row += 1


def test_chunks_change_nothing(monkeypatch):
    from prorank.engine import generate as completions

    backbone = Backbone(model(), None, "causal")
    tree = build_tree(PROMPTS, COMPLETIONS, torch.device("cpu"))
    results = []
    for size in (1000, 2):
        monkeypatch.setattr(completions, "CHUNK", size)
        backbone.zero_grad()
        values = token_log_probs(backbone, backbone.packed_hidden(tree.pack), tree.targets)
        values.pow(2).sum().backward()
        results.append((values.detach(), backbone.model.model.embed_tokens.weight.grad.clone()))
    torch.testing.assert_close(results[0], results[1], atol=1e-4, rtol=1e-4)


def test_drawn_completions_follow_the_models_distribution_and_stop_at_the_end():
    backbone = Backbone(model(), None, "causal")
    prompts = [[5, 9, 11], [7, 8, 9, 10, 11, 12]]
    likeliest = draw(backbone, prompts, 2, 5, [2], temperature=0)
    for prompt, branches in zip(prompts, likeliest):
        assert branches[0] == branches[1]
        ids = list(prompt)
        with torch.no_grad():
            for token in branches[0]:
                assert backbone.model(torch.tensor([ids])).logits[0, -1].argmax().item() == token
                ids.append(token)
    with torch.no_grad():
        p = backbone.model(torch.tensor([prompts[0]])).logits[0, -1].softmax(-1)
    torch.manual_seed(0)
    drawn = draw(backbone, prompts, 3_000, 1, [2])[0]
    share = torch.bincount(torch.tensor([row[0] for row in drawn]), minlength=600) / 3_000
    assert (share - p).abs().max() < 0.04
    end = int(p.argmax())
    rows = draw(backbone, prompts[:1], 200, 6, [end])[0]
    assert all(end not in row[:-1] for row in rows) and any(len(row) < 6 for row in rows)
