"""A link whose groups are made anew: nobody waits for what the old ones still hold."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from ringlight.parallel.link import Link


class StuckLane(dist.ProcessGroup):
    """A group of NCCL's kind, of which a message was never fetched: to end it well would take for ever."""

    group_name = "stuck"

    def __init__(self) -> None:
        super().__init__(0, 1)
        self.is_aborted = False

    def abort(self) -> None:
        self.is_aborted = True

    def shutdown(self) -> None:
        raise AssertionError("it waits for its kernels")


def test_groups_of_nccl_are_aborted_and_not_waited_for(tmp_path: Path) -> None:
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        lane, world = StuckLane(), distributed_c10d._world
        for known, value in (
            (world.pg_map, ("nccl", None)),
            (world.pg_names, lane.group_name),
            (world.pg_group_ranks, {0: 0}),
            (world.pg_backend_config, "nccl"),
            (world.pg_to_tag, ""),
        ):
            known[lane] = value
        distributed_c10d._register_process_group(lane.group_name, lane)
        link = Link()
        link._lanes = [lane]
        link.open("gloo", torch.device("cpu"))
        assert lane.is_aborted
        assert lane not in world.pg_map
        link.open("gloo", torch.device("cpu"))  # gloo's own are ended as before
    finally:
        dist.destroy_process_group()
