"""The prompts that ship, published ones to the letter, and how a prompt is found by name or YAML file.

Knows words only.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from prorank.prompts.prompt import Prompt
from prorank.util.errors import DataError, PromptError
from prorank.util.files import read_text
from prorank.util.yaml_text import parse_yaml

# The published ProRank checkpoints were trained with exactly this chat format (Qwen2.5's).
QWEN_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
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
