"""Errors that prorank raises on purpose, and the check for optional packages.

Each error says what is wrong and, in `hint`, how to mend it; the command line prints both on one line
and exits with code 2. This module knows nothing of the rest of the package.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


class ProrankError(Exception):
    """Base of all errors that the user can mend.

    Args:
        message: what is wrong, with the file, line, field or value.
        hint: how to mend it; may be empty.

    >>> str(ProrankError("corpus.jsonl:3: not valid JSON", hint="mend line 3"))
    'corpus.jsonl:3: not valid JSON (mend line 3)'
    """

    def __init__(self, message: str, hint: str = "") -> None:
        self.message = message
        self.hint = hint
        super().__init__(f"{message} ({hint})" if hint else message)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied and pickled as it stands, whatever arguments its class takes: errors cross processes."""
        return _restored, (type(self), self.args, dict(vars(self)))


def _restored(kind: type[ProrankError], arguments: tuple[Any, ...], state: dict[str, Any]) -> ProrankError:
    error = kind.__new__(kind, *arguments)
    vars(error).update(state)
    return error


class InputError(ProrankError, ValueError):
    """An argument has a value that cannot be used: an empty query, a length of 0, a score that is not finite."""


class InputTypeError(ProrankError, TypeError):
    """An argument is of another type than the call takes: one pair in place of a list of pairs, for instance."""


class DataError(ProrankError, ValueError):
    """A collection, run, qrels or other input file is malformed."""


class RecipeError(ProrankError, ValueError):
    """A recipe or one of its overrides is not valid."""


class PromptError(ProrankError, ValueError):
    """A prompt or answer set does not fit the tokenizer."""


class CheckpointError(ProrankError, ValueError):
    """A model or checkpoint folder cannot be used."""


class TrainingError(ProrankError, RuntimeError):
    """Training cannot go on (for instance, the loss is not finite)."""


class MissingExtraError(ProrankError, ImportError):
    """An optional package is not installed."""


def require(module: str, extra: str | None) -> ModuleType:
    """Import an optional module or say which pip command brings it.

    Args:
        module: dotted name of the module, for instance `bm25s`.
        extra: the extra of prorank that installs it, for instance `eval`; None if none does.

    Returns:
        The imported module.

    Raises:
        MissingExtraError: the module is not installed.

    >>> require("json", "eval").__name__
    'json'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.split(".")[0]:
            raise
        raise _missing(error.name, extra) from error


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Imports of what an extra brings: where a package is missing, say which pip command brings it.

    Args:
        extra: of prorank, for instance `langchain`.

    Raises:
        MissingExtraError: a package is not installed.

    >>> with needs("langchain"):
    ...     import no_such
    Traceback (most recent call last):
    prorank.util.errors.MissingExtraError: the package 'no_such' is not installed (pip install 'prorank[langchain]')
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise _missing((error.name or "?").split(".")[0], extra) from error


def _missing(package: str, extra: str | None) -> MissingExtraError:
    wanted = f"'prorank[{extra}]'" if extra else package
    return MissingExtraError(f"the package '{package}' is not installed", hint=f"pip install {wanted}")
