"""Check of a model as it is loaded: does training compute the log-probs that the model has?

    ours      log π of W h, h from the decoder with our attention and rows without a mask, or
              with two responses in one row
    theirs    log π of the logits of the model's class, with its own (eager) attention

A dozen tokens are compared, two responses of unlike length to one prompt, in three forward passes.
It finds what a layer's code does besides the equations that we compute: attention sinks, caps on
attention or logits, multipliers, a mask of its own that ours replaces.

Where our attention is the one that differs, the class's own is used instead, and where responses
disturb each other in a shared row they get rows of their own. What differs still is refused.
Nothing is drawn at random and no weight is changed.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlaif.batching.encode import Batch, Row, pad
from rlaif.batching.prefix_sharing import SharedBatch, pad_packs
from rlaif.distributed.processes import ProcessGroup
from rlaif.models.attention import grouped
from rlaif.models.attention.shared_rows import keeps_apart
from rlaif.models.folder import BackboneError

_TEXT = "The quick brown fox jumps over the lazy dog, then sleeps in the warm sun."
_PROMPT, _RESPONSES = 5, (8, 4)  # tokens


class Tolerance(NamedTuple):
    """How far log-probs of one response may lie from the class's own, by rounding alone."""

    quantile: float  # of the response's tokens, by difference
    nats: float


# Two orders of summation differ by rounding, which every token carries alike. float32: at most
# 2e-5 nats with SmolLM2-135M, 1e-4 with 24 random layers of a Llama. bfloat16: .02 in the middle
# and .1 at most with SmolLM2-135M; rounding may also turn a router to another expert, which moves
# a few tokens by a nat, so there the middle one of the tokens is judged. Left out, a sink, a cap or
# a mask moves most tokens by .2 to 3 nats. A model that rounding alone moves further is still not
# refused: with its own attention, only the head remains to differ.
_TOLERANCES: Mapping[torch.dtype, Tolerance] = {
    torch.float32: Tolerance(1.0, 1e-3),
    torch.bfloat16: Tolerance(0.5, 0.25),
    torch.float16: Tolerance(0.5, 0.25 / 8),  # three more bits; only to sample with
}


class CheckOutcome(NamedTuple):
    """How a model is to be computed, as the check found it."""

    attention: str  # attn_implementation that agrees with the class's own
    shares_prompts: bool  # whether responses in one row come out as in rows of their own
    notes: tuple[str, ...]  # what is slower than usual, and why; a sentence each
    refusal: str  # why the model cannot be used, and what to do; "" if it can


def takes_ours(model: Any) -> bool:
    """Whether a model's layers can ask for our attention: they must be able to use torch's."""
    return bool(model._can_set_attn_implementation() and model._supports_sdpa)


def obey(outcome: CheckOutcome | None, model: Any, name: str) -> CheckOutcome:
    """Compute a model as the check found it; says what is slower, in the main process, on stderr.

    name: the model's, for messages. Raises BackboneError for a model that was refused.
    """
    assert outcome is not None, "no process has checked the model"
    if outcome.refusal:
        raise BackboneError(f"{name}: {outcome.refusal}")
    set_attention(model, outcome.attention)
    for note in outcome.notes if ProcessGroup.current().is_main else ():
        print(f"{name}: {note}", file=sys.stderr)
    return outcome


def _probe_rows(tokenizer: Any, vocabulary: int) -> list[Row]:
    """Two responses of unlike length to one prompt, from a fixed English sentence."""
    known = [t for t in tokenizer.encode(_TEXT, add_special_tokens=False) if t < vocabulary] or [0]
    ids = (known * (_PROMPT + sum(_RESPONSES)))[: _PROMPT + sum(_RESPONSES)]
    prompt, first, second = ids[:_PROMPT], ids[_PROMPT : -_RESPONSES[1]], ids[-_RESPONSES[1] :]
    return [Row("first", (*prompt, *first), _PROMPT), Row("second", (*prompt, *second), _PROMPT)]


@torch.no_grad()
def examine(
    model: Any,
    tokenizer: Any,
    dtype: torch.dtype,
    alone: Callable[[Batch], Tensor],
    shared: Callable[[SharedBatch], Tensor] | None = None,
) -> CheckOutcome:
    """Find the attention with which a model's log-probs are its class's own, and set it.

    alone, shared: compute the log-probs of a batch's response tokens (N,), where every response has
    its own row, and where they share one (None where they never do). dtype: of the matrix products.
    """
    device = next(model.parameters()).device
    rows = _probe_rows(tokenizer, model.get_input_embeddings().weight.shape[0])
    batch, packed = pad(rows, device), pad_packs([rows], device)
    together = shared if keeps_apart(model, packed.longest) else None
    kind = type(model).__name__
    tolerance = _TOLERANCES[dtype]
    lengths = [row.response_length for row in rows]
    reasons: list[str] = []  # why an attention was not chosen, ours first
    # What the class computes; one that cannot be switched has only the attention it came with.
    own = "eager" if model._can_set_attn_implementation() else model.config._attn_implementation
    try:
        set_attention(model, own)
        theirs = _own_logprobs(model, batch, dtype)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a class does that is not made for this
        return _refused(own, f"{kind} cannot be computed ({_first_line(error)})", dtype)
    if not theirs.isfinite().all():
        return _refused(own, f"{kind} gives log-probs that are not finite numbers", dtype)
    # The first attention that agrees with it: ours, as it is faster, or else the class's own.
    for attention in [grouped.NAME, own] if takes_ours(model) else [own]:
        set_attention(model, attention)
        fault = _fault(partial(alone, batch), theirs, lengths, tolerance)
        if not fault:
            mixed = ""
            if together is not None:
                mixed = _fault(partial(together, packed), theirs, lengths, tolerance)
            notes = _notes(model, attention, reasons, mixed)
            return CheckOutcome(attention, together is not None and not mixed, notes, "")
        reasons.append(fault)
    # It is not attention then, but what follows the decoder: some setting may tell.
    suspects = _logit_settings(model.config.get_text_config())
    why = f"; suspected: {suspects}" if suspects else ""
    return _refused(own, f"{kind} is not computed exactly here: {reasons[-1]}{why}", dtype)


def _refused(attention: str, reason: str, dtype: torch.dtype) -> CheckOutcome:
    wider = "" if dtype is torch.float32 else "set dtype=float32, or "
    return CheckOutcome(attention, False, (), f"{reason}; {wider}choose another model")


def set_attention(model: Any, attention: str) -> None:
    """Switch a model's attn_implementation, without transformers' warnings about parts unused."""
    if model.config._attn_implementation != attention:
        with _silent("transformers.modeling_utils"):
            model.set_attn_implementation(attention)


def _own_logprobs(model: Any, batch: Batch, dtype: torch.dtype) -> Tensor:
    """Log-probs of the batch's response tokens by the logits of the model's class: (N,)."""
    device = batch.ids.device
    mask = (torch.arange(batch.ids.shape[1], device=device) <= batch.last[:, None]).long()  # (B, T)
    with torch.autocast(device.type, torch.bfloat16, enabled=dtype != model.dtype):
        logits = model(input_ids=batch.ids, attention_mask=mask, use_cache=False).logits
    return response_logprobs_of(logits, batch)


def response_logprobs_of(logits: Tensor, batch: Batch) -> Tensor:
    """Log-probs of a batch's response tokens, from logits (B, T, V): (N,) float32."""
    log_pi = logits[:, :-1].float().log_softmax(-1)  # (B, T - 1, V)
    values: Tensor = log_pi.gather(2, batch.ids[:, 1:, None])[..., 0]  # (B, T - 1)
    return values[batch.response_mask[:, 1:]]


def _fault(
    compute: Callable[[], Tensor], theirs: Tensor, lengths: Sequence[int], tolerance: Tolerance
) -> str:
    """What is wrong with computed log-probs; "" if they are within the tolerance of `theirs`."""
    try:
        distances = (compute() - theirs).abs()  # (N,)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        return _first_line(error)
    # each response for itself: in a shared row the first could be right and the second wrong
    responses = torch.split(distances, list(lengths))
    if all(float(each.quantile(tolerance.quantile)) <= tolerance.nats for each in responses):
        return ""
    return (
        f"log-probs of {len(distances)} tokens are up to {float(distances.max()):.2g} nats off "
        f"the class's own, {tolerance.nats:g} allowed"
    )


def _first_line(error: Exception) -> str:
    if isinstance(error, grouped.AttentionInputError):
        return f"its attention has the input {error}"
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _notes(model: Any, attention: str, reasons: Sequence[str], mixed: str) -> tuple[str, ...]:
    notes: list[str] = []
    kind = type(model).__name__
    if attention != grouped.NAME and not model._is_stateful:
        why = reasons[0] if reasons else "its class does not take another"
        notes.append(f"computed with {kind}'s own attention, which can be slower: {why}")
    if mixed:
        notes.append(f"responses to one prompt are computed in rows of their own: {mixed}")
    return tuple(notes)


def _logit_settings(config: Any) -> str:
    """Settings of a config that cap or scale something: "logits_soft_cap=30.0, …"."""
    words = ("cap", "multiplier", "logit", "scaling")
    found = {
        key: value
        for key, value in config.to_dict().items()
        if any(word in key for word in words)
        and isinstance(value, int | float)
        and value not in (0, 1)
    }
    return ", ".join(f"{key}={value}" for key, value in sorted(found.items()))


@contextmanager
def _silent(name: str) -> Iterator[None]:
    """No warnings of this logger inside the block."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
