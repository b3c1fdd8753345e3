"""Rows of a file of requests: CSV, TSV or JSON lines, each with the fields of the API."""

from __future__ import annotations

import base64
import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import msgspec

from ringlight.cli.request_flags import ADDRESS, read_image
from ringlight.core.errors import InvalidRequest

SEPARATORS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson")
PICTURES = ("input_reference", "last_image")
OUTPUT = "output"  # a column of ours: what the file is called
SUFFIX = ".mp4"


class FileRow(msgspec.Struct, frozen=True, kw_only=True):
    """A request, by the `line` of the file on which it begins. `output` is the name of its video in the folder."""

    line: int
    fields: Mapping[str, Any]
    output: str


class Fault(NamedTuple):
    """One thing wrong with the row on a line."""

    line: int
    field: str
    message: str


class FileRows(NamedTuple):
    """Rows of a file whose fields could be read, and the faults of these or other rows."""

    rows: Sequence[FileRow]
    faults: Sequence[Fault]


def read_rows(path: Path, usual: Mapping[str, Any]) -> FileRows:
    """Read the requests of a file, with pictures, and with the `usual` fields for those that a row leaves out.

    Empty cells are left out. Raises InvalidRequest for a file that cannot be read at all.
    """
    rows: list[FileRow] = []
    faults: list[Fault] = []
    for line, fields, wrong in _lines(path):
        given = {name: value for name, value in fields.items() if value not in (None, "")}
        output, output_faults = _output(given.pop(OUTPUT, None), path, line)
        pictures, picture_faults = _pictures(given, path.parent)
        found = [*wrong, *output_faults, *picture_faults]
        faults += [Fault(line, field, message) for field, message in found]
        if not wrong and not picture_faults:
            rows.append(FileRow(line=line, fields={**usual, **given, **pictures}, output=output))
    names = Counter(row.output for row in rows)
    twice = [row for row in rows if row.output and names[row.output] > 1]
    faults += [Fault(row.line, OUTPUT, f"{row.output} is the name of several videos") for row in twice]
    if not rows and not faults:
        raise _of_file(f"{path} holds no requests")
    return FileRows(rows, faults)


Read = tuple[int, Mapping[str, Any], list[tuple[str, str]]]
"""A line, the fields on it, and what is wrong with it."""


def _lines(path: Path) -> Iterator[Read]:
    suffix = path.suffix.lower()
    if suffix not in (*SEPARATORS, *JSON_LINES):
        known = ", ".join((*SEPARATORS, *JSON_LINES))
        raise _of_file(f"{path} is none of {known}")
    try:
        with path.open(encoding="utf-8-sig", newline="" if suffix in SEPARATORS else None) as file:
            yield from _objects(file) if suffix in JSON_LINES else _cells(file, path, SEPARATORS[suffix])
    except OSError as error:
        raise _of_file(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise _of_file(f"{path} is not UTF-8; save it as that") from None
    except csv.Error as error:
        raise _of_file(f"{path}: {error}") from None


def _cells(file: Iterator[str], path: Path, separator: str) -> Iterator[Read]:
    reader = csv.reader(file, delimiter=separator, strict=True)
    header = [name.strip() for name in next(reader, [])]
    twice = [name for name, count in Counter(header).items() if count > 1]
    if "prompt" not in header:
        hint = "" if len(header) > 1 else f" (cells are separated by {'tabs' if separator == chr(9) else 'commas'})"
        raise _of_file(f"{path} has no column prompt; its first line names the columns{hint}")
    if twice or "" in header:
        raise _of_file(f"{path} has {'two columns ' + twice[0] if twice and twice[0] else 'a column without a name'}")
    before = reader.line_num
    for cells in reader:
        line, before = before + 1, reader.line_num
        if not any(cells):
            continue
        wrong = []
        if len(cells) > len(header):
            said = f"has {len(cells)} cells for {len(header)} columns; put texts with {separator!r} in quotes"
            wrong.append(("prompt", said))
        yield line, dict(zip(header, cells, strict=False)), wrong


def _objects(file: Iterator[str]) -> Iterator[Read]:
    for line, text in enumerate(file, 1):
        if not text.strip():
            continue
        try:
            fields = json.loads(text)
        except ValueError as error:
            yield line, {}, [("line", f"is not JSON: {error}")]
            continue
        is_object = isinstance(fields, dict)
        yield line, fields if is_object else {}, [] if is_object else [("line", "is not an object")]


def _output(given: object, path: Path, line: int) -> tuple[str, list[tuple[str, str]]]:
    """Name of a row's video, none if something is wrong with it, and the problems."""
    if given is None:
        return f"{path.stem}-{line:04d}{SUFFIX}", []
    place = PurePosixPath(str(given))
    if place.is_absolute() or ".." in place.parts or not place.name:
        return "", [(OUTPUT, f"{given} does not stay in the folder")]
    if place.suffix.lower() not in ("", SUFFIX):
        return "", [(OUTPUT, f"{given} does not end in {SUFFIX}")]
    return str(place if place.suffix else place.with_name(place.name + SUFFIX)), []


def _pictures(fields: Mapping[str, Any], folder: Path) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """The pictures that a row names by their paths, in base64, and what is wrong with others."""
    pictures, wrong = {}, []
    for name in PICTURES:
        named = fields.get(name)
        if not isinstance(named, str) or ADDRESS.match(named):
            continue
        try:
            encoded = base64.b64encode(read_image(folder / named, name) or b"").decode()
            pictures[name] = f"data:application/octet-stream;base64,{encoded}"
        except InvalidRequest as error:
            wrong += [(problem.field, problem.message) for problem in error.problems]
    return pictures, wrong


def _of_file(message: str) -> InvalidRequest:
    return InvalidRequest.of("file", message)
