"""multilingual-e5-small with the pieces that fourteen languages and code need: 107,483 of 250,002.

python docs/results/prorank-mini-multilingual/cut.py E5 COLLECTIONS WORDS OUT

E5 is the model's folder, COLLECTIONS holds the training collections, WORDS the unpacked packages wordfreq 3.1.1 (its
`data` folder) and pythainlp 5.4.0 (`tnc_freq.txt`). Languages without training text take their pieces from word
frequencies; no text of a test collection is looked at. The shipped model has 948 pieces more, which an earlier
version of this script kept.
"""

import gzip
import random
import sys
import unicodedata
from pathlib import Path

import msgpack
from sources import TRAIN

from prorank.data.splits import load_with_splits
from prorank.model.vocabulary import cut_vocabulary

WORDS = 400_000  # words drawn of each language, as often as they occur
WORDFREQ = {"ro": "small", "el": "small", "tr": "small", "vi": "small", "hi": "small"} | dict.fromkeys(
    ("en", "de", "es", "fr", "ru", "ar", "zh", "ja"), "large"
)
UNSPACED = ("th", "zh", "ja")
BLOCKS = [  # characters kept one by one: Latin, Greek, Cyrillic, Arabic, Devanagari, Thai, kana, Han, marks, symbols
    (0x20, 0x24F), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x52F), (0x600, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F),
    (0x1E00, 0x1FFF), (0x2010, 0x206F), (0x20A0, 0x20BF), (0x2100, 0x214F), (0x2190, 0x21FF), (0x2200, 0x22FF),
    (0x3000, 0x30FF), (0x4E00, 0x9FFF),
]  # fmt: skip
MARKS = ". , ; : ! ? ( ) \" ' - – — « » „ “ ” ‘ ’ । ، ؟ ؛ 、 。 ・ 「 」 / % & … ·".split()


def wordfreq(folder: Path, language: str) -> list[str]:
    """Words of a language as often as they occur, in lower case and capitalised. Source: wordfreq's cBpack lists."""
    file = folder / f"data/{WORDFREQ[language]}_{language}.msgpack.gz"
    found = []
    for centibels, words in enumerate(msgpack.unpackb(gzip.decompress(file.read_bytes()))[1:]):
        count = round(10 ** (-centibels / 100) * WORDS)
        for word in words if count else ():
            found += [word, word.capitalize()] * max(1, count // 2) if len(word) > 1 else [word] * count
    return found


def thai(folder: Path) -> list[str]:
    """Words of the Thai National Corpus as often as they occur."""
    rows = [line.rstrip("\n").split("\t") for line in (folder / "tnc_freq.txt").open(encoding="utf-8")]
    total = sum(int(count) for _, count in rows)
    return [word for word, count in rows for _ in range(round(int(count) / total * WORDS))]


def spelled(language: str, words: list[str]) -> list[str]:
    """What lists in folded case lack: final sigma, sharp s, dotted capitals, short words in capitals."""
    if language == "el":
        words = [word[:-1] + "ς" if word[-1] in "σΣ" else word for word in words]
    if language == "de":
        words = [word.replace("ss", "ß") if i % 3 == 0 else word for i, word in enumerate(words)]
    if language == "tr":
        words = ["İ" + word[1:] if word[0] == "I" and i % 2 == 0 else word for i, word in enumerate(words)]
    short = [word for word in words if 2 <= len(word) <= 4]
    return words if language in (*UNSPACED, "ar", "hi") else words + [word.upper() for word in short[::20]]


def main(e5: str, collections: str, folder: str, output: str) -> None:
    """Cut, and print how many pieces are left and which share of the texts' tokens they make up."""
    groups: dict[str, list[str]] = {}
    random.seed(1)
    for language in (*WORDFREQ, "th"):
        words = thai(Path(folder)) if language == "th" else wordfreq(Path(folder), language)
        words, between = spelled(language, words), "" if language in UNSPACED else " "
        random.shuffle(words)
        groups[language] = [between.join(words[i : i + 12]) for i in range(0, len(words), 12)]
    characters = [chr(code) for start, stop in BLOCKS for code in range(start, stop)]
    characters = [one for one in characters if unicodedata.category(one) not in ("Cn", "Cs", "Co")]
    groups["characters"] = [text for one in characters for text in (one, f"a{one}", f"a {one}")]
    groups["marks"] = [f"a{p}{q} b {p}{q} {p} c" for p in MARKS for q in ("", *MARKS[:14], "»", "”", "“")]
    groups["numbers"] = [str(i) for i in range(2_100)]
    groups["numbers"] += [f"{i}{mark}{j}" for mark in ",." for i in range(20) for j in range(10)]
    for name in TRAIN:
        found = load_with_splits(f"{collections}/{name}", seed=13)
        texts = [document.content for document in found.documents.values()] + list(found.queries.values())
        random.Random(0).shuffle(texts)
        groups[name] = texts[:6_000]
    print(cut_vocabulary(e5, output, groups.values(), coverage=0.996))


if __name__ == "__main__":
    main(*sys.argv[1:])
