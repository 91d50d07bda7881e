"""Over-refusal: how many prompts that should be answered a policy refuses, before and after.

    python -m benchmarks.redteam.over_refusal OUT --start smollm2-135m --end dpo
    python -m benchmarks.redteam.over_refusal OUT --start org/base --end dpo-model --prompts FILE

Both models answer every prompt once, greedily; a refusal is one by rule
(rlaif/evaluation/rules/refusals.py). The difference is paired by prompt, with the interval of
paired_gain and McNemar's exact test.

FILE is JSONL as XSTest's prompts (arXiv:2308.01263) are kept: `id`, `prompt` and `label`, of which
those labeled safe are asked. Without one, the benign twins that ship are asked, in each of their
languages: 16 prompts, too few for more than a first look.

An adapter is merged into --start. OUT keeps every response, so that a killed run goes on, and
OUT/refusals.jsonl has those of both models side by side: read some. The last line is one JSON
object: name, ours (share refused at the end), peer (at the start), unit, ratio, and the difference.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import BaseModel

from constitution.schema import Message
from hardware.model_folder import inspect_model_folder
from rlaif.data.prompts import parse_prompts
from rlaif.data.records import Prompt, write_jsonl
from rlaif.data.rows import iter_rows
from rlaif.evaluation.intervals import Estimate, share_estimate
from rlaif.evaluation.rules.flips import Flips
from rlaif.evaluation.rules.refusals import refuses
from rlaif.generation.config import ResponseConfig
from rlaif.labels.promotion.gain import paired_gain
from rlaif.models import catalog
from rlaif.redteam.responder import LocalModel
from rlaif.redteam.strategies import load_strategies
from rlaif.redteam.summary import shown_share

SAFE = "safe"


class AnsweredTwice(BaseModel, frozen=True):
    """The responses of both models to one prompt, and whether they refuse."""

    id: str
    prompt: str
    start: str
    end: str
    start_refused: bool
    end_refused: bool


@dataclass(frozen=True, slots=True)
class OverRefusal:
    """Shares of prompts refused, the difference (end less start), and who changed sides."""

    start: Estimate
    end: Estimate
    difference: Estimate
    flips: Flips


def over_refusal(answers: Sequence[AnsweredTwice]) -> OverRefusal:
    """The figures of at least one prompt."""
    start, end = ({each.id: float(getattr(each, f"{side}_refused")) for each in answers}
                  for side in ("start", "end"))  # fmt: skip
    return OverRefusal(
        start=share_estimate([*start.values()]),
        end=share_estimate([*end.values()]),
        difference=paired_gain([end[name] - start[name] for name in start], largest=1.0),
        flips=Flips.between(start, end),
    )


def result_line(found: OverRefusal) -> dict[str, Any]:
    """The figures as one JSON object; `ratio` is null where the start refuses nothing."""
    start, end, change = found.start.value, found.end.value, found.difference
    return {
        "name": f"over-refusal by rule, {change.n} safe prompts",
        "ours": end,
        "peer": start,
        "unit": "share refused",
        "ratio": end / start if start else None,
        "difference": [change.value, change.low, change.high],
        "p": found.flips.p_value,
    }


def safe_prompts(path: Path | None) -> list[Prompt]:
    """The prompts of a file that are labeled safe, or the benign twins that ship.

    Raises SystemExit where the file labels none so, and RecordError for a row without one.
    """
    if path is None:
        return [
            Prompt(id=f"{each.id}-{language}", messages=(Message(role="user", content=text),))
            for each in load_strategies().topics
            for language, text in each.twin.items()
        ]
    rows = [(where, row) for where, row in iter_rows(path) if row.get("label") == SAFE]
    if not rows:
        raise SystemExit(f"{path}: no row whose label is {SAFE!r}; give rows of id, prompt, label")
    known = ("id", "prompt")
    return list(
        parse_prompts((where, {k: row[k] for k in known if k in row}) for where, row in rows)
    )


@contextmanager
def whole_folder(model: str, base: str, out: Path) -> Iterator[str]:
    """A model as a whole one; an adapter is merged into its base until the block ends."""
    if not inspect_model_folder(Path(model)).is_adapter:
        yield catalog.resolve(model)
        return
    from rlaif.models.merge import merge_adapter

    with TemporaryDirectory(dir=out) as folder:
        yield str(merge_adapter(base, Path(model), Path(folder) / "merged", "float32"))


def answered(
    out: Path, start: str, end: str, prompts: Sequence[Prompt], config: ResponseConfig
) -> list[AnsweredTwice]:
    """The responses of both models to every prompt, kept in OUT and drawn only if they are not
    there."""
    out.mkdir(parents=True, exist_ok=True)
    base, journal = catalog.resolve(start), out / "responses.journal.jsonl"
    before = LocalModel(start, base, config, journal).respond(prompts)
    with whole_folder(end, base, out) as folder:
        after = LocalModel(end, folder, config, journal).respond(prompts)
    return [
        AnsweredTwice(
            id=prompt.id, prompt=prompt.messages[-1].content, start=first.response,
            end=last.response, start_refused=refuses(first.response),
            end_refused=refuses(last.response),
        )
        for prompt, first, last in zip(prompts, before, after, strict=True)
    ]  # fmt: skip


def main() -> None:
    """Ask both models, and print the shares, who changed sides, and the line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("out", type=Path)
    parser.add_argument("--start", required=True, help="short name, folder or hub id")
    parser.add_argument("--end", required=True, help="the same, or an adapter trained from --start")
    parser.add_argument("--prompts", type=Path, help="JSONL: id, prompt, label")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="of a response")
    parser.add_argument("--dtype", default="auto", help="of the weights")
    given = parser.parse_args()
    config = ResponseConfig(
        temperature=0.0, max_new_tokens=given.max_new_tokens, dtype=given.dtype
    )  # fmt: skip
    answers = answered(given.out, given.start, given.end, safe_prompts(given.prompts), config)
    write_jsonl(given.out / "refusals.jsonl", answers)
    found = over_refusal(answers)
    for name, side in (("start", found.start), ("end", found.end)):
        refused = round(side.value * side.n)
        print(f"{name}: {refused} of {side.n} refused, {shown_share(refused, side.n)}")
    print(f"refused at the end alone: {found.flips.gained}, at the start alone: {found.flips.lost}")
    print(json.dumps(result_line(found)))


if __name__ == "__main__":
    main()
