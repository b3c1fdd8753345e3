"""The Hugging Face hub's local cache, as its own client lays it out. It is looked at and never added to.

    models--ORG--NAME/refs/main              holds the commit that a branch or tag stands for
    models--ORG--NAME/snapshots/COMMIT/...   the files, as links into
    models--ORG--NAME/blobs

Our own lookup, because importing that client takes as long as the rest of a command, and it calls a snapshot whole
without looking at what is in it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from ringlight.core.errors import InvalidCheckpoint

MAIN = "main"
PREFIX = "models--"
SNAPSHOTS = "snapshots"
REPOSITORY = r"\b[\w.-]{1,96}\b/\b[\w.-]{1,96}\b"
ASKED = re.compile(rf"({REPOSITORY})(?:@([\w.-]+(?:/[\w.-]+)*))?", re.ASCII)  # ORG/NAME or ORG/NAME@REVISION
NAME = re.compile(rf"(?!.*(?:--|\.\.))(?:{REPOSITORY}|\b[\w.-]{{1,96}}\b)", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
SHORT_COMMIT = re.compile(r"[0-9a-f]{7,40}")
SOME_NAME = "wan2.2-ti2v"


class Snapshot(NamedTuple):
    """A revision of a repository in a cache."""

    cache: Path
    repository: str
    commit: str

    @property
    def command(self) -> str:
        """Command that downloads the missing files of this snapshot."""
        return download_command(self.repository, self.commit, self.cache)


def download_command(repository: str, revision: str = MAIN, cache: Path | None = None) -> str:
    """Command that downloads a repository to where the client's environment says, or into a cache."""
    at = "" if revision == MAIN else f" --revision {revision}"
    return f"hf download {repository}{at}" + ("" if cache is None else f" --cache-dir {cache}")


def snapshot_of(path: Path) -> Snapshot | None:
    """The snapshot that a path lies in, or leads into."""
    for start in (path.absolute(), Path(os.path.realpath(path))):
        for folder in (start, *start.parents):
            repository = folder.parent.parent
            if folder.parent.name == SNAPSHOTS and repository.name.startswith(PREFIX):
                return Snapshot(repository.parent, _repository_name(repository), folder.name)
    return None


def model_name(folder: Path, said: object) -> str:
    """Name of a checkpoint: ORG/NAME of its snapshot, else that in its JSON, else its folder's.

    Never a path and never a commit: what was `said` may be the place where somebody once saved it.
    """
    if (snapshot := snapshot_of(folder)) is not None:
        return snapshot.repository
    if isinstance(said, str) and NAME.fullmatch(said) and not COMMIT.fullmatch(said):
        return said
    real = Path(os.path.realpath(folder))
    names = (part.name for part in (real, *real.parents))
    return next((name for name in names if name not in ("", SNAPSHOTS) and not COMMIT.fullmatch(name)), SOME_NAME)


def find_snapshot(asked: str, cache: Path) -> Path:
    """The folder of ORG/NAME[@REVISION] in a cache. Raises InvalidCheckpoint with the command that gets it."""
    match = ASKED.fullmatch(asked)
    if match is None:
        raise InvalidCheckpoint(f"{asked}: not ORG/NAME or ORG/NAME@REVISION")
    repository, revision = match[1], match[2] or MAIN
    folder = cache / f"{PREFIX}{repository.replace('/', '--')}"
    get = f"`{download_command(repository, revision)}` gets it, if it is a model of the Hugging Face Hub"
    if not folder.is_dir():
        raise InvalidCheckpoint(f"{asked}: no such folder, and not in the hub's cache ({cache}) either; {get}")
    if (found := _snapshot(folder, revision)) is None:
        raise InvalidCheckpoint(f"{asked}: the hub's cache ({cache}) has {_revisions(folder)} of it; {get}")
    return found


def snapshot_within(folder: Path) -> Path | None:
    """The snapshot meant by a repository's folder in a cache, or its `snapshots`; None where it is neither.

    It is refs/main, or the only one there is. Raises InvalidCheckpoint.
    """
    repository = folder.parent if folder.name == SNAPSHOTS else folder
    if not (repository / SNAPSHOTS).is_dir() or (folder / "model_index.json").exists():
        return None
    if (found := _snapshot(repository, MAIN)) is not None:
        return found
    commits = _commits(repository)
    if len(commits) == 1:
        return repository / SNAPSHOTS / commits[0]
    raise InvalidCheckpoint(f"{folder}: a folder of the hub's cache with {_revisions(repository)}; name one snapshot")


def _snapshot(repository: Path, revision: str) -> Path | None:
    """Find the snapshot of a branch, a tag or a commit, also an abbreviated one."""
    commits = _commits(repository)
    commit = _refs(repository).get(revision, revision)
    meant = [each for each in commits if each == commit or (SHORT_COMMIT.fullmatch(commit) and each.startswith(commit))]
    return repository / SNAPSHOTS / meant[0] if len(meant) == 1 else None


def _commits(repository: Path) -> list[str]:
    folder = repository / SNAPSHOTS
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _refs(repository: Path) -> dict[str, str]:
    """Branch or tag -> commit."""
    folder = repository / "refs"
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_text(errors="replace").strip() for path in files}


def _revisions(repository: Path) -> str:
    """Message on which revisions of a repository are there."""
    named = {commit: name for name, commit in _refs(repository).items()}
    found = [f"{named[commit]} ({commit[:12]})" if commit in named else commit[:12] for commit in _commits(repository)]
    return f"only the revisions {', '.join(found)}" if found else "no revision"


def _repository_name(folder: Path) -> str:
    return folder.name.removeprefix(PREFIX).replace("--", "/")
