"""Reader of a request's content: JSON, a form or multipart, as one dictionary.

There is a bound on everything but the bytes of the body, which middleware.BodyLimit bounds.

Values stay as they came (a form has only strings); api/calls.py makes numbers of them. Refused here is what no field
could want: duplicates, NaN, infinity, NUL, half surrogate pairs, deep or endless structures.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from itertools import groupby
from typing import Any
from urllib.parse import parse_qsl

import anyio.to_thread
import msgspec
from starlette.requests import ClientDisconnect, Request

from ringlight.core.plain import plain
from ringlight.server.http.http_error import HttpError
from ringlight.server.http.multipart import FormPart, MultipartReader, decode, invalid_body

MAX_VALUES = 200
MAX_DEPTH = 8
TOKENS_A_VALUE = 5  # of JSON: a name, a value, brackets and a comma
MAX_FORM_BYTES = 2**20  # of urlencoded forms, which grow about fifty times while they are taken apart
CHUNK_SECONDS = 60.0  # how long a client may send nothing

FILE_FIELDS = frozenset({"input_reference", "last_image"})
WRAPPERS = ("extra_body", "extra_params")
KINDS = "application/json, multipart/form-data or application/x-www-form-urlencoded"

JSON_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["{}\[\],]', re.DOTALL)
BRACKETED = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])+)")


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """Content of a request. `files` has the bytes of known file fields, and b"" for a file nobody asked for.

    `sha256` is over path and content, not over how it was encoded: a retry with another boundary has the same.
    """

    fields: dict[str, Any]
    files: dict[str, bytes]
    sha256: str

    def __repr__(self) -> str:
        """Short text: asyncio takes the repr of what a task returns, and all of a picture would be in it."""
        return f"Body({self.sha256[:12]}, fields {list(self.fields)}, files {list(self.files)})"


async def read_body(request: Request) -> Body:
    """Read the body of a request to its end. Raises HttpError 400, 408, 413 or 415."""
    content_type, kind = request.headers.get("content-type", ""), _kind(request)
    chunks = _chunks(request)
    if kind == "multipart/form-data":
        reader = MultipartReader(content_type, FILE_FIELDS)
        async for chunk in chunks:
            reader.feed(chunk)
        return await anyio.to_thread.run_sync(_from_parts, request.url.path, reader.finish())
    is_form = kind == "application/x-www-form-urlencoded"
    encoded = bytearray()
    async for chunk in chunks:
        encoded += chunk
        if is_form and len(encoded) > MAX_FORM_BYTES:
            raise HttpError(413, "body_too_large", f"a form may have {MAX_FORM_BYTES} bytes; send large values as JSON")
    if not encoded:
        return _body(request.url.path, {}, {}, {})
    if is_form:
        return _body(request.url.path, _unflatten(_form_pairs(encoded)), {}, {})
    if _is_json(kind):
        holder = [encoded]
        del encoded  # so that the bytes can go as soon as they have become text
        return await anyio.to_thread.run_sync(_from_json, request.url.path, holder)
    raise _of_another_kind(kind, KINDS)


async def read_json(request: Request, max_values: int) -> Body:
    """Read a body that is JSON alone, of so many values. Raises HttpError 400, 408, 413 or 415."""
    if not _is_json(kind := _kind(request)):
        raise _of_another_kind(kind, "application/json")
    holder = [bytearray()]
    async for chunk in _chunks(request):
        holder[0] += chunk
    return await anyio.to_thread.run_sync(_from_json, request.url.path, holder, max_values)


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _is_json(kind: str) -> bool:
    return kind == "application/json" or kind.endswith("+json")


def _of_another_kind(kind: str, known: str) -> HttpError:
    return HttpError(415, "unsupported_media_type", f"Content-Type is {kind or 'missing'}; send {known}")


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    """Yield chunks of the body, with a bound on the time from one to the next."""
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(CHUNK_SECONDS):
                chunk = await anext(stream, None)
        except TimeoutError:
            raise HttpError(408, "request_timeout", f"nothing came for {plain(CHUNK_SECONDS)} s of a body") from None
        except ClientDisconnect:
            raise invalid_body("the connection ended before the body did") from None
        if chunk is None:
            return
        yield chunk


def _from_json(path: str, holder: list[bytearray], max_values: int = MAX_VALUES) -> Body:
    encoded = holder.pop()
    _check_structure(encoded, max_values)
    text = decode(encoded, "the JSON body")
    del encoded
    fields = parse_json(text)
    del text
    if not isinstance(fields, dict):
        raise invalid_body('the JSON body is not an object; send {"prompt": ...}')
    return _body(path, fields, {}, {})


def parse_json(text: str) -> Any:
    """Parse JSON as RFC 8259 has it: no NaN or infinity, nor numbers that become one, and no name twice."""
    try:
        return json.loads(
            text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_without_duplicates
        )
    except (ValueError, RecursionError) as error:  # ValueError also is a whole number of thousands of digits
        raise invalid_body(f"the body is not JSON: {error}") from None


def parse_inner(text: str) -> Any:
    """Parse JSON that stands in a text of the body, as parts of a form do."""
    _check_structure(bytearray(text.encode()))
    value = parse_json(text)
    _check_text(value)
    return value


def _check_structure(encoded: bytearray, max_values: int = MAX_VALUES) -> None:
    """Bound depth and number of values before anything is built: a byte of JSON can become a hundred in memory."""
    depth = values = 0
    for num_tokens, match in enumerate(JSON_TOKEN.finditer(encoded)):
        token = match[0] if match.end() - match.start() == 1 else b""
        if token == b'"':
            raise invalid_body("the body is not JSON: a string does not end")
        depth += (token in (b"{", b"[")) - (token in (b"}", b"]"))
        values += token in (b"{", b"[", b",")
        if depth > MAX_DEPTH or values > max_values or num_tokens > TOKENS_A_VALUE * max_values:
            raise invalid_body(f"the JSON body is deeper than {MAX_DEPTH} or has more than {max_values} values")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is too large a number")
    return number


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!a} stands there twice")
    return fields


def _form_pairs(encoded: bytearray) -> list[tuple[str, str]]:
    text = decode(encoded, "the form")
    if text.lstrip().startswith("{"):
        raise invalid_body("the body looks like JSON; send Content-Type: application/json")
    try:
        return parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_VALUES)
    except ValueError as error:
        raise invalid_body(f"the body is not a form: {error}") from None


def _from_parts(path: str, parts: list[FormPart]) -> Body:
    pairs: list[tuple[str, str]] = []
    files: dict[str, bytes] = {}
    hashes: dict[str, str] = {}
    for part in parts:
        text = None if part.is_file else _text(part)
        if text is not None:
            pairs.append((part.name, text))
        elif part.num_bytes:  # an empty file is what browsers send for none
            if part.name in files:
                raise invalid_body(f"{part.name}: there are two files of this name; send one")
            files[part.name] = bytes(part.content or b"")
            hashes[part.name] = part.sha256
        part.content = None
    fields = _unflatten(pairs)
    if twice := fields.keys() & files.keys():
        raise invalid_body(f"{min(twice)}: is there as a file and as a field; send one")
    return _body(path, fields, files, hashes)


def _text(part: FormPart) -> str | None:
    """Text of a part without a file name, unless it is a picture whose sender left the name out."""
    assert part.content is not None
    try:
        return part.content.decode()
    except UnicodeDecodeError:
        if part.name in FILE_FIELDS:
            return None
        raise invalid_body(f"{part.name}: is not UTF-8") from None


def _unflatten(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Build nested objects from bracketed names.

    `a[b]=1` becomes {"a": {"b": "1"}}, `a[]=1` {"a": ["1"]}, and `a[][b]=1&a[][c]=2` {"a": [{"b": "1", "c": "2"}]}.
    Names of another shape stay as they are.
    """
    tree: dict[str, Any] = {}
    lists: dict[str, list[tuple[list[str], str]]] = {}  # of objects: each part's keys in its object, and its value
    for name, value in pairs:
        match = BRACKETED.fullmatch(name)
        keys = [match[1], *match[2][1:-1].split("][")] if match else [name]
        if len(keys) > MAX_DEPTH:
            raise invalid_body(f"{name}: is deeper than {MAX_DEPTH}")
        if any(map(str.isdecimal, keys[1:])):
            listed = "".join(f"[{'' if key.isdecimal() else key}]" for key in keys[1:])
            raise invalid_body(f"{name}: a list is written without numbers, {keys[0]}{listed} for each in its order")
        if len(keys) > 2 and keys[1] == "":
            lists.setdefault(keys[0], []).append((keys[2:], value))
        else:
            _put(tree, keys, value, name)
    for name, parts in lists.items():
        if name in tree:
            raise invalid_body(f"{name}: holds objects in one field and something else in another")
        tree[name] = _objects(name, parts)
    return tree


def _objects(name: str, parts: list[tuple[list[str], str]]) -> list[dict[str, Any]]:
    """Build a list of objects, whose parts come object by object.

    OpenAI's client sends all parts of the same name together instead. Raises HttpError 400 if a form does not tell
    which part is whose.
    """
    names = [tuple(keys) for keys, _ in parts]
    counts, num_runs = Counter(names), sum(1 for _ in groupby(names))
    is_together = num_runs == len(counts) and max(counts.values()) > 1
    if is_together and len(set(counts.values())) > 1:
        raise invalid_body(
            f"{name}: its objects do not all have the same fields, and a form does not tell which has which; give each "
            f"the same, or send {name} as a text of JSON"
        )
    objects: list[dict[str, Any]] = []
    seen: Counter[tuple[str, ...]] = Counter()
    for keys, value in parts:
        seen[tuple(keys)] += 1
        place = seen[tuple(keys)] - 1 if is_together else len(objects) - 1
        if place < 0 or place == len(objects) or (not is_together and _has(objects[place], keys)):
            objects.append({})
            place = len(objects) - 1
        _put(objects[place], keys, value, f"{name}[][{']['.join(keys)}]")
    return objects


def _has(tree: Any, keys: Sequence[str]) -> bool:
    """Whether an object has something in that place already."""
    for key in keys:
        if not isinstance(tree, dict) or key not in tree:
            return False
        tree = tree[key]
    return True


def _put(tree: dict[str, Any], keys: list[str], value: str, name: str) -> None:
    """Walk down to where a value belongs, making what is missing on the way."""
    place: Any = tree
    for key, following in zip(keys, [*keys[1:], None], strict=True):
        inner: Any = value if following is None else ([] if following == "" else {})
        if isinstance(place, list):
            if key != "":
                raise invalid_body(f"{name}: is a list in one field and an object in another")
            place.append(inner)
        elif key not in place:
            place[key] = inner
        elif following is None or type(place[key]) is not type(inner):
            raise invalid_body(f"{name}: stands there twice; a list is written {keys[0]}[]")
        else:
            inner = place[key]
        place = inner


def _body(path: str, fields: dict[str, Any], files: dict[str, bytes], hashes: Mapping[str, str]) -> Body:
    _check_text(fields)
    fields = _unwrap(fields)
    return Body(fields=fields, files=files, sha256=sha256_of([path, fields, dict(hashes)]))


def sha256_of(value: Any) -> str:
    """Hash a JSON value: no two different ones have the same hash, and the order of names does not count."""
    digest = hashlib.sha256()
    _update(digest, value)
    return digest.hexdigest()


def _unwrap(fields: dict[str, Any]) -> dict[str, Any]:
    """Move the fields that clients put into `extra_body` and the like to the others."""
    found = {name: value for name, value in fields.items() if name not in WRAPPERS}
    for wrapper in WRAPPERS:
        extra = fields.get(wrapper)
        if isinstance(extra, str) and extra.strip():
            extra = parse_inner(extra)
        if not extra:
            continue
        if not isinstance(extra, dict):
            raise invalid_body(f"{wrapper}: is not an object")
        for name, value in extra.items():
            if name in found and found[name] != value:
                raise invalid_body(f"{name}: has one value in {wrapper} and another beside it")
            found[name] = value
    return found


def _check_text(value: Any) -> None:
    """Refuse text that neither a tokenizer nor a database takes."""
    match value:
        case str():
            if "\0" in value or (not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value)):
                raise invalid_body("a text holds a NUL or half of a surrogate pair; send plain Unicode text")
        case dict():
            _check_all_text([*value, *value.values()])
        case list():
            _check_all_text(value)


def _check_all_text(values: Collection[Any]) -> None:
    for value in values:
        _check_text(value)


def _update(digest: hashlib._Hash, value: Any) -> None:
    match value:
        case dict():
            digest.update(b"{%d" % len(value))
            for name in sorted(value):
                _update(digest, name)
                _update(digest, value[name])
        case list():
            digest.update(b"[%d" % len(value))
            for item in value:
                _update(digest, item)
        case str():
            encoded = value.encode()
            digest.update(b"s%d:" % len(encoded))
            digest.update(encoded)
        case _:
            digest.update(f"{json.dumps(value)};".encode())
