"""Records that cannot be trained on, and what happens to them. Imports no torch."""

from collections.abc import Sequence
from typing import Literal

from constitution.errors import UserError

Unusable = Literal["error", "skip"]

_SHOWN = 3  # reasons in a message


class BatchError(UserError):
    """A record that cannot be trained on; the message names it and the remedy.

    record: the name of the record in the message, "" for another error.
    """

    def __init__(self, message: str, record: str = "") -> None:
        super().__init__(message)
        self.record = record


class EmptyResponseError(BatchError):
    """A record whose response is empty, which shows without a tokenizer."""


class NoneUsableError(BatchError):
    """Records of which not one can be trained on. errors: why, of each."""

    def __init__(self, message: str, errors: Sequence[BatchError]) -> None:
        super().__init__(message)
        self.errors = tuple(errors)


def require_response(id: str, response: str) -> None:
    """Raises EmptyResponseError for an empty response."""
    if not response.strip():
        message = f"{id}: the response is empty; drop the record, or set unusable=skip"
        raise EmptyResponseError(message, id)


def describe_skipped(skipped: Sequence[BatchError | str]) -> str:
    """How many records unusable=skip leaves out, and the first reasons."""
    shown = "".join(f"\n  {reason}" for reason in skipped[:_SHOWN])
    return f"left out {len(skipped)} records, among them{shown}"
