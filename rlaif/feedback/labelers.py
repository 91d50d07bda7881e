"""Who labeled: the models that the receipts of labels name."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from rlaif.data.datasets import iter_preferences
from rlaif.data.records import RecordError
from rlaif.evaluation.judges.column import Labelers


def labelers_of(files: Iterable[Path]) -> Labelers:
    """The models that labeled the pairs of these files; incomplete where a pair has no receipt, as
    labels by people and by other programs, and where a file holds something else to imitate."""
    weights: set[str] = set()
    complete = True
    for file in files:
        try:
            for label in iter_preferences(file):
                model = json.loads(label.receipt).get("model") if label.receipt else None
                if model:
                    weights.add(model["weights_sha256"])
                else:
                    complete = False
        except RecordError:
            complete = False
    return Labelers(frozenset(weights), complete)
