"""LoraLibrary: the LoRAs that a server has, always on or by request, found by name and matched with its model.

A name is all that a request says: it is looked up among the files that the operator offers, and never is a path. Files
may be added while the server runs. What is offered is known by its headers; of a file that is asked for all bytes are
read once, to be hashed.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from ringlight.core.errors import InvalidCheckpoint, InvalidRequest, InvalidSetting, Problem
from ringlight.core.lora import (
    FIELD,
    FORM,
    NAMELESS,
    SUFFIX,
    TARGETS,
    AskedLora,
    Lora,
    LoraFile,
    Target,
    lora_file,
    lora_name,
    parse_lora,
    wrong_end,
    wrong_strength,
)
from ringlight.core.peft_config import CONFIG_FILE, read_peft_config
from ringlight.core.presence import listed
from ringlight.core.weights import read_header
from ringlight.families.experts import expert_of
from ringlight.families.model import ModelSpec
from ringlight.families.table import read_lora

TWICE = "two files are called {}; the operator has to rename one of them"


class Stamp(NamedTuple):
    """Fingerprint of an unchanged file: path, bytes, times (ns) of writing and of the last change of rights or name.

    The time of writing of PEFT's config beside it is part of it.
    """

    path: Path
    num_bytes: int
    written: int
    changed: int
    beside: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """Stamp of a file as it is now. Raises InvalidCheckpoint."""
        beside = path.with_name(CONFIG_FILE)
        try:
            stat = path.stat()
            written_beside = beside.stat().st_mtime_ns if beside.exists() else 0
        except OSError as error:  # such as a file that was taken away since its folder was listed
            raise _unreadable(path, error) from None
        return cls(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, written_beside)


class Offer(NamedTuple):
    """LoRA that a request may ask for, as it is by default, with its file or why it cannot be used."""

    lora: Lora
    file: LoraFile | None
    problem: str | None = None


class LoraSettings(Protocol):
    """Settings on LoRAs: `--lora`, as FILE[:STRENGTH[:TARGET]], and `--lora-dir`."""

    @property
    def lora(self) -> Sequence[str]: ...
    @property
    def lora_dir(self) -> Sequence[str]: ...


class LoraLibrary:
    """LoRAs that may be named. `always`: those that are added to each request, as `--lora` says."""

    def __init__(self, config: LoraSettings, spec: ModelSpec) -> None:
        """Find and match all that `--lora` names, and look into the folders.

        Raises InvalidSetting, and InvalidCheckpoint for a file that does not fit the model.
        """
        self._spec = spec
        self._matches: dict[Stamp, LoraFile | str] = {}  # or why it does not match
        self._files: dict[Stamp, LoraFile] = {}  # hashed
        self._folders = [_folder(text) for text in config.lora_dir]
        self._named: list[tuple[str, Path]] = []  # by --lora alone
        places = [(said, *self._place(said)) for said in map(_parsed, config.lora)]
        for name, paths in self._found().items():
            if len(paths) > 1:
                both = " and ".join(map(str, paths))
                raise InvalidSetting(f"two LoRAs are called {name}: {both}; rename one of them")
        self.always = tuple(self._always_on(places))

    def names(self) -> list[str]:
        """Names of all LoRAs that a request may ask for, in order, without those that are always on."""
        return [name for name, _ in self._optional()]

    def offered(self) -> list[Offer]:
        """LoRAs that a request may ask for; reads the header of each file that is new."""
        return [self._offer(name, paths) for name, paths in self._optional()]

    def _optional(self) -> list[tuple[str, list[Path]]]:
        always = {lora.name for lora in self.always}
        return [(name, paths) for name, paths in sorted(self._found().items()) if name not in always]

    def _offer(self, name: str, paths: list[Path]) -> Offer:
        lora = Lora(name=name, target=self._target_of(paths[0]))
        if len(paths) > 1:
            return Offer(lora, None, TWICE.format(name))
        try:
            return Offer(lora, self._matched(Stamp.of(paths[0])))
        except InvalidCheckpoint as error:
            return Offer(lora, None, self._without_places(str(error)))

    def resolve(self, asked: Sequence[Lora]) -> tuple[Lora, ...]:
        """Resolve the LoRAs that are always on and those that are asked for: target, `sha256` and `num_bytes` of each.

        Raises InvalidRequest that names all problems, without a word of where files lie.
        """
        found = self._found()
        always = {lora.name for lora in self.always}
        given = Counter((lora.name, expert) for lora in asked for expert in lora.experts)
        problems, resolved = [], []
        for lora in asked:
            if lora.name in always:
                problems.append(Problem(FIELD, f"{listed([lora.name])} is always on here; leave it out"))
            elif any(given[lora.name, expert] > 1 for expert in lora.experts):
                problems.append(Problem(FIELD, f"{listed([lora.name])} is asked for twice"))
            elif (problem := self._problem(lora, found)) is not None:
                problems.append(problem)
            else:
                try:
                    resolved.append(self._resolved(lora, found[lora.name][0]))
                except InvalidCheckpoint as error:
                    problems.append(Problem(FIELD, self._without_places(str(error))))
                    continue
                if lora.sha256 not in ("", resolved[-1].sha256):
                    problems.append(Problem(FIELD, _another(lora.name, lora.sha256, resolved[-1].sha256)))
        if problems:
            raise InvalidRequest(list(dict.fromkeys(problems)))
        return (*self.always, *resolved)

    def require(self, loras: Sequence[Lora]) -> None:
        """Raise InvalidRequest unless all are resolved, and their files are here as they were then."""
        found = self._found()
        problems = [Problem(FIELD, said) for lora in loras if (said := self._changed(lora, found))]
        if problems:
            raise InvalidRequest(problems)

    def _changed(self, lora: Lora, found: dict[str, list[Path]]) -> str:
        """Reason why a LoRA is not what it was when it was resolved."""
        name = listed([lora.name])
        if not lora.sha256:
            return f"nobody has looked for {name} yet; Engine.request makes requests that are complete"
        if not (paths := found.get(lora.name, [])):
            return f"{name} is not offered any more; put its file back, or ask anew for what is there"
        try:
            sha256 = self._hashed(paths[0]).sha256
        except InvalidCheckpoint as error:
            return self._without_places(str(error))
        if sha256 == lora.sha256:
            return ""
        if lora in self.always:
            return f"the file of {name}, which is always on here, was replaced; the server has to be started again"
        return _another(lora.name, lora.sha256, sha256)

    def file(self, lora: Lora) -> LoraFile:
        """File of a LoRA that was resolved, perhaps on another machine.

        Raises InvalidCheckpoint if it is not here, or another.
        """
        paths = self._found().get(lora.name, [])
        if not paths:
            raise InvalidCheckpoint(
                f"there is no LoRA {listed([lora.name])} here: it was taken away since the video was asked for, or "
                "this node has another --lora or --lora-dir than node 0"
            )
        file = self._hashed(paths[0])
        if file.sha256 != lora.sha256:
            raise InvalidCheckpoint(
                f"{file.path}: is another file than when the video was asked for (sha256 {file.sha256[:12]}, "
                f"not {listed([lora.sha256[:12]])}): it was replaced since, or is another one on this node; ask anew"
            )
        return file

    def _always_on(self, places: Sequence[tuple[AskedLora, str, Path]]) -> Iterator[Lora]:
        given: Counter[tuple[str, int]] = Counter()
        for said, name, path in places:
            lora = Lora(name=name, strength=said.strength, target=said.target)
            if wrong := self._wrong_target(lora):
                raise InvalidSetting(f"--lora {said.place}: {wrong}")
            resolved = self._resolved(lora, path)
            given.update((name, expert) for expert in resolved.experts)
            if max(given.values()) > 1:
                raise InvalidSetting(f"--lora {said.place}: {name} is there twice")
            yield resolved

    def _place(self, said: AskedLora) -> tuple[str, Path]:
        """Name and path of a `--lora`: of a path, else of a name within a folder.

        A LoRA in a folder of its own is called by the folder's name.
        """
        offered = {name: paths[0] for name, paths in self._found().items()}
        path = Path(said.place).expanduser()
        if not path.exists() and (said.place in offered or said.place.removesuffix(SUFFIX) in offered):
            name = said.place if said.place in offered else said.place.removesuffix(SUFFIX)
            return name, offered[name]
        if not path.exists():
            raise InvalidSetting(f"--lora {said.place}: {_why_not_there(said.place, offered)}")
        file = lora_file(path)
        name = next((name for name, each in offered.items() if each.samefile(file)), lora_name(file))
        self._named.append((name, file))
        return name, file

    def _found(self) -> dict[str, list[Path]]:
        """Files by their names, as they lie there now: several if two have the same name."""
        found: defaultdict[str, dict[Path, Path]] = defaultdict(dict)
        offered = [each for folder in self._folders for each in _files_below(folder)]
        for name, path in (*offered, *self._named):
            found[name].setdefault(path.resolve(), path)
        return {name: [*paths.values()] for name, paths in found.items()}

    def _problem(self, lora: Lora, found: dict[str, list[Path]]) -> Problem | None:
        paths = found.get(lora.name, [])
        if not paths:
            if wrong := wrong_end(lora.name, found.__contains__):
                return Problem(FIELD, f"{listed([lora.name])}: {wrong}")
            none = "" if found else "; this server offers none (--lora-dir)"
            return Problem(FIELD, f"there is no LoRA {listed([lora.name])}{none}", _nearest(lora.name, found))
        if len(paths) > 1:
            return Problem(FIELD, TWICE.format(lora.name))
        wrong = wrong_strength(lora.strength) or self._wrong_target(lora)
        return Problem(FIELD, f"{lora.name}: {wrong}") if wrong else None

    def _wrong_target(self, lora: Lora) -> str | None:
        if lora.target in (None, "both") or self._spec.has_experts:
            return None
        return f"target {lora.target} is of models with two experts, and {self._spec.name} has one transformer"

    def _resolved(self, lora: Lora, path: Path) -> Lora:
        file = self._hashed(path)
        target = lora.target or self._target_of(path)
        return msgspec.structs.replace(lora, target=target, sha256=file.sha256, num_bytes=file.num_bytes)

    def _target_of(self, path: Path) -> Target:
        """Target of a LoRA without a stated one: by its name, else both experts."""
        said = expert_of(path) if self._spec.has_experts else ""
        return "high" if said == "high" else "low" if said == "low" else "both"

    def _matched(self, stamp: Stamp) -> LoraFile:
        """Match a file by its header. An error is kept too: it is the same until the file changes."""
        if stamp not in self._matches:
            try:
                self._matches[stamp] = read_lora(stamp.path, self._spec)
            except InvalidCheckpoint as error:
                self._matches[stamp] = str(error)
        match = self._matches[stamp]
        if isinstance(match, str):
            raise InvalidCheckpoint(match)
        return match

    def _hashed(self, path: Path) -> LoraFile:
        stamp = Stamp.of(path)
        if stamp not in self._files:
            try:
                self._files[stamp] = hashed(self._matched(stamp))
            except OSError as error:
                raise _unreadable(path, error) from None
        return self._files[stamp]

    def _without_places(self, message: str) -> str:
        for folder in self._folders:
            message = message.replace(f"{folder}{os.sep}", "")
        return message


def _unreadable(path: Path, error: OSError) -> InvalidCheckpoint:
    return InvalidCheckpoint(f"{path}: not readable: {error.strerror}")


def hashed(file: LoraFile) -> LoraFile:
    """Add the SHA-256 to a file: of its bytes, and of PEFT's config beside it. Raises OSError."""
    with file.path.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256")
    config = read_peft_config(file.path, read_header(file.path))
    if config is not None and config.is_beside:
        digest.update(msgspec.json.encode(config))
    return msgspec.structs.replace(file, sha256=digest.hexdigest())


def _parsed(text: str) -> AskedLora:
    try:
        return parse_lora(text)
    except InvalidRequest as error:
        raise InvalidSetting(f"--lora {error.problems[0].message}") from None


def _folder(text: str) -> Path:
    folder = Path(text).expanduser()
    if not folder.is_dir():
        raise InvalidSetting(f"--lora-dir {text}: no such folder")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise InvalidSetting(f"--lora-dir {text}: not readable by the user that this process runs as")
    return folder.resolve()


def _files_below(folder: Path) -> Iterator[tuple[str, Path]]:
    """(name, file) of all LoRAs in a folder and those below it, but for links that lead out of it."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(place, name)
            if name.endswith(SUFFIX) and path.resolve().is_relative_to(folder) and path.is_file():
                inside = path.parent if name in NAMELESS and path.parent != folder else path
                yield inside.relative_to(folder).as_posix().removesuffix(SUFFIX), path


def _another(name: str, wanted: str, found: str) -> str:
    return f"{listed([name])} is another file than was asked for (sha256 {found[:12]}, not {listed([wanted[:12]])})"


def _why_not_there(place: str, offered: Collection[str]) -> str:
    """Reason why `--lora` names neither an offered LoRA nor a file."""

    def is_file(name: str) -> bool:
        return name in offered or name.endswith(SUFFIX) or Path(name).expanduser().exists()

    near = _nearest(place, offered)
    return wrong_end(place, is_file) or (
        f"no such file, nor a LoRA of a --lora-dir{f' (nearest: {near})' if near else ''}; it is {FORM}, where TARGET "
        f"is {', '.join(TARGETS)}"
    )


def _nearest(name: str, known: Collection[str]) -> str | None:
    """Spelling of the LoRA whose name is nearest; None if none is near."""
    near = difflib.get_close_matches(name, known, 1)
    return str(Lora(name=near[0])) if near else None
