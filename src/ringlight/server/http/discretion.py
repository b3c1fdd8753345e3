"""Discretion: what clients are told of the server's errors holds none of its paths; its log has them in full."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ringlight.core.config import EngineConfig
from ringlight.core.lora import parse_lora
from ringlight.core.settings import ServeSettings

OWN_PATHS = ("v1", "docs", "openapi.json", "livez", "readyz", "health", "version", "metrics")  # of the API itself
QUOTED = re.compile(r"""(?P<quote>['"])(?P<path>/[^'"\n]+)(?P=quote)""")
BARE = re.compile(r"""(?:(?<![\w/.~-])|(?<=://)|(?<=:///))(?P<path>/(?!/)[^\s'"`<>|;,()\[\]{}]+)""")
DATABASE = re.compile(r"\b(?:postgresql|sqlite)(?:\+\w+)?://[^\s'\"]+")
MARKS = ".:!?"  # may follow a path, and then are none of it


class Discretion:
    """Filter that hides paths of this machine: a flag's is replaced by the flag's name, others by their last part."""

    def __init__(self, names: Mapping[str, str] | None = None) -> None:
        """Keep the paths. `names`: what to call a path, and all that lies below it."""
        found = [(form, name) for path, name in (names or {}).items() for form in _forms(path)]
        self._known = [
            (re.compile(rf"(?<![\w.-]){re.escape(form)}(?![\w.-])"), name)
            for form, name in sorted(found, key=lambda each: -len(each[0]))
        ]

    @classmethod
    def of(cls, settings: ServeSettings, config: EngineConfig, checkpoint: Path) -> Discretion:
        """Build it for a server: it knows what flags name, also if there are spaces in it, and where the model lies."""
        paths = {
            **{parse_lora(text).place: "lora" for text in config.lora},
            **dict.fromkeys(config.lora_dir, "lora-dir"),
            tempfile.gettempdir(): "the temporary folder",
            settings.api_key_file: "api-key-file",
            settings.webhook_secret_file: "webhook-secret-file",
            config.calibration: "calibration",
            str(checkpoint): "model-path",
            settings.data_dir: "data-dir",
        }
        return cls({path: name for path, name in paths.items() if path})

    def __call__(self, text: str) -> str:
        """Hide the paths in a text that clients may read."""
        for pattern, name in self._known:
            text = pattern.sub(name, text)
        text = DATABASE.sub("store-url", text)
        return BARE.sub(_last_part, QUOTED.sub(_last_part, text))


def _forms(path: str) -> set[str]:
    """Spellings of a path. A single relative name could be any word."""
    absolute = Path(path).absolute()
    forms = {str(absolute), str(absolute.resolve()), *([path.rstrip("/")] if "/" in path else [])}
    return {form for form in forms if form.strip("/")}


def _last_part(match: re.Match[str]) -> str:
    path = match["path"]
    if path.split("/")[1].rstrip(MARKS) in OWN_PATHS:
        return match[0]
    bare = path.rstrip(MARKS)
    last = bare.rstrip("/").rpartition("/")[2]
    quote = match.groupdict().get("quote", "")
    return f"{quote}{last}{path[len(bare) :]}{quote}"
