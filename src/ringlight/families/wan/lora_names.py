"""Names of LoRAs' tensors by their trainers: a prefix, a module of the network, and an ending that says what it is.

Every kind is data here. Names of modules come from the network's own, in the original's form and in that of diffusers;
where a trainer joined their parts by underscores, so are they, since such a name cannot be taken apart.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from ringlight.families.wan.original import transformer_names

Part = Literal["down", "up", "alpha", "weight", "bias", "modulation"]

# In front of a module's name; several may follow one another.
PREFIXES = ("base_model.model.", "model.", "diffusion_model.", "transformer.", "unet.")
JOINED = ("lora_unet_", "lora_transformer_", "lycoris_")  # what follows has underscores in the place of dots
SLOT = r"(?:\.[^.]+)?"  # the name that an adapter has in its trainer's memory, such as `default`
ENDINGS: dict[Part, str] = {
    "down": rf"\.lora_A(?:{SLOT}\.weight)?|(?:\.lora_|[._]lora\.|\.lora_linear_layer\.)down\.weight",
    "up": rf"\.lora_B(?:{SLOT}\.weight)?|(?:\.lora_|[._]lora\.|\.lora_linear_layer\.)up\.weight",
    "alpha": r"\.alpha",
    "weight": r"\.diff",
    "bias": r"\.diff_b",
    "modulation": r"\.diff_m",
}
ENDING = re.compile("(?:" + "|".join(f"(?P<{part}>{ending})" for part, ending in ENDINGS.items()) + ")$")


class Unapplied(NamedTuple):
    """Kind of tensors that is not applied: its method, the names that it is known by, and the remedy."""

    what: str
    known_by: re.Pattern[str]
    remedy: str


INTO_WEIGHTS = "merge it into the checkpoint with its trainer's tools, or take a LoRA"
UNAPPLIED = (
    Unapplied("DoRA", re.compile(r"\.dora_scale$|\.lora_magnitude_vector\b"), INTO_WEIGHTS),
    Unapplied("LoKr", re.compile(r"\.lokr_\w+(?:\.|$)"), INTO_WEIGHTS),
    Unapplied("LoHa", re.compile(r"\.hada_\w+(?:\.|$)"), INTO_WEIGHTS),
    Unapplied("OFT", re.compile(r"\.(?:oft|boft)_\w+(?:\.|$)"), INTO_WEIGHTS),
    Unapplied("LoCon with a third matrix", re.compile(r"\.lora_mid\.weight$"), INTO_WEIGHTS),
    Unapplied(
        "a LoRA of the text encoder",
        re.compile(r"^(?:lora_te\d*_|text_encoder)"),
        "the transformer's is: take a file of that alone",
    ),
    Unapplied(
        "a LoRA that names a second expert",
        re.compile(r"^(?:transformer_2\.|diffusion_model_2\.|lora_transformer_2_)"),
        "save each expert's as a file of its own, with high_noise and low_noise in their names",
    ),
)


class LoraTensor(NamedTuple):
    """Parsed name of a tensor: the module in our names or a single tensor, its part, the module in the file's names."""

    module: str
    part: Part
    stored: str


class LoraNames:
    """All names that files may have for the modules of a network with so many blocks."""

    def __init__(self, num_layers: int) -> None:
        originals = transformer_names(num_layers).modules
        self._dotted = {ours: ours for ours in originals.values()} | originals
        self._joined = {name.replace(".", "_"): ours for name, ours in self._dotted.items()}

    def read(self, name: str) -> LoraTensor | None:
        """Parse a tensor's name; None if it is of no module, or of no known kind."""
        match = ENDING.search(name)
        if match is None:
            return None
        part: Part = next(part for part in ENDINGS if match[part] is not None)
        stored = without_prefixes(name[: match.start()])
        module = self._module(f"{stored}.modulation" if part == "modulation" else stored)
        return None if module is None else LoraTensor(module, part, stored)

    def _module(self, stored: str) -> str | None:
        for prefix in JOINED:
            if stored.startswith(prefix):
                return self._joined.get(stored.removeprefix(prefix).replace(".", "_"))
        return self._dotted.get(stored)


def is_of_lora(name: str) -> bool:
    """Whether a tensor's name ends as those of LoRAs do."""
    return ENDING.search(name) is not None


def without_prefixes(name: str) -> str:
    """A tensor's name as the network has it."""
    while (prefix := next((each for each in PREFIXES if name.startswith(each)), None)) is not None:
        name = name.removeprefix(prefix)
    return name
