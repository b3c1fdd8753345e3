"""`ringlight doctor`: what a bug report needs, and what of this installation, or of a cluster, is broken."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import typer

from ringlight.cli import diagnosis
from ringlight.cli.diagnosis import Facts, Finding


def doctor(
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="ray: also ask every node of a Ray cluster, of which this is one.")
    ] = "local",
    ray_address: Annotated[
        str, typer.Option(help="HOST:PORT of the cluster's head; auto: RAY_ADDRESS, or the cluster of this machine.")
    ] = "auto",
    model_path: Annotated[
        str, typer.Option(help="A checkpoint, of which all nodes should have the same; with --engine ray.")
    ] = "",
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what a bug report needs: versions, device, memory, codecs; then what is broken, and how to mend it.

    With --engine ray of all nodes of a cluster: whether versions and the checkpoint are the same, cards, the token, and
    whether every node can connect to this one. Exit code 3 if anything is broken.
    """
    facts, problems = diagnosis.examine()
    if engine == "ray":
        of_cluster, more = _examine_cluster(ray_address, model_path)
        facts, problems = facts | of_cluster, problems + more
    print((diagnosis.as_json if json_ else diagnosis.show)(facts, problems))
    if problems:
        sys.exit(3)


def _examine_cluster(ray_address: str, model_path: str) -> tuple[Facts, list[Finding]]:
    try:
        from ringlight.cli.cluster_diagnosis import examine_cluster  # here, because Ray need not be there
    except ImportError as error:
        return {}, [Finding(f"ray: cannot be imported ({error})", "pip install 'ringlight[ray]'")]
    return examine_cluster(ray_address, model_path)
