"""What every command that runs a model can be told of the machine, and of the layout over its ranks."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

MACHINE, LAYOUT = "Machine", "Layout"


class DeviceChoice(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class DtypeChoice(StrEnum):
    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


class VaeDtypeChoice(StrEnum):
    float32 = "float32"
    bfloat16 = "bfloat16"


class LoadFormatChoice(StrEnum):
    auto = "auto"
    dummy = "dummy"


ModelPath = Annotated[
    str,
    typer.Option(
        help="Folder of a checkpoint in Diffusers layout, or ORG/NAME[@REVISION] in the hub's local cache.",
        show_default=False,
    ),
]

Device = Annotated[DeviceChoice, typer.Option(help="auto: cuda where there is one.", rich_help_panel=MACHINE)]
Dtype = Annotated[DtypeChoice, typer.Option(help="auto: bfloat16 on cuda, float32 on cpu.", rich_help_panel=MACHINE)]
VaeDtype = Annotated[VaeDtypeChoice, typer.Option(help="Of the decoder.", rich_help_panel=MACHINE)]
Attention = Annotated[
    str,
    typer.Option(
        help="Kernel by its name; auto takes the first that is right on the device.",
        metavar="NAME",
        rich_help_panel=MACHINE,
    ),
]
LoadFormat = Annotated[
    LoadFormatChoice, typer.Option(help="dummy: random weights from the JSON alone.", rich_help_panel=MACHINE)
]
NumThreads = Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves it to torch.", rich_help_panel=MACHINE)]
Tf32 = Annotated[bool, typer.Option(help="TensorFloat-32 in float32 convolutions on cuda.", rich_help_panel=MACHINE)]
DecodeChunk = Annotated[
    int,
    typer.Option(min=0, help="Latent frames decoded at a time; 0 follows the card's memory.", rich_help_panel=MACHINE),
]
WarmUp = Annotated[
    bool, typer.Option(help="Make the smallest video before saying that all is ready.", rich_help_panel=MACHINE)
]

NumGpus = Annotated[
    int | None,
    typer.Option(
        help="Ranks over all nodes: GPUs, or processes on a CPU. 1 if no degree asks for more.", rich_help_panel=LAYOUT
    ),
]
SpDegree = Annotated[
    int | None, typer.Option(help="Ranks that share one sequence: Ulysses x ring.", rich_help_panel=LAYOUT)
]
UlyssesDegree = Annotated[
    int | None, typer.Option(help="Ranks that share the heads; at most as many.", rich_help_panel=LAYOUT)
]
RingDegree = Annotated[int | None, typer.Option(help="Ranks that pass keys and values round.", rich_help_panel=LAYOUT)]
CfgDegree = Annotated[int | None, typer.Option(help="Guidance branches side by side: 1 or 2.", rich_help_panel=LAYOUT)]
NumSlices = Annotated[
    int,
    typer.Option(
        help="Slices in which keys and values are sent ahead; 1 sends all at once, 0 follows sizes and link.",
        rich_help_panel=LAYOUT,
    ),
]
Calibration = Annotated[
    str,
    typer.Option(
        help="Report or bench result of u1r1 runs on this machine: plans go by it.",
        metavar="FILE",
        rich_help_panel=LAYOUT,
    ),
]
MemoryCheck = Annotated[
    bool, typer.Option(help="Refuse what is predicted not to fit, before anything is loaded.", rich_help_panel=LAYOUT)
]
NumReplicas = Annotated[
    int, typer.Option(min=1, help="Copies of the model, each on ranks of its own; one queue.", rich_help_panel=LAYOUT)
]
NumNodes = Annotated[
    int, typer.Option("--nnodes", help="Machines; run the same command on each.", rich_help_panel=LAYOUT)
]
NodeRank = Annotated[
    int, typer.Option(help="Which of them this is, from 0; node 0 writes the video.", rich_help_panel=LAYOUT)
]
DistInitAddr = Annotated[
    str,
    typer.Option(
        help="Address of node 0, where nodes meet.", metavar="HOST:PORT", show_default=False, rich_help_panel=LAYOUT
    ),
]
StartupTimeout = Annotated[
    float,
    typer.Option(help="Seconds until other nodes are there and weights loaded at most.", rich_help_panel=LAYOUT),
]
WatchdogTimeout = Annotated[
    float, typer.Option(help="Seconds of silence after which a rank is lost.", rich_help_panel=LAYOUT)
]
