"""Texts without judgments beside the training collections: definitions, computing terms, Python functions, manuals.

They come from packages: WordNet's files (`wordnet-base`), the Free On-line Dictionary of Computing (`dict-foldoc`),
functions with a docstring in Python's standard library and libraries under free licences, and the manuals of `MANUALS`
(packages named like `python-sklearn-doc`). Each gives documents and queries, a query belonging to one document.
"""

import ast
import gzip
import random
import re
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

from lists import keywords, longer, middle

from prorank.data.collection import Document
from prorank.score_learning.lists import pseudo_query
from prorank.util.texts import plain

LIBRARIES = (
    "numpy scipy sklearn transformers sympy networkx rich pandas fsspec aiohttp jinja2 onnx torch datasets matplotlib"
)
MANUALS = (
    "doc/python-sklearn-doc doc/python-scipy-doc doc/python-statsmodels-doc doc/python3.11 doc/postgresql-doc-15 "
    "doc/octave doc/linux-doc-6.1 doc/anarchism doc/debian-handbook/html/en-US debian-reference R"
)
LEFT_OUT = ("pre", "script", "style", "table", "nav", "footer", "dl")  # of a page
LONG, LEAST = 100, 20  # words of a passage; behind the last paragraph of a heading fewer do
SMALL_WORDS = set("a an the of is this that and or to if be for with by as return returns".split())


class Asked(NamedTuple):
    """Documents, and queries as (text, number of the document)."""

    documents: list[Document]
    queries: list[tuple[str, int]]


def definitions(folder: Path, draw: random.Random) -> Asked:
    """WordNet's glosses behind their words, asked by an example sentence, a word or the gloss itself."""
    found = []
    for part in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"data.{part}").read_text().splitlines():
            if line.startswith(" "):
                continue  # the licence
            head, gloss = line.strip().split(" | ", 1)
            fields = head.split()
            words = [re.sub(r"\(.*?\)", "", w).replace("_", " ") for w in fields[4 : 4 + 2 * int(fields[3], 16) : 2]]
            examples = [one for one in re.findall(r'"([^"]+)"', gloss) if len(one.split()) >= 4]
            meaning = re.sub(r';?\s*"[^"]*"', "", gloss).strip(" ;")
            if len(meaning.split()) >= 5:
                found.append((words, meaning, examples))
    draw.shuffle(found)
    found = found[:9_000]
    queries = []
    for i, (words, meaning, examples) in enumerate(found):
        if examples:
            queries.append((draw.choice(examples), i))
        elif len(meaning.split()) >= 7:
            asked = [f"what is {words[0]}", words[0], meaning, f"define {words[0]}", meaning]
            queries.append((draw.choice(asked), i))
    draw.shuffle(queries)
    documents = [Document(str(i), "", f"{', '.join(w)}: {meaning}") for i, (w, meaning, _) in enumerate(found)]
    return Asked(documents, queries[:5_000])


def asked_each(documents: list[Document], short: Callable[[Document], str], draw: random.Random, most: int) -> Asked:
    """Documents asked by something short, a sentence, rare words and three sentences; `most` of these queries."""
    frequency = Counter(w for d in documents for w in set(re.findall(r"\w+", d.content.lower())))
    queries = []
    for i, one in enumerate(documents):
        made = (short(one), middle(draw, one), keywords(draw, one, frequency, len(documents)), longer(draw, one))
        queries += [(text, i) for text in made if text]
    draw.shuffle(queries)
    return Asked(documents, queries[:most])


def computing_terms(file: Path, draw: random.Random) -> Asked:
    """The dictionary's entries, asked by their heads, sentences and rare words."""
    entries: list[tuple[str, list[str]]] = []
    fresh = True
    for line in gzip.decompress(file.read_bytes()).decode().splitlines():
        if line and not line.startswith(" "):
            if fresh:
                entries.append((line.strip(), []))
            fresh = False
        elif entries and line.strip():
            entries[-1][1].append(line.strip())
            fresh = True
    documents = []
    for head, lines in entries:
        text = re.sub(r"\{([^}]*)\}", r"\1", " ".join(lines))
        text = " ".join(re.sub(r"\([12]\d{3}-\d\d(-\d\d)?\)|<[a-z, ]+>", "", text).split())
        if len(text.split()) >= 15:
            documents.append(Document("", head, text))
    draw.shuffle(documents)
    documents = [one._replace(id=str(i)) for i, one in enumerate(documents[:6_000])]
    return asked_each(
        documents, lambda d: draw.choice([f"what is {d.title}", d.title, pseudo_query("", d.text)]), draw, 6_000
    )


def documented(file: Path) -> Iterator[tuple[str, str, str, str]]:
    """First sentence of the docstring, source, source without the docstring, and name of a file's short functions."""
    try:
        source = file.read_text()
        tree = ast.parse(source)
    except (OSError, SyntaxError, ValueError):
        return
    lines = source.split("\n")
    for found in ast.walk(tree):
        said = ast.get_docstring(found) if isinstance(found, ast.FunctionDef) else None
        if not said:
            continue
        first = " ".join(re.split(r"\n\s*\n|\.\s|\.$", said)[0].split())
        inner = found.body[0]
        whole, bare = lines[found.lineno - 1 : found.end_lineno], lines[found.lineno - 1 : inner.lineno - 1]
        bare += lines[inner.end_lineno : found.end_lineno]
        indent = re.compile(rf"^ {{{found.col_offset}}}", re.MULTILINE)
        if 4 <= len(first.split()) <= 25 and 3 <= len(whole) <= 45 and len(bare) >= 2:
            yield first, indent.sub("", "\n".join(whole)), indent.sub("", "\n".join(bare)), found.name


def as_asked(draw: random.Random, sentence: str, name: str) -> str:
    """A sentence of a docstring as somebody would type it."""
    lowered, kind = sentence[0].lower() + sentence[1:], draw.random()
    if kind < 0.4:
        return f"python {lowered}"
    if kind < 0.5:
        return f"{lowered} in python"
    if kind < 0.7:
        return " ".join(w for w in re.sub(r"[^\w\s]", " ", sentence).lower().split() if w not in SMALL_WORDS)
    if kind < 0.8:
        return f"how to {lowered}"
    if kind < 0.9:
        return f"python {' '.join(re.findall(r'[a-z]+|[A-Z][a-z]*', name))}".lower()
    return sentence


def functions(barred: set[str], draw: random.Random) -> Asked:
    """Python functions, half of them without their docstring, asked by its first sentence; none of `barred` texts."""
    standard, others = Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))
    files = [p for p in standard.rglob("*.py") if not {"site-packages", "test", "tests", "lib2to3"} & set(p.parts)]
    for library in LIBRARIES.split():
        own = (others / library).rglob("*.py")
        files += [p for p in own if "test" not in str(p.relative_to(others)) and "models/" not in str(p)]
    found, seen = [], set()
    for file in files:
        for first, source, bare, name in documented(file):
            if plain(source) not in barred and plain(first) not in seen and len(source) <= 1_200:
                seen.add(plain(first))
                found.append((first, source, bare, name))
    draw.shuffle(found)
    documents, queries = [], []
    for i, (first, source, bare, name) in enumerate(found[:8_000]):
        documents.append(Document(str(i), "", bare if draw.random() < 0.5 else source))
        queries.append((as_asked(draw, first, name), i))
    draw.shuffle(queries)
    return Asked(documents, [one for one in queries if plain(one[0]) not in barred and " " in one[0]][:6_000])


class Passages(HTMLParser):
    """A page's paragraphs of 100 to 200 words, each with the heading above it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self.heading, self.words, self.inside, self.hidden = "", "", "", 0

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Begin a heading or a paragraph, or something that is left out."""
        if tag in LEFT_OUT:
            self.hidden += 1
        elif tag in ("p", "h1", "h2", "h3", "h4") and not self.hidden:
            if tag != "p":
                self.keep()
            self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        """End it."""
        if tag in LEFT_OUT:
            self.hidden = max(0, self.hidden - 1)
        elif tag == self.inside == "p":
            if len(self.words.split()) >= LONG:
                self.keep()
            self.inside = ""
        elif tag == self.inside:
            self.heading, self.words, self.inside = re.sub(r"^[\d.\s]+|[\u00b6#\uf0c1]", "", self.words).strip(), "", ""

    def handle_data(self, data: str) -> None:
        """Its words."""
        if self.inside and not self.hidden:
            self.words = f"{self.words} {data}" if self.words.endswith((".", ":")) else self.words + data

    def keep(self) -> None:
        """End a passage; one of too few words is dropped."""
        words, self.words = self.words.split(), ""
        if len(words) >= LEAST:
            self.found.append((self.heading, " ".join(words[: 2 * LONG])))


def manuals(share: Path, draw: random.Random) -> Asked:
    """Passages of manuals, at most 1,500 of each, asked by their heading, sentences and rare words."""
    documents = []
    for name in MANUALS.split():
        found, files = {}, sorted((share / name).rglob("*.html"))
        draw.shuffle(files)
        for file in [one for one in files if one.is_file()][:1_500]:
            page = Passages()
            page.feed(file.read_text(errors="replace"))
            page.keep()
            found |= {text: heading for heading, text in page.found[:12]}
        passages = list(found.items())
        draw.shuffle(passages)
        documents += [Document("", " ".join(heading.split()[:15]), text) for text, heading in passages[:1_500]]
    documents = [one._replace(id=str(i)) for i, one in enumerate(documents)]
    titles = Counter(one.title for one in documents)

    def short(one: Document) -> str:
        return pseudo_query(one.title if titles[one.title] == 1 and " " in one.title else "", one.text)

    return asked_each(documents, short, draw, 12_000)
