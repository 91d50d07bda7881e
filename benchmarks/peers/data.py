"""Pairs and prompts for both sides: every row fits whole, and is token ids once and for all.

Without data of one's own the pairs are the worked examples of the shipped constitution `hhh`, each
after a chat of other examples; the prompts are the same chats without their responses, and the
shipped prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from constitution import Constitution
from constitution.schema import Message
from rlaif.batching.encode import Pair, encode_conversation, encode_pairs, epoch_batches
from rlaif.data.prompts import load_prompts
from rlaif.data.records import Preference, Prompt, write_jsonl
from rlaif.labels.calibrate import GoldPair, load_gold

SEED = 0


@dataclass(frozen=True)
class PairJob:
    """The pairs to train on, and the indexes of every step's batch."""

    preferences: list[Preference]
    pairs: list[Pair]
    order: list[list[int]]

    def rows(self) -> list[list[list[int]]]:
        """[prompt, chosen, rejected] of every pair, as token ids."""
        return [
            [list(p.chosen.ids[: p.chosen.start]), *(list(r.ids[r.start :]) for r in _both(p))]
            for p in self.pairs
        ]

    def write(self, path: Path) -> Path:
        """Write the pairs as JSONL, which our trainers read; returns the path."""
        write_jsonl(path, self.preferences)
        return path

    def described(self) -> str:
        """The number of pairs and their mean lengths in tokens, for a result's name."""
        prompt = fmean(p.chosen.start for p in self.pairs)
        response = fmean(row.response_length for p in self.pairs for row in _both(p))
        return (
            f"{len(self.pairs)} pairs, prompts of {prompt:.0f} tokens, responses of {response:.0f}"
        )


def _both(pair: Pair) -> tuple[object, object]:
    return pair.chosen, pair.rejected


def choose_pairs(
    tokenizer: object, data: Path | None, steps: int, batch: int, max_tokens: int
) -> PairJob:
    """`steps` batches of pairs, none seen twice, none with a row over max_tokens.

    Raises SystemExit when there are not so many.
    """
    gold = load_gold(data) if data else [p for n in range(6) for p in worked_pairs(n)]
    preferences = [_preference(f"{place}-{pair.id}", pair) for place, pair in enumerate(gold)]
    fitting = encode_pairs(tokenizer, preferences, max_tokens, "skip").pairs
    count = steps * batch
    if len(fitting) < count:
        raise SystemExit(
            f"{count} pairs are needed ({steps} steps of {batch}), {len(fitting)} of the "
            f"{len(gold)} have at most {max_tokens} tokens; lower --steps or --batch, raise "
            "--max-tokens, or give more --data"
        )
    chosen = fitting[:: len(fitting) // count][:count]
    by_id = {p.id: p for p in preferences}
    order = epoch_batches(count, batch, 1, SEED)
    return PairJob([by_id[p.id] for p in chosen], chosen, order)


def _preference(id: str, pair: GoldPair) -> Preference:
    return Preference(
        id=id,
        prompt=pair.prompt,
        chosen=(_reply(pair.chosen),),
        rejected=(_reply(pair.rejected),),
        prob_chosen=1.0,
    )


def worked_pairs(earlier: int) -> Iterator[GoldPair]:
    """The worked examples of `hhh` that have a better response, each after `earlier` others."""
    constitution = Constitution.load("hhh")
    turns: list[tuple[Sequence[Message], str, str]] = []
    for example in (e for principle in constitution.principles for e in principle.examples):
        good, bad = example.response_a, example.response_b
        if example.preferred == "B":
            good, bad = bad, good
        if example.preferred != "TIE":
            turns.append((example.conversation, good, bad))
    for place, (question, good, bad) in enumerate(turns):
        before = [turns[(place + 5 * i) % len(turns)] for i in range(1, earlier + 1)]
        chat = [m for messages, reply, _ in before for m in (*messages, _reply(reply))]
        yield GoldPair(id=str(place), prompt=(*chat, *question), chosen=good, rejected=bad)


def _reply(reply: str) -> Message:
    return Message(role="assistant", content=reply)


def choose_prompts(
    tokenizer: object, data: Path | None, count: int, max_tokens: int
) -> tuple[list[Prompt], list[list[int]]]:
    """`count` prompts of at most max_tokens, evenly spread over what there is, with their ids.

    Raises SystemExit when there are not so many.
    """
    if data:
        found = load_prompts(data)
    else:
        chats = [p for n in range(4) for p in worked_pairs(n)]
        found = [Prompt(id=f"chat-{i}", messages=p.prompt) for i, p in enumerate(chats)]
        found += load_prompts("quickstart")
    encoded = [(prompt, encode_conversation(tokenizer, prompt.messages)) for prompt in found]
    fitting = [(prompt, ids) for prompt, ids in encoded if len(ids) <= max_tokens]
    if len(fitting) < count:
        raise SystemExit(
            f"{count} prompts are needed, {len(fitting)} of the {len(found)} have at most "
            f"{max_tokens} tokens; ask for fewer, or give more --data"
        )
    chosen = fitting[:: len(fitting) // count][:count]
    return [prompt for prompt, _ in chosen], [ids for _, ids in chosen]
