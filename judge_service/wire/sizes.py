"""How large an answer will be, before anything is computed for it.

An upper estimate from the message definitions: numbers have eight bytes, digests 64 characters, and
a token that the judge writes is taken as TOKEN_BYTES of text.
"""

from __future__ import annotations

from constitution.schema import Constitution
from judge_service.errors import InvalidRequest
from judge_service.types import JudgeOptions, Order

TOKEN_BYTES = 6
_READ_BYTES = 128
_VOTE_BYTES = 96  # beside its reads, its id and its trait
_JUDGMENT_BYTES = 768  # beside its votes; the receipt names the principles once more
_PROMPT_BYTES = 2048  # of a prompt beside the caller's texts and the principle


def judgment_bytes(constitution: Constitution, options: JudgeOptions) -> int:
    """Of the judgment of one pair."""
    samples = options.rationale_samples if options.max_rationale_tokens else 1
    read = _READ_BYTES + TOKEN_BYTES * options.max_rationale_tokens
    reads = len(_orders(options)) * samples * read
    names = max(len(p.id.encode()) + len(p.trait.encode()) for p in constitution.principles)
    return _JUDGMENT_BYTES + _principles(constitution, options) * (
        reads + _VOTE_BYTES + 2 * names + 16
    )


def preview_bytes(texts: int, constitution: Constitution, options: JudgeOptions) -> int:
    """Of the prompts of one pair, whose texts have this many bytes in the request."""
    longest = max(len(principle.compare.encode()) for principle in constitution.principles)
    prompts = _principles(constitution, options) * len(_orders(options))
    return prompts * (texts + longest + _PROMPT_BYTES)


def require_fit(field: str, size: int, limit: int, remedy: str) -> None:
    """Raise InvalidRequest for an answer of more bytes than the server may send."""
    if size > limit:
        raise InvalidRequest(
            field,
            f"the answer may have {size} bytes, and this server sends up to {limit}; {remedy}",
            reason="ANSWER_TOO_LARGE",
        )


def _principles(constitution: Constitution, options: JudgeOptions) -> int:
    every = len(constitution.principles)
    return every if options.sample_principles is None else min(options.sample_principles, every)


def _orders(options: JudgeOptions) -> tuple[Order, ...]:
    return (Order.AB, Order.BA) if options.protocol == "pointwise" else options.orders
