"""Errors that teach: one type per kind of mistake; each message says what, where and the next step."""


class RequestError(Exception):
    """The request cannot be served; the message says what, where and the next step (exit status 2)."""


class FileProblem(RequestError):
    """A file or folder is missing, unreadable or damaged."""


class DataProblem(RequestError):
    """Rows do not have the columns or values that their schema promises."""


class RecipeProblem(RequestError):
    """A recipe, a scale or an override is unknown, mistyped or impossible."""


class NetworkProblem(RequestError):
    """Something must be fetched and no network (or no such thing) is there."""


class ResourceProblem(RequestError):
    """The machine is too small for what was asked."""


class RunProblem(RequestError):
    """A run directory is busy, damaged, or belongs to another recipe."""


class TrainingProblem(RequestError):
    """Training must not start or must not go on: a promise about the numbers does not hold."""
