"""`ringlight doctor`: what a bug report needs, and what of this installation, or of a cluster, is broken."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ringlight.cli import diagnosis
from ringlight.cli.diagnosis import Facts, Finding
from ringlight.cli.flags import with_flags
from ringlight.cli.node_checks import PACKAGES, Check, facts_of, findings_of, judge
from ringlight.core.config import EngineConfig
from ringlight.core.errors import InvalidCheckpoint, InvalidSetting
from ringlight.families.digest import digest
from ringlight.families.table import checkpoint_of

FLAGS = ("engine", "ray_address", "model_path", "model_family")


@with_flags(only=FLAGS, usual={"model_path": ""}, engine=EngineConfig)
def doctor(*, engine: EngineConfig, json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Print what a bug report needs: versions, device, memory, codecs; then what is broken, and how to mend it.

    With --engine ray of a whole cluster, of which this machine is a node: versions, cards and tokens of all nodes,
    whether each can connect to this one, and whether the checkpoint of --model-path is the same. What differs is named.
    Exit code 3 if anything is broken.
    """
    facts, problems = diagnosis.examine()
    if engine.cluster.is_ray:
        of_cluster, more = _examine_cluster(engine)
        facts, problems = facts | of_cluster, problems + more
    elif engine.model_path:
        check = _examine_checkpoint(engine)
        facts, problems = facts | facts_of([check], [], "model"), [*problems, *findings_of([check])]
    print((diagnosis.as_json if json_ else diagnosis.show)(facts, problems))
    if problems:
        sys.exit(3)


def _examine_checkpoint(config: EngineConfig) -> Check:
    try:
        return Check("checkpoint", f"{digest(checkpoint_of(config), with_weights=True)}, {config.model_path}")
    except InvalidCheckpoint as error:
        return Check("checkpoint", str(error), "name a checkpoint that is whole, and can be read by this user")


def _examine_cluster(config: EngineConfig) -> tuple[Facts, list[Finding]]:
    try:
        from ringlight.engine.launch.ray.examination import examine_cluster  # here, because Ray need not be there
    except ImportError as error:
        return {}, [Finding(f"ray: cannot be imported ({error})", "pip install 'ringlight[ray]'")]
    try:
        found = examine_cluster(config, PACKAGES)
    except InvalidSetting as error:
        what, _, remedy = str(error).rpartition("; ")
        return {}, [Finding(f"cluster: {what}", remedy)]
    checks = [Check("address", found.address), *judge(found.here, found.nodes, found.door_host)]
    return facts_of(checks, found.nodes, "cluster"), [*findings_of(checks)]
