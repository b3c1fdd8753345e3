"""Configuration of the engine by the operator, and the only reader of settings: environment and files."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from ringlight.core.asked_loras import written_out
from ringlight.core.cluster import ClusterConfig
from ringlight.core.errors import InvalidCheckpoint, InvalidLayout, InvalidRequest, InvalidSetting
from ringlight.core.fields import LAYOUT, MACHINE, MODEL, SAFETY, setting
from ringlight.core.kernels import ATTENTION_HELP, AUTO, attention_place
from ringlight.core.layout import AskedLayout
from ringlight.core.named_samplers import layered
from ringlight.core.plain import bytes_of, plain
from ringlight.core.request import RequestDefaults, RequestLimits

DeviceName = Literal["auto", "cpu", "cuda"]
DtypeName = Literal["auto", "float32", "bfloat16"]
VaeDtypeName = Literal["float32", "bfloat16"]
LoadFormat = Literal["auto", "dummy"]

DEFAULTS_FILE = "ringlight.json"
DEMO_NAME = "ringlight-demo"  # what a demo checkpoint's model_index.json calls it, with its size
BUS_ORDER = "PCI_BUS_ID"  # of cards, which is their driver's; CUDA's own begins with the fastest
# How long threads of OpenMP spin for each other before they sleep. On a CPU that other work shares, GNU's own default
# burns the time that the awaited thread needs: 5.3 times as long as alone, with this 2.2 (docs/log.md).
WAITING_SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # either decides
SPIN_COUNT = "1000"
# As torch calls it from 2.9 on, and under its names before that.
ALLOCATOR_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
ADDRESS = re.compile(r"(?:\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):([0-9]{1,5})")


class NodesConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Machines that share one generation, and which of them this is. Each hosts equally many ranks.

    `dist_init_addr` is HOST:PORT of node 0, where all nodes meet; an IPv6 host stands in brackets. One node needs none.
    A node with another checkpoint, version or flags is refused. With `refuses_alone` node 0 then goes on waiting for
    the right one; otherwise the start ends on all nodes. Raises InvalidLayout.
    """

    nnodes: Annotated[int, setting("Machines; run the same command on each.", LAYOUT)] = 1
    node_rank: Annotated[int, setting("Which of them this is, from 0; node 0 writes the video.", LAYOUT)] = 0
    dist_init_addr: Annotated[str, setting("Address of node 0, where nodes meet.", LAYOUT, metavar="HOST:PORT")] = ""
    refuses_alone: bool = False

    def __post_init__(self) -> None:
        if self.nnodes < 1:
            raise InvalidLayout(f"nnodes must be at least 1, not {self.nnodes}")
        if not 0 <= self.node_rank < self.nnodes:
            raise InvalidLayout(
                f"node-rank {self.node_rank} is outside 0..{self.nnodes - 1}, the ranks of nnodes "
                f"{self.nnodes}; number the nodes from 0"
            )
        if self.nnodes > 1 and not self.dist_init_addr:
            raise InvalidLayout(f"nnodes {self.nnodes} need a place to meet; use --dist-init-addr HOST:PORT of node 0")
        match = ADDRESS.fullmatch(self.dist_init_addr)
        if self.dist_init_addr and (match is None or not 1 <= int(match[1]) <= 65535):
            raise InvalidLayout(
                f"dist-init-addr {self.dist_init_addr!r} is not HOST:PORT, such as 10.0.0.1:29500 or [fd00::1]:29500"
            )

    @property
    def host_and_port(self) -> tuple[str, int]:
        """Meeting point of the nodes, without the brackets of an IPv6 address. Needs a `dist_init_addr`."""
        host, _, port = self.dist_init_addr.rpartition(":")
        return host.strip("[]"), int(port)


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of a model's engine, as the operator gave them; never written back into.

    `model_path` is a checkpoint's folder, or a file of it, or ORG/NAME[@REVISION] in the Hugging Face hub's local
    cache; `model_family` the family of one that is single files, where they cannot tell it.
    `dtype` auto is bfloat16 on CUDA and float32 on a CPU. `load_format` dummy makes random weights on the device
    from the JSON alone. `num_threads` 0 leaves the choice to torch. `tf32` allows TensorFloat-32 in float32
    convolutions on CUDA, as PyTorch itself does; float32 matrix products are always whole. `attention` names a kernel
    (core.kernels); auto takes the first that is right on the device. `decode_chunk` is the number of latent frames
    decoded at a time, 0 to follow from all memory of the device. `startup_timeout` bounds a start, in which other nodes
    are waited for and weights loaded.

    `num_slices` is the number of slices of a rank's tokens whose keys and values are sent ahead of the next block, one
    slice under the computation of another: 0 to follow from sizes and link, 1 to send all at once. A rank that has not
    been heard of for `watchdog_timeout` is lost. `warm_up`: the smallest video is made before the workers say that they
    are ready. `calibration` is the file of a report or calibration of this machine that plans go by, empty for none;
    `memory_check`: what is predicted not to fit is refused. `memory_budget` is a size in text (`memory_budget_bytes`):
    where not all weights fit into it beside the work, plans say what is kept where. Each `lora` is applied to every
    video, and those below a `lora_dir` to requests that name them. Raises InvalidSetting.
    """

    model_path: Annotated[
        str,
        setting(
            "A checkpoint: its folder, its transformer's file, a YAML card of its parts, or ORG/NAME or "
            "ORG/NAME@REVISION in the hub's local cache."
        ),
    ]
    model_family: Annotated[
        str, setting("Of which family single files are, where they cannot tell it.", MODEL, metavar="NAME")
    ] = ""
    device: Annotated[DeviceName, setting("auto: cuda where there is one.", MACHINE)] = "auto"
    dtype: Annotated[DtypeName, setting("auto: bfloat16 on cuda, float32 on cpu.", MACHINE)] = "auto"
    vae_dtype: Annotated[VaeDtypeName, setting("Of the decoder.", MACHINE)] = "float32"
    attention: Annotated[str, setting(ATTENTION_HELP, MACHINE, metavar="NAME")] = AUTO
    load_format: Annotated[LoadFormat, setting("dummy: random weights from the JSON alone.", MACHINE)] = "auto"
    num_threads: Annotated[int, setting("CPU threads; 0 leaves it to torch.", MACHINE, ge=0)] = 0
    tf32: Annotated[bool, setting("TensorFloat-32 in float32 convolutions on cuda.", MACHINE)] = True
    decode_chunk: Annotated[
        int, setting("Latent frames decoded at a time; 0 follows the card's memory.", MACHINE, ge=0)
    ] = 0
    warm_up: Annotated[bool, setting("Make the smallest video before saying that all is ready.", MACHINE)] = False
    memory_budget: Annotated[
        str,
        setting(
            "Of a rank's device, such as 10GiB; of a CPU, what a rank has of its own beside shared weights. Left out: "
            "what the card has, less a margin; of a CPU, no bound.",
            MACHINE,
            metavar="SIZE",
        ),
    ] = ""
    prompt_cache_bytes: int = 256 * 2**20
    asked_layout: AskedLayout = AskedLayout()
    num_slices: Annotated[
        int,
        setting(
            "Slices in which keys and values are sent ahead; 1 sends all at once, 0 follows sizes and link.", LAYOUT
        ),
    ] = 0
    calibration: Annotated[
        str,
        setting("Report or bench result of u1r1 runs on this machine: plans go by it.", LAYOUT, metavar="FILE"),
    ] = ""
    memory_check: Annotated[
        bool, setting("Refuse what is predicted not to fit, before anything is loaded.", LAYOUT)
    ] = True
    nodes: NodesConfig = NodesConfig()
    cluster: ClusterConfig = ClusterConfig()
    lora: Annotated[
        tuple[str, ...],
        setting(
            "LoRA for every video: a file, or a name within --lora-dir; how strongly (1), and on which of two experts "
            "(both, high, low; left out: as its name says). May be repeated.",
            MODEL,
            metavar="FILE[:STRENGTH[:TARGET]]",
            splits=False,
        ),
    ] = ()
    lora_dir: Annotated[
        tuple[str, ...],
        setting(
            "Folder of LoRAs that requests may name, with those below it; may be repeated.",
            MODEL,
            metavar="DIR",
            splits=False,
        ),
    ] = ()
    embed_settings: Annotated[bool, setting("MP4 and WebM files hold their prompt and settings.", SAFETY)] = True
    startup_timeout: Annotated[
        float, setting("Seconds until other nodes are there and weights loaded at most.", LAYOUT)
    ] = 1800.0
    watchdog_timeout: Annotated[float, setting("Seconds of silence after which a rank is lost.", LAYOUT)] = 10.0

    def __post_init__(self) -> None:
        if self.attention != AUTO:
            attention_place(self.attention)
        if self.memory_budget and not self.memory_budget_bytes:
            raise InvalidSetting("memory-budget must be more than 0; left out, it is what the device has")
        if self.num_slices < 0:
            raise InvalidSetting(f"num-slices must be 0 or more, not {self.num_slices}; 0 leaves the number to us")
        if not 0 < self.watchdog_timeout < math.inf:
            raise InvalidSetting(
                f"watchdog-timeout must be a number of seconds above 0, not {plain(self.watchdog_timeout)}"
            )
        if not 0 < self.startup_timeout < math.inf:
            raise InvalidSetting(
                f"startup-timeout must be a number of seconds above 0, not {plain(self.startup_timeout)}"
            )
        if self.cluster.is_ray and self.nodes.nnodes > 1:
            raise InvalidSetting(
                "nnodes are for machines that each run this command; with --engine ray it runs once, and Ray has the "
                "nodes: leave --nnodes out"
            )

    @property
    def memory_budget_bytes(self) -> int:
        """Memory budget in bytes, 0 if none is set. Raises InvalidSetting for a malformed size."""
        try:
            return bytes_of(self.memory_budget) if self.memory_budget else 0
        except ValueError as error:
            raise InvalidSetting(f"memory-budget: {error}") from None


class DefaultsFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Contents of a ringlight.json: defaults of requests, and prompts that the model is good at."""

    defaults: RequestDefaults = RequestDefaults()
    examples: tuple[str, ...] = ()


def read_defaults(model_path: Path, usual: RequestDefaults | None = None) -> RequestDefaults:
    """Request defaults of a checkpoint folder: those of its ringlight.json, and for all else the usual ones."""
    usual = usual or RequestDefaults()
    said, file = _read_defaults_file(model_path / DEFAULTS_FILE)
    values = {name: getattr(file.defaults, name) for name in said}
    return RequestDefaults(**layered(msgspec.structs.asdict(usual), values))


def read_examples(model_path: Path) -> tuple[str, ...]:
    """Prompts that a checkpoint folder's ringlight.json says its model is good at."""
    return _read_defaults_file(model_path / DEFAULTS_FILE)[1].examples


def _read_defaults_file(path: Path) -> tuple[Collection[str], DefaultsFile]:
    """Read a ringlight.json: the names of the defaults in it, and the file; nothing if there is none.

    Raises InvalidCheckpoint.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return (), DefaultsFile()
    except OSError as error:
        raise InvalidCheckpoint(f"{path}: not readable: {error}") from None
    try:
        fields = json.loads(content, object_pairs_hook=_each_once, parse_constant=_no_number)
        if isinstance(fields, dict) and "defaults" in fields:
            fields["defaults"] = written_out(fields["defaults"])
        file = msgspec.convert(fields, DefaultsFile)
    except (ValueError, RecursionError, InvalidRequest) as error:
        held = '{"defaults": {request field: value}, "examples": [prompt]}'
        raise InvalidCheckpoint(f"{path}: {error}; it holds {held}") from None
    return fields.get("defaults", {}), file


def read_limits() -> RequestLimits:
    """Limits from the environment (RINGLIGHT_MAX_PIXELS and so on, a field each). Raises InvalidSetting."""
    given = {
        field.name: value
        for field in msgspec.structs.fields(RequestLimits)
        if (value := os.environ.get(f"RINGLIGHT_{field.name.upper()}")) is not None
    }
    try:
        return msgspec.convert(given, RequestLimits, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidSetting(f"limits in the environment (RINGLIGHT_MAX_...): {error}") from None


def read_environment() -> dict[str, str]:
    """Read all RINGLIGHT_* variables that are not empty: RINGLIGHT_PORT=1 is {"port": "1"}."""
    prefix = "RINGLIGHT_"
    return {
        name.removeprefix(prefix).lower(): text for name, text in os.environ.items() if name.startswith(prefix) and text
    }


def read_hub_cache() -> Path:
    """The folder in which the Hugging Face hub's client keeps what it downloads, by that client's own rules."""
    home = _expanded(os.environ.get("HF_HOME") or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface")
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return Path(_expanded(named) if named else f"{home}/hub")


def _expanded(path: str) -> str:
    return os.path.expandvars(os.path.expanduser(path))


def read_visible_devices() -> str | None:
    """The GPUs that are shown to torch, as the environment says; None where all are."""
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def counts_in_bus_order() -> bool:
    """Whether a worker's cards have the numbers that their driver gives them."""
    return worker_environment()["CUDA_DEVICE_ORDER"] == BUS_ORDER


def read_settings_file(path: Path, texts: Collection[str] = ()) -> dict[str, Any]:
    """Read a YAML file as a mapping; an empty file is an empty one. Raises InvalidSetting.

    Settings named in `texts` stay text as written, also if they look like a number or a date.
    """
    import yaml  # here, because workers import this module too

    try:
        loader = yaml.SafeLoader(path.read_bytes())
        node = loader.get_single_node()
        doubled = [] if node is None else list(_doubled(node, set()))
        for section in _maps(node):
            _take_as_written(section, texts)
        content = None if node is None else loader.construct_document(node)
    except OSError as error:
        raise InvalidSetting(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: such as a date that is none
        raise InvalidSetting(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if doubled:
        raise InvalidSetting(f"{path}: {'; '.join(doubled)}")
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InvalidSetting(f"{path}: must map names of settings to values, such as `port: 8898`")
    return content


def _maps(node: Any) -> list[Any]:
    """The map that a YAML file is, and those that it has for values."""
    if getattr(node, "id", "") != "mapping":
        return []
    return [node, *(value for _, value in node.value if value.id == "mapping")]


def _take_as_written(section: Any, texts: Collection[str]) -> None:
    """Turn the numbers and dates under these names of a YAML map into texts, alone or in lists."""

    def written(node: Any) -> Any:
        vocabulary, _, kind = node.tag.rpartition(":")
        if node.id == "sequence":
            return type(node)(node.tag, [written(each) for each in node.value])
        return type(node)(f"{vocabulary}:str", node.value) if kind in ("int", "float", "timestamp") else node

    section.value = [(key, written(value) if _setting_name(key) in texts else value) for key, value in section.value]


def _setting_name(key: Any) -> str:
    """The setting that a name in a YAML file stands for: `-` and `_` are alike."""
    return key.value.replace("-", "_") if isinstance(key.value, str) else ""


def _doubled(node: Any, seen: set[int]) -> Iterator[str]:
    """Yield every name that stands twice in a map of a YAML file, with its lines: the first would be lost in silence.

    Names are those of settings, which take `-` and `_` alike. `seen` are nodes that have been looked at: an alias may
    lead back to where it stands.
    """
    if id(node) in seen or isinstance(node.value, str):
        return
    seen.add(id(node))
    lines: dict[str, int] = {}
    for item in node.value:
        key, value = item if isinstance(item, tuple) else (None, item)
        if key is not None and isinstance(key.value, str):
            name, line = _setting_name(key), key.start_mark.line + 1
            if name in lines:
                yield f"line {line}: {key.value} stands there twice, first in line {lines[name]}; keep one of them"
            lines.setdefault(name, line)
        yield from _doubled(value, seen)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object whose names differ. Raises ValueError."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)} stands there twice")
    return fields


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def worker_environment(num_nodes: int = 1) -> dict[str, str]:
    """The environment of a worker process: ours, with what it must not do switched off.

    What ours says otherwise stays: ranks of a single node meet on the loopback interface (gloo would look for the
    address of the host's name, which need not resolve), cards are numbered as their driver numbers them, and torch's
    allocator grows its segments, because the decoder's many sizes would break them up.
    """
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",  # a checkpoint is a folder; nothing is ever fetched
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",  # nothing is imported from the folder we happen to be in
    }
    # Who is lost is judged by us (parallel.pulse). NCCL's watchdog would abort a process that has merely lost another.
    environment.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
    if num_nodes == 1:
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    environment.setdefault("CUDA_DEVICE_ORDER", BUS_ORDER)
    if not any(name in environment for name in WAITING_SETTINGS):
        environment[WAITING_SETTINGS[0]] = SPIN_COUNT
    if not any(name in environment for name in ALLOCATOR_SETTINGS):
        environment[ALLOCATOR_SETTINGS[0]] = "expandable_segments:True"
    return environment


def go_on_in(environment: Mapping[str, str]) -> None:
    """Continue this process in an environment, of which nothing that it is for has been read yet."""
    os.environ.update(environment)
