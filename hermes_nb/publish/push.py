"""A folder to the Hugging Face hub, or to a dry run that holds the very same files. Lesson: 04_merge."""

import re
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hermes_nb import __version__
from hermes_nb.errors import FileProblem, NetworkProblem, RecipeProblem
from hermes_nb.publish import scan, staging
from hermes_nb.publish.layout import layout_problems
from hermes_nb.publish.origins import USER
from hermes_nb.runtime import token

SETTINGS = "https://huggingface.co/settings/tokens"
WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")  # of a merged model, at the root
ANSWERS = {
    401: f"it does not accept this token; make one with write access ({SETTINGS}), then `hf auth login` or HF_TOKEN",
    402: "the account's storage or plan does not allow it; look at its billing page",
    403: f"this token may not write there; give it write access ({SETTINGS}), or name a repo of your own",
    404: "it knows no such owner or repo, or this token may not see it; check the name",
    409: "the repo was made or changed meanwhile; call again",
    412: "the repo was changed meanwhile; look at it, and call again",
    413: "the folder is too large for it; merge with a smaller max_shard_size",
    429: "too many calls; wait a few minutes and call again",
}


@dataclass(frozen=True)
class Pushed:
    """What was sent, or in a dry run would be: repo, where it lies now (URL or folder), files as rows, bytes, notes."""

    repo: str
    where: str
    files: tuple[dict, ...]  # rows of `file` and `mb`
    bytes: int
    private: bool
    sent: bool
    notes: tuple[str, ...] = ()


def push(
    folder: Path | str, repo_id: str | None = None, run: Path | str | None = None, private: bool = True,
    dry_run: Path | str | None = None,
) -> Pushed:  # fmt: skip
    """Publish a merged model (`runs/c/merged`) or an adapter (`runs/c/dpo/adapter`) on the Hugging Face hub.

    The folder is put together with its model card (`staging.stage`), scanned (`findings`), and sent in one commit, so
    that the repo holds all of it or nothing; an older merge's weights are taken out in the same commit, which the notes
    say. The repo is made if there is none, private unless `private=False`; one that exists keeps its visibility, and
    one that holds the other kind (an adapter, a merged model) is refused. `repo_id` is OWNER/NAME;
    without it, `USER/MODEL-STAGE` for a merged model (its last stage, such as SmolLM2-135M-Instruct-dpo) and
    `USER/MODEL-STAGE-lora` for an adapter. `run` is the run directory that the card is written from (default: the
    nearest around `folder`). `dry_run=PATH` writes the very folder to PATH and sends nothing; it needs neither network
    nor token, and shows the user's name as {user}.
    Raises FileProblem listing every finding, before anything is sent; RecipeProblem for a bad name, a missing token, a
    repo of the other kind or a public one where `private` was asked for; NetworkProblem when the hub cannot be reached
    or refuses.
    """
    what = staging.source(folder, run)
    repo = _checked(repo_id, what.name)
    key = None if dry_run else _token()
    api = None if dry_run else _client(key)
    if api and USER in repo:
        with _friendly("asked who you are", repo, api.endpoint):
            repo = repo.replace(USER, api.whoami()["name"])
    with _staged(what, Path(dry_run) if dry_run else None) as place:
        notes = staging.stage(what, place, repo)
        _refuse(what.folder, [*scan.unfit(what.folder, key), *scan.findings(place, key)])
        _refuse(what.folder, [] if what.adapter else layout_problems(place))
        rows = scan.plan(place)
        size = sum(path.stat().st_size for _, path in scan.files(place))
        where = str(dry_run)
        if api:
            where, private, more = _send(api, place, repo, private, what.adapter)
            notes += more
    return Pushed(repo, where, tuple(rows), size, private, not dry_run, tuple(notes))


def text(told: Pushed) -> str:
    """What a `push` did, for a terminal: where, each file with its size, the notes."""
    seen = "private" if told.private else "public"
    head = f"sent to {told.where}" if told.sent else f"dry run, nothing was sent: {told.where}"
    lines = [head, f"repo {told.repo} ({seen}), {len(told.files)} files, {told.bytes / 1e6:,.1f} MB"]
    lines += [f"{row['mb']:12,.3f} MB  {row['file']}" for row in told.files]
    return "\n".join([*lines, *(f"note: {note}" for note in told.notes)])


def _checked(repo_id: str | None, name: str) -> str:
    """OWNER/NAME, with `{user}` for an owner that is asked for later. RecipeProblem for what cannot be a name."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    repo = repo_id if repo_id is not None else name
    repo = repo if "/" in repo else f"{USER}/{repo}"
    try:
        validate_repo_id(repo.replace(USER, "user"))
    except HFValidationError as error:
        raise RecipeProblem(
            f"{repo_id or name!r} is no name of a repo; give OWNER/NAME of letters, digits, '-', '_' and '.', at most "
            f"96 in all, without '--' or '..'."
        ) from error
    return repo


def _token() -> str:
    """The token, fit for a header. RecipeProblem without one; it is never shown."""
    key = (token() or "").strip()
    if not key:
        raise RecipeProblem(f"no Hugging Face token here; `hf auth login`, or HF_TOKEN, with one from {SETTINGS}.")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise RecipeProblem(f"the Hugging Face token holds blanks or odd characters; copy it anew from {SETTINGS}.")
    return key


@contextmanager
def _staged(what: staging.Source, place: Path | None):
    """An empty folder; at the end it becomes `place`, or is gone. On an error nothing is left."""
    if place and place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise FileProblem(f"{place}: exists already; delete it, or name another folder for the dry run.")
    if place and place.resolve().is_relative_to(what.folder.resolve()):
        raise FileProblem(f"{place}: lies inside the model's own folder; name one beside it.")
    # weights are hard links, which cannot cross disks: beside the model, or beside the place where they stay
    beside = place.absolute().parent if place else what.folder.absolute().parent
    beside.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=beside, prefix=".publish-") as work:
        folder = Path(work) / "folder"
        folder.mkdir()
        yield folder
        if place:
            if place.exists():
                place.rmdir()
            shutil.move(folder, place)


def _refuse(folder: Path, lines: list[str]) -> None:
    """Raise FileProblem with every line, if there is one."""
    if lines:
        raise FileProblem(f"{folder}: not published, {len(lines)} reason(s): {' '.join(lines)}")


def _client(key: str):
    from huggingface_hub import HfApi

    return HfApi(token=key, library_name="hermes_nb", library_version=__version__)


def _send(api, place: Path, repo: str, private: bool, adapter: bool) -> tuple[str, bool, list[str]]:
    """Send the folder in one commit; returns the repo's URL, whether it is private, and notes."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    with _friendly("asked for the repo", repo, api.endpoint):
        there = _existing(api, repo)
    old = [one.rfilename for one in there.siblings or ()] if there else []
    _suits(repo, there, old, private, adapter)
    if not there:
        with _friendly("asked for a new repo", repo, api.endpoint):
            api.create_repo(repo, private=private)
    names = {name: path for name, path in scan.files(place)}
    gone = [name for name in old if WEIGHTS.fullmatch(name) and name not in names]
    steps = [CommitOperationAdd(name, str(path)) for name, path in names.items()]
    with _friendly("were sending", repo, api.endpoint):
        api.create_commit(
            repo, [*(CommitOperationDelete(name, is_folder=False) for name in gone), *steps],
            commit_message=f"{repo.split('/')[1]}, by hermes_nb {__version__}",
            parent_commit=there.sha if there else None,
        )  # fmt: skip
    notes = [f"{scan.CARD} there was replaced."] if scan.CARD in old else []
    notes += [f"older weights there were deleted: {', '.join(gone)}."] if gone else []
    return f"{api.endpoint}/{repo}", there.private if there else private, notes


def _suits(repo: str, there, old: list[str], private: bool, adapter: bool) -> None:
    """Raise RecipeProblem when the repo that is there should not take this push."""
    if there and private and not there.private:
        raise RecipeProblem(
            f"{repo} exists and is public; nothing was sent. Name another repo, make that one private in its settings, "
            f"or publish openly (private=False, --public)."
        )
    held = [name for name in old if (WEIGHTS.fullmatch(name) if adapter else name in staging.ADAPTER)]
    if held:
        kinds = ("a merged model", "an adapter") if adapter else ("an adapter", "a merged model")
        raise RecipeProblem(
            f"{repo} holds {kinds[0]} ({held[0]}), and this is {kinds[1]}; nothing was sent. Name another repo "
            f"(--repo)."
        )


def _existing(api, repo: str):
    """What the hub knows of a repo; None where it knows none."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        return api.model_info(repo)
    except GatedRepoError:  # a kind of the next one, but there is a repo
        raise
    except RepositoryNotFoundError:
        return None


@contextmanager
def _friendly(doing: str, repo: str, endpoint: str):
    """Turn what the client raises into one sentence with the next step; no word of the token in it."""
    from huggingface_hub import errors

    try:
        yield
    except errors.OfflineModeIsEnabled as error:
        raise NetworkProblem(
            "the hub's client is told to stay offline; unset HF_HUB_OFFLINE and push again."
        ) from error
    except (errors.HTTPError, OSError, RuntimeError, ValueError) as error:
        raise NetworkProblem(_sentence(error, doing, repo.replace(f"{USER}/", ""), endpoint)) from error


def _sentence(error: BaseException, doing: str, repo: str, endpoint: str) -> str:
    """What the hub answered, in words, and what to do."""
    from huggingface_hub.errors import HfHubHTTPError

    chain = [error]
    while chain[-1].__cause__:
        chain.append(chain[-1].__cause__)
    answer = next((e for e in chain if isinstance(e, HfHubHTTPError)), None)
    if answer is not None:
        status = answer.response.status_code
        if status >= 500:  # a gateway gives up while the hub goes on
            said = f"{repo}: the hub ({endpoint}) answered {status} while we {doing}."
            return f"{said} Look at the repo before you call again."
        why = ANSWERS.get(status, f"it answered {status}; call again")
        return f"{repo}: the hub ({endpoint}) refused while we {doing}: {why}. No commit was made."
    if isinstance(error, ValueError):
        return f"{repo}: the hub refused while we {doing} ({' '.join(str(error).split())[:300]}). No commit was made."
    return (
        f"{repo}: no whole answer from {endpoint} while we {doing} ({type(chain[-1]).__name__}). Check the network and "
        f"call again; a commit is made at the end or not at all."
    )
