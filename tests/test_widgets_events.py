"""Clicks that come in while a cell runs, in a real kernel. Run alone: python -m pytest tests/test_widgets_events.py

The same test runs under Colab's ipykernel 6.17.1, see `make test-old-widgets`.
"""

import queue
import sys
import time

import ipykernel
import pytest
from jupyter_client.manager import start_new_kernel

from hermes_nb.widgets import events

LIMIT = 60  # seconds
TRAINING = """
import time
from hermes_nb import history, widgets
live, rows, begun = widgets.Live(), [], time.perf_counter()
for step in range(1, 100_000):
    rows += history.entries({"loss": 0.5, "rewards/margins": 0.1, "num_tokens": 100.0 * step}, step)
    if live(rows, step, 100_000) or time.perf_counter() - begun > 30:
        break
    if step == 1:
        print("button", live.panel.controls["stop"].model_id, flush=True)
    time.sleep(0.01)
print("ended", live.stopped, step < 3000)
"""
QUEUED = """
import contextvars
shared = contextvars.ContextVar("shared", default=0)
shared.set(5)
print('the next cell')
"""


@pytest.fixture(scope="module")
def client():
    """A client of a fresh kernel that answers as a front end does."""
    manager, client = start_new_kernel(kernel_name="python3")
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def told(client, wanted):
    """The text of the first stream message that holds `wanted`."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        try:
            message = client.get_iopub_msg(timeout=1)
        except queue.Empty:
            continue
        if message["msg_type"] == "error":
            pytest.fail(message["content"]["evalue"])
        if message["msg_type"] == "stream" and wanted in message["content"]["text"]:
            return message["content"]["text"]
    pytest.fail(f"nothing printed {wanted!r} in {LIMIT} seconds")


def subshell(client):
    """The id of a new subshell, as JupyterLab asks for one; None where the kernel knows none."""
    if ipykernel.version_info[0] < 7:
        return None
    client.control_channel.send(client.session.msg("create_subshell_request"))
    return client.control_channel.get_msg(timeout=LIMIT)["content"]["subshell_id"]


def click(client, button, shell):
    """Send what a front end sends when a button is pressed."""
    content = {"comm_id": button, "data": {"method": "custom", "content": {"event": "click"}}}
    message = client.session.msg("comm_msg", content)
    if shell:
        message["header"]["subshell_id"] = shell
    client.shell_channel.send(message)


def test_stop_is_heard_while_the_cell_runs(client):
    """A kernel hears a click only after the cell: training would end by itself first. What is queued keeps its turn,
    and its place: what it sets in a context variable is there for the cells behind it."""
    shell = subshell(client)
    client.execute(TRAINING, allow_stdin=True)
    button = told(client, "button").split()[1]
    client.execute(QUEUED, allow_stdin=True)
    client.execute("print('shared is', shared.get())", allow_stdin=True)
    click(client, button, shell)
    assert "ended True True" in told(client, "ended")
    told(client, "the next cell")
    assert "shared is 5" in told(client, "shared is")


def test_clicks_on_other_widgets_wait_for_their_turn(client):
    """A chat that answers in the middle of a training step draws from its random numbers, and takes its time."""
    other = """
import ipywidgets
other, heard = ipywidgets.Button(), []
other.on_click(lambda _: heard.append("late" if live.stopped else "early"))
print("other", other.model_id)
"""
    client.execute(other, allow_stdin=True)
    late = told(client, "other").split()[1]
    client.execute(TRAINING, allow_stdin=True)
    button = told(client, "button").split()[1]
    click(client, late, None)
    click(client, button, None)
    assert "ended True True" in told(client, "ended")
    client.execute("print('heard', heard)", allow_stdin=True)
    assert "heard ['late']" in told(client, "heard")


def test_without_anybody_in_front_there_is_a_bar_and_a_picture(client):
    """A button nobody can press, and pictures nobody sees, cost time in every executed notebook."""
    code = TRAINING.replace("100_000", "4").replace("live.panel", "live and live.panel")
    code = code.replace('print("button", live and live.panel.controls["stop"].model_id, flush=True)', "pass")
    client.execute(code, allow_stdin=False)
    assert "ended False True" in told(client, "ended")


def test_outside_a_kernel_nothing_happens():
    """The same code trains from a shell."""
    assert events.let_in() == 0
    assert not events.somebody_looks()
    assert events.kernel() is None or "ipykernel" in sys.modules
