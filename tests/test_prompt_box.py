"""The prompt box in JupyterLab, in a real browser."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from browsers import WATCH, browser, free_port, wait_until_served
from processes import kill

pytest.importorskip("jupyterlab", reason="skipped: JupyterLab isn't installed")
SEEN = Path(os.environ["T2I_SCREENSHOTS"]) if "T2I_SCREENSHOTS" in os.environ else None  # where to put screenshots
DONE = r"^\d+\.\d s$"
NOTEBOOK = {"cells": [{"cell_type": "code", "source": "from t2i_nb.widget import PromptBox\nbox = PromptBox()\nbox", "metadata": {}, "outputs": [], "execution_count": None, "id": "a"}],
            "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}, "nbformat": 4, "nbformat_minor": 5}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder, port = tmp_path_factory.mktemp("lab"), free_port()
    (folder / "box.ipynb").write_text(json.dumps(NOTEBOOK))
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", "--ServerApp.ip=127.0.0.1", "--ServerApp.port_retries=0", "--IdentityProvider.token=", "--allow-root", f"--ServerApp.root_dir={folder}"]
    settings = {**os.environ, "OMP_NUM_THREADS": "2", "JUPYTER_CONFIG_DIR": str(folder / "config"), "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"), "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings")}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=settings)
    address = f"http://127.0.0.1:{port}/lab/tree/box.ipynb"
    wait_until_served(address, process)
    yield address
    kill(process)


@pytest.fixture(scope="module")
def page(address):
    with browser() as chromium:
        page = chromium.new_page(viewport={"width": 1280, "height": 1150})
        page.set_default_timeout(60_000)
        page.goto(address, wait_until="domcontentloaded")
        page.locator(".jp-Notebook .jp-CodeCell .cm-content").first.click(timeout=120_000)
        page.wait_for_timeout(3000)
        page.keyboard.press("Shift+Enter")
        page.get_by_role("button", name="Generate").wait_for(timeout=120_000)
        yield page


def screenshot(page, name):
    if SEEN is not None:
        SEEN.mkdir(parents=True, exist_ok=True)
        page.locator(".jp-Notebook .jp-Cell").first.screenshot(path=SEEN / f"{name}.png")


def prompt(page):
    return page.locator("input[placeholder^='describe']")


def said(page, pattern, seconds=60):
    "Wait for the line under the box; its text."
    page.wait_for_function("pattern => [...document.querySelectorAll('.widget-html-content span')].some(one => new RegExp(pattern).test(one.innerText.trim()))", arg=pattern, timeout=1000 * seconds, polling=10)
    return next(text for text in page.locator(".widget-html-content span").all_inner_texts() if re.search(pattern, text.strip()))


def test_a_sentence_becomes_a_picture(page):
    page.evaluate(WATCH, ".widget-hbox")
    prompt(page).fill("a red sphere left of a blue cube")
    begun = time.perf_counter()
    prompt(page).press("Enter")
    said(page, DONE)
    seconds = time.perf_counter() - begun
    page.wait_for_timeout(300)
    shown = page.evaluate("window.shown")
    print(f"picture after {seconds:.2f} s; {len(shown)} pictures shown, in {(shown[-1]['time'] - shown[0]['time']) / 1000:.2f} s")
    assert seconds < 6 and len(shown) >= 3  # it formed before the eye
    screenshot(page, "widget")


def test_words(page):
    page.get_by_text("Its words", exact=True).click()
    page.locator(".widget-toggle-button", has_text="red").click()
    page.evaluate(WATCH, ".widget-tab")
    page.locator(".widget-toggle-button", has_text="cube").click()
    page.wait_for_function("window.shown.length > 0")
    screenshot(page, "widget-words")


def test_film_strip(page):
    page.get_by_text("How it formed", exact=True).click()
    page.evaluate(WATCH, ".widget-tab")
    slider = page.locator(".widget-tab .noUi-handle").first
    slider.focus()
    for _ in range(6):
        slider.press("ArrowLeft")
    page.wait_for_function("window.shown.length > 1")
    screenshot(page, "widget-film")


def test_nonsense(page):
    prompt(page).fill("qwertz <img src=x onerror='window.harm = 1'>")
    prompt(page).press("Enter")
    assert "'qwertz'" in said(page, "knows none")
    assert page.evaluate("window.harm") is None
    screenshot(page, "widget-error")


def test_stop(page):
    page.locator(".jp-Cell-outputWrapper").get_by_text("Settings", exact=True).click()
    for name, value in (("steps", "100"), ("pictures", "8")):
        field = page.locator(".widget-slider", has_text=name).locator(".widget-readout").first
        field.click()
        page.keyboard.press("Control+A")
        page.keyboard.type(value)
        page.keyboard.press("Enter")
    page.evaluate(WATCH, ".widget-hbox")
    prompt(page).fill("four small red cubes")
    prompt(page).press("Enter")
    page.wait_for_function("window.shown.length >= 8")
    begun = time.perf_counter()
    page.get_by_role("button", name="Stop").click()
    said(page, r"^Stopped\.")
    seconds = time.perf_counter() - begun
    print(f"stopped after {seconds:.2f} s")
    assert seconds < 2
    page.locator("button", has_text="a white cylinder behind").click(timeout=5000)  # and the box still works
    page.wait_for_timeout(500)
    page.get_by_role("button", name="Stop").click()
    said(page, r"^Stopped\.")
