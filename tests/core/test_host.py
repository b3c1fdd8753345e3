"""What can still be had of memory: of the system, and of the containers around."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringlight.core.host import LEFT_BYTES, available_bytes, left_in_files, memory_bytes

GIB = 2**30


@pytest.fixture
def system(tmp_path: Path) -> dict[str, Path]:
    """A machine with 20 GiB to be had, and no container."""
    files = {"containers": tmp_path / "cgroup", "process": tmp_path / "self", "memory": tmp_path / "meminfo"}
    files["memory"].write_text(f"MemTotal: 1 kB\nMemAvailable:   {20 * 2**20} kB\n")
    files["process"].write_text("0::/\n")
    return files


def contain(folder: Path, limit: str, used: int, files: int, names: tuple[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon {used - files}\ninactive_file {files // 2}\nactive_file {files // 2}\n")


FIRST, SECOND = ("memory.limit_in_bytes", "memory.usage_in_bytes"), ("memory.max", "memory.current")


def test_without_a_container_it_is_what_the_system_says(system: dict[str, Path]) -> None:
    assert available_bytes(**system) == 20 * GIB


def test_a_container_that_bounds_nothing(system: dict[str, Path]) -> None:
    contain(system["containers"], "max", 5 * GIB, 0, SECOND)
    assert available_bytes(**system) == 20 * GIB


def test_files_that_were_read_make_room(system: dict[str, Path]) -> None:
    contain(system["containers"], str(12 * GIB), 9 * GIB, 4 * GIB, SECOND)
    assert available_bytes(**system) == 7 * GIB


def test_the_smallest_of_all_around(system: dict[str, Path]) -> None:
    system["process"].write_text("0::/outer/inner\n")
    contain(system["containers"] / "outer", str(8 * GIB), 5 * GIB, 0, SECOND)
    contain(system["containers"] / "outer" / "inner", str(100 * GIB), 5 * GIB, 0, SECOND)
    assert available_bytes(**system) == 3 * GIB


def test_of_the_first_version(system: dict[str, Path]) -> None:
    system["process"].write_text("4:memory:/box\n3:cpuset:/other\n0::/\n")
    contain(system["containers"] / "memory" / "box", str(6 * GIB), 5 * GIB, 2 * GIB, FIRST)
    contain(system["containers"] / "memory", str(2**63 - 4096), 5 * GIB, 0, FIRST)  # bounds nothing
    assert available_bytes(**system) == 3 * GIB


def test_a_container_that_is_full(system: dict[str, Path]) -> None:
    contain(system["containers"], str(GIB), 2 * GIB, 0, SECOND)
    assert available_bytes(**system) == 0


def test_of_this_machine() -> None:
    assert 0 < available_bytes() <= memory_bytes()


def test_what_has_no_room_stays_in_files_the_first_named_first() -> None:
    networks = [("text", 10), ("pictures", 2), ("video", 9)]
    for room, left in ((21, []), (20, ["text"]), (11, ["text"]), (10, ["text", "pictures"]), (0, [*dict(networks)])):
        assert left_in_files(networks, 21, LEFT_BYTES + room) == left
    assert left_in_files(networks[:2], 9, LEFT_BYTES + 9) == [], "some are there already"
