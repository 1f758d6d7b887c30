"""The stages from a shell: `python -m hermes_nb COMMAND`.

Exit status: 0 done, 1 the check asked for did not hold, 2 the request could not be served (one sentence says why).
"""

import os
import sys

from hermes_nb.cli import commands
from hermes_nb.cli.arguments import parser
from hermes_nb.errors import RequestError
from hermes_nb.runtime import quiet

__all__ = ["COMMANDS", "main", "parser"]


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    args = parser().parse_args(arguments)
    quiet()
    try:
        return COMMANDS[args.command](args)
    except RequestError as error:
        print(f"hermes_nb: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our lines, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(
            f"hermes_nb: {error.filename or 'disk'}: {error.strerror or error}; check path, rights and space.",
            file=sys.stderr,
        )
        return 2
    except ModuleNotFoundError as error:
        print(f"hermes_nb: {error.name} is not installed; pip install 'hermes_nb[dev]' brings it.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("hermes_nb: stopped; finished stages are kept.", file=sys.stderr)
        return 130


COMMANDS = {
    "doctor": commands.doctor, "run": commands.run, "merge": commands.merge, "evaluate": commands.evaluate,
    "export": commands.export, "course": commands.course, "audit": commands.audit, "bench": commands.bench,
    "estimate": commands.estimate,
}  # fmt: skip
