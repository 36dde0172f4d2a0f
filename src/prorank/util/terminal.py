"""Text before people's eyes: control characters are shown instead of obeyed, one line stays one line.

Documents, titles, ids and names come from strangers; an escape sequence in one of them must not reach the terminal.
Knows nothing of what the texts mean.
"""

from __future__ import annotations

import logging
import re

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleDimensions
from rich.text import Text

WIDE = 10_000  # columns where there is no terminal: nothing is wrapped
# Control characters but tab and line feed, line separators, overrides of the writing direction, half surrogates.
HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""The text with control characters written out.

    >>> visible("\x1b[31mred")
    '\\x1b[31mred'
    """
    return HIDDEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def one_line(text: str, width: int) -> str:
    r"""A text on one line of at most `width` columns, ending in an ellipsis where it is cut.

    >>> one_line("Owls hunt\n at night.", 12)
    'Owls hunt a…'
    """
    line = visible(" ".join(text.split()))
    return line if cell_len(line) <= width else set_cell_size(line, max(0, width - 1)).rstrip() + "…"


class PlainConsole(Console):
    """Rich's console that shows control characters, and wraps nothing where it is no terminal."""

    @property  # type: ignore[misc]
    def size(self) -> ConsoleDimensions:
        """Columns and rows."""
        return super().size if self.is_terminal else ConsoleDimensions(WIDE, 25)

    def render_str(self, text: str, **options: object) -> Text:
        """Every string that is printed, cells of tables too, passes here."""
        return super().render_str(visible(text), **options)  # type: ignore[arg-type]


class PlainHandler(logging.Handler):
    """Log lines on a console, each once, however many loggers hand it on."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record, unless it came by before."""
        if not getattr(record, "printed", False):
            record.printed = True
            line = Text.assemble((f"{record.levelname:<8}", "yellow"), " ", visible(record.getMessage()))
            self.console.print(line, soft_wrap=True, highlight=False)
