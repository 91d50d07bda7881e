"""Training on records: supervised fine-tuning, the reward model, DPO.

Settings are keywords (`beta=0.2, lora={"rank": 8}`), a config, or both: keywords win. Their names,
units and defaults: `rlaif train dpo --help`, or the config class of each.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from constitution import Constitution, Message
from constitution.errors import UserError
from rlaif.algorithms.dpo.config import DPOConfig
from rlaif.algorithms.dpo.hard_labels import hard_labels
from rlaif.algorithms.dpo.losses import LOSSES
from rlaif.algorithms.reward.config import RewardConfig
from rlaif.algorithms.reward.heads import PairT, head_weights, labeled_pairs
from rlaif.algorithms.sft.config import SFTConfig
from rlaif.algorithms.sft.sources import SFTSource, imitable, imitated, require_lessons
from rlaif.api.corpus.plan import corpus_given, plan_dpo_corpus, plan_reward_corpus
from rlaif.api.encoding import examine_lessons, examine_pairs
from rlaif.api.inputs import (
    LessonsLike,
    Pathlike,
    PreferencesLike,
    constitution_of,
    preferences_of,
    source_of,
)
from rlaif.api.plan import Checks, Examined, TrainingPlan, check, require_responses, steps_over
from rlaif.api.problems import checked
from rlaif.batching.origins import naming_files
from rlaif.batching.unusable import BatchError, describe_skipped
from rlaif.data.cut_off import count_pairs, pairs_for
from rlaif.data.files import as_path
from rlaif.data.prompt_split import require_apart
from rlaif.data.records import Lesson, Preference
from rlaif.feedback.undecided import report_undecided, undecided_in
from rlaif.training.preflight import require_heldout, require_kept


def train_sft(
    lessons: LessonsLike,
    *,
    model: Pathlike,
    out: Pathlike = "sft",
    mix: Sequence[LessonsLike] = (),
    heldout: LessonsLike | None = None,
    config: SFTConfig | Sequence[str] | None = None,
    **settings: Any,
) -> Path:
    """Supervised fine-tuning: the policy imitates responses, of one source or a weighted mix.

    lessons, mix: files of samples, demonstrations, preferences (the chosen response) or plain text,
    as "FILE", "WEIGHT*FILE" or "FIRST..LAST*FILE" (a .txt file is one plain text); or SFTSources;
    or the records. heldout: records whose loss is logged, and decides which policy is kept. Returns
    `out`, with the adapter (with lora=None: the model) and metrics.jsonl. Started again after a
    kill it resumes.

        rlaif.train_sft("lessons.jsonl", mix=["0.2*books.jsonl"], model="smollm2-135m")
    """
    return plan_sft(
        lessons, model=model, out=out, mix=mix, heldout=heldout, config=config, **settings
    ).run()


def train_reward(
    labels: PreferencesLike,
    *,
    model: Pathlike,
    out: Pathlike = "reward",
    constitution: str | os.PathLike[str] | Constitution = "",
    heldout: PreferencesLike | None = None,
    config: RewardConfig | Sequence[str] | None = None,
    **settings: Any,
) -> Path:
    """A reward model on soft labels: one head per trait, weighed by the constitution.

    labels: also the folder of a corpus (`prepare_corpus`).
    constitution: gives the traits their weights; "" finds the shipped one that the labels' receipts
    name. heldout: pairs whose loss is logged, and which evaluation.json is about. Returns `out`.
    Started again after a kill it resumes.

        rlaif.train_reward("labels", model="smollm2-135m", out="reward", epochs=1)
    """
    return plan_reward(
        labels,
        model=model,
        out=out,
        constitution=constitution,
        heldout=heldout,
        config=config,
        **settings,
    ).run()


def train_dpo(
    labels: PreferencesLike,
    *,
    model: Pathlike,
    out: Pathlike = "dpo",
    heldout: PreferencesLike | None = None,
    reference_cache: Pathlike | None = None,
    config: DPOConfig | Sequence[str] | None = None,
    **settings: Any,
) -> Path:
    """Direct preference optimization (arXiv:2305.18290) on soft labels.

    labels: also the folder of a corpus (`prepare_corpus`).
    heldout: pairs whose loss is logged, for keep="best". reference_cache: a folder of reference
    log-probs that several runs share. Returns `out`, with the adapter (with lora=None: the model)
    and metrics.jsonl. Started again after a kill it resumes.

        rlaif.train_dpo("labels", model="smollm2-135m", out="dpo", beta=0.2)
    """
    return plan_dpo(
        labels,
        model=model,
        out=out,
        heldout=heldout,
        reference_cache=reference_cache,
        config=config,
        **settings,
    ).run()


# ── what is checked before anything is loaded ────────────────────────────────────────────────


def plan_sft(
    lessons: LessonsLike,
    *,
    model: Pathlike,
    out: Pathlike = "sft",
    mix: Sequence[LessonsLike] = (),
    heldout: LessonsLike | None = None,
    config: SFTConfig | Sequence[str] | None = None,
    **settings: Any,
) -> TrainingPlan:
    """`train_sft`, checked and not started."""
    checks = check(SFTConfig, config, settings, model, out)
    problems, found = checks.problems, checks.config
    # Each source by itself, so that every file that cannot be read is named.
    sources: list[SFTSource] = []
    more = problems.attempt(_listed, mix) or []
    for place, given in enumerate((lessons, *more)):
        source = problems.attempt(source_of, given, "lessons" if place == 0 else f"mix {place}")
        sources += [] if source is None else [source]
    held = None if heldout is None else problems.attempt(source_of, heldout, "heldout")
    held_records: Sequence[Lesson] = held.records if held else ()
    # Then what they have to do with each other, where all of them could be read.
    all_read = len(sources) == 1 + len(more) and (heldout is None or held is not None)
    if found is not None and all_read:
        problems.attempt(require_lessons, found, sources, held_records)
        problems.attempt(_require_unseen, sources, held_records)
        for each in [*sources, *([held] if held else [])]:
            problems.attempt(_require_imitable, each, found)

    def examine() -> Examined:
        read = zip((lessons, *more), sources, strict=True) if all_read else ()
        return examine_lessons(checks, list(read), (heldout, held) if held else None)

    def train() -> Path:
        from rlaif.algorithms.sft.train import train

        read = [
            (argument, s.records) for argument, s in zip((lessons, *more), sources, strict=True)
        ]
        with naming_files(*read, (heldout, held_records)):
            return train(checked(found), checked(checks.model), sources, checks.out, held_records)

    counts, notes, steps = dict[str, int](), list[str](), None
    if found is not None:
        left = {source.name: imitable(source.records, found) for source in sources}
        counts = {name: len(each.lessons) for name, each in left.items()}
        notes += [line for name, each in left.items() for line in each.describe(name, found)]
        # How many rows a run takes does not depend on the weights of their sources.
        rows = found.rows_of_run(sum(counts.values()))
        steps = steps_over(rows, found.batch_size, 1)
    return TrainingPlan(
        found, checks.out, counts, steps, "steps", problems.found, train, notes, examine
    )


def plan_reward(
    labels: PreferencesLike,
    *,
    model: Pathlike,
    out: Pathlike = "reward",
    constitution: str | os.PathLike[str] | Constitution = "",
    heldout: PreferencesLike | None = None,
    config: RewardConfig | Sequence[str] | None = None,
    **settings: Any,
) -> TrainingPlan:
    """`train_reward`, checked and not started."""
    if (folder := corpus_given(labels)) is not None:
        return plan_reward_corpus(
            folder, model=model, out=out, constitution=constitution, heldout=heldout,
            config=config, settings=settings,
        )  # fmt: skip
    # Each argument by itself, so that everything that cannot be used is named.
    checks = check(RewardConfig, config, settings, model, out)
    problems, found = checks.problems, checks.config
    pairs = problems.attempt(preferences_of, labels, "labels")
    held = [] if heldout is None else problems.attempt(preferences_of, heldout, "heldout")
    weighing = problems.attempt(constitution_of, constitution, pairs or (), labels)
    _check_pairs(checks, pairs, held)

    def labeled(left: Sequence[PairT]) -> tuple[list[PairT], list[str]]:
        kind = checked(found).label_kind
        return labeled_pairs(left, head_weights(left, checked(weighing).label_weights, kind), kind)

    # The heads follow from labels and weights: a trait without a weight, labels without a side.
    unlabeled: list[str] = []
    if (
        found is not None
        and weighing is not None
        and (left := pairs_for(pairs or (), found.cut_off))
    ):
        _, unlabeled = problems.attempt(labeled, left) or ([], [])

    def train() -> Path:
        from rlaif.algorithms.reward.train import train

        weights = checked(weighing).label_weights
        model_name, given, unseen = checked(checks.model), checked(pairs), checked(held)
        with naming_files((labels, given), (heldout, unseen)):
            return train(checked(found), model_name, given, checks.out, weights, unseen)

    def examine() -> Examined:
        with_label = (lambda left: labeled(left)[0]) if weighing is not None else None
        return examine_pairs(checks, [(labels, pairs), (heldout, held)], with_label)

    return _pair_plan(checks, pairs or (), train, examine, unlabeled=unlabeled)


def plan_dpo(
    labels: PreferencesLike,
    *,
    model: Pathlike,
    out: Pathlike = "dpo",
    heldout: PreferencesLike | None = None,
    reference_cache: Pathlike | None = None,
    config: DPOConfig | Sequence[str] | None = None,
    **settings: Any,
) -> TrainingPlan:
    """`train_dpo`, checked and not started."""
    if (folder := corpus_given(labels)) is not None:
        return plan_dpo_corpus(
            folder, model=model, out=out, heldout=heldout, reference_cache=reference_cache,
            config=config, settings=settings,
        )  # fmt: skip
    # Each argument by itself, so that everything that cannot be used is named.
    checks = check(DPOConfig, config, settings, model, out)
    problems, found = checks.problems, checks.config
    pairs = problems.attempt(preferences_of, labels, "labels")
    held = [] if heldout is None else problems.attempt(preferences_of, heldout, "heldout")
    cache = None
    if reference_cache is not None:
        cache = problems.attempt(as_path, reference_cache, "reference_cache")
    # A loss on hard labels leaves out ties before anything else looks at the pairs.
    used: Sequence[Preference] | None = pairs
    used_held: Sequence[Preference] | None = held
    notes: list[str] = []
    if found is not None and not LOSSES[found.loss].soft:
        used = _hard(checks, pairs, "pairs", notes)
        used_held = _hard(checks, held, "held-out pairs", notes)
    _check_pairs(checks, used, used_held)

    def train() -> Path:
        from rlaif.algorithms.dpo.train import train

        model_name, given, unseen = checked(checks.model), checked(pairs), checked(held)
        with naming_files((labels, given), (heldout, unseen)):
            return train(checked(found), model_name, given, checks.out, unseen, cache)

    def examine() -> Examined:
        return examine_pairs(checks, [(labels, used), (heldout, used_held)])

    return _pair_plan(checks, used or (), train, examine, notes)


def _check_pairs(
    checks: Checks[Any], pairs: Sequence[Preference] | None, heldout: Sequence[Preference] | None
) -> None:
    """What settings and records have to do with each other, where both could be read."""
    if checks.config is None or pairs is None or heldout is None:
        return
    checks.problems.attempt(require_heldout, checks.config, heldout)
    checks.problems.attempt(require_kept, pairs, checks.config)
    checks.problems.attempt(require_kept, heldout, checks.config, "held-out pairs")
    prompts, looked_at = ([(pair.id, pair.prompt) for pair in each] for each in (pairs, heldout))
    checks.problems.attempt(require_apart, prompts, looked_at)
    for given in (pairs, heldout):
        checks.problems.attempt(require_responses, _both_responses(given), checks.config)


def _hard(
    checks: Checks[DPOConfig], pairs: Sequence[Preference] | None, what: str, notes: list[str]
) -> Sequence[Preference] | None:
    """The pairs for a loss on hard labels; what was left out or swapped is added to notes."""
    if checks.config is None or pairs is None:
        return None
    hard = checks.problems.attempt(hard_labels, pairs, checks.config.loss)
    if hard is None:
        return None
    if said := hard.describe():
        notes.append(f"{what}: {said}")
    return hard.pairs


def _pair_plan(
    checks: Checks[RewardConfig] | Checks[DPOConfig],
    pairs: Sequence[Preference],
    train: Callable[[], Path],
    examine: Callable[[], Examined],
    said: Sequence[str] = (),
    unlabeled: Sequence[str] = (),
) -> TrainingPlan:
    """said: on pairs that were left out before. unlabeled: why others are, cut-off ones aside."""
    found, used, steps, notes = checks.config, len(pairs), None, list(said)
    if found is not None:
        used = len(pairs_for(pairs, found.cut_off)) - len(unlabeled)
        steps = steps_over(used, found.batch_size, found.epochs)
        cut = count_pairs(pairs).describe("pairs", found.cut_off == "skip")
        notes += filter(None, [cut, describe_skipped(unlabeled) if unlabeled else ""])
    counts, problems = {"pairs": used}, checks.problems.found
    warning = undecided_in(pair.prob_chosen for pair in pairs)
    notes += [warning] if warning else []

    def train_and_warn() -> Path:
        report_undecided(warning)
        return train()

    return TrainingPlan(
        found, checks.out, counts, steps, "steps", problems, train_and_warn, notes, examine
    )


def _both_responses(pairs: Iterable[Preference]) -> Iterable[tuple[str, str]]:
    for pair in pairs:
        yield f"{pair.id} (chosen)", pair.chosen_text
        yield f"{pair.id} (rejected)", pair.rejected_text


def _listed(mix: Sequence[LessonsLike]) -> list[LessonsLike]:
    if isinstance(mix, str | bytes | Mapping) or not isinstance(mix, Iterable):
        raise UserError(f"invalid mix: {mix!r}; give a list of sources, such as [{mix!r}]")
    return list(mix)


def _require_unseen(sources: Sequence[SFTSource], heldout: Sequence[Lesson]) -> None:
    """Raises RecordError where a held-out prompt, or plain text, is imitated by a source."""
    train = (_asked(lesson) for source in sources for lesson in source.records)
    require_apart(train, map(_asked, heldout))


def _asked(lesson: Lesson) -> tuple[str, Sequence[Message]]:
    """(id, prompt) of a record; plain text stands for itself."""
    of = imitated(lesson)
    return of.name, of.prompt or (Message(role="assistant", content=of.response),)


def _require_imitable(source: SFTSource, config: SFTConfig) -> None:
    """Raises BatchError where a source has nothing to imitate, or empty responses."""
    kept, unsure, _, cut = imitable(source.records, config)
    if unsure == len(source.records):
        raise BatchError(
            f"{source.name}: nothing to imitate: all {len(source.records)} labels are below "
            f"min_prob_chosen={config.min_prob_chosen}; lower it, or give surer labels"
        )
    if not kept:
        raise BatchError(
            f"{source.name}: nothing to imitate: all {cut} responses were cut off, and "
            "cut_off=skip leaves them out; set cut_off=keep, or sample again with a higher "
            "max_new_tokens"
        )
    texts = map(imitated, kept)
    named = ((f"{source.name}: {text.name}", text.response) for text in texts)
    require_responses(named, config)
