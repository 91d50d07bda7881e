"""Data sets of two responses with a verdict on which is better.

shp          https://huggingface.co/datasets/stanfordnlp/SHP: history, human_ref_A, human_ref_B;
             `labels` is 1 if A is preferred, 0 if B is.
pku_saferlhf https://huggingface.co/datasets/PKU-Alignment/PKU-SafeRLHF: response_0, response_1;
             `better_response_id` is the more helpful one, `safer_response_id` the safer one. Safe
             RLHF maximizes helpfulness under the constraint of safety (arXiv:2310.12773, eq. 9):
             the more helpful one is chosen where both are safe, else the safer one.
judge_bench  https://github.com/ScalerLab/JudgeBench: question, response_A, response_B; `label` is
             "A>B" or "B>A".
reward_bench_2
             https://huggingface.co/datasets/allenai/reward-bench-2: chosen and rejected are lists;
             every chosen response is better than every rejected one.
rm_bench     https://github.com/THU-KEG/RM-Bench: the same, three styles each. The benchmark
             compares all nine pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from rlaif.data.formats.base import Converted, Fields, Format, LeftOut, by_row, has, text, wrong
from rlaif.data.formats.trl import preference

_SAFE = ("is_response_0_safe", "is_response_1_safe")


def pair(
    prompt: Any, chosen: str, rejected: str, where: str, prob_chosen: float = 1.0
) -> Converted:
    """A pair, or why it is left out: an empty response or identical ones.

    prompt: a text or messages.
    """
    if not (chosen.strip() and rejected.strip()):
        return LeftOut("an empty response")
    parts = {"prompt": prompt, "chosen": chosen, "rejected": rejected, "prob_chosen": prob_chosen}
    return preference(parts, where)


def _shp(fields: Fields, where: str) -> Iterator[Converted]:
    a, b = (text(fields, f"human_ref_{side}", where) for side in "AB")
    label = fields.get("labels")
    if label not in (0, 1):
        raise wrong(where, "labels", "1 (A is preferred) or 0 (B is)", label)
    better, worse = (a, b) if label else (b, a)
    yield pair(text(fields, "history", where), better, worse, where)


def _pku(fields: Fields, where: str) -> Iterator[Converted]:
    responses = [text(fields, f"response_{place}", where) for place in (0, 1)]
    both_safe = all(fields.get(name) is True for name in _SAFE)
    name = "better_response_id" if both_safe else "safer_response_id"
    if name not in fields:  # the single-dimension copies have only one of them
        name = "better_response_id" if "better_response_id" in fields else "safer_response_id"
    best = fields.get(name)
    if best == -1:
        yield LeftOut("no better response")
    elif isinstance(best, bool) or best not in (0, 1):
        raise wrong(where, name, "0 or 1", best)
    else:
        place = int(best)  # 1.0 in a table with nulls
        prompt = text(fields, "prompt", where)
        yield pair(prompt, responses[place], responses[1 - place], where)


def _judge_bench(fields: Fields, where: str) -> Iterator[Converted]:
    a, b = (text(fields, f"response_{side}", where) for side in "AB")
    label = fields.get("label")
    if label in ("A=B", "B=A"):
        yield LeftOut("equal scores")
    elif label not in ("A>B", "B>A"):
        raise wrong(where, "label", "A>B or B>A", label)
    else:
        better, worse = (a, b) if label == "A>B" else (b, a)
        yield pair(text(fields, "question", where), better, worse, where)


def _are_lists(fields: Fields) -> bool:
    return "prompt" in fields and all(_is_texts(fields.get(n)) for n in ("chosen", "rejected"))


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)


def _is_reward_bench_2(fields: Fields) -> bool:
    return _are_lists(fields) and "num_correct" in fields


def _lists(fields: Fields, where: str) -> Iterator[Converted]:
    for name in ("chosen", "rejected"):
        if not _is_texts(fields.get(name)):
            raise wrong(where, name, "a list of texts", fields.get(name))
    prompt = text(fields, "prompt", where)
    for chosen, rejected in product(fields["chosen"], fields["rejected"]):
        yield pair(prompt, chosen, rejected, where)


SHP = Format(
    recognize=has("history", "human_ref_A", "human_ref_B", "labels"),
    convert=by_row(_shp),
    columns=frozenset({"history", "human_ref_A", "human_ref_B", "labels"}),
    url="https://huggingface.co/datasets/stanfordnlp/SHP",
)
PKU_SAFERLHF = Format(
    recognize=lambda fields: (
        {"prompt", "response_0", "response_1"} <= fields.keys()
        and bool({"better_response_id", "safer_response_id"} & fields.keys())
    ),
    convert=by_row(_pku),
    columns=frozenset(
        {"prompt", "response_0", "response_1", "better_response_id", "safer_response_id", *_SAFE}
    ),
    url="https://huggingface.co/datasets/PKU-Alignment/PKU-SafeRLHF",
)
JUDGE_BENCH = Format(
    recognize=has("question", "response_A", "response_B", "label"),
    convert=by_row(_judge_bench),
    columns=frozenset({"question", "response_A", "response_B", "label"}),
    url="https://github.com/ScalerLab/JudgeBench",
)
REWARD_BENCH_2 = Format(
    recognize=_is_reward_bench_2,
    convert=by_row(_lists),
    columns=frozenset({"prompt", "chosen", "rejected", "num_correct"}),
    url="https://huggingface.co/datasets/allenai/reward-bench-2",
)
RM_BENCH = Format(
    recognize=_are_lists,
    convert=by_row(_lists),
    columns=frozenset({"prompt", "chosen", "rejected"}),
    url="https://github.com/THU-KEG/RM-Bench",
)
