"""JobPlan: how a job runs on its ranks, which the engine decides and a worker does; and what ranks measure for it."""

from __future__ import annotations

import msgspec

from ringlight.core.plain import in_words


class Speeds(msgspec.Struct, frozen=True, kw_only=True):
    """Rates of the slowest rank: bytes a second to the next rank while as many come in, and operations a second."""

    link_bytes_per_second: float
    flops_per_second: float


class Abilities(msgspec.Struct, frozen=True, kw_only=True):
    """Smallest figures that any rank measured of itself when it was ready.

    `spare_bytes` is all memory of a GPU beside the weights, whoever has it at the moment; nothing on a CPU. `speeds`
    are those of several ranks, None for a single one.
    """

    spare_bytes: int
    speeds: Speeds | None = None


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """Places of a rank's weights and caches in a job whose device does not hold all weights at once.

    A stage then has only its own network there: of the text encoder a layer or two, its token table never. Of the
    transformer's blocks `streamed_blocks`, spread evenly, come from the host for every forward, and the others stay
    while it denoises; keys of texts are made of weights that only pass through. With `streams_decoder` a level of the
    decoder comes when it is next, else all of it stays while it decodes. `host_history` levels of the decoder, counted
    from the last, keep what they have seen of earlier frames on the host. `frames_at_once` go through the last levels
    at a time; 0 follows from the portion, as everywhere else.
    """

    streamed_blocks: int = 0
    streams_decoder: bool = False
    host_history: int = 0
    frames_at_once: int = 0

    def __str__(self) -> str:
        """Parts that are not on the device, in words; empty if every stage has all of its own there."""
        blocks = f"{self.streamed_blocks} block{'s' * (self.streamed_blocks > 1)} of the transformer"
        streamed = [blocks] * (self.streamed_blocks > 0) + ["the decoder"] * self.streams_decoder
        levels = "last level" if self.host_history == 1 else f"last {self.host_history} levels"
        said = [f"{in_words(streamed)} from the host as needed"] if streamed else []
        said += [f"history of the decoder's {levels} on the host"] * (self.host_history > 0)
        frames = f"{self.frames_at_once} frame{'s' * (self.frames_at_once > 1)}"
        return "; ".join(said + [f"{frames} at once through the decoder's last levels"] * (self.frames_at_once > 0))


class PredictedReport(msgspec.Struct, frozen=True, kw_only=True):
    """Prediction of a run before it began: seconds by stage (Other is one), in all, and the worst rank's peak.

    `basis` names the machine that it was reckoned for, and where its figures come from.
    """

    basis: str
    stages: dict[str, float]
    total_seconds: float
    peak_bytes: int


class JobPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Plan of how a job runs.

    `num_slices` of a rank's tokens are sent ahead in a forward; with `take_turns` two forwards alternate;
    `decode_chunk` latent frames are decoded at a time; `placement` says what is kept where (None: all on the device,
    always). After every `blocks_per_agreement` of the transformer's blocks, of both forwards if they alternate, all
    ranks agree within a step whether to continue; with 0 at its end alone. For its report also what is predicted of it,
    and why its layout is this one.
    """

    num_slices: int = 1
    take_turns: bool = False
    decode_chunk: int = 1
    blocks_per_agreement: int = 0
    placement: Placement | None = None
    predicted: PredictedReport | None = None
    layout_reason: str = ""


SIMPLEST = JobPlan()  # all at once, one latent frame at a time
