"""Build the demo checkpoint's tokenizer: a small unigram model in the layout of T5's. What it lacks is <unk>.

    python scripts/build_demo_tokenizer.py

Trained on the sentences below, which are ours. Its result, src/ringlight/families/wan/demo_tokenizer.json, is in the
repository; run this only to change it.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

OUT = Path(__file__).parents[1] / "src" / "ringlight" / "families" / "wan" / "demo_tokenizer.json"
SPECIAL = ["<pad>", "</s>", "<unk>"]
NUM_LEARNT = 1700

SUBJECTS = """
a grey cat; two dogs; an old lighthouse keeper; a woman in a red coat; a child with a yellow kite; a flock of
starlings; a steam train; a wooden boat; a glass of tea; a candle flame; a mountain village; a robot gardener; a
surfer; a violin player; a paper lantern; an astronaut; a herd of horses; a street market; a bicycle courier; a
whale; a hot air balloon; a clock tower; a dancer; a waterfall; a field of poppies; a city skyline; a lizard on
a rock; a chef; a comet; the portrait of an admiral; a computer scientist; a ring of light; a hummingbird; a
vintage car; a snowy forest
"""
ACTIONS = """
walks slowly along the beach; turns towards the camera and smiles; runs through tall grass in the wind; drifts
across a calm lake at dawn; climbs the stairs; rises above the clouds; spins in the rain; opens an old wooden
door; waves from the window; dances under falling leaves; glides over the water; burns down while smoke curls
upward; looks up at the stars; jumps over a puddle; melts in the afternoon sun; pours from a silver kettle;
crosses a bridge at night; sails into the storm; plays in the snow; sings on a small stage; flies between tall
buildings; sleeps beside the fire
"""
STYLES = """
cinematic lighting, shallow depth of field; slow motion, high detail, sharp focus; hand-held camera, film grain;
wide aerial shot, golden hour; close-up, soft natural light; watercolour animation, gentle colours; black and
white documentary; time lapse, vivid colours, 4k; low angle tracking shot; static tripod shot, overcast sky;
studio light on a dark background; neon reflections on wet asphalt; blurry, low quality, distorted, watermark,
text, extra fingers, overexposed, jpeg artefacts; no people, no text, best quality, realistic motion, steady
camera, smooth panning from left to right
"""


def phrases(listed: str) -> list[str]:
    """The parts between semicolons, on one line each."""
    return [" ".join(phrase.split()) for phrase in listed.split(";")]


def sentences() -> list[str]:
    """Every subject with every action and style."""
    return [
        f"{subject} {action}, {style}."
        for subject, action, style in itertools.product(phrases(SUBJECTS), phrases(ACTIONS), phrases(STYLES))
    ]


def main() -> None:
    """Train, add the letters and signs that the sentences lack, write."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=NUM_LEARNT,
        special_tokens=SPECIAL,
        unk_token="<unk>",
        max_piece_length=12,
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences(), trainer)
    plain = json.loads(tokenizer.to_str())
    pieces = plain["model"]["vocab"]
    lowest = min(score for _, score in pieces) - 10
    known = {piece for piece, _ in pieces}
    pieces += [[chr(code), lowest] for code in range(0x21, 0x7F) if chr(code) not in known]
    tokenizer = Tokenizer.from_str(json.dumps(plain))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.save(str(OUT), pretty=False)
    print(OUT, tokenizer.get_vocab_size(), "pieces", OUT.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
