"""The kinds of stages that a recipe may have, one file each.

sample.py    responses of a model to prompts
label.py     a judge's preferences between samples
redteam.py   attacks on a model: responses that should not be, and benign twins
revise.py    a judge's critiques and revisions of samples
training/    sft, reward, dpo, ppo, rest
merge.py     an adapter folded into its model; the graph adds it where it is needed
respond.py   policies answer held-out prompts
evaluate.py  policies compared with their start
report.py    the HTML page of a run
comparing/   best_of_n, compare
rounds/      evaluate_round, keep_round: a recipe's `rounds` add them
evaluating.py   what evaluating stages share

A new kind is a file here or in one of the folders, and a line in KINDS.
"""

from __future__ import annotations

from rlaif.pipeline.kinds.comparing.best_of_n import BestOfNStage
from rlaif.pipeline.kinds.comparing.compare import CompareStage
from rlaif.pipeline.kinds.evaluate import EvaluateStage
from rlaif.pipeline.kinds.label import LabelStage
from rlaif.pipeline.kinds.merge import MergeStage
from rlaif.pipeline.kinds.redteam import RedTeamStage
from rlaif.pipeline.kinds.report import ReportStage
from rlaif.pipeline.kinds.respond import RespondStage
from rlaif.pipeline.kinds.revise import ReviseStage
from rlaif.pipeline.kinds.rounds.evaluate_round import EvaluateRoundStage
from rlaif.pipeline.kinds.rounds.keep_round import KeepRoundStage
from rlaif.pipeline.kinds.sample import SampleStage
from rlaif.pipeline.kinds.training.dpo import DPOStage
from rlaif.pipeline.kinds.training.ppo import PPOStage
from rlaif.pipeline.kinds.training.rest import ReSTStage
from rlaif.pipeline.kinds.training.reward import RewardStage
from rlaif.pipeline.kinds.training.sft import SFTStage
from rlaif.pipeline.stage import Stage

KINDS: dict[str, type[Stage]] = {
    "sample": SampleStage,
    "label": LabelStage,
    "redteam": RedTeamStage,
    "revise": ReviseStage,
    "sft": SFTStage,
    "reward": RewardStage,
    "dpo": DPOStage,
    "ppo": PPOStage,
    "rest": ReSTStage,
    "merge": MergeStage,
    "respond": RespondStage,
    "evaluate": EvaluateStage,
    "report": ReportStage,
    "best_of_n": BestOfNStage,
    "compare": CompareStage,
    "evaluate_round": EvaluateRoundStage,
    "keep_round": KeepRoundStage,
}
