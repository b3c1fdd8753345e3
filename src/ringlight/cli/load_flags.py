"""Flags for a load: how many requests come, of which kinds, and what is promised."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from ringlight.core.errors import InvalidSetting
from ringlight.core.fields import opened, setting
from ringlight.core.replicas import ReplicaRange
from ringlight.core.settings import LEAST_PRIORITY, MOST_PRIORITY, Scheduling, ServeSettings
from ringlight.core.video_fields import VIDEO_FIELDS, VideoFields
from ringlight.planner.fleet import Kind
from ringlight.planner.hardware import read_toml
from ringlight.planner.simulate import ORDERS, Load, Order
from ringlight.planner.sizing import START_SECONDS

LOAD = "Load"
NUM_FIXED = 20_000  # requests that are simulated
NUM_OPEN = 2_000  # the same where who is next has to be asked at every step: with deadlines or several clients
NUM_SHOWN = f"{NUM_FIXED}; {NUM_OPEN} with clients, timeouts or a range of replicas"
USUAL_SCHEDULING = ServeSettings().scheduling
UNPLANNED = tuple(field.name for field in VIDEO_FIELDS if not field.rules.in_plans)


class Mixed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A kind of request in a mix's file, but for its fields."""

    weight: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    client: str = ""
    priority: Annotated[int, msgspec.Meta(ge=LEAST_PRIORITY, le=MOST_PRIORITY)] = 0
    timeout_seconds: Annotated[float, msgspec.Meta(gt=0)] | None = None
    image: bool | None = None
    last_image: bool | None = None


MixedRequest = opened("MixedRequest", VideoFields, UNPLANNED, Mixed)
"""A kind of request in a mix's file: what is left out is as on the command line."""


class Mix(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of `[[request]]` tables."""

    request: list[MixedRequest]  # type: ignore[valid-type]


MIX_FIELDS = ", ".join(MixedRequest.__struct_fields__)
OF_MIX = (
    rf"TOML of [\[request]] tables, each with any of {MIX_FIELDS}."  # the backslash: else Rich takes it for a style
)


class AskedLoad(msgspec.Struct, frozen=True, kw_only=True):
    """Load as it is asked for. Raises typer.BadParameter for a number that must be more than 0 and is not."""

    rate: Annotated[float | None, setting("Requests a second, at random moments.", LOAD)] = None
    mix: Annotated[Path | None, setting(OF_MIX, LOAD)] = None
    num_requests: Annotated[int | None, setting("To simulate.", LOAD, shown=NUM_SHOWN, ge=100)] = None
    seed: Annotated[int | None, setting("Of the arrivals.", LOAD, shown="0")] = None
    scheduling: Annotated[Scheduling | None, setting("As of a server.", LOAD, shown=USUAL_SCHEDULING)] = None
    compare_orders: Annotated[bool | None, setting("Every order, and shortest first without pauses.", LOAD)] = None
    p95: Annotated[float | None, setting("Promise in seconds: the fewest GPUs that keep it.", LOAD)] = None
    gpu_price: Annotated[float | None, setting("Of a GPU hour.", LOAD)] = None
    num_replicas: Annotated[
        str | None,
        setting("As of a server: a range such as 0..4, beside every fixed number in it.", LOAD, metavar="LEAST..MOST"),
    ] = None
    scale_up_wait: Annotated[float | None, setting("As of a server.", LOAD, shown="a start's seconds", ge=0)] = None
    scale_down_idle: Annotated[
        float | None, setting("As of a server.", LOAD, shown=f"{ServeSettings().scale_down_idle:g}", ge=0)
    ] = None
    start_seconds: Annotated[
        float | None, setting("That a replica takes to start.", LOAD, shown=f"{START_SECONDS:g}", ge=0)
    ] = None

    def __post_init__(self) -> None:
        if self.rate is not None and not 0 < self.rate < math.inf:
            raise typer.BadParameter("must be more than 0", param_hint="'--rate'")
        given = [name for name in self.__struct_fields__ if getattr(self, name) is not None]
        if self.rate is None and given:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise InvalidSetting(f"{flags} can only be given with --rate")
        if self.p95 is not None and self.num_replicas is not None:
            raise InvalidSetting("give --p95, which finds the number of replicas, or --num-replicas")
        waits = (self.scale_up_wait, self.scale_down_idle, self.start_seconds)
        if self.num_replicas is None and waits != (None, None, None):
            raise InvalidSetting("--scale-up-wait, --scale-down-idle and --start-seconds need --num-replicas")

    def arrivals(self, kinds: Sequence[Kind]) -> Load | None:
        """Load of requests of these kinds; None if no load is asked for."""
        if self.rate is None:
            return None
        is_dated = any(kind.timeout_seconds is not None for kind in kinds)
        is_open = is_dated or len({kind.client for kind in kinds}) > 1 or self.num_replicas is not None
        usual = NUM_OPEN if is_open else NUM_FIXED
        return Load(rate=self.rate, num_requests=self.num_requests or usual, seed=self.seed or 0)

    @property
    def replicas(self) -> ReplicaRange | None:
        """The range of numbers that is asked for; None: as many as there is room for. Raises InvalidSetting."""
        if self.num_replicas is None:
            return None
        idle = ServeSettings().scale_down_idle if self.scale_down_idle is None else self.scale_down_idle
        return ReplicaRange.parse(self.num_replicas, self.scale_up_wait or 0, idle)

    @property
    def orders(self) -> Sequence[Order]:
        """The orders that are simulated."""
        return tuple(ORDERS) if self.compare_orders else (self.scheduling or USUAL_SCHEDULING,)

    def kinds(self) -> list[Mixed]:
        """The kinds of requests of the mix's file; none without one. Raises InvalidSetting."""
        if self.mix is None:
            return []
        try:
            kinds: list[Mixed] = read_toml(self.mix, Mix).request
        except InvalidSetting as error:
            hint = f"; a mix has [[request]] tables, each with any of {MIX_FIELDS}" if " field `" in str(error) else ""
            raise InvalidSetting(f"{error}{hint}") from None
        if not kinds:
            raise InvalidSetting(f"{self.mix}: has no [[request]]")
        return kinds
