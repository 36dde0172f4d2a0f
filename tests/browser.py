"""A real Chromium for the tests of the page at /, and the pictures of the documentation.

`python tests/browser.py docs/images` takes the pictures anew.
"""

import os
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

from served import serving

from prorank import Reranker
from prorank.serving.service import Service

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
PATIENCE = 30_000  # milliseconds, for machines that do much else
PICTURES = {
    "page-light.png": {"viewport": {"width": 1280, "height": 990}, "color_scheme": "light"},
    "page-dark-narrow.png": {"viewport": {"width": 375, "height": 800}, "color_scheme": "dark"},
}


@contextmanager
def browsing():
    """The browser, as long as the context is open."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser, address, **options):
    """The page in a window of its own; it must log no error, which a breach of its security policy would be."""
    errors = []
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"], **options)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if "Content Security" in line.text else None)
    page.goto(address)
    page.wait_for_function("() => document.querySelector('#count').textContent")
    try:
        yield page
        assert not errors, errors
    finally:
        context.close()


def run(page):
    """Press the button and wait for the results."""
    page.click("#rank")
    page.wait_for_selector("#rank:not([aria-busy])")
    page.wait_for_selector("#after li")


def take_pictures(folder):
    """Light and wide, dark and narrow."""
    with serving(Service(Reranker(), "prorank-mini")) as address, browsing() as browser:
        for name, options in PICTURES.items():
            with opened(browser, address, device_scale_factor=1.5, **options) as page:
                page.click("[data-example=faq]" if "narrow" in name else "[data-example=question]")
                for _ in range(5):  # the first ones are slower
                    run(page)
                page.evaluate("document.activeElement.blur()")
                page.mouse.move(0, 0)  # points at nothing
                if "narrow" in name:
                    page.evaluate("document.querySelector('#results').scrollIntoView()")
                page.screenshot(path=Path(folder) / name)


if __name__ == "__main__":
    take_pictures(sys.argv[1])
