"""The files that let sentence-transformers read a causal checkpoint: `CrossEncoder(folder)` gives the same scores.

That library renders a chat template and tokenises the text as a whole, while a prompt's parts are tokenised apart:
"?" and a newline may merge into one token. So in the folder's tokenizer the vocabulary's own name of the newline
token (byte-level tokenizers call it U+010A) is declared special, and the template writes that name where a part of
the prompt begins with a newline: the text is split there, and the same ids come out. This module writes text files;
it loads no weights.

What it cannot do: that library reads special tokens inside users' texts (`<|im_end|>`, and the newline token's name)
as such, where prorank takes them as plain characters. Scores of texts that contain them differ.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from prorank.prompts.prompt import Prompt
from prorank.prompts.tokenization import PairTokenizer
from prorank.util.errors import CheckpointError
from prorank.util.files import write_json

_MESSAGE = '(messages | selectattr("role", "eq", "{role}") | map(attribute="content") | first)'
PROBES = [("what is this?", "a stone.\n\nIt is grey"), ("query", ""), ("a\n", "\nb <|x|> 12")]


def chat_template(prompt: Prompt, frame: tuple[str, str], instruction: str | None, newline: str) -> str:
    """A Jinja template over the roles `query` and `document` that renders the prompt.

    Args:
        prompt, frame, instruction: what stands around query and document.
        newline: text that stands for the newline which a segment begins with.
    """
    query, document = _MESSAGE.format(role="query"), _MESSAGE.format(role="document")
    text = frame[0]
    for segment in prompt.segments:
        part = prompt.fill(segment, "{query}", "{document}", instruction)
        text += newline + part[1:] if part.startswith("\n") and not prompt.joined else part
    text += frame[1]
    before, _, rest = text.partition("{query}")
    between, _, after = rest.partition("{document}")
    if "{document}" in before:  # the document comes first
        before, _, between = before.partition("{document}")
        query, document, after = document, query, rest
    literal = [json.dumps(piece, ensure_ascii=False) for piece in (before, between, after)]
    return "{{ " + " ~ ".join((literal[0], query, literal[1], document, literal[2])) + " }}"


def write_sentence_transformers_files(
    folder: Path, tokenizer: PairTokenizer, frame: tuple[str, str], max_length: int
) -> None:
    """Turn a saved causal model folder into one that sentence-transformers' CrossEncoder reads.

    Args:
        folder: weights, config.json and tokenizer, as `Backbone.save` wrote them.
        tokenizer: the pair tokenizer; its prompt, answers and instruction are written into the files.
        frame: text before and after the prompt.
        max_length: where that library cuts; it then puts back the end of the template.

    Raises:
        CheckpointError: that library would tokenise the prompt otherwise (the scores would differ).
    """
    from transformers import AddedToken, AutoTokenizer

    start = tokenizer.prefix_ids if frame == ("", "") else []  # what a plain text begins with, <s> for instance
    opening = "".join(tokenizer.tokenizer.convert_ids_to_tokens(start)) + frame[0]
    newline = tokenizer.tokenizer.encode("\n", add_special_tokens=False)
    name = tokenizer.tokenizer.convert_ids_to_tokens(newline[0]) if len(newline) == 1 else "\n"
    theirs = AutoTokenizer.from_pretrained(folder)
    if len(newline) == 1:
        theirs.add_tokens([AddedToken(name, special=True, normalized=False)], special_tokens=True)
    theirs.chat_template = chat_template(tokenizer.prompt, (opening, frame[1]), tokenizer.instruction, name)
    theirs.model_max_length, theirs.padding_side = max_length, "left"
    _check(theirs, tokenizer)
    theirs.save_pretrained(folder)
    modules = [
        ("", "sentence_transformers.base.modules.transformer.Transformer"),
        ("1_LogitScore", "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"),
    ]
    write_json(
        folder / "modules.json",
        [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(modules)],
    )
    flat = {"method": "forward", "method_output_name": "logits"}
    write_json(
        folder / "sentence_bert_config.json",
        {
            "transformer_task": "text-generation",
            "modality_config": {"text": flat, "message": {**flat, "format": "flat"}},
            "module_output_name": "causal_logits",
        },
    )
    write_json(
        folder / "config_sentence_transformers.json",
        {"model_type": "CrossEncoder", "activation_fn": "torch.nn.modules.linear.Identity", "prompts": {}},
    )
    worst, best = tokenizer.answer_ids[0], tokenizer.answer_ids[-1]
    (folder / "1_LogitScore").mkdir(exist_ok=True)
    score = {"true_token_id": best, "false_token_id": worst, "module_input_name": "causal_logits"}
    write_json(folder / "1_LogitScore" / "config.json", score)


def remove_sentence_transformers_files(folder: Path) -> None:
    """Take away the files by which that library knows its models, where it could not read the weights."""
    for name in ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "1_LogitScore", ignore_errors=True)


def _check(theirs: Any, tokenizer: PairTokenizer) -> None:
    sequences, _ = tokenizer.encode(PROBES)
    for (query, document), ours in zip(PROBES, sequences):
        messages = [{"role": "query", "content": query}, {"role": "document", "content": document}]
        found = list(theirs.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"])
        if found != ours:
            raise CheckpointError(
                "sentence-transformers would tokenise this prompt otherwise than prorank does, and score otherwise",
                hint="export to onnx or openvino instead",
            )
