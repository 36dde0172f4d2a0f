"""What a text or an id must be: something that can be encoded, printed and written down.

JSON escapes (`"\ud83d"`) and undecodable bytes of the command line leave lone surrogates in a string: such a text can
neither be tokenised nor written. Knows strings only.
"""

from __future__ import annotations

import re
import unicodedata

SURROGATE = re.compile("[\ud800-\udfff]")
PUNCTUATION = ".,;:!?¿¡…\"'`´‘’“”„«»()[]{}。，、；：！？「」『』《》（）・-–—"
SURROGATE_HINT = "write the whole pair, or leave the character out; bytes are read as UTF-8"


def surrogate(text: str) -> str:
    r"""What stands in a text in place of a character; empty where all is well.

    >>> surrogate("Owls \ud83d hunt")
    'half of a surrogate pair (U+D83D) at character 6'
    >>> surrogate(b"caf\xe9".decode("utf-8", "surrogateescape"))
    'a byte that is not UTF-8 (0xE9) at character 4'
    >>> surrogate("Owls hunt")
    ''
    """
    found = SURROGATE.search(text)
    if found is None:
        return ""
    code, place = ord(found[0]), found.start() + 1
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte that it cannot decode
        return f"a byte that is not UTF-8 (0x{code - 0xDC00:X}) at character {place}"
    return f"half of a surrogate pair (U+{code:X}) at character {place}"


def id_flaw(identifier: str) -> str:
    r"""Why an id cannot stand in a TREC run, whose columns are separated by blanks; empty where it can.

    >>> id_flaw("my doc"), id_flaw(""), id_flaw("d1")
    ('holds a blank', 'is empty', '')
    """
    if not identifier:
        return "is empty"
    if any(character.isspace() for character in identifier):
        return "holds a blank" if " " in identifier else "holds white space"
    if "\ufeff" in identifier:
        return "holds a byte-order mark"
    if any(unicodedata.category(character) == "Cc" for character in identifier):
        return "holds a control character"
    return "holds " + surrogate(identifier) if surrogate(identifier) else ""


def plain(text: str) -> str:
    """A text without case, repeated blanks, and marks of punctuation around its words.

    Equal for texts that a reader would call the same. Signs that are part of a word's meaning stay: "C++" is not "C#".

    >>> plain("  When do  OWLS hunt ?"), plain("“When do owls hunt”"), plain("what is C++?")
    ('when do owls hunt', 'when do owls hunt', 'what is c++')
    """
    words = unicodedata.normalize("NFKC", text).casefold().split()
    bare = [word.strip(PUNCTUATION) for word in words]
    return " ".join(filter(None, bare)) or " ".join(words)
