"""The sections of the page, one per stage.

base.py         what a section holds, and what it tells the first screen
responses.py    sample and respond: responses by prompt
labels.py       label: how sure the judge was, by trait, and the labels themselves
redteam.py      redteam: how often attacks succeed, by family and topic
revisions.py    revise: lessons, what was refused and why
training.py     sft, dpo, ppo, rest, reward: curves, alarms, the reward model's quality
gold.py         what is truly better, where the judge is planted
evaluation.py   evaluate: win rates with intervals, and every response with its verdict
rounds.py       evaluate_round and keep_round: each round, and all of them side by side
"""

from __future__ import annotations

from collections.abc import Mapping

from rlaif.report import curves
from rlaif.report.sections.base import SectionBuilder
from rlaif.report.sections.evaluation import evaluation_section
from rlaif.report.sections.labels import label_section
from rlaif.report.sections.redteam import redteam_section
from rlaif.report.sections.responses import respond_section, sample_section
from rlaif.report.sections.revisions import revise_section
from rlaif.report.sections.rounds import round_section, rounds_section
from rlaif.report.sections.training import policy_section, reward_section

SECTIONS: Mapping[str, SectionBuilder] = {
    "sample": sample_section,
    "label": label_section,
    "redteam": redteam_section,
    "revise": revise_section,
    "sft": policy_section(curves.SFT),
    "reward": reward_section,
    "dpo": policy_section(curves.DPO),
    "ppo": policy_section(curves.PPO),
    "rest": policy_section(curves.REST),
    "respond": respond_section,
    "evaluate": evaluation_section,
    "evaluate_round": round_section,
    "keep_round": rounds_section,
}
"""Kind of stage → the builder of its section. Other kinds get a list of their files."""
