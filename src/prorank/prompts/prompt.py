"""A prompt: the words that ask a model whether a document is relevant, and the answers it may give.

A prompt is a list of segments, tokenised apart (see `prorank.prompts.tokenization`). This module knows words; no token
ids, no models.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

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

    >>> from prorank.prompts.builtin import PROMPTS
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
