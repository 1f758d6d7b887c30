"""The course in a browser, as a reader has it: JupyterLab, Chromium, keyboard.

`make browser` runs these tests; nothing else does. They need the packages of `requirements.txt` and a Chromium, which
`make browser` does not install: on Debian `apt install chromium`. Where none is found the tests fail and say so.

    HERMES_CHROMIUM=/path/to/chrome   another browser than /usr/bin/chromium
    HERMES_SCREENSHOTS=folder         where screenshots go; else `browser` in the folder of runs
    HERMES_BROWSER_RUNS=folder        `notebook_runs` of a finished `make course`: its stages are replayed, not trained

    python -m pytest -m browser tests/browser                            all
    python -m pytest -m browser tests/browser -k "not course and not stop"     without training: a minute or two
    python -m pytest -m browser tests/browser/test_course.py -k 03       one notebook

Each test has a window, a folder and kernels of its own on one JupyterLab server, which a session starts on a free port
of 127.0.0.1 with a home folder of its own: neither the user's settings nor the tree of the project are touched.
"""

import os
import re
import shutil
from pathlib import Path

import pytest

from browser.lab import SCREEN, Lab
from browser.server import ARGUMENTS, find_browser, serve


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A JupyterLab with an empty folder, and finished runs where HERMES_BROWSER_RUNS names some."""
    with serve(tmp_path_factory.mktemp("lab")) as server:
        if os.environ.get("HERMES_BROWSER_RUNS"):
            shutil.copytree(os.environ["HERMES_BROWSER_RUNS"], server.runs)
        yield server


@pytest.fixture
def lab(chromium, server, request):
    """A window on the server; at the end a last screenshot, and no kernel is left."""
    from hermes_nb import runtime

    folder = Path(os.environ.get("HERMES_SCREENSHOTS") or runtime.runs_dir() / "browser")
    shots = folder / re.sub("[^a-zA-Z0-9]+", "_", request.node.name).strip("_")
    for old in shots.glob("*.png"):
        old.unlink()
    context = chromium.new_context(viewport=SCREEN)
    lab = Lab(server, context.new_page(), shots)
    yield lab
    lab.shot("end")
    context.close()
    server.stop_kernels()
