"""Fenced examples of the pages, made small: with a server's address, a video's id, and little to compute."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from ringlight.wire.video import EXAMPLE_ID

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
URL = "http://127.0.0.1:8898"
TIMEOUT_SECONDS = 600.0  # generous: a test is no clock
SMALLER = (  # what a demo model makes in a moment
    (re.compile(r"1280x704|640x640"), "64x64"),
    (re.compile(r"(num_frames\"?(?:[=:]| =) ?)(?:121|81)"), r"\g<1>5"),
    (re.compile(r"(num_inference_steps\"?(?:[=:]| =) ?)30"), r"\g<1>2"),
    (re.compile(r"(num_inference_steps = )15"), r"\g<1>1"),
    (re.compile(r"(seconds\"?[=:] ?\"?|--seconds )5\b"), r"\g<1>0.2"),
    (re.compile(r"--num-inference-steps 30"), "--num-inference-steps 2 --num-frames 5 --size 64x64"),
    (re.compile(r"^(ID=.*jobs create .*)\)$", re.MULTILINE), r"\g<1> --size 64x64)"),
)


class Example(NamedTuple):
    """One fenced block of a file, with the line that it begins at."""

    path: Path
    line: int
    language: str
    text: str

    @property
    def needs_id(self) -> bool:
        return EXAMPLE_ID in self.text

    def small(self, url: str, video_id: str) -> str:
        """As it is run."""
        text = self.text.replace(URL, url).replace(EXAMPLE_ID, video_id)
        for pattern, replacement in SMALLER:
            text = pattern.sub(replacement, text)
        return text


def examples_of(path: Path, section: str = "") -> list[Example]:
    """All fenced blocks of a file, or of its section with this title."""
    text = path.read_text(encoding="utf-8")
    begin, end = 0, len(text)
    if section:
        begin = text.index(f"\n{section}\n") + 1
        following = re.compile(r"^## ", re.MULTILINE).search(text, begin + 3)
        end = len(text) if following is None else following.start()
    return [
        Example(path, text.count("\n", 0, match.start()) + 1, match[1], match[2])
        for match in FENCE.finditer(text)
        if begin <= match.start() < end
    ]


def run(language: str, text: str, folder: Path) -> str:
    """Run an example in a folder, as somebody would who copies it; what it printed. It must succeed."""
    path = str(Path(sys.executable).parent)
    command = {
        "bash": ["bash", "-euo", "pipefail", "-c", f'PATH="{path}:$PATH"\n{text}'],
        "python": [sys.executable, "-W", "ignore", "-c", text],
    }[language]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=TIMEOUT_SECONDS, check=False)
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    return done.stdout
