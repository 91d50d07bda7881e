"""Corpora of a tiny model, made by the real code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlaif.batching.corpus.manifest import made_of
from rlaif.batching.corpus.mapped import CorpusPairs, PairCorpus
from rlaif.batching.corpus.prepare import Preparation
from rlaif.data.records import Preference, write_preferences
from rlaif.models.folder import trained_tokenizer

MAX_TOKENS = 200


def preparation(
    model: str, files: Sequence[Path], out: Path, unusable: Any = "error", **changed: Any
) -> Preparation:
    """A corpus of files of labels, to be made with `run`. changed: max_tokens, template_kwargs."""
    tokenizer = trained_tokenizer(model, changed.get("template_kwargs"))
    made = made_of(files, tokenizer, changed.get("max_tokens", MAX_TOKENS))
    return Preparation(files, tokenizer, made, model, unusable, out)


def corpus_of(model: str, labels: Sequence[Preference], folder: Path) -> CorpusPairs:
    """All pairs of a corpus of these labels, in folder/corpus."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "labels.parquet"
    write_preferences(file, labels)
    preparation(model, [file], folder / "corpus").run()
    return CorpusPairs(PairCorpus(folder / "corpus"))
