"""Kill a merge at random moments, call once more, compare the bytes: `python tests/merge_kills.py FOLDER COUNT`.

A process of its own, with one thread, so that it can be forked: `tests/test_merge_work.py` starts it.
"""

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from hermes_nb import merge, runtime
from hermes_nb.merge import stored


def digests(folder: Path) -> dict:
    return {p.name: runtime.sha256(p) for p in sorted(folder.iterdir())}


def merged(work: Path) -> None:
    merge.merge(str(work / "base"), work / "adapter", work / "out", "dequantized", "float16", max_shard_size="100KB")


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Limited:
    """A file that calls `over` when `left` more bytes are written through any such file."""

    left, over = 0, staticmethod(killed)

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, data):
        if len(data) > Limited.left:
            self.file.write(data[: Limited.left])
            self.file.flush()
            Limited.over()
        Limited.left -= len(data)
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)


def forked(body) -> int:
    """Run `body` in a forked child; the signal that killed it, or 0."""
    child = os.fork()
    if child == 0:
        try:
            body()
        except BaseException as error:  # noqa: B036 (a child must never go on as its parent)
            print(f"child: {type(error).__name__}: {error}", file=sys.stderr)
            os._exit(3)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit("a call failed")
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def at_byte(work: Path, count: int):
    def body():
        Limited.left = count
        stored.open = lambda *args, **kwargs: Limited(open(*args, **kwargs))  # noqa: SIM115
        merged(work)

    return body


def at_moment(work: Path, seconds: float):
    def body():
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the kernel ends the process, Python is not asked
        signal.setitimer(signal.ITIMER_REAL, seconds)
        merged(work)

    return body


def at_step(work: Path, number: int):
    """Before the call of that number, of all that change what has a name."""

    def body():
        left = [number]

        def watched(call):
            def run(*args, **kwargs):
                if not left[0]:
                    killed()
                left[0] -= 1
                return call(*args, **kwargs)

            return run

        for place, name in ((os, "replace"), (os, "fsync"), (os, "unlink"), (shutil, "copyfile"), (shutil, "rmtree")):
            setattr(place, name, watched(getattr(place, name)))
        merged(work)

    return body


def main(work: Path, count: int) -> None:
    merged(work)  # the first one imports as well
    shutil.rmtree(work / "out")
    begun = time.perf_counter()
    merged(work)
    seconds, whole = time.perf_counter() - begun, digests(work / "out")
    size = sum(p.stat().st_size for p in (work / "out").glob("*.safetensors"))
    draw, ended, standing, resumed = random.Random(0), 0, 0, 0
    for number in range(count):
        shutil.rmtree(work / "out")
        ways = (
            at_byte(work, draw.randrange(size)),
            at_moment(work, draw.uniform(0, seconds)),
            at_step(work, number // 3),
        )
        ended += forked(ways[number % 3]) != 0
        if (work / "out").exists():
            standing += 1
            assert digests(work / "out") == whole, "what has its name is not whole"
        left = work / ".out.work"
        resumed += left.is_dir() and any(p.suffix == ".safetensors" for p in left.iterdir())
        assert forked(lambda: merged(work)) == 0
        assert digests(work / "out") == whole, f"other bytes after kill {number}"
        assert not left.exists()
    print(f"{count} runs, {ended} killed, {resumed} of them went on with finished files, {standing} were done already")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
