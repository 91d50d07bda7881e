"""Records that cannot be trained on, and what happens to them. Imports no torch."""

from typing import Literal

from constitution.errors import UserError

Unusable = Literal["error", "skip"]


class BatchError(UserError):
    """A record that cannot be trained on; the message names it and the remedy.

    record: the name of the record in the message, "" for another error.
    """

    def __init__(self, message: str, record: str = "") -> None:
        super().__init__(message)
        self.record = record


def require_response(id: str, response: str) -> None:
    """Raises BatchError for an empty response."""
    if not response.strip():
        raise BatchError(f"{id}: the response is empty; drop the record, or set unusable=skip", id)
