"""Training on a corpus, checked and not started."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from constitution import Constitution
from rlaif.algorithms.dpo.config import DPOConfig
from rlaif.algorithms.dpo.hard_labels import hard_corpus, hard_labels
from rlaif.algorithms.dpo.losses import LOSSES
from rlaif.algorithms.reward.config import RewardConfig
from rlaif.api.encoding import examine_pairs
from rlaif.api.inputs import Pathlike, PreferencesLike, constitution_of, preferences_of
from rlaif.api.plan import Checks, Examined, TrainingPlan, check, require_responses, steps_over
from rlaif.api.problems import Problems, checked
from rlaif.batching.corpus.manifest import CorpusError, is_corpus, read_manifest, require_settings
from rlaif.batching.origins import naming_files
from rlaif.data.files import as_path
from rlaif.data.records import Preference
from rlaif.feedback.undecided import BAND, report_undecided, undecided_warning
from rlaif.training.preflight import require_heldout, require_kept, require_kept_of

if TYPE_CHECKING:
    from rlaif.batching.corpus.mapped import CorpusPairs


def corpus_given(labels: object) -> Path | None:
    """The corpus that a caller gave in place of labels, if it is one."""
    if not isinstance(labels, str | os.PathLike):
        return None
    path = as_path(labels, "labels")
    return path if is_corpus(path) else None


def plan_dpo_corpus(
    folder: Path,
    *,
    model: Pathlike,
    out: Pathlike,
    heldout: PreferencesLike | None,
    reference_cache: Pathlike | None,
    config: DPOConfig | Sequence[str] | None,
    settings: dict[str, Any],
) -> TrainingPlan:
    """`train_dpo` on a corpus; the arguments are those of `plan_dpo`."""
    checks = check(DPOConfig, config, settings, model, out)
    problems, found = checks.problems, checks.config
    pairs = _opened(checks, folder)
    held = [] if heldout is None else problems.attempt(_labels_of, heldout)
    cache = None
    if reference_cache is not None:
        cache = problems.attempt(as_path, reference_cache, "reference_cache")
    used, used_held, notes = pairs, held, list[str]()
    if found is not None and not LOSSES[found.loss].soft:
        hard = None if pairs is None else problems.attempt(hard_corpus, pairs, found.loss)
        held_hard = None if held is None else problems.attempt(hard_labels, held, found.loss)
        for what, each in (("pairs", hard), ("held-out pairs", held_hard)):
            notes += [f"{what}: {each.describe()}"] if each and each.describe() else []
        used, used_held = hard and hard.pairs, held_hard and held_hard.pairs
    _check(checks, used, used_held)

    def train() -> Path:
        from rlaif.algorithms.dpo.train import train

        with naming_files((heldout, checked(held))):
            return train(
                checked(found), checked(checks.model), checked(pairs), checks.out, checked(held),
                cache,
            )  # fmt: skip

    return _plan(checks, used, (heldout, used_held), train, notes)


def plan_reward_corpus(
    folder: Path,
    *,
    model: Pathlike,
    out: Pathlike,
    constitution: str | os.PathLike[str] | Constitution,
    heldout: PreferencesLike | None,
    config: RewardConfig | Sequence[str] | None,
    settings: dict[str, Any],
) -> TrainingPlan:
    """`train_reward` on a corpus; the arguments are those of `plan_reward`."""
    checks = check(RewardConfig, config, settings, model, out)
    problems, found = checks.problems, checks.config
    pairs = _opened(checks, folder)
    held = [] if heldout is None else problems.attempt(_labels_of, heldout)
    example = None if pairs is None else pairs.corpus.manifest.example
    labels = [] if example is None else [example]
    weighing = problems.attempt(constitution_of, constitution, labels, folder)
    _check(checks, pairs, held)
    used = pairs
    if found is not None and weighing is not None and pairs is not None:
        used = problems.attempt(_labeled, pairs, found, weighing.label_weights)

    def train() -> Path:
        from rlaif.algorithms.reward.train import train

        weights = checked(weighing).label_weights
        with naming_files((heldout, checked(held))):
            return train(
                checked(found), checked(checks.model), checked(pairs), checks.out, weights,
                checked(held),
            )  # fmt: skip

    return _plan(checks, used, (heldout, held), train)


def _labeled(pairs: CorpusPairs, config: RewardConfig, weights: dict[str, float]) -> CorpusPairs:
    """The pairs that some head can learn from; raises TrainingError as `labeled_pairs`."""
    from rlaif.algorithms.reward.corpus_labels import corpus_head_weights, labeled_of_corpus

    heads = corpus_head_weights(pairs, weights, config.label_kind)
    return labeled_of_corpus(pairs, heads, config.label_kind)


def _opened(checks: Checks[Any], folder: Path) -> CorpusPairs | None:
    """The corpus, if it can be read; what its settings lack is added to the problems."""
    from rlaif.batching.corpus.mapped import CorpusPairs, PairCorpus  # they take numpy

    manifest = checks.problems.attempt(read_manifest, folder)
    corpus = None if manifest is None else checks.problems.attempt(PairCorpus, folder)
    if manifest is None or corpus is None:
        return None
    if (found := checks.config) is not None:
        checks.problems.attempt(
            require_settings, folder, manifest, found.max_tokens, found.chat_template_kwargs,
            found.unusable,
        )  # fmt: skip
    return CorpusPairs(corpus)


def _labels_of(heldout: PreferencesLike) -> list[Preference]:
    if (folder := corpus_given(heldout)) is not None:
        raise CorpusError(
            f"{folder}: a corpus, and held-out pairs are read as labels; give their file"
        )
    return preferences_of(heldout, "heldout")


def _check(
    checks: Checks[Any], pairs: CorpusPairs | None, heldout: Sequence[Preference] | None
) -> None:
    """What settings, corpus and held-out pairs have to do with each other."""
    if checks.config is None or pairs is None or heldout is None:
        return
    from rlaif.batching.corpus.mapped import require_apart_from

    problems = checks.problems
    problems.attempt(require_heldout, checks.config, heldout)
    problems.attempt(require_kept_of, pairs, checks.config)
    problems.attempt(require_kept, heldout, checks.config, "held-out pairs")
    asked = [(pair.id, pair.prompt) for pair in heldout]
    problems.attempt(require_apart_from, pairs.corpus, asked)
    responses = [
        (f"{pair.id} ({side})", text)
        for pair in heldout
        for side, text in (("chosen", pair.chosen_text), ("rejected", pair.rejected_text))
    ]
    problems.attempt(require_responses, responses, checks.config)


def _plan(
    checks: Checks[Any],
    pairs: CorpusPairs | None,
    heldout: tuple[Any, Sequence[Preference] | None],
    train: Callable[[], Path],
    said: Iterable[str] = (),
) -> TrainingPlan:
    """heldout: (what the caller gave, the pairs). said: on pairs that were left out before."""
    found, notes, used, steps, warning = checks.config, list(said), 0, None, ""
    if found is not None and pairs is not None:
        from rlaif.batching.corpus.selection import without_cut

        used = len(without_cut(pairs, found.cut_off))
        steps = steps_over(used, found.batch_size, found.epochs)
        warning = _undecided(pairs)
        notes += filter(None, [pairs.cut().describe("pairs", found.cut_off == "skip"), warning])

    def train_and_warn() -> Path:
        report_undecided(warning)
        return train()

    def examine() -> Examined:
        of_heldout = examine_pairs(checks, [(None, None), heldout])
        problems = Problems()
        if pairs is not None and not of_heldout.unchecked:
            from rlaif.training.heldout import require_fitting

            problems.attempt(require_fitting, pairs, checked(checks.model), checked(found))
        found_problems = [*problems.found, *of_heldout.problems]
        return Examined(found_problems, of_heldout.notes, unchecked=of_heldout.unchecked)

    counts = {"pairs": used}
    return TrainingPlan(
        found, checks.out, counts, steps, "steps", checks.problems.found, train_and_warn, notes,
        examine,
    )  # fmt: skip


def _undecided(pairs: CorpusPairs) -> str:
    """`undecided_in` of a corpus, by its column."""
    import numpy

    undecided, bits = 0, 0.0
    for probs in pairs.column("prob_chosen"):
        undecided += int((abs(probs - 0.5) <= BAND + 1e-9).sum())
        both = numpy.concatenate([probs, 1.0 - probs])
        both = both[both > 0]
        bits -= float((both * numpy.log2(both)).sum())
    return undecided_warning(undecided, len(pairs), bits / len(pairs))
