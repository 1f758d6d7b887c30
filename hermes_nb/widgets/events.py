"""Let clicks in while a cell runs.

A kernel handles one message after the other, so a click on a button waits until the running cell ends. (ipykernel 7 has
subshells for widget messages, https://github.com/jupyter/enhancement-proposals/pull/91, but 7.4 sends the answers to a
widget of the main shell back to the main shell, and ipykernel 6, as on Colab, has none.) So what runs calls `let_in`
from time to time: it takes the widget messages that wait, and leaves all else in its order.
"""

import sys
import threading

COMMS = ("comm_open", "comm_msg", "comm_close")


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


def let_in() -> int:
    """Handle the widget messages that wait, and return their number; 0 where there is no such kernel. Never raises."""
    running = kernel()
    if running is None or threading.current_thread() is not threading.main_thread():
        return 0
    found = _waiting(running)
    return _drain(running, *found) if found else 0


def _waiting(running):
    """The socket at which messages for the main shell wait, and what takes one that is not ours; None if unknown."""
    if hasattr(running, "shell_channel_thread") and running.shell_channel_thread is not None:  # ipykernel 7
        pair = running.shell_channel_thread.manager.get_shell_channel_to_subshell_pair(None)
        return pair.to_socket, lambda raw: pair.to_stream.io_loop.add_callback(running.shell_main, None, raw)
    if hasattr(running, "schedule_dispatch") and running.shell_stream is not None:  # ipykernel 6
        return running.shell_stream.socket, lambda raw: running.schedule_dispatch(running.dispatch_shell, raw)
    return None


def _drain(running, socket, put_back) -> int:
    import zmq

    handled = 0
    while True:
        try:
            raw = socket.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.ZMQError:  # nothing waits
            return handled
        idents, parts = running.session.feed_identities(raw, copy=False) if len(raw) > 1 else ([], [])
        # the header alone: a message that is read as a whole may not be read again
        if parts and running.session.unpack(parts[1].bytes)["msg_type"] in COMMS:
            _handle(running, idents, parts)
            handled += 1
        else:
            put_back(raw)


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
