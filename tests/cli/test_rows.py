"""Files of requests: what their rows are, and all that is wrong with them."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from ringlight.cli.batch import parts_of, told
from ringlight.cli.rows import Fault, FileRow, read_rows
from ringlight.core.errors import InvalidRequest


def written(folder: Path, text: str | bytes, name: str = "prompts.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize("begin", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_rows_are_known_by_their_lines(tmp_path: Path, begin: str, end: str) -> None:
    lines = [f"{begin}prompt, seed,output", '"a ""boat"", at', 'dusk",7,', "", "a whale,,whale", "a fish"]
    rows, faults = read_rows(written(tmp_path, end.join(lines) + end), {"seed": 3, "fps": 8})
    assert faults == []
    assert [(row.line, row.output, row.fields["seed"]) for row in rows] == [
        (2, "prompts-0002.mp4", "7"),
        (5, "whale.mp4", 3),
        (6, "prompts-0006.mp4", 3),
    ]
    assert rows[0].fields == {"prompt": f'a "boat", at{end}dusk', "seed": "7", "fps": 8}


def test_tabs_and_json_lines(tmp_path: Path) -> None:
    (row,), faults = read_rows(written(tmp_path, "prompt\tseed\na, b\t1\n", "a.tsv"), {})
    assert (row.fields, faults) == ({"prompt": "a, b", "seed": "1"}, [])
    lines = '{"prompt": "a", "sigmas": [1, 0.5], "seed": null}\n\n[1]\n{"prompt"\n'
    (row,), faults = read_rows(written(tmp_path, lines, "a.jsonl"), {})
    assert (row.line, row.fields) == (1, {"prompt": "a", "sigmas": [1, 0.5]})
    assert [(fault.line, fault.field) for fault in faults] == [(3, "line"), (4, "line")]


def test_pictures_are_paths_from_the_file(tmp_path: Path) -> None:
    written(tmp_path, b"picture", "first.png")
    text = "prompt,input_reference,last_image\na,first.png,https://example.com/a.png\nb,gone.png,\n"
    (row,), faults = read_rows(written(tmp_path, text), {})
    assert base64.b64decode(row.fields["input_reference"].partition(",")[2]) == b"picture"
    assert row.fields["last_image"] == "https://example.com/a.png"
    assert faults == [Fault(3, "input_reference", f"{tmp_path}/gone.png: No such file or directory")]


def test_names_stay_in_the_folder_and_are_one_videos(tmp_path: Path) -> None:
    names = ("day/a.mp4", "../a", "/a", "a.webm", "b", "b.mp4", "prompts-0009")
    text = "prompt,output\n" + "".join(f"x,{name}\n" for name in names) + "y,\n"
    rows, faults = read_rows(written(tmp_path, text), {})
    assert [row.line for row in rows] == [*range(2, 10)]  # whose other fields the server checks
    assert [fault.line for fault in faults] == [3, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("a.txt", "prompt\n", ".csv, .tsv"),
        ("a.csv", "", "no column prompt"),
        ("a.csv", "promt\nx\n", "no column prompt"),
        ("a.csv", "prompt;seed\nx;1\n", "separated by commas"),
        ("a.csv", "prompt,seed,seed\n", "two columns seed"),
        ("a.csv", "prompt,,seed\n", "without a name"),
        ("a.csv", "prompt\n", "holds no requests"),
        ("a.csv", b"prompt\n\xff\n", "UTF-8"),
        ("a.csv", 'prompt\n"x\n', "a.csv"),
        ("a.jsonl", "\n", "holds no requests"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, text: str | bytes, word: str) -> None:
    with pytest.raises(InvalidRequest, match=word):
        read_rows(written(tmp_path, text, name), {})


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="No such file"):
        read_rows(tmp_path / "gone.csv", {})


def test_a_row_of_too_many_cells(tmp_path: Path) -> None:
    rows, faults = read_rows(written(tmp_path, "prompt,seed\na boat, at dusk,1\nb,2\n"), {})
    assert [row.line for row in rows] == [3]
    assert faults[0].line == 2 and "in quotes" in faults[0].message


def test_equal_rows_go_into_one_call() -> None:
    rows = [FileRow(line=line, fields={"seed": line % 700}, output="") for line in range(2000)]
    parts = list(parts_of(rows))
    assert sorted(row.line for part in parts for row in part) == list(range(2000))
    assert max(map(len, parts)) <= 1000
    seen = [{json.dumps(row.fields) for row in part} for part in parts]
    assert sum(map(len, seen)) == 700


def test_a_fault_of_many_rows_is_told_once() -> None:
    faults = [Fault(line, "sizze", "is not a field") for line in range(2, 12)] + [Fault(3, "seed", "is not a number")]
    assert list(told(faults, Path("p.csv"))) == [
        "p.csv:2: sizze: is not a field (and on lines 3, 4, 5, 6, 7 and 4 more)",
        "p.csv:3: seed: is not a number",
    ]
