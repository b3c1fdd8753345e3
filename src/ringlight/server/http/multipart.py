"""Reading multipart/form-data as it comes, with a bound on everything. Nothing touches the disk."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import msgspec
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from ringlight.server.http.http_error import HttpError

MAX_PARTS = 200
MAX_NAME_BYTES = 256


class FormPart(msgspec.Struct):
    """Part of a form. `content` is kept for text and for the files that somebody wants."""

    name: str
    is_file: bool
    content: bytearray | None
    num_bytes: int = 0
    sha256: str = ""


class MultipartReader:
    """Reader of a form in chunks.

    `feed` it chunks, then `finish`. Raises HttpError 400 invalid_body for anything that is not a whole form.
    """

    def __init__(self, content_type: str, kept_files: Collection[str]) -> None:
        """Begin a form. `kept_files`: names of files whose bytes are wanted; of other files only the hash is kept."""
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if not boundary:
            raise invalid_body("Content-Type names no boundary; let the client library set it")
        self._kept_files = kept_files
        self._parts: list[FormPart] = []
        self._sha256 = hashlib.sha256()
        self._header = self._value = self._disposition = b""
        self._is_whole = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_part_data,
                    "on_part_end": self._on_part_end,
                    "on_end": self._on_end,
                },
            )
        except FormParserError as error:
            raise invalid_body(str(error)) from None

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the body."""
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise invalid_body(f"the body is not the multipart that its Content-Type says: {error}") from None

    def finish(self) -> list[FormPart]:
        """All parts, in order."""
        if not self._is_whole:
            raise invalid_body("the multipart body ends before its last boundary")
        return self._parts

    def _on_part_begin(self) -> None:
        if len(self._parts) == MAX_PARTS:
            raise invalid_body(f"the form has more than {MAX_PARTS} parts")
        self._disposition = b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _on_headers_finished(self) -> None:
        kind, options = parse_options_header(self._disposition)
        encoded = options.get(b"name", b"")
        if kind != b"form-data" or not encoded:
            raise invalid_body("a part of the form has no name")
        if len(encoded) > MAX_NAME_BYTES:
            raise invalid_body(f"the name of a part has more than {MAX_NAME_BYTES} bytes")
        name, is_file = decode(encoded, "the name of a part"), b"filename" in options
        is_kept = not is_file or name in self._kept_files
        self._parts.append(FormPart(name, is_file, bytearray() if is_kept else None))
        self._sha256 = hashlib.sha256()

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        part = self._parts[-1]
        part.num_bytes += end - start
        view = memoryview(data)[start:end]
        self._sha256.update(view)
        if part.content is not None:
            part.content += view

    def _on_part_end(self) -> None:
        self._parts[-1].sha256 = self._sha256.hexdigest()

    def _on_end(self) -> None:
        self._is_whole = True


def invalid_body(message: str) -> HttpError:
    """Build the 400 for a body that cannot be read."""
    return HttpError(400, "invalid_body", message)


def decode(encoded: bytes | bytearray, what: str) -> str:
    """Decode text from UTF-8. Raises HttpError 400 invalid_body."""
    try:
        return encoded.decode()
    except UnicodeDecodeError:
        raise invalid_body(f"{what} is not UTF-8") from None
