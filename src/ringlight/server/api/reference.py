"""The description of the API as a page for people: plain HTML, without a script, from nowhere else."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 0 auto; padding: 1rem; }
h2 { margin-top: 2.5rem; } h2 code { font-size: 1.1rem; }
pre { overflow-x: auto; padding: .75rem; border: 1px solid #8886; border-radius: .4rem; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; }
td, th { text-align: left; vertical-align: top; padding: .3rem .6rem; }
tr { border-top: 1px solid #8884; } td:first-child { white-space: nowrap; }
nav ul { columns: 2 20rem; list-style: none; padding: 0; }
""".strip()
POLICY = (
    f"default-src 'none'; style-src 'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
BASE = "http://127.0.0.1:8898"


def render(described: dict[str, Any]) -> str:
    """Render a page for an OpenAPI description."""
    operations = [
        (method.upper(), path, operation)
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
    ]
    links = "".join(
        f'<li><a href="#{_anchor(method, path)}"><code>{method} {escape(path)}</code></a></li>'
        for method, path, _ in operations
    )
    schemas = {
        name: schema
        for name, schema in described["components"]["schemas"].items()
        if not name.endswith(("Form", "Parts"))  # the same calls once more, as forms
    }
    parts = [
        f"<h1>{escape(described['info']['title'])} {escape(described['info']['version'])}</h1>",
        f"<p>{_text(described['info']['description'])}</p>",
        '<p>The same for programs: <a href="openapi.json">openapi.json</a>.</p>',
        f"<nav><ul>{links}</ul></nav>",
        *(part for operation in operations for part in _operation(*operation)),
        *(part for name, schema in sorted(schemas.items()) for part in _schema(name, schema)),
    ]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>API</title>'
    style = f"<style>{STYLE}</style>"
    return f'<!doctype html><html lang="en"><head>{head}{style}</head><body>{"".join(parts)}</body></html>'


def _operation(method: str, path: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f'<h2 id="{_anchor(method, path)}"><code>{method} {escape(path)}</code></h2>'
    yield f"<p>{_text(operation.get('description', ''))}</p>"
    body = operation.get("requestBody", {}).get("content", {})
    yield f"<pre>{escape(_curl(method, path, body.get('application/json', {}).get('example')))}</pre>"
    if rows := [(p["name"], _kind(p["schema"]), p.get("description", "")) for p in operation.get("parameters", [])]:
        yield _table(("Parameter", "Kind", "Meaning"), rows)
    if body:
        yield f"<p>Body: {_kind(next(iter(body.values()))['schema'])}, as {escape(', '.join(body))}.</p>"
    answers = [
        (status, _answered(answer), answer.get("description", ""))
        for status, answer in sorted(operation["responses"].items())
    ]
    yield _table(("Answer", "Kind", "Meaning"), answers)


def _schema(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f'<h2 id="{name}"><code>{name}</code></h2><p>{_text(schema.get("description", ""))}</p>'
    required = set(schema.get("required", ()))
    rows = [
        (f"{field}{'' if field in required else '?'}", _kind(each), each.get("description", ""))
        for field, each in schema.get("properties", {}).items()
    ]
    yield _table(("Field", "Kind", "Meaning"), rows)


def _curl(method: str, path: str, example: dict[str, Any] | None) -> str:
    command = "curl" if method == "GET" else f"curl -X {method}"
    command += f" {BASE}{path}"
    if example is None:
        return command
    return f"{command} -H 'content-type: application/json' \\\n  -d '{json.dumps(example)}'"


def _kind(schema: dict[str, Any]) -> str:
    """A schema in a few words, as HTML."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(map(_kind, schema["anyOf"])))
    if schema.get("enum") or "const" in schema:
        return escape(", ".join(json.dumps(value) for value in schema.get("enum", [schema.get("const")])))
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    return escape(str(schema.get("format") or schema.get("type") or "anything"))


def _answered(answer: dict[str, Any]) -> str:
    content = answer.get("content", {})
    return ", ".join(
        _kind(each["schema"]) if media == "application/json" and each.get("schema") else escape(media)
        for media, each in content.items()
    )


def _table(head: tuple[str, ...], rows: list[tuple[str, str, str]]) -> str:
    """Render a table. The second column of a row is HTML, the others are text."""
    cells = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{kind}</td><td>{_text(text)}</td></tr>"
        for name, kind, text in rows
    )
    return f"<table><tr>{''.join(f'<th>{escape(each)}</th>' for each in head)}</tr>{cells}</table>"


def _text(text: str) -> str:
    """Render text with `code` in it."""
    pieces = escape(text).split("`")
    return "".join(f"<code>{piece}</code>" if number % 2 else piece for number, piece in enumerate(pieces))


def _anchor(method: str, path: str) -> str:
    return f"{method}{path}".lower().translate(str.maketrans("/{}", "---"))
