"""The scripts for Slurm, run with commands in the place of Slurm's that only tell what they are given."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.house.test_deploy import DEPLOY, options

SCRIPTS = sorted((DEPLOY / "slurm").glob("*.sbatch"))
TELLS_ALL = '#!/bin/sh\nprintf "%s\\n" "$@"\n'
SCONTROL = """#!/bin/sh
case "$*" in
  "show hostnames gpu[3-4]") printf 'gpu3\\ngpu4\\n' ;;
  "--oneliner show node gpu3") echo "NodeName=gpu3 Arch=x86_64 NodeAddr={address} NodeHostName=gpu3 Version=22.05" ;;
  *) exit 1 ;;
esac
"""


def given_to_srun(
    script: Path, folder: Path, *arguments: str, address: str = "10.0.0.3", **variables: str
) -> list[str]:
    """What a script gives to `srun`, in job 91234 on nodes gpu3 and gpu4."""
    for name, text in (("srun", TELLS_ALL), ("scontrol", SCONTROL.format(address=address))):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "91234", "SLURM_JOB_NODELIST": "gpu[3-4]", "SLURM_JOB_NUM_NODES": "2"}
    environment = os.environ | job | {"PATH": f"{folder}:{os.environ['PATH']}"} | variables
    done = subprocess.run(
        ["bash", script, *arguments], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize(("address", "host"), [("10.0.0.3", "10.0.0.3"), ("fd00::3", "[fd00::3]")])
def test_nodes_meet_at_the_first_one_and_a_rank_is_asked_of_each(tmp_path: Path, address: str, host: str) -> None:
    given = given_to_srun(DEPLOY / "slurm/ringlight.sbatch", tmp_path, "generate", "--prompt", "a cat", address=address)
    begin = given.index("bash")
    assert given[begin + 2] == 'exec ringlight "$@" --node-rank "$SLURM_NODEID"'
    assert given[begin + 4 :] == [
        *("generate", "--prompt", "a cat"),
        *("--nnodes", "2", "--dist-init-addr", f"{host}:{20000 + 91234 % 10000}"),
    ]
    assert "--kill-on-bad-exit=0" in given[:begin], "node 0 tells the cause first"
    assert {"--nnodes", "--node-rank", "--dist-init-addr"} <= {flag for flags in options().values() for flag in flags}


def test_a_ray_is_started_on_all_nodes_and_the_server_joins_it(tmp_path: Path) -> None:
    """As Ray itself reads its command line."""
    script = DEPLOY / "slurm/ringlight-ray.sbatch"
    given = given_to_srun(script, tmp_path, "--num-replicas", "4", SLURM_GPUS_ON_NODE="8")
    begin, end = given.index("ray"), given.index("--")
    head = f"10.0.0.3:{20000 + 91234 % 10000}"
    assert given[begin : begin + 4] == ["ray", "symmetric-run", "--address", head]
    assert given[end + 1 :] == ["ringlight", "serve", "--engine", "ray", "--ray-address", head, "--num-replicas", "4"]
    assert {"--engine", "--ray-address"} <= {flag for flags in options().values() for flag in flags}
    from ray.scripts.scripts import start
    from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

    left = curate_and_validate_ray_start_args(given[begin + 2 : end])
    assert left == ["--num-gpus", "8", "--object-store-memory", "100000000"]
    usual = {option.name: option for option in start.params}
    assert set(left[::2]) <= {name for option in usual.values() for name in option.opts}
    assert usual["max_worker_port"].default < 20000, "Ray refuses a port that it gives to workers"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_jobs_have_whole_nodes_a_command_on_each_and_time_to_drain(script: Path) -> None:
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", script.read_text(), flags=re.MULTILINE))
    assert asked["ntasks-per-node"] == "1" and "exclusive" in asked and "requeue" in asked
    assert re.fullmatch(r"TERM@(\d+)", asked["signal"]) is not None
    assert asked["output"].endswith("%j.log") and asked["open-mode"] == "append"
