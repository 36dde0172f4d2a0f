"""Text -> terms for BM25, by language. Knows scripts, stop words and stemming; nothing of collections.

The words are ours (`tokenize`), the vocabulary is that of bm25s (`term_numbers`).
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
import re
import unicodedata
from collections.abc import Iterable
from typing import Any, Literal

from prorank.types import Language
from prorank.util.errors import DataError, require

_HAN = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_KANA = "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"
_THAI = "\u0e00-\u0e7f"
# Runs of scripts written without spaces, or words; marks (vowel signs of Hindi, say) belong to their word.
_LETTER = rf"[^\W_{_HAN}{_KANA}{_THAI}]"
# Joiners, and all combining marks of the basic plane but those of Thai and kana, which have runs of their own.
_MARKS = "\u200c\u200d" + "".join(
    chr(code)
    for code in range(0x300, 0x10000)
    if unicodedata.category(chr(code)).startswith("M") and not re.match(f"[{_KANA}{_THAI}]", chr(code))
)
_TOKEN = re.compile(rf"[{_HAN}{_KANA}]+|[{_THAI}]+|{_LETTER}(?:{_LETTER}|[{_MARKS}])*")
_POSSESSIVE = re.compile(r"['\u2019]s\b")
_UNSPACED = re.compile(rf"[{_HAN}{_KANA}{_THAI}]")
_SCRIPTS: dict[Language, re.Pattern[str]] = {
    "ja": re.compile(f"[{_KANA}]"),
    "zh": re.compile(f"[{_HAN}]"),
    "th": re.compile(f"[{_THAI}]"),
    "en": re.compile("[A-Za-z]"),
}
# Lucene's classic English stop list.
STOPWORDS = frozenset(
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these "
    "they this to was will with".split()
)


def detect_language(texts: Iterable[str]) -> Language:
    """Language for tokenisation by the scripts of the first 200 texts.

    Any kana above 5 % of the letters means Japanese, else the script with the largest share decides: Han is
    Chinese, Thai is Thai, Latin is taken for English (its stemmer does little harm to others; say
    `language="other"` to switch it off), anything else is `other`.

    >>> detect_language(["これは日本語です"]), detect_language(["a cat"]), detect_language(["кошка"])
    ('ja', 'en', 'other')
    """
    sample = "".join(text[:2000] for text in itertools.islice(texts, 200))
    letters = sum(character.isalpha() for character in sample) or 1
    shares = {language: len(pattern.findall(sample)) / letters for language, pattern in _SCRIPTS.items()}
    if shares["ja"] > 0.05:
        return "ja"
    language = max(shares, key=lambda key: shares[key])
    return language if shares[language] > 0.3 else "other"


def check_language(name: str) -> Language | Literal["auto"]:
    """The name itself, if it is a language that the tokeniser knows, or `auto`.

    Raises:
        DataError: another name.
    """
    known: tuple[Language | Literal["auto"], ...] = ("auto", "en", "zh", "ja", "th", "other")
    for language in known:
        if language == name:
            return language
    raise DataError(f"unknown language '{name}'", hint=f"use one of {', '.join(known)}")


def tokenize(text: str, language: Language) -> list[str]:
    """Index terms of a text.

    Scripts without spaces give character bigrams (a lone character stays); every other word is lower-cased,
    and in English freed of stopwords and possessive endings and stemmed (Porter, as in Anserini's baselines).

    >>> tokenize("The cats are running", "en")
    ['cat', 'run']
    >>> tokenize("机器学习 GPU", "zh")
    ['机器', '器学', '学习', 'gpu']
    """
    stem = _stemmer() if language == "en" else None
    text = _POSSESSIVE.sub("", text.lower()) if language == "en" else text.lower()
    terms: list[str] = []
    for token in _TOKEN.findall(text):
        if _UNSPACED.match(token):
            terms += [token[i : i + 2] for i in range(len(token) - 1)] or [token]
        elif stem is None:
            terms.append(token)
        elif token not in STOPWORDS:
            terms.append(stem.stemWord(token) or token)  # Porter leaves nothing of "s"
    return terms


def bm25s_library() -> Any:
    """The package bm25s, kept quiet and off the GPU.

    Raises:
        MissingExtraError: it is not installed.
    """
    # bm25s imports jax where it is installed, and jax takes three quarters of a GPU unless told otherwise.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    library = require("bm25s", "eval")
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it switches its own debugging lines on
    return library


def term_numbers(language: Language, vocabulary: dict[str, int] | None = None) -> Any:
    """A `bm25s.tokenization.Tokenizer` over the terms of `tokenize`.

    Stop words and stems are left to `tokenize`, since bm25s would keep every word of every query in its table of stems.

    Args:
        language: of the texts.
        vocabulary: term -> number, of an index that is there already; None starts an empty one.

    Raises:
        MissingExtraError: bm25s is not installed.

    >>> numbers = term_numbers("en")
    >>> numbers.tokenize(["two cats", "a cat"], update_vocab=True, allow_empty=False, show_progress=False)
    [[0, 1], [1]]
    """
    bm25s_library()
    found = require("bm25s.tokenization", "eval").Tokenizer(
        lower=False, splitter=functools.partial(tokenize, language=language), stopwords=None, stemmer=None
    )
    found.word_to_id.update(vocabulary or {})
    return found


_STEMMER: Any = None


def _stemmer() -> Any:
    global _STEMMER
    if _STEMMER is None:
        _STEMMER = require("Stemmer", "eval").Stemmer("porter")
    return _STEMMER
