"""Tables of README and docs agree with the files that commands wrote.

A comment above a table names its files, in one of two forms. A function of the program prints the table:

    <!-- printed by quality: docs/results/prorank-mini.json -->

or each row is looked up. A letter stands for a file and the keys on the way into it, where `{0}` is what the row's
first cell says: a comment inside the cell, or its text without backticks and without what is in parentheses at its end.
The last line gives the row's last cells:

    <!-- rows
    a: docs/results/slm/gpu.json {0}
    {a/none:.3f} | {a/two:.3f} | {a/p_holm:p}
    -->

`printed in part`, `rows in part`: the table leaves out rows. Otherwise it shows all of them.
"""

import json
import re
from functools import lru_cache, reduce
from itertools import zip_longest

import pytest
from pages import ROOT

from prorank.bench.memory import memory_table
from prorank.bench.peers import peers_markdown
from prorank.bench.profile import profile_markdown
from prorank.bench.step import step_markdown
from prorank.bench.tables import erank_markdown, quality_markdown, serving_markdown, ties_markdown
from prorank.evaluation.analysis_report import analysis_markdown
from prorank.evaluation.calibrate import calibration_markdown
from prorank.evaluation.cascade import cascade_markdown
from prorank.evaluation.tables import markdown_lines, markdown_report, markdown_table, p_value_cell, step_gains

PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "src" / "prorank" / "shipped").rglob("README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
TABLE = re.compile(r"(?:^<!--(?P<note>(?:(?!-->).)*)-->\n\n?)?(?P<lines>(?:^\|[^\n]*\n)+)", re.DOTALL | re.MULTILINE)
FIGURE = re.compile(r"(?<![\w.])\d*\.\d+(?![\w.])")
NO_FILE = {  # page, or page and first cells -> why no file is named
    "docs/log.md": "what was tried once; those runs' files were not kept",
    "docs/analyze.md | column | key": "what columns mean, no figures of a run",
    "docs/warmup.md | key | what it does": "values of settings, no figures of a run",
    "src/prorank/shipped/prorank-mini/README.md | collection | licence": "versions of licences",
    "src/prorank/shipped/prorank-mini-multilingual/README.md | collection | licence": "versions of licences",
    "docs/training-memory.md | model | trained | budget": "measured before the command wrote a file",
}


def billion_pairs(found):
    """Hours and days of a billion pairs, from seconds of a core."""
    core_hours = 10**9 * found["cpu_seconds"] / found["scored"] / 3_600
    lines = []
    for machines, cores in ((1, 64), (10, 64), (32, 64), (100, 16)):
        hours = core_hours / machines / cores
        lines.append([f"{machines} x {cores}", f"{machines * cores:,}", f"{hours:.1f}", f"{hours / 24:.1f}"])
    return markdown_lines(["machines x cores", "cores", "hours", "days"], lines)


PRINTERS = {
    "analyze": analysis_markdown,
    "billion_pairs": billion_pairs,
    "calibrate": calibration_markdown,
    "cascade": cascade_markdown,
    "erank": lambda found: erank_markdown(found["rows"]),
    "memory": memory_table,
    "peers": peers_markdown,
    "profile": profile_markdown,
    "quality": quality_markdown,
    "report": lambda *found: markdown_report(found),
    "serving": serving_markdown,
    "step": step_markdown,
    "run": lambda found: markdown_table(found["rows"]),
    "ties": lambda found: ties_markdown(found["rows"]),
}


def tables(page):
    """(comment or None, lines) of every table of a page."""
    text = re.sub(r"^( *)```.*?^\1```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [(match["note"], match["lines"].splitlines()) for match in TABLE.finditer(text)]


def plain(line):
    """A row as it is compared: `.5` for `0.5`, one sign for minus, no comments."""
    line = re.sub(r" *<!--.*?-->", "", line.replace("−", "-"))
    return re.sub(r"(?<![\d.])0(?=\.\d)", "", line)


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def key(cell):
    """What a cell says, for a look-up."""
    told = re.search(r"<!-- (.+?) -->", cell)
    return told[1] if told else re.sub(r" \([^)]*\)$|`", "", cell)


@lru_cache
def content(path):
    return json.loads((ROOT / path).read_text(encoding="utf-8"))


def pick(node, name):
    """What a key leads to; in a list a place, or the one entry of that name."""
    if isinstance(node, dict):
        return node[name]
    if name.isdigit():
        return node[int(name)]
    (found,) = [one for one in node if name in (one.get("collection"), one.get("variant"), one.get("model"))]
    return found


def shown(field, sources):
    """`a/way/to/value:format`; `x over y` is a quotient; the format `p` is that of p-values, `len` counts."""
    expression, _, form = field.partition(":")
    values = [reduce(pick, way.split("/")[1:], sources[way[0]]) for way in expression.split(" over ")]
    value = values[0] if len(values) == 1 else values[0] / values[1]
    if form in ("p", "len"):
        return p_value_cell({"p_value": value}) if form == "p" else str(len(value))
    return format(value, form)


def filled(template, sources):
    return re.sub(r"\{([^}]+)\}", lambda match: shown(match[1], sources), template)


@lru_cache
def printed(name, paths):
    return [table.splitlines() for table in PRINTERS[name](*map(content, paths)).split("\n\n")]


def looked_up(note, lines):
    """The rows as their files have them."""
    head, *sources, template = note.strip().splitlines()
    rows, picked = [], {}
    for line in lines[2:]:
        keys, found = [key(cell) for cell in cells(line)], {}
        for source in sources:
            path, *way = source[3:].split()
            node = content(path.format(*keys).lower())
            for step in way:
                parent, name = node, step.format(*keys)
                node = pick(parent, name)
                if step != name:
                    picked.setdefault(id(parent), (len(parent), set()))[1].add(name)
            found[source[0]] = node
        rows.append("| " + " | ".join([*cells(line)[: -len(cells(template))], filled(template, found)]) + " |")
    if head != "rows in part":
        assert all(count == len(names) for count, names in picked.values()), "the table leaves out rows"
    return [*lines[:2], *rows]


def wanted(note, lines):
    """A table's lines as they should be."""
    found = re.match(r" printed( in part)? by (\w+)(?:: (.*))? $", note)
    if found is None:
        return looked_up(note, lines)
    every = printed(found[2], tuple((found[3] or "").split()))
    table = next(table for table in every if table[0] == lines[0])
    return [line for line in table if line in lines] if found[1] else table


def differing(note, lines):
    """Pairs of lines, as they are and as they should be."""
    have, want = [plain(line) for line in lines], [plain(line) for line in wanted(note, lines)]
    return [(h, w) for h, w in zip_longest(have, want, fillvalue="") if h != w]


NAMED = [
    pytest.param(note, lines, id=f"{page.relative_to(ROOT)}-{' '.join(note.split())[:60]}")
    for page in PAGES
    for note, lines in tables(page)
    if note and re.match(r" (printed|rows)\b", note)
]


@pytest.mark.parametrize("note, lines", NAMED)
def test_table_agrees_with_its_files(note, lines):
    assert differing(note, lines) == []


@pytest.mark.parametrize("note, lines", NAMED)
def test_a_wrong_digit_would_be_seen(note, lines):
    """Each figure behind the first cell in turn with another last digit."""
    tried = 0
    for place, line in enumerate(lines[2:], 2):
        for match in FIGURE.finditer(line, line.index("|", 1)):
            wrong = line[: match.end() - 1] + str((int(match[0][-1]) + 1) % 10) + line[match.end() :]
            assert differing(note, [*lines[:place], wrong, *lines[place + 1 :]]), match[0]
            tried += 1
    assert tried >= 2


def test_the_readme_says_what_each_stage_gained():
    found = content("docs/results/quickstart.json")
    (start, end), text = (found["warmup"][when] for when in ("start", "test")), " ".join(PAGES[0].read_text().split())
    wanted = [*step_gains(found["rows"]), f"{start['format_rate']:.2f} -> {end['format_rate']:.2f}, balanced accuracy"]
    wanted.append(f"balanced accuracy {start['balanced_accuracy']:.2f} -> {end['balanced_accuracy']:.2f}.")
    assert len(wanted) == 5 and [one for one in wanted if one not in text] == []


def test_tables_with_figures_name_their_files():
    unused = set(NO_FILE)
    for page in PAGES:
        name = str(page.relative_to(ROOT))
        for note, lines in tables(page):
            text = re.sub(r"`[^`]*`|\[[^\]]*\]\([^)]*\)", "", "\n".join(lines))
            if FIGURE.search(text) and not (note and re.match(r" (printed|rows)\b", note)):
                reasons = {one for one in NO_FILE if f"{name} {lines[0]}".startswith(one)}
                assert reasons, f"{name}: {lines[0]}: a comment must name the file that its figures are from"
                unused -= reasons
    assert not unused, "entries of NO_FILE that no table needs"
