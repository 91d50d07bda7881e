"""What SFT on instructions costs in plain text, alone and with a fifth of plain text mixed in.

    python -m benchmarks.training.forgetting OUT
    python -m benchmarks.training.forgetting OUT --model FOLDER --seeds 5 --steps 60

Each seed trains twice from the same base for the same number of steps: on instructions, and on a
mix of 80 % instructions and 20 % plain text (rows). What counts is text_nll_rise, the rise of the
loss on the held-out plain text that ships (rlaif/training/plain_text), after the last step; the
difference of the two arms is paired by seed, with Student's t interval over seeds.

The instructions are short exercises with one right answer, made from templates here, so that
nothing is fetched; the plain text is this project's documentation. Both are far from the held-out
text. Both arms train a LoRA of rank 16 at ten times the default rate, so that thirty steps forget
visibly. A training that was killed resumes, and a finished one is not repeated.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from constitution.schema import Message
from rlaif.algorithms.sft.config import SFTConfig
from rlaif.algorithms.sft.sources import SFTSource
from rlaif.data.records import Demonstration, PlainText, write_json
from rlaif.evaluation.intervals import Estimate, mean_estimate
from rlaif.models import catalog
from rlaif.models.lora_config import LoraConfig

DOCS = Path(__file__).parents[2] / "docs"
TEXT_SHARE = 0.2
ARMS = ("instructions", "with text")
WORDS = (
    "river", "window", "garden", "letter", "copper", "silver", "orange", "button", "kettle",
    "ladder", "mirror", "needle", "pencil", "rabbit", "saddle", "timber", "velvet", "walnut",
    "basket", "candle", "dragon", "engine", "feather", "goblet", "hammer", "island", "jacket",
    "kitten", "lantern", "meadow", "number", "oyster", "pepper", "quiver", "ribbon", "shovel",
    "thimble", "uncle", "violin", "wagon",
)  # fmt: skip


def instructions() -> list[Demonstration]:
    """Four exercises on every word."""
    return [
        Demonstration(
            id=f"{word}-{number}", prompt=(Message(role="user", content=question),), response=answer
        )
        for word in WORDS
        for number, (question, answer) in enumerate(_exercises(word))
    ]


def _exercises(word: str) -> Iterator[tuple[str, str]]:
    place = WORDS.index(word)
    other, third = WORDS[(place + 7) % len(WORDS)], WORDS[(place + 19) % len(WORDS)]
    yield f"Spell {word} backwards.", f"BACKWARDS: {word[::-1].upper()}"
    yield f"List the letters of {word}.", "\n".join(f"- {letter}" for letter in word)
    listed = sorted([word, other, third])
    yield f"Sort these words: {word}, {other}, {third}.", f"SORTED: {' < '.join(listed)}"
    vowels = sum(letter in "aeiou" for letter in word)
    yield f"How many vowels does {word} have?", f"VOWELS: {vowels} of {len(word)} letters"


def texts() -> list[PlainText]:
    """The pages of this project's documentation."""
    paths = sorted(DOCS.rglob("*.md"))
    return [PlainText(id=p.stem, text=p.read_text(encoding="utf-8")) for p in paths]


def sources_of(arm: str) -> list[SFTSource]:
    """What an arm trains on."""
    own = SFTSource("instructions", instructions(), 1 - TEXT_SHARE)
    return [own] if arm == ARMS[0] else [own, SFTSource("text", texts(), TEXT_SHARE)]


def rise(out: Path, model: str, arm: str, seed: int, steps: int) -> float:
    """text_nll_rise after the last step of one training, run or read from its metrics."""
    from rlaif.algorithms.sft.train import train

    folder = out / f"{arm.replace(' ', '-')}-{seed}"
    config = SFTConfig(
        seed=seed, steps=steps, max_tokens=128, lora=LoraConfig(rank=16), learning_rate=2e-3
    )
    result = folder / "rise.json"
    if not result.is_file():
        train(config, model, sources_of(arm), folder)
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        write_json(result, {"text_nll_rise": json.loads(lines[-1])["text_nll_rise"]})
    return float(json.loads(result.read_text(encoding="utf-8"))["text_nll_rise"])


def compared(out: Path, model: str, seeds: int, steps: int) -> Estimate:
    """The rise with text less that without, paired by seed; each seed is printed."""
    differences = []
    for seed in range(seeds):
        alone, mixed = (rise(out, model, arm, seed, steps) for arm in ARMS)
        print(f"seed {seed}: {ARMS[0]} {alone:+.2%}, {ARMS[1]} {mixed:+.2%}", flush=True)
        differences.append(mixed - alone)
    return mean_estimate(differences)


def main() -> None:
    """Train both arms of every seed, and print the paired difference with its interval."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="smollm2-135m", help="short name, folder or hub id")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    given = parser.parse_args()
    found = compared(given.out, catalog.resolve(given.model), given.seeds, given.steps)
    interval = "" if found.low is None else f" [{found.low:+.2%}, {found.high:+.2%}]"
    print(f"{ARMS[1]} less {ARMS[0]}: {found.value:+.2%}{interval}, {found.n} seeds")


if __name__ == "__main__":
    main()
