"""How well a policy still predicts held-out plain text: forgetting, while it trains.

    text_nll       = -(1/N) Σ_t log π(y_t | y_<t)        nats per token
    text_nll_rise  = text_nll / text_nll of the start - 1

    y_t            the text's tokens, at most TOKENS of them, in windows of WINDOW; each window is
                   predicted from its own tokens, and the last one of the window before
    N              the number of tokens predicted

The text has no turns and no end token: what is measured is language, not the chat template.
A policy's perplexity is e^text_nll. That training on responses costs likelihood elsewhere, and that
plain text mixed in pays it back, is section 3.5 of arXiv:2203.02155 (there in PPO).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlaif.batching.encode import Row, text_rows
from rlaif.distributed.processes import ProcessGroup
from rlaif.models.backbone import Backbone
from rlaif.training.config import PolicyConfig, TrainingError
from rlaif.training.heldout import mean_loss
from rlaif.training.plain_text.source import read_text

TOKENS = 4096  # predicted at most: the cost of one score is one forward pass over them
WINDOW = 256  # tokens, and less for a model with a shorter context


@dataclass(frozen=True, slots=True)
class TextForgetting:
    """The text of a run, and the start's loss on it; without rows where text_eval is null."""

    rows: tuple[Row, ...]
    start: float  # nats per token
    micro_batch_tokens: int
    workers: ProcessGroup

    @classmethod
    def from_start(
        cls, backbone: Backbone, config: PolicyConfig, workers: ProcessGroup
    ) -> TextForgetting:
        """Score the text under the start, which the untrained base is: call it before the first
        step, and before a checkpoint is loaded. Collective.

        Raises TrainingError for a text of less than two tokens.
        """
        if config.text_eval is None:
            return cls((), 0.0, config.micro_batch_tokens, workers)
        window = min(WINDOW, backbone.context)
        rows = windows(backbone.tokenizer, read_text(config.text_eval), window)
        if not rows:
            raise TrainingError(
                f"text_eval={config.text_eval}: less than two tokens; give a longer text, or null"
            )
        start = mean_loss(backbone, None, rows, config.micro_batch_tokens, workers)
        return cls(tuple(rows), start, config.micro_batch_tokens, workers)

    def metrics(self, backbone: Backbone) -> dict[str, float]:
        """text_nll and text_nll_rise of the policy as it is now; {} where there is no text.

        Collective.
        """
        if not self.rows:
            return {}
        nll = mean_loss(backbone, "policy", self.rows, self.micro_batch_tokens, self.workers)
        return {"text_nll": nll, "text_nll_rise": nll / self.start - 1}


def windows(tokenizer: Any, text: str, window: int) -> Sequence[Row]:
    """The text as rows of at most `window` tokens, TOKENS in all, after the tokenizer's begin token
    if it has one; without it the text's first token is context only."""
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    ids = [*begin, *tokenizer.encode(text, add_special_tokens=False, verbose=False)]
    return text_rows("text_eval", ids[: TOKENS + 1], window)
