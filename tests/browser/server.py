"""Starts a JupyterLab of our own, which knows nothing of the user's settings, and finds a Chromium.

Nothing here sleeps for a fixed time: every wait is for a condition, and ends in an error that says what did not happen.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

BROWSERS = ("/usr/bin/chromium", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # no test can reach another machine
)  # fmt: skip
SETTINGS = {
    # every cell and every output stays in the page, so that a test finds it without scrolling
    "notebook-extension/tracker": {"windowingMode": "none", "maxNumberOutputs": 100000},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "docmanager-extension/plugin": {"autosave": False},
}


def find_browser() -> str:
    """Path of a Chromium: `HERMES_CHROMIUM`, else where Debian and others put it. Fails with what to install."""
    wanted = os.environ.get("HERMES_CHROMIUM")
    found = next((path for path in map(shutil.which, [wanted] if wanted else BROWSERS) if path), None)
    if found is None:
        missing = f"HERMES_CHROMIUM={wanted} is no program" if wanted else "the browser tests need Chromium"
        raise FileNotFoundError(f"{missing}: install Debian's package `chromium`, or set HERMES_CHROMIUM to its path.")
    return found


def until(look, limit: float = 30, what: str = ""):
    """Call `look` until it returns something true, and return that. Raises TimeoutError after `limit` seconds."""
    end, wait = time.perf_counter() + limit, threading.Event().wait
    while True:
        found = look()
        if found:
            return found
        if time.perf_counter() > end:
            raise TimeoutError(f"not within {limit:.0f} s: {what or look}")
        wait(0.05)


@dataclass
class Server:
    """A JupyterLab that serves `root` at `url`; its kernels keep their runs in `runs`; `ask` speaks to its REST."""

    url: str
    root: Path
    runs: Path
    log: Path

    def ask(self, path: str, method: str = "GET"):
        """Answer of one request, decoded from JSON."""
        with urllib.request.urlopen(urllib.request.Request(self.url + path, method=method), timeout=30) as answer:
            body = answer.read()
        return json.loads(body) if body else None

    def stop_kernels(self) -> None:
        """End every kernel, so that the next test starts with an empty machine."""
        for session in self.ask("/api/sessions"):
            self.ask(f"/api/sessions/{session['id']}", "DELETE")


@contextlib.contextmanager
def serve(folder: Path, environment: dict | None = None):
    """A JupyterLab over `folder/work`, which knows nothing of the user's settings; ended with its kernels."""
    work, home = folder / "work", folder / "home"
    for made in (work, home):
        made.mkdir(parents=True)
    _settings(home / "settings")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "lab.log"
    command = [sys.executable, "-m", "jupyterlab", *_options(port, work, home)]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, cwd=work, env=_alone(home) | (environment or {}))
    server = Server(f"http://127.0.0.1:{port}", work, home / "runs", log)
    try:
        until(lambda: _answers(server, process), 120, f"JupyterLab answers; see {log}")
        yield server
    finally:
        _end(process)


def _settings(folder: Path) -> None:
    for name, values in SETTINGS.items():
        file = folder / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values), encoding="utf-8")


def _options(port: int, work: Path, home: Path) -> list[str]:
    return [
        "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0", f"--ServerApp.root_dir={work}", "--IdentityProvider.token=",
        "--ServerApp.disable_check_xsrf=True", "--LabApp.expose_app_in_browser=True",
        f"--LabApp.user_settings_dir={home / 'settings'}", f"--LabApp.workspaces_dir={home / 'workspaces'}",
        "--LabApp.extension_manager=readonly",
    ]  # fmt: skip


def _alone(home: Path) -> dict:
    """Our environment with a home of its own; caches that take minutes or print when they are made are shared."""
    from matplotlib import font_manager, get_cachedir

    from hermes_nb import runtime

    assert font_manager.fontManager.ttflist  # matplotlib says on stderr when it builds its list of fonts: it is there
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "IPYTHON", "PYDEVD"))}
    own = {"HOME": home, "JUPYTER_CONFIG_DIR": home / "config", "JUPYTER_DATA_DIR": home / "data",
           "JUPYTER_RUNTIME_DIR": home / "runtime", "IPYTHONDIR": home / "ipython", "HERMES_RUNS": home / "runs",
           "HERMES_CACHE": runtime.cache_dir(), "MPLCONFIGDIR": get_cachedir()}  # fmt: skip
    return kept | {"HERMES_SCALE": "tiny", "HF_HUB_OFFLINE": "1"} | {k: str(v) for k, v in own.items()}


def _answers(server: Server, process) -> bool:
    if process.poll() is not None:
        raise RuntimeError(f"JupyterLab ended at once: {server.log.read_text(errors='replace')[-800:]}")
    try:
        return bool(server.ask("/api/status"))
    except OSError:  # nobody listens yet
        return False


def _end(process) -> None:
    """End the server, which ends its kernels; what is left after ten seconds is killed."""
    import psutil

    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=10)
    for left in psutil.wait_procs(children, timeout=5)[1]:
        left.kill()
    process.kill()
    process.wait()
