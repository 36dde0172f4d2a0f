"""Prompts and answer sets: the words that ask a model whether a document is relevant.

A prompt is a list of segments, tokenised apart (see `prorank.tokenization`). This module knows words and chat
templates, but no token ids, no models and no training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from prorank.errors import DataError, PromptError
from prorank.files import read_text
from prorank.yaml_text import parse_yaml

Family = Literal["causal", "masked", "classifier"]  # the last: other people's cross-encoders

# The published ProRank checkpoints were trained with exactly this chat format (Qwen2.5's).
QWEN_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
QWEN_PREFIX = "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n"
QWEN_SUFFIX = "<|im_end|>\n<|im_start|>assistant\n"

_RELEVANCE_TASK = (
    "You are a search relevance expert who evaluates how well documents match search queries. For each "
    "query-document pair, carefully analyze the semantic relationship between them, then provide your binary "
    "relevance judgment (0 for not relevant, 1 for relevant).\nRelevance:"
)


GRADES = tuple(str(grade) for grade in range(11))
# Text of the published ERank checkpoints; the instruction says what relevance means.
_ERANK = (
    "Given a query and a document, please give a relevance score of 0 to 10.\n"
    "The goal or relevance definition is: {instruction}\n\nHere is the query:\n{query}",
    "\n\n",
    "Here is the document:\n{document}",
    "\n\n",
    "After thinking, directly choose a relevance score from [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10].\n"
    "- 0 represents completely not related.\n- 10 means perfectly related.\n\n",
)


ANSWER_TAG = "<answer>"  # opens the answer after reasoning


class Prompt(BaseModel):
    """A named template with its answer set.

    Args:
        name: how recipes and checkpoints call it.
        segments: pieces of text, each tokenised apart. Exactly one holds `{query}` and exactly one (another)
            holds `{document}`; `{instruction}` may stand in the query's segment and becomes the line
            `instruction: ...` when an instruction is given, nothing otherwise.
        answers: the answer set from worst to best; one token each after the prompt (see `PairTokenizer`).
        system: system turn for chat models; None means the tokenizer's own default.
        frame: text before and after the prompt, to the letter, in place of a chat template.
        opening: what stands between the prompt and the answer, in the answerer's own turn.
        closing: what follows the answer there.
        instruction_line: how an instruction is written where `{instruction}` stands.
        default_instruction: the instruction when none is given.
        joined: tokenise the whole prompt as one text and cut its end, as some published code does. A query's
            and a document's tokens then depend on each other a little.
        thinks: the answer comes after reasoning, inside `<answer>` tags; scores need generation.

    >>> PROMPTS["prorank"].answers
    ('0', '1')
    >>> PROMPTS["prorank"].render("a", "b").splitlines()[:2]
    ['query: a', 'document: b']
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    segments: tuple[str, ...]
    answers: tuple[str, ...] = ("0", "1")
    system: str | None = None
    frame: tuple[str, str] | None = None
    opening: str = ""
    closing: str = ""
    instruction_line: str = "instruction: {instruction}\n"
    default_instruction: str | None = None
    joined: bool = False
    thinks: bool = False

    @field_validator("answers")
    @classmethod
    def _distinct_answers(cls, answers: tuple[str, ...]) -> tuple[str, ...]:
        if len(answers) < 2 or len(set(answers)) != len(answers) or not all(answers):
            raise ValueError(f"answers must be two or more different non-empty strings, got {list(answers)}")
        return answers

    @field_validator("segments")
    @classmethod
    def _one_query_one_document(cls, segments: tuple[str, ...]) -> tuple[str, ...]:
        for slot in ("{query}", "{document}"):
            if sum(segment.count(slot) for segment in segments) != 1:
                raise ValueError(f"segments must hold {slot} exactly once")
        if any("{query}" in segment and "{document}" in segment for segment in segments):
            raise ValueError("{query} and {document} must stand in different segments")
        if any("{instruction}" in segment and "{query}" not in segment for segment in segments):
            raise ValueError("{instruction} must stand in the segment of {query}")
        return segments

    @model_validator(mode="after")
    def _something_asks(self) -> Prompt:
        last = self.segments[-1]
        if ("{query}" in last or "{document}" in last) and self.frame is None:
            raise ValueError("the last segment must be fixed text that asks for the answer")
        if self.joined and "{document}" not in last:
            raise ValueError("a joined prompt must end with the document: its end may be cut")
        if "{instruction}" not in self.instruction_line:
            raise ValueError("instruction_line must hold {instruction}")
        return self

    def render(self, query: str, document: str, instruction: str | None = None) -> str:
        """The whole prompt as plain text, before any chat template; for people to read."""
        return "".join(self.fill(segment, query, document, instruction) for segment in self.segments)

    def fill(self, segment: str, query: str, document: str, instruction: str | None = None) -> str:
        """Put the texts into one segment; see `fill`."""
        chosen = instruction if instruction is not None else self.default_instruction
        before, _, after = self.instruction_line.partition("{instruction}")
        return fill(segment, query, document, f"{before}{chosen}{after}" if chosen else "")


def fill(segment: str, query: str, document: str, line: str = "") -> str:
    """Put the texts into one segment; braces inside the texts are left alone.

    >>> fill("{instruction}query: {query}", "a {document}", "", "instruction: be strict\\n")
    'instruction: be strict\\nquery: a {document}'
    """
    if "{query}" in segment:
        before, after = segment.split("{query}")
        return before.replace("{instruction}", line) + query + after.replace("{instruction}", line)
    before, slot, after = segment.partition("{document}")
    return before + document + after if slot else segment


PROMPTS: dict[str, Prompt] = {
    # Text of the published ProRank checkpoints (mxbai-rerank-base-v2 / -large-v2), arXiv 2506.03487.
    "prorank": Prompt(
        name="prorank",
        segments=("{instruction}query: {query}", "\n", "document: {document}", "\n", _RELEVANCE_TASK),
        answers=("0", "1"),
        system=QWEN_SYSTEM,
    ),
    "yesno": Prompt(
        name="yesno",
        segments=(
            "{instruction}query: {query}",
            "\n",
            "document: {document}",
            "\n",
            "Does the document answer the query? Reply with yes or no.\nAnswer:",
        ),
        answers=("no", "yes"),
    ),
    # Instruction and query stand before the document, so that all documents of a query share nearly everything but
    # themselves: several times faster on short documents. For newly trained models.
    "instruction-first": Prompt(
        name="instruction-first",
        segments=(
            _RELEVANCE_TASK.removesuffix("\nRelevance:"),
            "\n",
            "{instruction}query: {query}",
            "\n",
            "document: {document}",
            "\nRelevance:",
        ),
        answers=("0", "1"),
        system=QWEN_SYSTEM,
    ),
    # Text of the published Qwen3-Reranker checkpoints (Qwen, Apache-2.0): a baseline.
    "qwen3-reranker": Prompt(
        name="qwen3-reranker",
        segments=("{instruction}<Query>: {query}", "\n<Document>: {document}"),
        answers=("no", "yes"),
        frame=(
            "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
            'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n',
            "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        ),
        instruction_line="<Instruct>: {instruction}\n",
        default_instruction="Given a web search query, retrieve relevant passages that answer the query",
        joined=True,
    ),
    # ERank (arXiv 2509.00520, figure 5), the answer at once: the model opens the answer's tag and says the grade.
    "erank": Prompt(
        name="erank",
        segments=(*_ERANK, "Desired output format:\n<answer>Only allows an integer here</answer>\n\nYour output:"),
        answers=GRADES,
        opening="<answer>",
        closing="</answer>",
        instruction_line="{instruction}",
        default_instruction="Given a query, retrieval relevant passage.",
    ),
    # The published checkpoints' own: first the thinking, then the grade.
    "erank-think": Prompt(
        name="erank-think",
        segments=(
            *_ERANK,
            "Desired output format:\n<think>put your thinking here</think><answer>Only allows an integer here</answer>"
            "\n\nYour output:",
        ),
        answers=GRADES,
        instruction_line="{instruction}",
        default_instruction="Given a query, retrieval relevant passage.",
        thinks=True,
    ),
    # Integer grades for small masked models.
    "erank-short": Prompt(
        name="erank-short",
        segments=("{instruction}query: {query}", "\n", "document: {document}", "\n", "Relevance from 0 to 10:"),
        answers=GRADES,
    ),
    # The same answers with a short question: a small masked model gains nothing from a long instruction,
    # and every pair is about 60 tokens cheaper.
    "prorank-short": Prompt(
        name="prorank-short",
        segments=("{instruction}query: {query}", "\n", "document: {document}", "\n", "Relevance:"),
        answers=("0", "1"),
    ),
}


def load_prompt(name_or_path: str | Path) -> Prompt:
    """A built-in prompt by name, or a user's own from a YAML file with the fields of `Prompt`.

    Raises:
        PromptError: no such prompt or file, or a field is not valid (the message names it).

    >>> load_prompt("yesno").answers
    ('no', 'yes')
    """
    if str(name_or_path) in PROMPTS:
        return PROMPTS[str(name_or_path)]
    path = Path(name_or_path)
    if not path.is_file():
        raise PromptError(f"no prompt named '{name_or_path}'", hint=f"use one of {', '.join(PROMPTS)}, or a YAML file")
    try:
        return Prompt.model_validate(parse_yaml(read_text(path), str(path)))
    except DataError as error:
        raise PromptError(error.message, error.hint) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "prompt"
        raise PromptError(f"{path}: {where}: {first['msg']}") from error


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
