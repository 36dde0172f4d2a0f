"""Pages of the documentation, as text that tests take apart."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def blocks(page, *languages):
    """Fenced blocks of a page, those inside lists as well."""
    found = re.findall(r"^( *)```(\w+)\n(.*?)^\1```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [
        re.sub(f"^{indent}", "", text, flags=re.MULTILINE) for indent, language, text in found if language in languages
    ]
