"""A real browser for the tests: one that the system has, or Playwright's own."""

import shutil
import socket
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@contextmanager
def browser():
    playwright_api = pytest.importorskip("playwright.sync_api", reason="skipped: Playwright isn't installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with playwright_api.sync_playwright() as playwright:
        if path is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("skipped: there is no browser; apt-get install chromium, or playwright install chromium")
        chromium = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_served(address, process, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, process.communicate()
        try:
            return urlopen(address, timeout=5).read()
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"nothing answers at {address}")


# records each picture that is shown, with its time, in window.shown
WATCH = """selector => {
  window.shown = [];
  const look = () => { for (const image of document.querySelectorAll(selector + ' img')) if (image.src && !window.shown.some(one => one.src === image.src)) window.shown.push({src: image.src, time: performance.now()}); };
  new MutationObserver(look).observe(document.body, {subtree: true, childList: true, attributes: true, attributeFilter: ['src']});
}"""
