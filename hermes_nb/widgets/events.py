"""Let clicks in while a cell runs.

A kernel handles one message after the other, so a click on a button waits until the running cell ends. (ipykernel 7 has
subshells for widget messages, https://github.com/jupyter/enhancement-proposals/pull/91, but 7.4 sends the answers to a
widget of the main shell back to the main shell, and ipykernel 6, as on Colab, has none.) So what runs calls `let_in`
from time to time: it takes the widget messages that wait, and leaves all else in its order.
"""

import sys
import threading


def kernel():
    """The kernel that this code runs in; None in a terminal, in a test, or under a plain interpreter."""
    if "IPython" not in sys.modules:
        return None
    from IPython import get_ipython

    shell = get_ipython()
    return shell.kernel if shell is not None and hasattr(shell, "kernel") else None


def somebody_looks() -> bool:
    """Whether a person may be in front of the running cell: kernels run by nbclient cannot be asked for input."""
    running = kernel()
    return running is not None and hasattr(running, "_allow_stdin") and bool(running._allow_stdin)


def let_in(*mine) -> int:
    """Handle the messages to the widgets `mine` that wait, and return their number; never raises.

    All else keeps its turn, clicks on other widgets too: what they start belongs between cells and not into this one.
    Does nothing outside a kernel.
    """
    running = kernel()
    if running is None or threading.current_thread() is not threading.main_thread():
        return 0
    try:
        found = _waiting(running)
        return _drain(running, *found, {widget.model_id for widget in mine}) if found else 0
    except Exception:  # a kernel that works otherwise must not end the training that looked for clicks
        running.log.exception("waiting messages")
        return 0


def _waiting(running):
    """The socket at which messages for the main shell wait, and what takes one that is not ours; None if unknown."""
    if hasattr(running, "shell_channel_thread") and running.shell_channel_thread is not None:  # ipykernel 7
        pair = running.shell_channel_thread.manager.get_shell_channel_to_subshell_pair(None)
        # the stream's own callback: it keeps the context variables that cells share
        return pair.to_socket, lambda raw: pair.to_stream.io_loop.add_callback(pair.to_stream._recv_callback, raw)
    if hasattr(running, "schedule_dispatch") and running.shell_stream is not None:  # ipykernel 6
        return running.shell_stream.socket, lambda raw: running.schedule_dispatch(running.dispatch_shell, raw)
    return None


def _drain(running, socket, put_back, mine: set) -> int:
    import zmq

    handled = 0
    while True:
        try:
            raw = socket.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.ZMQError:  # nothing waits
            return handled
        idents, parts = running.session.feed_identities(raw, copy=False) if len(raw) > 1 else ([], [])
        if parts and _receiver(running, parts) in mine:
            _handle(running, idents, parts)
            handled += 1
        else:
            put_back(raw)


def _receiver(running, parts) -> str | None:
    """The widget that a message is for; header and content alone, since a message may be read as a whole only once."""
    if running.session.unpack(parts[1].bytes)["msg_type"] != "comm_msg":
        return None
    return running.session.unpack(parts[4].bytes)["comm_id"]


def _handle(running, idents, parts) -> None:
    """Handle one widget message, between a busy and an idle: front ends hold back the next one until then."""
    message = running.session.deserialize(parts, content=True, copy=False)

    def status(state: str) -> None:
        running.session.send(
            running.iopub_socket, "status", {"execution_state": state}, parent=message, ident=running._topic("status")
        )

    status("busy")
    try:
        running.shell_handlers[message["header"]["msg_type"]](running.shell_stream, idents, message)
    except Exception:  # a callback of somebody's must not end the training that let it in
        running.log.exception("widget message")
    status("idle")
