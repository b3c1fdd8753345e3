"""What processes have of memory that they share, as Linux tells it."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

NAME = "/memfd:ringlight weights"


def held_here() -> set[int]:
    """The inodes of all copies of weights to which this process has a descriptor."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            if os.readlink(descriptor).startswith(NAME):
                found.add(descriptor.stat().st_ino)
        except OSError:  # closed while we look
            continue
    return found


def sharers(inode: int) -> list[int]:
    """The processes that have this memory mapped, without the calling one."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and int(folder.name) != os.getpid():
            try:
                lines = (folder / "maps").read_text().splitlines()
            except OSError:  # gone, or another user's
                continue
            found += [int(folder.name)] if any(_is_of(line, inode) for line in lines) else []
    return sorted(found)


def proportional_bytes(pid: int, inode: int) -> tuple[int, int]:
    """(resident bytes of a process's maps of this memory, its share of them: each page is divided by who has it)."""
    found = mapped_bytes(pid, inode)
    return found["Rss"], found["Pss"]


def mapped_bytes(pid: int, inode: int) -> Counter[str]:
    """Bytes of a process's maps of this memory by kind: Rss, Pss, Anonymous and what else Linux tells."""
    found: Counter[str] = Counter()
    is_it = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            is_it = _is_of(line, inode)
        elif is_it and line.endswith(" kB"):
            name, number, _ = line.split()
            found[name.removesuffix(":")] += 1024 * int(number)
    return found


def resident_bytes(pid: int, kind: str) -> int:
    """Resident memory of a process of a kind: RssAnon, RssShmem, RssFile."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(f"{kind}:"))
    return 1024 * int(line.split()[1])


def num_maps(pid: int) -> int:
    return len(Path(f"/proc/{pid}/maps").read_text().splitlines())


def num_descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _is_of(line: str, inode: int) -> bool:
    fields = line.split(maxsplit=5)
    return len(fields) == 6 and fields[5].startswith(NAME) and fields[4] == str(inode)
