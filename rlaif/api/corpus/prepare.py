"""Labels → a corpus: tokenized once, for any number of trainings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from rlaif.algorithms.dpo.config import DPOConfig
from rlaif.algorithms.reward.config import RewardConfig
from rlaif.api.inputs import Pathlike
from rlaif.api.plan import check
from rlaif.api.problems import checked
from rlaif.data.datasets import labels_at
from rlaif.data.files import as_path
from rlaif.data.records import RecordError
from rlaif.data.shards.folder import data_files
from rlaif.feedback.labeler import CONSTITUTION
from rlaif.progress import progress

Algorithm = Literal["dpo", "reward"]


def prepare_corpus(
    labels: Pathlike,
    *,
    model: Pathlike,
    out: Pathlike = "corpus",
    algorithm: Algorithm = "dpo",
    config: DPOConfig | RewardConfig | Sequence[str] | None = None,
    **settings: Any,
) -> Path:
    """Tokenize labels once, into a folder that `train_dpo` and `train_reward` take in their place.

    labels: a file, or a folder of shards. algorithm: whose settings are given; the corpus is one
    for both, and depends on max_tokens, chat_template_kwargs and unusable alone. Returns `out`.
    Started again after a kill it goes on, and several processes may prepare one corpus together.

        rlaif.prepare_corpus("labels", model="smollm2-135m", out="corpus", max_tokens=512)
    """
    kind: type[DPOConfig] | type[RewardConfig] = DPOConfig if algorithm == "dpo" else RewardConfig
    checks = check(kind, config, settings, model, out)
    files = checks.problems.attempt(label_files, labels)
    checks.problems.refuse()
    found, name = checked(checks.config), checked(checks.model)

    from rlaif.batching.corpus.manifest import made_of
    from rlaif.batching.corpus.prepare import Preparation
    from rlaif.models.folder import trained_tokenizer

    tokenizer = trained_tokenizer(name, found.chat_template_kwargs)
    made = made_of(checked(files), tokenizer, found.max_tokens)
    with progress("tokenizing", rows_in(checked(files)), "labels") as report:
        work = Preparation(
            checked(files), tokenizer, made, name, found.unusable, checks.out,
            report=report, beside=constitution_beside(as_path(labels, "labels")),
        )  # fmt: skip
        work.run()
    return checks.out


def label_files(labels: Pathlike) -> list[Path]:
    """The files of labels, of a file, the folder of `rlaif label`, or a folder of shards. Raises
    RecordError."""
    return data_files(labels_at(as_path(labels, "labels")))


def constitution_beside(labels: Path) -> tuple[Path, ...]:
    """The constitution that labeling left beside its labels, to be kept with the corpus."""
    file = (labels if labels.is_dir() else labels.parent) / CONSTITUTION
    return (file,) if file.is_file() else ()


def rows_in(files: Sequence[Path]) -> int:
    """About how many labels files hold: rows of Parquet, lines of the others. Raises RecordError
    for a file that is not Parquet."""
    return sum(_parquet_rows(f) if f.suffix == ".parquet" else _lines(f) for f in files)


def _parquet_rows(file: Path) -> int:
    import pyarrow
    from pyarrow import parquet

    try:
        return int(parquet.read_metadata(file).num_rows)
    except (pyarrow.ArrowException, OSError) as error:
        raise RecordError(f"{file}: not a Parquet file ({error})") from error


def _lines(file: Path) -> int:
    with file.open("rb") as content:
        return sum(piece.count(b"\n") for piece in iter(lambda: content.read(1 << 20), b""))
