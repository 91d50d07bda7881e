"""Log-probs of sampled responses, under a trained policy and under its base."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from rlaif.batching.encode import in_groups, pad, sample_row
from rlaif.data.records import Sample
from rlaif.models.backbone import Backbone, Role
from rlaif.models.lora_config import TrainDtype

TokenLogprobs = Callable[[Sequence[Sample]], list[list[float]]]


class ReferenceAndPolicy(NamedTuple):
    """Functions samples → log-probs of their response tokens (nats), under base and policy."""

    reference: TokenLogprobs
    policy: TokenLogprobs


def response_logprobs(
    model: str,
    adapter: Path | None,
    dtype: TrainDtype = "auto",
    template_kwargs: Mapping[str, Any] | None = None,
) -> ReferenceAndPolicy:
    """Load a base and its adapter, to compute log-probs of sampled responses under both.

    Without an adapter both functions use the model itself. Responses are tokenized again from
    their text, with the end token if they are complete. template_kwargs: variables of the chat
    template that they were sampled with. Raises BackboneError when base or adapter cannot be
    loaded.
    """
    backbone = Backbone.load(model, dtype, template_kwargs=template_kwargs)
    trained: Role | None = None
    if adapter is not None:
        backbone.load_role("policy", adapter)
        trained = "policy"

    @torch.no_grad()
    def of(role: Role | None, samples: Sequence[Sample]) -> list[list[float]]:
        logprobs: list[list[float]] = []
        for group in in_groups([sample_row(backbone.tokenizer, s) for s in samples], 8):
            batch = pad(group, backbone.device)
            values = backbone.logprobs(role, batch)  # (B, T)
            logprobs += [v[m].tolist() for v, m in zip(values, batch.response_mask, strict=True)]
        return logprobs

    return ReferenceAndPolicy(lambda s: of(None, s), lambda s: of(trained, s))
