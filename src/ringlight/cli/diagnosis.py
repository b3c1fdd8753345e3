"""The installation: what of it works, what is broken, and how to mend that. Needs nothing but Python itself."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any, NamedTuple

from ringlight.core import cudnn
from ringlight.core.host import memory_bytes, num_cores

Facts = dict[str, dict[str, Any]]

BASE, WORKER = "", "worker"  # parts of an installation: what all have, and what computes
OF_DEVELOPERS = frozenset({"dev", "docs"})  # extras that only those need who work on it
OURS = {WORKER: "ringlight.worker.main", BASE: "ringlight.server.app"}  # they import all that is ever imported
MODULES = {"pillow": "PIL", "pyyaml": "yaml", "nvidia-ml-py": "pynvml"}  # others are called as their packages
FIRST = ("numpy", "torch")  # others import these, and are not to be blamed for them
CODECS = {"libx264": ".mp4", "libvpx-vp9": ".webm"}
REQUIREMENT = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*\(?(?P<versions>[^;()]*)(?:.*extra == ['\"](?P<extra>[\w-]+))?"
)
SHOWN = ("RINGLIGHT_", "CUDA_", "NCCL_", "GLOO_", "OMP_", "MKL_", "PYTORCH_", "TORCH_")

# Run by a process of its own, for this one never imports torch, and an import may end its process.
PROBE = """
import importlib, json, sys

def tell(name, act):
    print(json.dumps({"begins": name}), flush=True)
    try:
        told = {"is": act()}
    except BaseException as error:
        lines = str(error).strip().splitlines() or [""]
        told = {"error": f"{type(error).__name__}: {lines[-1]}".rstrip(": ")}
    print(json.dumps({"name": name} | told), flush=True)

def bus_rate(index):
    # 10^9 bytes a second from page-locked memory to a GPU: the best of a few copies of 256 MiB.
    import time, torch
    try:
        here = torch.empty(2**28, dtype=torch.uint8, pin_memory=True)
        there, seconds = torch.empty_like(here, device=f"cuda:{index}"), []
        for _ in range(4):
            torch.cuda.synchronize(index)
            start = time.perf_counter()
            there.copy_(here, non_blocking=True)
            torch.cuda.synchronize(index)
            seconds.append(time.perf_counter() - start)
        return round(len(here) / min(seconds) / 1e9, 1)
    except RuntimeError as error:
        return f"not measured: {str(error).splitlines()[0]}"

def torch_facts():
    import torch
    cuda, parts = torch.cuda.is_available(), torch.distributed
    count = torch.cuda.device_count() if cuda else 0
    return {
        "threads": torch.get_num_threads(),
        "built_for_cuda": torch.version.cuda,
        "devices": [
            {"name": p.name, "memory_gib": round(p.total_memory / 2**30, 1), "capability": f"{p.major}.{p.minor}",
             "bus_gb_per_second": bus_rate(index)}
            for index, p in enumerate(map(torch.cuda.get_device_properties, range(count)))
        ],
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "mkldnn": torch.backends.mkldnn.is_available(),
        "nccl": parts.is_nccl_available() if parts.is_available() else False,
        "gloo": parts.is_gloo_available() if parts.is_available() else False,
    }

def codecs():
    import av
    return {name: name in av.codecs_available for name in json.loads(sys.argv[2])}

for name in json.loads(sys.argv[1]):
    tell(name, lambda: bool(importlib.import_module(name)))
tell("facts of torch", torch_facts)
tell("codecs", codecs)
"""


class Requirement(NamedTuple):
    """A package that we need, and which versions of it, such as >=2.8,<3; of an extra, or of what all have."""

    name: str
    versions: str
    extra: str = BASE

    @property
    def module(self) -> str:
        return MODULES.get(self.name, self.name.replace("-", "_"))

    @property
    def remedy(self) -> str:
        return f"pip install --force-reinstall '{self.name}{self.versions}'"


class Finding(NamedTuple):
    """Fault of the installation, and its remedy."""

    what: str
    remedy: str


def examine() -> tuple[Facts, list[Finding]]:
    """Facts by group, and what is broken.

    A machine that computes nothing needs no worker, which is looked at where its torch is. Takes some seconds: all is
    imported once, by another process.
    """
    known = sorted(requirements(), key=lambda requirement: requirement.name not in FIRST)
    computes = installed("torch") is not None
    needed = [requirement for requirement in known if requirement.extra in (OURS if computes else (BASE,))]
    ours = OURS.values() if computes else (OURS[BASE],)
    told, death = _probe([*(requirement.module for requirement in needed), *ours])
    names = ["ringlight", *(requirement.name for requirement in known if requirement.extra in OURS)]
    facts: Facts = {
        "packages": {name: installed(name) or "not installed" for name in names},
        "extras": _extras(known),
        "machine": {
            "python": sys.version.split()[0],
            "executable": sys.executable,
            "platform": platform.platform(),
            "cpus": num_cores(),
            "memory_gib": round(memory_bytes() / 2**30, 1),
            "disk_free_gib": round(shutil.disk_usage(os.getcwd()).free / 2**30, 1),
        },
        "torch": _said(told, "facts of torch") if computes else {},
        "codecs": _said(told, "codecs"),
        "environment": {name: value for name, value in sorted(os.environ.items()) if name.startswith(SHOWN)},
    }
    return facts, [*problems_of(needed, told, facts), *([death] if death else [])]


def requirements() -> Iterator[Requirement]:
    """Yield the requirements of this package and of its extras; none if it is run from a source tree."""
    try:
        lines = requires("ringlight") or []
    except PackageNotFoundError:
        return
    for line in lines:
        match = REQUIREMENT.match(line)
        if match is not None:
            yield Requirement(match["name"].lower(), match["versions"].replace(" ", ""), match["extra"] or BASE)


def installed(package: str) -> str | None:
    """The version of a package; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def satisfies(found: str, versions: str) -> bool:
    """Whether a version is one of these, such as >=2.8,<3. What comes after its numbers (+cpu) does not count."""
    tests = {
        ">=": lambda a, b: a >= b,
        "<=": lambda a, b: a <= b,
        "==": lambda a, b: a == b,
        "!=": lambda a, b: a != b,
        ">": lambda a, b: a > b,
        "<": lambda a, b: a < b,
    }
    bounds = [match.groups() for match in re.finditer(r"(>=|<=|==|!=|>|<)([0-9.]+)", versions)]
    return all(tests[sign](_numbers(found), _numbers(bound)) for sign, bound in bounds)


def show(facts: Facts, problems: list[Finding]) -> str:
    """Render all facts and problems as text for people."""
    lines = []
    for group, values in facts.items():
        lines += [group, *(f"  {name:<16} {value}" for name, value in values.items())]
    lines += ["problems", *(f"  {problem.what}\n    mend it: {problem.remedy}" for problem in problems)]
    return "\n".join(lines if problems else [*lines, "  none"])


def as_json(facts: Facts, problems: list[Finding]) -> str:
    """Render all facts and problems as JSON."""
    return json.dumps(facts | {"problems": [problem._asdict() for problem in problems]}, indent=2)


def _probe(modules: list[str]) -> tuple[dict[str, dict[str, Any]], Finding | None]:
    """Import modules in another process; return the outcomes by name, and a finding if the process died."""
    environment = os.environ | {"PYTHONSAFEPATH": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", PROBE, json.dumps(modules), json.dumps(list(CODECS))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    told: dict[str, dict[str, Any]] = {}
    begun = "Python itself"
    for line in done.stdout.splitlines():
        try:
            said = json.loads(line)
            begun = said.get("begins", begun)
            told |= {said["name"]: said} if "name" in said else {}
        except (ValueError, AttributeError, TypeError):  # a library's own words
            continue
    if done.returncode == 0:
        return told, None
    last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    number = -done.returncode
    how = signal.strsignal(number) if number > 0 else f"exit status {done.returncode}"
    return told, Finding(f"{begun}: importing it ends the process ({how}): {last}", "install that package anew")


def _extras(known: list[Requirement]) -> dict[str, str]:
    """State of each extra: installed, or the command that adds it; the worker is first."""
    extras = sorted({each.extra for each in known} - OF_DEVELOPERS - {BASE}, key=lambda extra: (extra != WORKER, extra))
    lacking = {each.extra for each in known if installed(each.name) is None}
    missing = "not installed; pip install 'ringlight[{}]'"
    return {extra: missing.format(extra) if extra in lacking else "installed" for extra in extras}


def _said(told: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    answer = told.get(name, {"error": "no answer"})
    return {"error": answer["error"]} if "error" in answer else dict(answer["is"])


def problems_of(needed: list[Requirement], told: dict[str, dict[str, Any]], facts: Facts) -> Iterator[Finding]:
    """Yield the faults of packages, from the outcomes of their imports and their own facts."""
    is_whole = True
    for requirement in needed:
        found, error = installed(requirement.name), told.get(requirement.module, {}).get("error")
        if found is None and error is not None:
            what = "is not installed"
        elif error is not None:
            what = f"{found} cannot be imported ({error})"
        elif found is not None and not satisfies(found, requirement.versions):
            what = f"{found} is not {requirement.versions}, which is needed"
        else:
            continue
        is_whole = False
        yield Finding(f"{requirement.name}: {what}", requirement.remedy)
    for name in OURS.values() if is_whole else ():  # else it would be the same again
        if (error := told.get(name, {}).get("error")) is not None:
            yield Finding(f"{name}: cannot be imported ({error})", "pip install --force-reinstall ringlight")
    for codec, suffix in CODECS.items():
        if facts["codecs"].get(codec) is False:
            what = f"av: its FFmpeg has no encoder {codec}, so there are no {suffix} files"
            yield Finding(what, "pip install --force-reinstall --only-binary av av")
    if (fault := cudnn.convolution_fault(facts["torch"].get("cudnn"))) is not None:
        yield Finding(f"torch: {fault}", cudnn.REMEDY)
    if facts["torch"].get("gloo") is False:
        yield Finding("torch: was built without gloo, so there is one rank at most", "install another build of torch")


def _numbers(text: str) -> tuple[int, ...]:
    numbers = [int(part) for part in re.match(r"[0-9.]*", text)[0].split(".") if part]  # type: ignore[index]
    return tuple(numbers + [0] * (4 - len(numbers)))
