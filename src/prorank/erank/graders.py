"""Teachers that grade pairs 0..10: a chat endpoint, a local model, a reranker's scores, or the judgments themselves.

All answer the same question, `ask`: tasks in, generations out, in any order. Knows texts and models; nothing of files
or training.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, NamedTuple, Protocol

import numpy as np

from prorank.engine.reasoning import parse_grade, reason
from prorank.prompts.builtin import PROMPTS
from prorank.reranker import Reranker
from prorank.training.inputs import model_files_fingerprint
from prorank.util.addresses import is_loopback
from prorank.util.errors import DataError, ProrankError, require

logger = logging.getLogger(__name__)
HIGHEST = 10
BEST_NEGATIVE = 8  # a scorer's best document that is not judged relevant
RETRIED = (408, 409, 429)  # statuses that may pass, as 5xx may


class Task(NamedTuple):
    """One pair to be graded, and which of its generations this is."""

    query_id: str
    document_id: str
    query: str
    document: str
    label: int  # judged grade, 0 where nothing is judged
    generation: int = 0


class Generation(NamedTuple):
    """A grade 0..10, or None where the answer held none; what was said, and its length in tokens."""

    grade: int | None
    text: str = ""
    tokens: int = 0


class Teacher(Protocol):
    """Grades pairs."""

    name: str
    key: str  # all that its answers depend on besides the task: model and its files, prompt, settings
    generations: int  # that a pair gets; 1 where asking again gives the same
    whole_lists: bool  # whether a grade depends on the query's other documents, which are then asked for together

    def ask(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Generation]]:
        """Generations as they come; a task that finally failed raises."""


def asked_text(query: str, document: str) -> str:
    """What a generating teacher is asked."""
    return PROMPTS["erank-think"].render(query, document)


class QrelsTeacher:
    """The judgments as grades: the highest grade of the query's list is 10."""

    name, key, generations, whole_lists = "qrels", "qrels", 1, True

    def ask(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Generation]]:
        """One grade a task."""
        top: dict[str, int] = {}
        for task in tasks:
            top[task.query_id] = max(top.get(task.query_id, 1), task.label)
        for task in tasks:
            yield task, Generation(round(HIGHEST * max(0, task.label) / top[task.query_id]))


class ScorerTeacher:
    """A reranker's scores spread over each query's list: judged relevant 10, the others 0..8 from worst to best.

    Args:
        model: name or folder of a reranker with one score per pair.
    """

    generations, whole_lists = 1, True

    def __init__(self, model: str) -> None:
        self.name, self.reranker = f"scorer:{model}", Reranker(model)
        settings = self.reranker.settings.model_dump(mode="json")
        self.key = json.dumps([self.name, model_files_fingerprint(model), settings])

    def ask(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Generation]]:
        """One grade a task; all tasks of a query belong together."""
        scores = self.reranker.score([(task.query, task.document) for task in tasks])
        for query in dict.fromkeys(task.query_id for task in tasks):
            places = [i for i, task in enumerate(tasks) if task.query_id == query]
            below = [scores[i] for i in places if tasks[i].label <= 0]
            for i in places:
                grade = HIGHEST if tasks[i].label > 0 else spread(scores[i], below, BEST_NEGATIVE)
                yield tasks[i], Generation(grade)


def spread(score: float, scores: Sequence[float], highest: int) -> int:
    """Place of a score between the least and the greatest, as a whole number 0..highest.

    >>> spread(2.0, [1.0, 2.0, 3.0], 8)
    4
    """
    low, width = min(scores), float(np.ptp(scores))
    return round(highest * (score - low) / width) if width > 0 else 0


class LocalTeacher:
    """A causal model on this machine, asked as the published ERank checkpoints are.

    Args:
        model: name or folder.
        generations: of each pair.
        max_new_tokens: of each generation.
        temperature: 0 gives the same answer every time.
    """

    whole_lists = False

    def __init__(self, model: str, generations: int, max_new_tokens: int, temperature: float) -> None:
        self.name, self.generations = f"local:{model}", generations if temperature > 0 else 1
        self.max_new_tokens, self.temperature = max_new_tokens, temperature
        self.reranker = Reranker(model, prompt=PROMPTS["erank-think"])
        files = model_files_fingerprint(model)
        self.key = json.dumps([self.name, files, asked_text("{query}", "{document}"), max_new_tokens, temperature])

    def ask(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Generation]]:
        """Generations, a batch at a time."""
        tokenizer = self.reranker.pair_tokenizer
        sequences, _ = tokenizer.encode([(task.query, task.document) for task in tasks])
        found = reason(
            self.reranker.backbone,
            tokenizer,
            sequences,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
        )
        for task, grade, text in zip(tasks, found.grades, found.texts):
            yield task, Generation(grade, text, len(tokenizer.tokenizer(text)["input_ids"]))


class ChatTeacher:
    """An OpenAI-compatible chat endpoint, several requests at a time, asked through the `openai` package.

    That package tries a request again after a lost connection, a timeout, or status 408, 409, 429 and 5xx. It waits
    .5 to 8 seconds in between, or as long as the endpoint's `Retry-After` says (two minutes at most).

    Args:
        base_url: such as `http://localhost:8000/v1`.
        model: as the endpoint calls it.
        generations: of each pair.
        max_new_tokens: of each generation.
        temperature: of sampling.
        key_variable: environment variable that holds the key; none is sent where it is not set, or where others
            could read it on the way: it goes to https and to this machine only, and follows no redirect.
        concurrency: requests at a time.
        attempts: tries of a request, at least 1.
        timeout: seconds of one try.

    Raises:
        MissingExtraError: openai is not installed.
        InputError: `base_url` is no http or https address.
    """

    whole_lists = False

    def __init__(
        self,
        base_url: str,
        model: str,
        generations: int,
        max_new_tokens: int,
        temperature: float,
        *,
        key_variable: str = "OPENAI_API_KEY",
        concurrency: int = 8,
        attempts: int = 8,
        timeout: float = 120.0,
    ) -> None:
        self.name, self.generations = f"chat:{model}", generations
        self.attempts, self.concurrency, self.base_url = attempts, concurrency, base_url.rstrip("/")
        self.body = {"model": model, "max_tokens": max_new_tokens, "temperature": temperature}
        self.key = json.dumps([self.name, self.base_url, asked_text("{query}", "{document}"), self.body])
        loopback, key = is_loopback(base_url), key_for(base_url, key_variable)
        self.openai = require("openai", "chat")
        left_out = self.openai.Omit()
        self.headers = {
            "Authorization": f"Bearer {key}" if key else left_out,
            "OpenAI-Organization": left_out,  # the package would take both from the environment
            "OpenAI-Project": left_out,
        }
        self.client = self.openai.OpenAI(
            base_url=self.base_url,
            api_key=key or "none",  # the package wants one; what is sent is the header above
            max_retries=attempts - 1,
            timeout=timeout,
            http_client=self.openai.DefaultHttpxClient(
                follow_redirects=False,  # the key is for this address only
                trust_env=not loopback,  # what stays on this machine goes through no proxy
            ),
        )

    def ask(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Generation]]:
        """Generations as they arrive.

        Raises:
            ProrankError: the endpoint refused a request, or failed as often as it may; what arrived before is out.
        """
        pool = ThreadPoolExecutor(self.concurrency)
        waiting = {pool.submit(self.request, task): task for task in tasks}
        left = set(waiting)
        try:
            for done in as_completed(waiting):
                generation = done.result()
                left.remove(done)
                yield waiting[done], generation
        except ProrankError:
            pool.shutdown(wait=True, cancel_futures=True)
            for future in left:  # what was on its way has been paid for
                if not future.cancelled() and future.exception() is None:
                    yield waiting[future], future.result()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def request(self, task: Task) -> Generation:
        """One answer. One that is no chat completion is asked for again, like a request that failed.

        Raises:
            ProrankError: the endpoint refused the request, or failed as often as it may.
        """
        text = asked_text(task.query, task.document)
        asked = {**self.body, "messages": [{"role": "user", "content": text}], "seed": task.generation}
        create = self.client.chat.completions.with_raw_response.create
        problem: Exception | None = None
        for _ in range(self.attempts):
            try:
                return answer(create(**asked, extra_headers=self.headers).http_response.json())
            except self.openai.APIStatusError as error:
                raise self.refusal(error) from error
            except self.openai.APIConnectionError as error:
                raise self.no_answer(error.__cause__ or error) from error
            except (json.JSONDecodeError, UnicodeDecodeError, DataError) as error:
                problem = error
        raise self.no_answer(problem)

    def no_answer(self, last: object) -> ProrankError:
        """What to say where every try failed, with the last one's reason."""
        reason = f"{type(last).__name__}: {last}" if isinstance(last, BaseException) else last
        return ProrankError(f"{self.base_url}: no answer after {self.attempts} tries, last {reason}")

    def refusal(self, error: Any) -> ProrankError:
        """What to say of an `openai.APIStatusError`."""
        status, headers = error.status_code, error.response.headers
        if status in RETRIED or status >= 500:
            return self.no_answer(f"status {status}")
        if status < 400:
            return ProrankError(
                f"{self.base_url} redirects to {headers.get('location')}",
                hint="give that address as base_url, if you trust it with the key",
            )
        return ProrankError(
            f"{self.base_url}: status {status}: {error.response.text[:200]}",
            hint="check the address, the model's name and the key",
        )


def key_for(base_url: str, key_variable: str) -> str:
    """The key for an address: for https and this machine only, else empty; a warning says where it is kept back."""
    key = os.environ.get(key_variable, "").strip()
    if key and not base_url.lower().startswith("https:") and not is_loopback(base_url):
        logger.warning("%s is not sent to %s: others could read it on the way. Use https.", key_variable, base_url)
        return ""
    return key


def answer(body: object) -> Generation:
    """The generation in a chat completion.

    Raises:
        DataError: the body is not one.

    >>> answer({"choices": [{"message": {"content": "<answer>3</answer>"}}], "usage": {"completion_tokens": 5}})
    Generation(grade=3, text='<answer>3</answer>', tokens=5)
    """
    try:
        message = body["choices"][0]["message"]  # type: ignore[index]
        text = message["content"]
        thought = message.get("reasoning_content")  # some servers take the thinking out of the text
        text = f"<think>{thought}</think>{text}" if thought else text
        tokens = int(body["usage"]["completion_tokens"])  # type: ignore[index]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"not a chat completion: {json.dumps(body)[:200]}") from error
    if not isinstance(text, str):
        raise DataError(f"not a chat completion: {json.dumps(body)[:200]}")
    return Generation(parse_grade(text), text, tokens)


def load_teacher(
    name: str,
    generations: int,
    max_new_tokens: int,
    temperature: float,
    base_url: str = "http://localhost:8000/v1",
    key_variable: str = "OPENAI_API_KEY",
    concurrency: int = 8,
) -> Teacher:
    """The teacher that a name stands for: `qrels`, `scorer:MODEL`, `local:MODEL` or `chat:MODEL`.

    Raises:
        ProrankError: none of these, or a temperature that is no number.

    >>> load_teacher("qrels", 3, 100, 0.6).generations
    1
    """
    kind, _, model = name.partition(":")
    if not 0 <= temperature < math.inf:
        raise ProrankError(f"the temperature must be a number of at least 0, got {temperature}", hint="0.6 is usual")
    if name == "qrels":
        return QrelsTeacher()
    if kind == "scorer" and model:
        return ScorerTeacher(model)
    if kind == "local" and model:
        return LocalTeacher(model, generations, max_new_tokens, temperature)
    if kind == "chat" and model:
        return ChatTeacher(
            base_url,
            model,
            generations,
            max_new_tokens,
            temperature,
            key_variable=key_variable,
            concurrency=concurrency,
        )
    raise ProrankError(f"unknown teacher '{name}'", hint="qrels, scorer:MODEL, local:MODEL or chat:MODEL")
