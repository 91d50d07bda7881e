"""Formats of data sets, by name; the first that recognizes a file's first row reads it.

base.py         what a format is; checks and builders that formats share
trl.py          TRL's shapes, also ours: what every other format is brought into
meaning.py      columns that change what a row means: system, label, scores, weights
pairs.py        HH-RLHF, orca DPO pairs, LLaMA-Factory's pairs, UltraFeedback binarized, RewardBench
comparisons.py  SHP, PKU-SafeRLHF, JudgeBench, RewardBench 2, RM-Bench
ranked.py       Nectar, UltraFeedback
helpsteer.py    HelpSteer 2 (scores, preferences) and 3
oasst.py        OpenAssistant trees and messages
chat.py         alpaca, ShareGPT

A new format is one file (or a place in one of these) with a `Format`, and one line in FORMATS.
"""

from __future__ import annotations

from rlaif.data.formats import chat, comparisons, helpsteer, oasst, pairs, ranked, trl
from rlaif.data.formats.base import Fields, Format

FORMATS: dict[str, Format] = {
    "hh_rlhf": pairs.HH_RLHF,
    "ultrafeedback": ranked.ULTRAFEEDBACK,
    "ultrafeedback_binarized": pairs.ULTRAFEEDBACK_BINARIZED,
    "helpsteer2": helpsteer.HELPSTEER2,
    "helpsteer2_preference": helpsteer.HELPSTEER2_PREFERENCE,
    "helpsteer3": helpsteer.HELPSTEER3,
    "pku_saferlhf": comparisons.PKU_SAFERLHF,
    "nectar": ranked.NECTAR,
    "shp": comparisons.SHP,
    "orca_dpo": pairs.ORCA_DPO,
    "llama_factory": pairs.LLAMA_FACTORY,
    "alpaca": chat.ALPACA,
    "sharegpt": chat.SHAREGPT,
    "oasst_trees": oasst.OASST_TREES,
    "oasst_messages": oasst.OASST_MESSAGES,
    "reward_bench": pairs.REWARD_BENCH,
    "reward_bench_2": comparisons.REWARD_BENCH_2,
    "rm_bench": comparisons.RM_BENCH,
    "judge_bench": comparisons.JUDGE_BENCH,
    "trl": trl.TRL,
}
"""In the order of recognition: `trl`, the most general, is the last."""


def recognized(fields: Fields) -> str:
    """The name of the format of a file, from the fields of its first row; "" if none fits."""
    return next((name for name, each in FORMATS.items() if each.recognize(fields)), "")
