"""How well a policy still predicts plain text that it was never trained on: what training forgot.

The text is the one that trainers score, too (`text_eval`); here passage by passage, for intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rlaif.batching.encode import Row, in_groups, pad
from rlaif.models.backbone import Backbone, Role
from rlaif.training.plain_text.source import SHIPPED, read_text


@dataclass(frozen=True, slots=True)
class ParagraphNLL:
    """Negative log-likelihood of a paragraph's tokens, the first of which may be context only."""

    nats: float
    tokens: int


def paragraphs() -> list[str]:
    """The paragraphs of the shipped text, in order."""
    return [part.strip() for part in read_text(SHIPPED).split("\n\n") if part.strip()]


@torch.no_grad()
def text_nll(
    model: str, adapter: Path | None = None, texts: Sequence[str] | None = None
) -> list[ParagraphNLL]:
    """The NLL of each text under a model folder or hub id, or its adapter; by default of the
    shipped paragraphs.

    Every text stands alone, after the tokenizer's begin token if it has one, without a chat
    template or end token, and is cut at the model's context. Raises BackboneError when the model
    cannot be loaded.
    """
    backbone = Backbone.load(model, "float32")  # bfloat16 rounds by more than training changes
    role: Role | None = None
    if adapter is not None:
        backbone.load_role("policy", adapter)
        role = "policy"
    tokenizer = backbone.tokenizer
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    rows = []
    for number, text in enumerate(paragraphs() if texts is None else texts):
        tokens = tokenizer.encode(text, add_special_tokens=False, verbose=False)
        ids = [*begin, *tokens][: backbone.context]
        rows.append(Row(f"paragraph {number}", tuple(ids), 1))
    nats: list[float] = []
    for group in in_groups(rows, 4):
        batch = pad(group, backbone.device)
        nats += (-backbone.logprobs(role, batch)).sum(1).tolist()  # (B, T), 0 outside the text
    return [ParagraphNLL(n, len(row.ids) - 1) for n, row in zip(nats, rows, strict=True)]


def nats_per_token(found: Sequence[ParagraphNLL]) -> float:
    """Over the whole text."""
    return sum(each.nats for each in found) / sum(each.tokens for each in found)


def by_paragraph(found: Sequence[ParagraphNLL]) -> list[float]:
    """Nats a token of each paragraph."""
    return [each.nats / each.tokens for each in found]
