"""Held-out records during training: when they are evaluated, and which checkpoint is kept.

Every `eval_every` steps, and after the last, a trainer measures its held-out loss and gives
`-loss` to Run.save as the checkpoint's score; Run keeps the checkpoint with the best score besides
the newest ones. `keep` chooses which of the two the output folder has at the end. The held-out loss
of a checkpoint chosen by it is slightly optimistic: report results on another set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from rlaif.batching.corpus.manifest import require_fit
from rlaif.batching.corpus.mapped import CorpusPairs
from rlaif.batching.corpus.order import ShuffledBatches
from rlaif.batching.corpus.selection import without_cut
from rlaif.batching.encode import (
    EncodedPairs,
    Pair,
    Row,
    encode_pairs,
    epoch_batches,
    length_buckets,
    pad,
)
from rlaif.data.cut_off import CutResponses, count_pairs, pairs_for
from rlaif.data.records import Preference
from rlaif.distributed.processes import ProcessGroup
from rlaif.models.backbone import Backbone, Role
from rlaif.models.folder import trained_tokenizer
from rlaif.training.checks import report_cut_off, report_skipped, require_context
from rlaif.training.config import HeldOutConfig, TrainingError
from rlaif.training.learner import Learner
from rlaif.training.preflight import require_heldout, require_kept, require_kept_of
from rlaif.training.run import Run, records_digest, run_inputs


def load_and_encode(
    model: str,
    preferences: Sequence[Preference] | CorpusPairs,
    heldout: Sequence[Preference],
    config: HeldOutConfig,
    workers: ProcessGroup,
) -> tuple[Backbone, EncodedPairs, EncodedPairs]:
    """Load the base, and encode the training and held-out pairs with the same limits.

    Skipped pairs and cut-off responses are reported on stderr. Raises TrainingError for settings
    that cannot work, BackboneError for the model, BatchError for an unusable pair, and CorpusError
    for a corpus of another tokenizer or other settings, before the model's weights are read.
    """
    require_heldout(config, heldout)
    if isinstance(preferences, CorpusPairs):
        require_fitting(preferences, model, config)
    else:
        require_kept(preferences, config)
    require_kept(heldout, config, "held-out pairs")
    backbone = Backbone.load(
        model, config.dtype, config.lora is None, workers, config.chat_template_kwargs
    )
    require_context(backbone, config.max_tokens)
    bounds = config.max_tokens, config.unusable
    report_cut_off(count_cut(preferences), "pairs", config.cut_off == "skip")
    report_cut_off(count_pairs(heldout), "held-out pairs", config.cut_off == "skip")
    if isinstance(preferences, CorpusPairs):
        left_out = preferences.corpus.manifest.left_out
        encoded = EncodedPairs(without_cut(preferences, config.cut_off), [], left_out)
    else:
        encoded = encode_pairs(backbone.tokenizer, pairs_for(preferences, config.cut_off), *bounds)
    encoded_heldout = EncodedPairs([], [])
    if heldout := pairs_for(heldout, config.cut_off):
        encoded_heldout = encode_pairs(backbone.tokenizer, heldout, *bounds)
    report_skipped(encoded.skipped + encoded_heldout.skipped)
    return backbone, encoded, encoded_heldout


def require_fitting(pairs: CorpusPairs, model: str, config: HeldOutConfig) -> None:
    """Raises CorpusError where a corpus was not made for this model's tokenizer and these settings,
    and TrainingError where cut_off=skip leaves none of its pairs."""
    tokenizer = trained_tokenizer(model, config.chat_template_kwargs)
    corpus = pairs.corpus
    require_fit(corpus.folder, corpus.manifest, tokenizer, config.max_tokens, config.unusable)
    require_kept_of(pairs, config)


def count_cut(preferences: Sequence[Preference] | CorpusPairs) -> CutResponses:
    """Cut-off responses of training pairs; in a corpus those of unusable pairs are not counted."""
    return preferences.cut() if isinstance(preferences, CorpusPairs) else count_pairs(preferences)


def batches_of(
    pairs: Sequence[Pair], batch_size: int, epochs: int, seed: int
) -> Sequence[list[int]]:
    """The places of every step's batch: for pairs in memory a list, of a corpus made when used."""
    order = ShuffledBatches if isinstance(pairs, CorpusPairs) else epoch_batches
    return order(len(pairs), batch_size, epochs, seed)


def pair_inputs(
    algorithm: Literal["reward", "dpo"],
    config: HeldOutConfig,
    backbone: Backbone,
    preferences: Sequence[Preference] | CorpusPairs,
    heldout: Sequence[Preference],
) -> dict[str, Any]:
    """`run_inputs` of training on pairs, without `keep`: it only selects among checkpoints."""
    if isinstance(preferences, CorpusPairs):
        inputs = run_inputs(algorithm, config, backbone, ())
        inputs["data"] = f"corpus {preferences.corpus.manifest.key}"
    else:
        inputs = run_inputs(algorithm, config, backbone, preferences)
    del inputs["config"]["keep"]
    return inputs | {"heldout": records_digest(heldout)}


def is_evaluated(config: HeldOutConfig, step: int, epoch: int) -> bool:
    """Whether to evaluate after this step, if it is not the last. epoch: steps per epoch."""
    return step % (config.eval_every or epoch) == 0


def load_kept(config: HeldOutConfig, run: Run, learner: Learner) -> None:
    """Load the weights of the best checkpoint at the end of training, if keep=best.

    Raises TrainingError when that checkpoint cannot be read.
    """
    if config.keep == "last":
        return
    best: Mapping[str, Any] | None
    with run.workers.raise_together():
        try:
            best, why = run.best(), "it is gone"
        except Exception as error:  # whatever torch raises for a damaged file
            best, why = None, str(error).splitlines()[0]
        if best is None:
            raise TrainingError(
                f"{run.folder}: the best checkpoint cannot be read ({why}); set keep=last, or "
                "train again with resume=never"
            )
    learner.load(best["learner"])


@torch.no_grad()
def mean_loss(
    backbone: Backbone,
    role: Role | None,
    rows: Sequence[Row],
    micro_batch_tokens: int,
    workers: ProcessGroup,
) -> float:
    """Negative log-likelihood of rows (those of all processes), nats per response token: the loss
    of SFT, without training.

    role: None for the base. Collective.
    """
    own = workers.shard(rows)
    nats = 0.0
    for group in workers.pad_batches(
        length_buckets([len(row.ids) for row in own], micro_batch_tokens)
    ):
        batch = pad([own[i] for i in group], backbone.device)
        nats -= float(backbone.logprobs(role, batch).sum())
    total: float = workers.all_reduce({"nats": nats})["nats"]
    return total / sum(row.response_length for row in rows)
