"""The chat frame: what a chat template puts before and after the prompt. Knows tokenizers' templates only."""

from __future__ import annotations

from typing import Any

from prorank.prompts.builtin import QWEN_SYSTEM
from prorank.prompts.prompt import Prompt
from prorank.util.errors import PromptError

QWEN_PREFIX = "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n"
QWEN_SUFFIX = "<|im_end|>\n<|im_start|>assistant\n"


def chat_frame(tokenizer: Any, prompt: Prompt, model_type: str) -> tuple[str, str]:
    """Text that stands before and after the prompt: the chat template's opening and the assistant's turn.

    Qwen2-type models get the literal format of the published ProRank checkpoints. Others go through their own template,
    with or without thinking as the prompt says, where the template knows `enable_thinking`. A tokenizer without a
    template gets the plain text.

    Returns:
        (prefix, suffix), both empty for plain text.

    Raises:
        PromptError: the template changes or drops the user's text.
    """
    if prompt.frame is not None:
        return prompt.frame
    template = getattr(tokenizer, "chat_template", None)
    if model_type == "qwen2" and "<|im_start|>" in tokenizer.get_vocab():
        return QWEN_PREFIX.format(system=prompt.system or QWEN_SYSTEM), QWEN_SUFFIX
    if not template:
        return "", ""
    marker = "PRORANK-USER-TURN"
    user = [{"role": "user", "content": marker}]
    # The system text above is Qwen's own; other families keep their template's default system turn.
    system = prompt.system if prompt.system != QWEN_SYSTEM else None
    turns = ([{"role": "system", "content": system}] if system else []) + user
    text = tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True, enable_thinking=prompt.thinks
    )
    if text.count(marker) != 1:
        raise PromptError("the tokenizer's chat template does not keep the user's text as it is")
    prefix, _, suffix = text.partition(marker)
    return prefix, suffix
