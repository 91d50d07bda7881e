"""Candidates for a judge, as the command line names them.

reader                    a reader that is fitted here      no reads but the judge's
calibration               a curve that is fitted here       no reads but the judge's
calibration:FILE          a curve or a reader of a file     no reads but the judge's
constitution:NAME|FILE    another wording                   the test rows
protocol:NAME             pairwise or pointwise             the test rows
judge:MODEL               another model                     the test rows
server:HOST:PORT          another judge that is running     the test rows
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from constitution.errors import UserError, expected_one_of
from judge_service.judge.label_probs import PROTOCOLS


class Kind(StrEnum):
    """What a candidate changes of the judge."""

    READER = "reader"
    CALIBRATION = "calibration"
    CONSTITUTION = "constitution"
    PROTOCOL = "protocol"
    JUDGE = "judge"
    SERVER = "server"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A candidate: its kind, and the file, name or address that it needs.

    >>> str(Candidate.parse("protocol:pointwise"))
    'protocol:pointwise'
    """

    kind: Kind
    value: str = ""

    @classmethod
    def parse(cls, text: str) -> Candidate:
        """Read KIND or KIND:VALUE. Raises UserError for what is neither."""
        name, colon, value = text.partition(":")
        kinds = [kind.value for kind in Kind]
        if name not in kinds:
            raise UserError(f"unknown candidate: {text!r}; {expected_one_of(name, kinds)}")
        kind = Kind(name)
        if kind is Kind.READER and colon:
            raise UserError(
                f"invalid candidate: {text!r}; write reader, which is fitted here, or "
                "calibration:FILE for one that was fitted before"
            )
        if not value and (colon or kind not in (Kind.READER, Kind.CALIBRATION)):
            raise UserError(f"invalid candidate: {text!r}; write {name}:VALUE")
        if kind is Kind.PROTOCOL and value not in PROTOCOLS:
            raise UserError(f"unknown protocol: {value!r}; {expected_one_of(value, PROTOCOLS)}")
        return cls(kind, value)

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}" if self.value else str(self.kind)

    @property
    def is_fitted(self) -> bool:
        """Whether it is fitted here, on the rows that are not tested on."""
        return self.kind in (Kind.READER, Kind.CALIBRATION) and not self.value

    @property
    def needs_reads(self) -> bool:
        """Whether it needs reads other than the current judge's."""
        return self.kind not in (Kind.READER, Kind.CALIBRATION)
