"""Put a checkpoint together in the layout of Wan2.2-TI2V: `python -m training.export RUN VAE_RUN OUT`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from ringlight.core.config import DEFAULTS_FILE, DEMO_NAME
from ringlight.families.wan22_ti2v.demo import DEMO
from training.networks import make_text_encoder, make_transformer
from training.run import STATE
from training.vae_start import make_vae
from training.vocabulary import meanings, tokenizer_json

DEFAULTS = {"width": 256, "height": 160, "num_frames": 17, "fps": 12, "num_inference_steps": 20, "guidance_scale": 2.0}
NAME = f"{DEMO_NAME}-film"
EXAMPLES = [  # a motion, a place and a shape each, all colours
    "a red ball rolls to the right over green ground",
    "a yellow box rises over snow",
    "a blue cone rolls to the left at night",
    "an orange ball falls over sand",
    "a purple box rolls to the right over snow",
    "a green ball rises at night",
]


def networks_of(run: Path, vae_run: Path) -> dict[str, nn.Module]:
    """The trained networks by their folders: of the transformer and the text encoder the averages."""
    state = torch.load(run / STATE, weights_only=True)["networks"]["averages"]
    statistics = torch.load(run / "statistics.pt", weights_only=True)
    networks = {"transformer": make_transformer(), "text_encoder": make_text_encoder(), "vae": make_vae()}
    for name in ("transformer", "text_encoder"):
        own = {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
        networks[name].load_state_dict(own)
    with torch.no_grad():
        table = networks["text_encoder"].shared.weight
        table.copy_(table[list(meanings())])
    networks["vae"].load_state_dict(torch.load(vae_run / STATE, weights_only=True)["networks"]["vae"])
    networks["vae"].register_to_config(
        latents_mean=[round(v, 5) for v in statistics["mean"].flatten().tolist()],
        latents_std=[round(v, 5) for v in statistics["std"].flatten().tolist()],
    )
    return networks


def write(networks: dict[str, nn.Module], out: Path) -> None:
    """Write the checkpoint's folder, weights in bfloat16."""
    for name, network in networks.items():
        for parameter in network.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)
        network.save_pretrained(out / name)
    tokenizer = out / "tokenizer"
    tokenizer.mkdir(parents=True, exist_ok=True)
    (tokenizer / "tokenizer.json").write_text(json.dumps(tokenizer_json(), ensure_ascii=False), encoding="utf-8")
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    _write_json(tokenizer / "special_tokens_map.json", special)
    config = {"tokenizer_class": "T5Tokenizer", "model_max_length": 512, "extra_ids": 0}
    _write_json(tokenizer / "tokenizer_config.json", config | special | {"additional_special_tokens": []})
    _write_json(out / "scheduler" / "scheduler_config.json", dict(DEMO.scheduler))
    _write_json(out / "model_index.json", {**DEMO.index, "_name_or_path": NAME})
    _write_json(out / DEFAULTS_FILE, {"defaults": DEFAULTS, "examples": EXAMPLES})


def _write_json(path: Path, value: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of the transformer's run")
    parser.add_argument("vae_run", type=Path, help="folder of the VAE's run")
    parser.add_argument("out", type=Path, help="folder of the checkpoint")
    asked = parser.parse_args(arguments)
    write(networks_of(asked.run, asked.vae_run), asked.out)
    files = [path for path in sorted(asked.out.rglob("*")) if path.is_file()]
    for path in files:
        print(f"{path.stat().st_size / 2**20:8.3f} MiB  {path.relative_to(asked.out)}")
    print(f"{sum(path.stat().st_size for path in files) / 2**20:8.3f} MiB in all")


if __name__ == "__main__":
    main()
