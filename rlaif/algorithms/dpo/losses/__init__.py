"""DPO's losses: one file per kind, and the table of their names.

    h = (log π_c - log π_r) - (log ref_c - log ref_r)        log_ratio_margin, (B,)

    soft_sigmoid    -p·logsigmoid(βh) - (1-p)·logsigmoid(-βh)      p = prob_chosen: cDPO per pair
    sigmoid         -logsigmoid(βh)                                Eq. 7, arXiv:2305.18290
    robust          [-(1-ε)·logsigmoid(βh) + ε·logsigmoid(-βh)] / (1-2ε)
                                                                   arXiv:2403.00409, ε = label_noise
    ipo_sum         (h - 1/(2β))²                                  Eq. 17, arXiv:2310.12036
    ipo_mean        the same, every log π divided by its token count, as TRL does
    sigmoid_norm    -logsigmoid(βh), every log π divided by its token count (arXiv:2411.15124)

    preferred_nll   -log π / tokens of the response that the label prefers: with sft_weight added
                    to any of these (Eq. 1 of arXiv:2404.19733)

    log π_c, log π_r    chosen, rejected of PairLogprobs: sums over the response tokens, (B,)
    log ref             ref_chosen, ref_rejected: the same before training
    β                   beta: 0.1 by default, sigmoid_norm 5, ipo_mean 1

    base.py       log-probs of pairs, and the log-ratio margins made of them
    sigmoid.py    soft_sigmoid, sigmoid, sigmoid_norm
    robust.py     robust, with label_noise as a setting of its own
    ipo.py        ipo_sum, ipo_mean

To add a loss: a file with a `Loss`, and its line in LOSSES. Settings read this table, so these
files import no torch at their top.
Left out: f-divergences, reference-free variants.
"""

from __future__ import annotations

from typing import Any

from rlaif.algorithms.dpo.losses.base import (
    Loss,
    PairLogprobs,
    log_ratio_margin,
    log_ratio_margin_per_token,
    log_ratios,
    logsigmoid,
    preferred_nll,
)
from rlaif.algorithms.dpo.losses.ipo import IPO_MEAN, IPO_SUM
from rlaif.algorithms.dpo.losses.robust import ROBUST
from rlaif.algorithms.dpo.losses.sigmoid import SIGMOID, SIGMOID_NORM, SOFT_SIGMOID

__all__ = [
    "LOSSES",
    "Loss",
    "PairLogprobs",
    "log_ratio_margin",
    "log_ratio_margin_per_token",
    "log_ratios",
    "logsigmoid",
    "preferred_nll",
]

LOSSES: dict[str, Loss[Any]] = {
    "soft_sigmoid": SOFT_SIGMOID,
    "sigmoid": SIGMOID,
    "robust": ROBUST,
    "ipo_sum": IPO_SUM,
    "ipo_mean": IPO_MEAN,
    "sigmoid_norm": SIGMOID_NORM,
}
