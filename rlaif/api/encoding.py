"""Every record encoded as the run encodes it, with the model's own tokenizer and chat template and
without its weights, so that a dry run finds the records that the run would refuse or skip.

This takes transformers, and so torch, which are imported only where the settings are valid, the
model is on this machine and there are records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from constitution.errors import UserError
from rlaif.algorithms.dpo.config import DPOConfig
from rlaif.algorithms.ppo.config import PPOConfig
from rlaif.algorithms.rest.config import ReSTConfig
from rlaif.algorithms.reward.config import RewardConfig
from rlaif.algorithms.sft.config import SFTConfig
from rlaif.algorithms.sft.sources import SFTSource, imitable
from rlaif.api.plan import Checks, Examined, steps_over
from rlaif.api.problems import Problems
from rlaif.batching.chat import with_template_kwargs
from rlaif.batching.origins import Origins
from rlaif.batching.unusable import (
    BatchError,
    EmptyResponseError,
    NoneUsableError,
    describe_skipped,
)
from rlaif.data.cut_off import pairs_for
from rlaif.data.records import Lesson, Preference, Prompt
from rlaif.models.catalog import is_here
from rlaif.progress import progress
from rlaif.training.config import TrainConfig
from rlaif.training.preflight import MissingPackageError, require_within

if TYPE_CHECKING:
    from rlaif.batching.encode import EncodedPrompt, Pair

UsableT = TypeVar("UsableT")
ReportDone = Callable[[int], None]


class _Usable(NamedTuple):
    """What would be trained on: counts, by what it is, and steps; None where not known."""

    counts: Mapping[str, int] = {}
    steps: int | None = None


@dataclass(slots=True)
class _Encoder:
    """The tokenizer, and what the records encoded so far had."""

    tokenizer: Any
    config: TrainConfig
    origins: Origins
    report: ReportDone
    problems: Problems
    done: int = 0
    skipped: list[BatchError] = field(default_factory=list)

    def encode(
        self, count: int, encoded: Callable[[ReportDone], tuple[list[UsableT], list[BatchError]]]
    ) -> list[UsableT]:
        """The usable ones of `count` records. encoded: the run's function with unusable=skip, as
        (usable, errors of the others)."""
        before = self.done
        skips = self.config.unusable == "skip"
        try:
            usable, errors = encoded(lambda done: self.report(before + done))
        except NoneUsableError as error:
            # Empty responses are named without a tokenizer already (plan.require_responses).
            named = all(isinstance(each, EmptyResponseError) for each in error.errors)
            usable, errors = [], [] if skips else list(error.errors)
            self.problems.found += [error] if skips and not named else []
        except BatchError as error:  # of the tokenizer, not of a record
            usable, errors = [], []
            self.problems.found.append(error)
        self.done += count
        if skips:
            self.skipped += errors
        else:
            self.problems.found += [
                self.origins.named(error)
                for error in errors
                if not isinstance(error, EmptyResponseError)
            ]
        return usable


def examine_lessons(
    checks: Checks[SFTConfig],
    given: Sequence[tuple[Any, SFTSource]],
    heldout: tuple[Any, SFTSource] | None,
) -> Examined:
    """Encode the sources of SFT. given, heldout: (what the caller gave, the source)."""
    every: list[tuple[Any, Sequence[Lesson]]] = [(argument, s.records) for argument, s in given]
    every += [(heldout[0], heldout[1].records)] if heldout else []

    def encode(encoder: _Encoder) -> _Usable:
        from rlaif.algorithms.sft.lessons import encode_lessons

        config = _config(checks).model_copy(update={"unusable": "skip"})
        rows, counts = 0, dict[str, int]()
        names = [*(source.name for _, source in given), "held out"]
        for place, (name, (_, records)) in enumerate(zip(names, every, strict=False)):

            def encoded(
                report: ReportDone, name: str = name, of: Sequence[Lesson] = records
            ) -> Any:
                found = encode_lessons(encoder.tokenizer, name, of, config, report)
                return found.rows, found.skipped

            before = len(encoder.skipped)
            usable = encoder.encode(len(records), encoded)
            if place < len(given):
                # A plain text may be several rows.
                rows += len(usable)
                left = len(imitable(records, config).lessons)
                counts[name] = left - (len(encoder.skipped) - before)
        return _Usable(counts, steps_over(config.rows_of_run(rows), config.batch_size, 1))

    return _examined(checks, every, encode)


def examine_pairs(
    checks: Checks[RewardConfig] | Checks[DPOConfig],
    given: Sequence[tuple[Any, Sequence[Preference] | None]],
    labeled: Callable[[Sequence[Pair]], Sequence[Pair]] | None = None,
) -> Examined:
    """Encode the training and the held-out pairs. given: (what the caller gave, the pairs; None if
    they cannot be read) of both. labeled: those of the usable training pairs that are trained on.
    """
    every = [(argument, pairs) for argument, pairs in given if pairs is not None]

    def encode(encoder: _Encoder) -> _Usable:
        from rlaif.batching.encode import encode_pairs

        config: RewardConfig | DPOConfig = _config(checks)
        usable: list[Sequence[Pair]] = []
        for _, pairs in every:
            kept = pairs_for(pairs, config.cut_off)

            def encoded(report: ReportDone, kept: Sequence[Preference] = kept) -> Any:
                found = encode_pairs(encoder.tokenizer, kept, config.max_tokens, "skip", report)
                return found.pairs, found.skipped

            usable.append(encoder.encode(len(kept), encoded) if kept else [])
        if given[0][1] is None:
            return _Usable()
        used = usable[0]
        if labeled is not None and used:
            used = encoder.problems.attempt(labeled, used) or used
        return _Usable(
            {"pairs": len(used)}, steps_over(len(used), config.batch_size, config.epochs)
        )

    return _examined(checks, every, encode)


def examine_prompts(
    checks: Checks[PPOConfig] | Checks[ReSTConfig],
    given: Any,
    prompts: Sequence[Prompt] | None,
    then: Callable[[list[EncodedPrompt]], object] | None = None,
) -> Examined:
    """Encode prompts, each with room for a response. given: what the caller gave. then: a check of
    the usable prompts, where some are skipped."""
    every = [] if prompts is None else [(given, prompts)]

    def encode(encoder: _Encoder) -> _Usable:
        from rlaif.batching.encode import encode_prompts

        config: PPOConfig | ReSTConfig = _config(checks)
        longest = config.max_tokens - config.max_new_tokens
        asked = every[0][1]

        def encoded(report: ReportDone) -> Any:
            return encode_prompts(encoder.tokenizer, asked, longest, "skip", report)

        usable: list[EncodedPrompt] = encoder.encode(len(asked), encoded)
        if then is not None and encoder.skipped and usable:
            encoder.problems.attempt(then, usable)
        return _Usable({"prompts": len(usable)})

    return _examined(checks, every, encode)


def _examined(
    checks: Checks[Any],
    given: Sequence[tuple[Any, Sequence[Lesson | Prompt]]],
    encode: Callable[[_Encoder], _Usable],
) -> Examined:
    """Load the tokenizer and encode the records. given: (what the caller gave, its records)."""
    config, model = checks.config, checks.model
    missing = any(isinstance(each, MissingPackageError) for each in checks.problems.found)
    if config is None or model is None or missing or not given:
        return Examined(unchecked=f"{_UNCHECKED}: correct these first")
    if not is_here(model):
        return Examined(unchecked=f"{_UNCHECKED}: {model} is not on this machine yet")
    problems, notes, usable = Problems(), list[str](), _Usable()
    tokenizer = _load_tokenizer(config, model, problems)
    if tokenizer is not None:
        total = sum(len(records) for _, records in given)
        with progress("encoding with the model's tokenizer", total, "records") as report:
            encoder = _Encoder(tokenizer, config, Origins(*given), report, problems)
            usable = encode(encoder)
        notes += [describe_skipped(encoder.skipped)] if encoder.skipped else []
    known = {str(problem) for problem in checks.problems.found}
    found: dict[str, UserError] = {str(each): each for each in problems.found}
    new = [problem for text, problem in found.items() if text not in known]
    return Examined(new, notes, usable.counts, usable.steps)


_UNCHECKED = "the chat template and lengths were not checked"


def _load_tokenizer(config: TrainConfig, model: str, problems: Problems) -> Any:
    """The model's tokenizer with the template's variables; None where it is refused."""
    from rlaif.models.folder import (
        context_length,
        read_tokenizer,
        refuse_encoder_decoders,
        require_end_token,
    )

    shape = problems.attempt(refuse_encoder_decoders, model, local=True)
    if shape is not None:
        problems.attempt(require_within, model, context_length(shape), config.max_tokens)
    tokenizer = problems.attempt(read_tokenizer, model, local=True)
    if tokenizer is None:
        return None
    before = len(problems.found)
    problems.attempt(require_end_token, tokenizer, model)
    bound = problems.attempt(with_template_kwargs, tokenizer, config.chat_template_kwargs)
    return bound if len(problems.found) == before else None


def _config(checks: Checks[Any]) -> Any:
    assert checks.config is not None, "nothing is encoded without settings"
    return checks.config
