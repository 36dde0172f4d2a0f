"""The page at /, in a real browser against a real server: a person's way, errors, keyboard, small windows, the dark."""

import json
import shutil
import subprocess
import sys

import pytest
from browser import CHROMIUM, browsing, opened, run
from served import serving

from prorank import Reranker
from prorank.serving import side_by_side
from prorank.serving.limits import Limits
from prorank.serving.service import Service
from prorank.util.errors import MissingExtraError

pytest.importorskip("playwright", reason="the package playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
NASTY = ["it's $HOME `id` \\ \"so\" 'x'", "JSON", "naïve 猫 <b>bold</b>", "two\nlines \\n of text"]


@pytest.fixture(scope="module")
def reranker():
    return Reranker(precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def service(reranker):
    return Service(reranker, "prorank-mini", Limits(max_documents=60))


@pytest.fixture(scope="module")
def address(service):
    with serving(service) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with browsing() as browser:
        yield browser


@pytest.fixture
def page(browser, address):
    with opened(browser, address) as page:
        yield page


def paste(page, query, documents, form="lines"):
    page.fill("#query", query)
    page.select_option("#format", form)
    page.fill("#documents", documents)


def copied(page, language):
    page.check(f"[value={language}]")
    page.wait_for_function("() => document.querySelector('#count').textContent")
    page.click("#copy")
    page.wait_for_function("() => document.querySelector('#copy').textContent == 'Copied'")
    return page.evaluate("navigator.clipboard.readText()")


def test_an_example_is_ranked_and_both_orders_moves_and_scores_are_shown(page, reranker):
    page.click("[data-example=faq]")
    query, documents = page.input_value("#query"), page.input_value("#documents").split("\n\n")
    run(page)
    bm25 = side_by_side.bm25_scores(query, documents)
    first = sorted(range(len(documents)), key=lambda place: -bm25[place])
    scores = reranker.score([(query, document) for document in documents])
    last = sorted(range(len(documents)), key=lambda place: -scores[place])
    assert first != last
    for name, order in (("#before", first), ("#after", last)):
        assert page.locator(f"{name} .text").all_text_contents() == [documents[place] for place in order]
    moves = [first.index(place) - rank for rank, place in enumerate(last)]
    signs = [f"▲ {move}" if move > 0 else f"▼ {-move}" if move < 0 else "–" for move in moves]
    assert page.locator("#after .move > :first-child").all_text_contents() == signs
    for style, told in (("up", max(moves) > 0), ("down", min(moves) < 0)):
        assert (page.locator(f"path.{style}").count() > 0) is told
    assert page.locator("path").count() == len(documents)
    chances = [float(told) for told in page.locator("#after .number").all_text_contents()]
    assert chances == pytest.approx(reranker.probability([scores[place] for place in last]), abs=2e-3)
    widths = page.eval_on_selector_all("#after .filled", "bars => bars.map(bar => parseFloat(bar.style.width))")
    assert widths == pytest.approx([100 * chance for chance in chances], abs=0.2)
    assert f"{len(documents)} documents ranked" in page.inner_text("#status")
    assert "nothing" in page.inner_text("#facts") and " ms" in page.inner_text("#facts")


def test_each_line_leads_from_the_place_before_to_the_place_after(page):
    run(page)
    ends = """() => [...document.querySelectorAll('path')].map(path => {
        const box = path.ownerSVGElement.getBoundingClientRect(), length = path.getTotalLength();
        return ['before', 'after'].map((list, end) => {
            const row = document.querySelector(`#${list} [data-index="${path.dataset.index}"] .rank`);
            const place = row.getBoundingClientRect(), point = path.getPointAtLength(end * length);
            return point.y + box.top - place.top - place.height / 2;
        });
    })"""
    page.click("#after li:nth-child(2) .text")  # opening one moves those below
    page.set_viewport_size({"width": 700, "height": 800})
    page.wait_for_function(f"() => ({ends})().flat().every(gap => Math.abs(gap) < 1)")


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
@pytest.mark.parametrize("language", ["curl", "python"])
def test_the_copied_call_runs_and_gives_the_scores_of_the_page(page, address, language):
    paste(page, NASTY[0], "\n".join(map(json.dumps, NASTY)), "jsonl")
    run(page)
    plain = page.inner_text("#after")
    page.click("#instruction-field summary")
    page.fill("#instruction", "Is it about a cat's 'name'?")
    run(page)
    assert page.inner_text("#after") != plain
    code = copied(page, language)
    assert f"{address}/v1/rerank" in code
    command = ["bash", "-c", code] if language == "curl" else [sys.executable, "-c", code]
    output = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    shown = page.locator("#after .number").all_text_contents()
    if language == "curl":
        assert [f"{result['relevance_score']:.3f}" for result in json.loads(output)["results"]] == shown
    else:
        assert [line.split()[0] for line in output.splitlines() if line[:2] in ("0.", "1.")] == shown


def test_a_text_is_shown_as_text(page):
    paste(page, "bold", "<b>bold</b><script>alert(1)</script>\nplain")
    run(page)
    assert page.locator("#after b, #after script").count() == 0
    assert "<b>bold</b>" in page.inner_text("#after")


def test_what_was_cut_is_told_at_its_document(page):
    paste(page, "stone", "short stone\n" + "stone " * 2_000)
    run(page)
    assert page.locator("#after .cut").count() == 1 and "tokens were not read" in page.inner_text("#after .cut")
    assert "the end of the document in 1" in page.inner_text("#facts")


def test_refusals_of_the_server_can_be_read(page, service):
    paste(page, "stone", "\n".join(f"stone {i}" for i in range(61)))
    page.click("#rank")
    page.wait_for_selector("#error strong")
    assert "61 documents are more than 60" in page.inner_text("#error")
    paste(page, "stone", "a stone")
    with service.batcher.admitted(service.limits.max_queue):
        page.click("#rank")
        page.get_by_text("The server is busy (429)").wait_for()
        assert "try again in" in page.inner_text("#error")
    run(page)
    assert page.inner_text("#error") == ""


def test_what_is_missing_is_said_before_anything_is_sent(page):
    for query, documents, message, field in (
        ("", "a", "Type a query.", "query"),
        ("a", " \n", "Paste some documents.", "documents"),
        ("a", '{"text": "b"}\n{"text"', "line 2 is not JSON", "documents"),
    ):
        paste(page, query, documents, "detect")
        page.click("#rank")
        page.wait_for_function("text => document.querySelector('#error').textContent.includes(text)", arg=message)
        assert page.evaluate("document.activeElement.id") == field
        assert page.get_attribute(f"#{field}", "aria-invalid") == "true"


def test_formats_are_told_apart(page):
    cases = [
        ("a b\r\n c\r\n\n", "lines", ["a b", " c"]),
        ("def f():\n    x\n\ndef g():\n    y\n", "paragraphs", ["def f():\n    x", "def g():\n    y"]),
        ('{"text": "a", "title": "T"}\n\n{"text": "b\\nc"}', "jsonl", ["T a", "b\nc"]),
        ('id,Text\n1,"a, ""b""\nc"\n2,d\n', "csv", ['a, "b"\nc', "d"]),
        ("Owls, which hunt, eat mice.", "lines", ["Owls, which hunt, eat mice."]),
        ('"Who," she asked, "hunts?"\n"Owls."', "lines", ['"Who," she asked, "hunts?"', '"Owls."']),
        ('"a"\n"b"\n', "jsonl", ["a", "b"]),
        ('[{"text": "a"},\n "b"]', "jsonl", ["a", "b"]),
    ]
    for text, form, documents in cases:
        found = page.evaluate(
            "text => import('./documents.js').then(at => [at.detected(text), at.documentsOf(text, at.detected(text))])",
            text,
        )
        assert found == [form, documents]


def drop(page, name, content):
    dropped = page.evaluate_handle(
        """([name, bytes]) => {
            const found = new DataTransfer();
            found.items.add(new File([new Uint8Array(bytes)], name));
            return found;
        }""",
        [name, list(content)],
    )
    page.dispatch_event("body", "drop", {"dataTransfer": dropped})


def test_files_are_opened_or_dropped_and_their_name_tells_the_format(page):
    table = b'title,text\nOwls,"They hunt,\nby night"\n'
    page.set_input_files("#file", {"name": "a.csv", "mimeType": "text/csv", "buffer": table})
    page.wait_for_function("() => document.querySelector('#count').textContent.startsWith('1 of')")
    assert page.input_value("#format") == "csv"
    drop(page, "b.jsonl", '"naïve"\n"b"\n'.encode())
    page.wait_for_function("() => document.querySelector('#count').textContent.startsWith('2 of')")
    assert "naïve" in page.input_value("#documents") and page.input_value("#format") == "jsonl"
    drop(page, "c.txt", b"na\xefve")
    page.get_by_text("c.txt is not text in UTF-8.").wait_for()
    assert "naïve" in page.input_value("#documents")


def test_long_lists_are_shown_in_part_until_all_are_asked_for(page):
    paste(page, "stone 7", "\n".join(f"stone {i}" for i in range(55)))
    run(page)
    assert page.locator("#after li").count() == page.locator("#before li").count() == 50
    page.click("#all")
    assert page.locator("#after li").count() == page.locator("path").count() == 55
    paste(page, "stone", "the moon\na stone")
    run(page)
    assert page.locator("#orders").bounding_box()["height"] < 300  # rows are no higher than they need


def test_results_of_other_fields_are_called_so(page):
    run(page)
    page.fill("#query", "something else")
    assert "changed since" in page.inner_text("#status")
    run(page)
    assert "8 documents ranked" in page.inner_text("#status")


def test_scores_that_are_no_probabilities_are_not_called_so(browser, address, service, monkeypatch):
    monkeypatch.setattr(service, "calibrated", False)
    with opened(browser, address) as page:
        run(page)
        assert "probability" not in page.inner_text("#orders")
        first, last = (page.locator("#after .filled").nth(place).bounding_box()["width"] for place in (0, -1))
        assert first > 50 and last == 0


def test_a_key_is_asked_for_where_there_is_one_and_stays_out_of_the_code(browser, reranker):
    with serving(Service(reranker, "mini"), key="s3cret") as address, opened(browser, address) as page:
        page.click("#rank")
        page.get_by_text("The server asks for an API key (401)").wait_for()
        page.fill("#key", "s3cret")
        run(page)
        assert page.evaluate("localStorage.length + sessionStorage.length + document.cookie.length") == 0
        code = copied(page, "curl")
        assert "$PRORANK_API_KEY" in code and "s3cret" not in code


def test_without_bm25s_the_page_says_so_and_compares_with_the_given_order(page, monkeypatch):
    def missing(*_):
        raise MissingExtraError("the package 'bm25s' is not installed", hint="pip install 'prorank[eval]'")

    monkeypatch.setattr(side_by_side, "bm25_scores", missing)
    paste(page, "stone", "the moon\na stone")
    run(page)
    assert page.get_by_text("pip install 'prorank[eval]'").is_visible()
    assert page.locator("#before .text").all_text_contents() == ["the moon", "a stone"]


def test_the_keyboard_alone_is_enough_and_focus_is_always_seen(page):
    stops = []
    outlined = """() => {
        const at = document.activeElement;
        const seen = [at, at.nextElementSibling].some(part => part && getComputedStyle(part).outlineStyle != 'none');
        return [at.id || at.dataset.example || at.name || at.className || at.localName, seen];
    }"""
    while not stops or stops[-1][0] != "rank":
        page.keyboard.press("Tab")
        stops.append(page.evaluate(outlined))
        if stops[-1][0] == "code":  # an example: choose it
            page.keyboard.press("Enter")
        assert len(stops) < 20
    names = [name for name, _ in stops]
    assert names[:2] == ["skip", "a"] and names.index("query") < names.index("documents") < names.index("rank")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#after li")
    assert "def" in page.inner_text("#after li:first-child")
    for _ in range(2):
        page.keyboard.press("Tab")
        stops.append(page.evaluate(outlined))
    page.keyboard.press("Enter")
    assert page.locator("#after [aria-expanded=true]").count() == 1
    assert all(seen for _, seen in stops), stops


def test_a_narrow_window_needs_no_scrolling_sideways(browser, address):
    with opened(browser, address, viewport={"width": 375, "height": 700}) as page:
        page.click("[data-example=code]")
        run(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
        assert page.locator("path").count() == page.locator("#after li").count()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 375)])
def test_axe_finds_nothing(browser, address, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    with opened(browser, address, color_scheme=scheme, viewport={"width": width, "height": 800}) as page:
        paste(page, "stone", "the moon\na stone\n" + "stone " * 2_000)
        run(page)
        found = axe.Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        assert len(found.response["passes"]) > 20


def test_the_theme_follows_the_system_until_it_is_switched(browser, address):
    paper = "getComputedStyle(document.documentElement).backgroundColor"
    with opened(browser, address, color_scheme="dark") as page:
        dark = page.evaluate(paper)
        assert page.inner_text("#theme") == "Light"
        page.click("#theme")
        light = page.evaluate(paper)
        assert page.inner_text("#theme") == "Dark" and light != dark
        page.emulate_media(color_scheme="light")
        assert page.evaluate(paper) == light
