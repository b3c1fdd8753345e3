"""Layout of one generation over ranks: what was asked, what is decided, and the layout itself. No devices."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Annotated

import msgspec

from ringlight.core.errors import InvalidLayout
from ringlight.core.fields import LAYOUT, setting

NAME = re.compile(r"(?:c([0-9]{1,6}))?u([0-9]{1,6})r([0-9]{1,6})")

Degrees = dict[str, int | None]  # flag: degree, None where it is left out


def split_sizes(total: int, parts: int) -> tuple[int, ...]:
    """`total` over `parts` as evenly as whole numbers go, the larger ones first; some are 0 if there are too few."""
    size, extra = divmod(total, parts)
    return tuple(size + (part < extra) for part in range(parts))


class ParallelLayout(msgspec.Struct, frozen=True, kw_only=True):
    """Degrees of parallelism of one generation: guidance branches x Ulysses x ring.

    The name is the field's: `u1r2` is a ring of two, `c2u1r1` two guidance branches on two ranks.
    """

    cfg: int = 1
    ulysses: int = 1
    ring: int = 1

    def __post_init__(self) -> None:
        for name, degree in (("cfg-degree", self.cfg), ("ulysses-degree", self.ulysses), ("ring-degree", self.ring)):
            _check_degree(name, degree)

    @classmethod
    def parse(cls, name: str) -> ParallelLayout:
        """The layout of this name. Raises InvalidLayout, which says what names look like."""
        match = NAME.fullmatch(name)
        if match is None:
            raise InvalidLayout(
                f"{name!r} is not a layout; c2u2r1 is one (2 guidance branches, Ulysses 2, ring 1), and so is u2r1"
            )
        cfg, ulysses, ring = match.groups(default="1")
        return cls(cfg=int(cfg), ulysses=int(ulysses), ring=int(ring))

    @property
    def sp(self) -> int:
        """Ranks that share one sequence."""
        return self.ulysses * self.ring

    @property
    def num_ranks(self) -> int:
        """Number of ranks, over all branches."""
        return self.cfg * self.sp

    @property
    def name(self) -> str:
        """Name such as `u1r2`, which `parse` reads."""
        branches = f"c{self.cfg}" if self.cfg > 1 else ""
        return f"{branches}u{self.ulysses}r{self.ring}"


class AskedLayout(msgspec.Struct, frozen=True, kw_only=True):
    """Degrees as the user asks for them; None is left to `decide`.

    num_gpus = cfg_degree x sp_degree and sp_degree = ulysses_degree x ring_degree: there is a layout for whatever can
    be constructed, as far as the degrees go. Raises InvalidLayout for degrees that are impossible or contradict
    each other. `num_gpus` counts ranks, over all nodes; on a CPU they are processes.
    """

    num_gpus: Annotated[
        int | None,
        setting("Ranks over all nodes: GPUs, or processes on a CPU. 1 if no degree asks for more.", LAYOUT),
    ] = None
    sp_degree: Annotated[int | None, setting("Ranks that share one sequence: Ulysses x ring.", LAYOUT)] = None
    ulysses_degree: Annotated[int | None, setting("Ranks that share the heads; at most as many.", LAYOUT)] = None
    ring_degree: Annotated[int | None, setting("Ranks that pass keys and values round.", LAYOUT)] = None
    cfg_degree: Annotated[int | None, setting("Guidance branches side by side: 1 or 2.", LAYOUT)] = None

    def __post_init__(self) -> None:
        for field, degree in msgspec.structs.asdict(self).items():
            if degree is not None:
                _check_degree(field.replace("_", "-"), degree)
        split: Degrees = {"ulysses-degree": self.ulysses_degree, "ring-degree": self.ring_degree}
        sequence: Degrees = split if self.sp_degree is None else {"sp-degree": self.sp_degree}
        _check_product("sp-degree", self.sp_degree, split)
        if self.cfg_degree is None:
            _check_branches(self.num_gpus, sequence)
        _check_product("num-gpus", self.num_gpus, {"cfg-degree": self.cfg_degree} | sequence)

    @classmethod
    def of(cls, layout: ParallelLayout) -> AskedLayout:
        """Ask for all degrees of a layout, so that nothing is left to `decide`."""
        return cls(
            num_gpus=layout.num_ranks,
            sp_degree=layout.sp,
            ulysses_degree=layout.ulysses,
            ring_degree=layout.ring,
            cfg_degree=layout.cfg,
        )

    @property
    def num_ranks(self) -> int:
        """`num_gpus`, or the fewest ranks that have the degrees asked for."""
        sp = self.sp_degree or (self.ulysses_degree or 1) * (self.ring_degree or 1)
        return self.num_gpus or (self.cfg_degree or 1) * sp

    def allows(self, layout: ParallelLayout) -> bool:
        """Whether a layout has every degree that is asked for."""
        has = (layout.num_ranks, layout.sp, layout.ulysses, layout.ring, layout.cfg)
        return all(asked in (None, degree) for asked, degree in zip(msgspec.structs.astuple(self), has, strict=True))


class LayoutChoice(msgspec.Struct, frozen=True, kw_only=True):
    """A layout, and one plain sentence that begins with its name and says why it is this one."""

    layout: ParallelLayout
    reason: str


def decide(asked: AskedLayout, *, num_heads: int, guidance: bool, num_nodes: int) -> LayoutChoice:
    """Choose the fastest layout among those that have all that is asked for. Nothing asked is one rank.

    In this order: two branches where there is guidance, for they exchange one noise prediction a step and nothing
    within it; an odd number of ranks has no two equal branches and keeps one. Then as much Ulysses as divides both the
    ranks of a node and the heads, for it sends no more than a ring does, and the rest as a ring, whose few large
    transfers between neighbours suit the link between nodes. Heads dealt unevenly (24 on 5 ranks: 5, 5, 5, 5, 4) work
    where they are asked for, but in all of attention each rank would wait for the one with most.

    Ranks are numbered node by node, branches outermost and Ulysses innermost, so on an even number of nodes two
    branches lie on different nodes.

    Raises InvalidLayout where the model has too few heads, or the nodes would not have equally many ranks.
    """
    fitting = candidates(asked, num_heads=num_heads, num_nodes=num_nodes)
    ranks_per_node = asked.num_ranks // num_nodes

    def preference(layout: ParallelLayout) -> tuple[bool, bool, bool, int]:
        return (
            layout.cfg == (2 if guidance else 1),
            ranks_per_node % layout.ulysses == 0,
            num_heads % layout.ulysses == 0,
            layout.ulysses,
        )

    layout = max(fitting, key=preference)
    reasons = [
        *_why_branches(layout, fitting, asked, guidance),
        *_why_split(layout, asked, num_heads, ranks_per_node),
    ]
    if not reasons:
        reasons = ["as asked, nothing was left to choose" if layout.num_ranks > 1 else "one rank has nothing to split"]
    return LayoutChoice(layout=layout, reason=f"{layout.name}: {'; '.join(reasons)}")


def candidates(asked: AskedLayout, *, num_heads: int, num_nodes: int = 1) -> list[ParallelLayout]:
    """All layouts that have what is asked for, at least one. Raises InvalidLayout as `decide` does."""
    _check_heads(asked, num_heads)
    _check_nodes(asked, num_nodes)
    fitting = list(_fitting(asked, num_heads))
    if not fitting:
        raise InvalidLayout(
            f"ring-degree {asked.ring_degree} leaves more Ulysses ranks than the {num_heads} heads of the model; "
            "leave --ring-degree out"
        )
    return fitting


def layout_for(layout: ParallelLayout, guidance: bool, num_heads: int, ranks_per_node: int) -> ParallelLayout:
    """The layout that one request uses on ranks laid out as `layout`: no rank is idle.

    Without guidance there is one branch, so the second one's ranks share its sequence: c2u1r1 becomes u2r1. By the rule
    of `decide` Ulysses is doubled where that divides the ranks of a node and the heads, else the ring.
    """
    if guidance or layout.cfg == 1:
        return layout
    doubled = layout.cfg * layout.ulysses
    if ranks_per_node % doubled == 0 and num_heads % doubled == 0:
        return ParallelLayout(ulysses=doubled, ring=layout.ring)
    return ParallelLayout(ulysses=layout.ulysses, ring=layout.cfg * layout.ring)


def _fitting(asked: AskedLayout, num_heads: int) -> Iterator[ParallelLayout]:
    """All layouts that have what is asked for, and a head for every Ulysses rank."""
    for cfg in (1, 2):
        for ulysses in range(1, num_heads + 1):
            ring, rest = divmod(asked.num_ranks, cfg * ulysses)
            if not rest and asked.allows(layout := ParallelLayout(cfg=cfg, ulysses=ulysses, ring=ring)):
                yield layout


def _why_branches(
    layout: ParallelLayout, fitting: list[ParallelLayout], asked: AskedLayout, guidance: bool
) -> Iterator[str]:
    """Yield the reason for the number of branches, if there was a choice or one might have expected two."""
    if len({other.cfg for other in fitting}) > 1:
        if layout.cfg == 2:
            yield "guidance needs two branches, which never talk within a step"
        else:
            yield "without guidance there is one branch"
    elif guidance and asked.cfg_degree is None and layout.num_ranks > 1 and layout.num_ranks % 2:
        yield f"{layout.num_ranks} ranks are not two equal branches"


def _why_split(layout: ParallelLayout, asked: AskedLayout, num_heads: int, ranks_per_node: int) -> Iterator[str]:
    """Yield the reason for the split of a sequence between Ulysses and ring, if there was a choice."""
    if layout.sp == 1 or asked.ulysses_degree or asked.ring_degree:
        return
    most = math.gcd(layout.sp, ranks_per_node)
    if layout.ulysses < most:
        rest = "the rest" if layout.ulysses > 1 else "it all"
        yield f"{num_heads} heads do not divide evenly by {most}, so a ring takes {rest}"
    elif layout.ulysses == 1:
        yield "a ring goes across nodes"
    elif layout.ring > 1:
        yield "Ulysses stays inside a node and a ring goes across nodes"
    else:
        yield "all Ulysses, which never sends more than a ring"


def _check_degree(name: str, degree: int) -> None:
    if name == "cfg-degree" and degree not in (1, 2):
        raise InvalidLayout(f"cfg-degree must be 1 or 2 (there are two guidance branches), not {degree}")
    if degree < 1:
        raise InvalidLayout(f"{name} must be at least 1, not {degree}")


def _check_product(whole: str, size: int | None, factors: Degrees) -> None:
    """Raise InvalidLayout unless `size` is the product of the factors, or a multiple where one is left out."""
    given = {name: degree for name, degree in factors.items() if degree is not None}
    product = math.prod(given.values())
    is_complete = len(given) == len(factors)
    if size is None or size == product or (not is_complete and size % product == 0):
        return
    remedy = f"--{whole} {product if is_complete else max(1, size // product) * product}"
    if is_complete and "ring-degree" in given and size % (others := product // given["ring-degree"]) == 0:
        remedy = f"--ring-degree {size // others}"
    raise InvalidLayout(
        f"{whole} {size} is not {'' if is_complete else 'a multiple of '}{_multiplied(given)}; "
        f"leave one of them out, or use {remedy}"
    )


def _check_branches(num_gpus: int | None, sequence: Degrees) -> None:
    """Raise InvalidLayout where one or two branches of this sequence degree do not make up all ranks."""
    given = {name: degree for name, degree in sequence.items() if degree is not None}
    sp = math.prod(given.values())
    if num_gpus is not None and len(given) == len(sequence) and num_gpus not in (sp, 2 * sp):
        raise InvalidLayout(
            f"num-gpus {num_gpus} is not 1 or 2 guidance branches x {_multiplied(given)}; "
            f"leave one of them out, or use --num-gpus {sp} or {2 * sp}"
        )


def _multiplied(degrees: dict[str, int]) -> str:
    return " x ".join(f"{name} {degree}" for name, degree in degrees.items())


def _check_heads(asked: AskedLayout, num_heads: int) -> None:
    if asked.ulysses_degree is not None and asked.ulysses_degree > num_heads:
        raise InvalidLayout(
            f"ulysses-degree {asked.ulysses_degree} is more than the {num_heads} heads of the model; "
            "use --ring-degree for the rest"
        )


def _check_nodes(asked: AskedLayout, num_nodes: int) -> None:
    ranks = asked.num_ranks
    if ranks % num_nodes:
        said = f"num-gpus {ranks}" if asked.num_gpus else f"num-gpus is left out and follows as {ranks}, which"
        nearest = max(1, ranks // num_nodes) * num_nodes
        raise InvalidLayout(
            f"{said} is not a multiple of nnodes {num_nodes}; use --num-gpus {nearest} and degrees that make it"
        )
