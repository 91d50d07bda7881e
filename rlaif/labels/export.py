"""Export of labels in the formats of other trainers, one JSON object per line.

trl        prompt, chosen, rejected as messages (TRL's conversational preference format),
           prob_chosen, and how the responses ended (chosen_complete, …), which TRL does not
           read; `datasets.load_dataset("json", data_files=…)`
openrlhf   the same messages, for `--prompt_key prompt --chosen_key chosen --rejected_key
           rejected --apply_chat_template`, and margin, which `--margin_loss` subtracts from the
           difference of rewards: the log-odds ln(p / (1 - p)) of p = prob_chosen
jsonl      plain text: the prompt (its turns joined, each with its role, if there is more than
           one), chosen, rejected, prob_chosen, chosen_complete, …
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlaif.data.records import ENDS, Preference, RecordError, atomic_open

HIGHEST_MARGIN = 10.0
"""Log-odds; 10 corresponds to a probability of 0.99995. A label of 1 has no finite margin."""


@dataclass(frozen=True, slots=True)
class Exported:
    """The counts of an export."""

    written: int
    left_out: int  # prob_chosen below the minimum


def export(labels: Iterable[Preference], out: Path, form: str, min_prob: float = 0.5) -> Exported:
    """Write labels with prob_chosen >= min_prob to `out`, atomically.

    form: a key of `FORMS`. Raises RecordError when no label is left or `out` cannot be written.
    """
    if out.suffix != ".jsonl":
        raise RecordError(f"unsupported file type: {out}; --out must end in .jsonl")
    row_of = FORMS[form]
    written = left_out = 0
    with atomic_open(out) as lines:
        for label in labels:
            if label.prob_chosen < min_prob:
                left_out += 1
                continue
            lines.write(json.dumps(row_of(label), ensure_ascii=False) + "\n")
            written += 1
        if not written:
            raise RecordError(
                f"{out}: none of {left_out} labels has prob_chosen >= {min_prob:g}; "
                "lower --min-prob"
                if left_out
                else f"{out}: not written, because the input contains no labels"
            )
    return Exported(written, left_out)


def margin(prob_chosen: float) -> float:
    """ln(p / (1 - p)), limited to ± HIGHEST_MARGIN.

    >>> round(margin(0.9), 4)
    2.1972
    """
    lowest = 1.0 / (1.0 + math.exp(HIGHEST_MARGIN))
    prob = min(max(prob_chosen, lowest), 1.0 - lowest)
    return math.log(prob) - math.log1p(-prob)


def _messages(label: Preference) -> dict[str, Any]:
    kept = label.model_dump(include={"id", "prompt", "chosen", "rejected"})
    return {**kept, "prob_chosen": label.prob_chosen, **_ends(label)}


def _ends(label: Preference) -> dict[str, Any]:
    return label.model_dump(include=set(ENDS))


def _with_margin(label: Preference) -> dict[str, Any]:
    return {**_messages(label), "margin": margin(label.prob_chosen)}


def _text(label: Preference) -> dict[str, Any]:
    turns = label.prompt
    prompt = (
        turns[0].content
        if len(turns) == 1
        else "\n\n".join(f"{turn.role.capitalize()}: {turn.content}" for turn in turns)
    )
    return {
        "id": label.id,
        "prompt": prompt,
        "chosen": label.chosen_text,
        "rejected": label.rejected_text,
        "prob_chosen": label.prob_chosen,
        **_ends(label),
    }


FORMS: Mapping[str, Callable[[Preference], dict[str, Any]]] = {
    "trl": _messages,
    "openrlhf": _with_margin,
    "jsonl": _text,
}
