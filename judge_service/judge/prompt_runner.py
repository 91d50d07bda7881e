"""Runs every (prefix, suffix) prompt of a request, first suffix first.

All prefixes run at once. The first suffix of each is answered before the others start: the engine's
prefix cache shares a prompt's blocks once they are computed, so the others find their prefix there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

from constitution.schema import Constitution, Principle
from judge_service.engine import Engine, EngineError, LabelLogprobs, Written
from judge_service.judge.paced.tokens import OverlongText, TextTokens
from judge_service.judge.paced.turnstile import Turnstile
from judge_service.judge.prompts import TEMPLATE_VERSION
from judge_service.judge.template import (
    Prefix,
    PromptSpec,
    Template,
    describe_overflow,
    prompt_sha256,
)
from judge_service.types import (
    Conversation,
    JudgeOptions,
    Order,
    PromptPreview,
    Provenance,
    Unjudged,
    UnjudgedReason,
    Usage,
    WritingOptions,
)

Key = TypeVar("Key")
Answer = TypeVar("Answer")

_INTERACTIVE, _BULK = 0, 1  # the engine takes lower numbers first
_STARTS_PER_TURN = 8  # of reads and writings in one turn of the event loop, a millisecond each


class PromptRunner:
    """An engine with the judge's prompt templates in its chat format, built when first needed."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._tokens = TextTokens(engine.tokenizer, engine.max_context_tokens)
        self._starts = Turnstile(_STARTS_PER_TURN)
        self._assemblies = Turnstile(1)
        self._templates: dict[PromptSpec, Template] = {}

    def template(self, spec: PromptSpec) -> Template:
        """The prompt in this model's chat format. Raises TemplateError when it cannot carry it."""
        if spec not in self._templates:
            self._templates[spec] = Template(self._tokens, spec)
        return self._templates[spec]

    async def read(
        self, template: Template, prompt: tuple[int, ...], options: JudgeOptions
    ) -> tuple[LabelLogprobs, str]:
        """Read the label log-probabilities after a prompt; returns (answer, prompt_sha256)."""
        answer = await self._engine.read(
            prompt,
            template.label_ids,
            priority=_priority(options.interactive),
            use_store=options.use_store,
        )
        return answer, prompt_sha256(prompt, template.label_ids)

    async def write(
        self,
        prompt: tuple[int, ...],
        options: JudgeOptions | WritingOptions,
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
    ) -> Written:
        """Generate up to max_tokens of text after a prompt."""
        return await self._engine.write(
            prompt,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            priority=_priority(options.interactive),
            use_store=options.use_store,
        )

    @asynccontextmanager
    async def tokenized(
        self, conversation: Conversation, texts: Mapping[str, str], ours: Iterable[str] = ()
    ) -> AsyncIterator[Unjudged | None]:
        """Within the block the templates encode these texts, and the principles `ours`, by look-up.

        Yields TOO_LONG when a single text already exceeds the context; None when each may fit. The
        whole prompt: `find_overflow`.
        """
        parts = [("the conversation", [message.content for message in conversation])]
        parts += [(name, [text]) for name, text in texts.items()]
        parts += [("a principle", [text.strip()]) for text in ours]
        async with AsyncExitStack() as held:
            unjudged = None
            for name, group in parts:
                try:
                    await held.enter_async_context(self._tokens.hold(group))
                except OverlongText as overlong:
                    limit = self._engine.max_context_tokens
                    detail = describe_overflow({name: overlong.tokens}, overlong.tokens, 0, limit)
                    unjudged = Unjudged(UnjudgedReason.TOO_LONG, detail or str(overlong))
                    break
            yield unjudged

    async def start(self) -> None:
        """Before one prompt is made and sent: return when few others do so in this turn."""
        await self._starts.turn()

    async def turn(self) -> None:
        """Before prompts are put together: return when no other request does so in this turn."""
        await self._assemblies.turn()

    def find_overflow(
        self,
        prefix: Prefix,
        names: Sequence[str],
        suffixes: Sequence[tuple[int, ...]],
        output_tokens: int,
    ) -> Unjudged | None:
        """TOO_LONG when a prompt with its output exceeds the context; `names` of the responses."""
        parts = {"the conversation": prefix.conversation_tokens}
        parts |= dict(zip(names, prefix.reply_tokens, strict=True))
        prompt_tokens = len(prefix.ids) + max(map(len, suffixes))
        limit = self._engine.max_context_tokens
        detail = describe_overflow(parts, prompt_tokens, output_tokens, limit)
        return Unjudged(UnjudgedReason.TOO_LONG, detail) if detail else None

    def preview(
        self, template: Template, order: Order, principle: Principle, prompt: tuple[int, ...]
    ) -> PromptPreview:
        """A prompt as text for people, with its token count and digest."""
        return PromptPreview(
            principle_id=principle.id,
            order=order,
            text=self._engine.tokenizer.spell(prompt),
            prompt_tokens=len(prompt),
            labels=template.labels,
            prompt_sha256=prompt_sha256(prompt, template.label_ids),
        )

    def provenance(
        self,
        constitution: Constitution,
        principles: Sequence[Principle],
        protocol: str,
        seed: int,
        orders: tuple[Order, ...] = (),
    ) -> Provenance:
        """The receipt of a label made by this engine."""
        return Provenance(
            constitution_name=constitution.name,
            constitution_version=constitution.version,
            constitution_sha256=constitution.digest,
            model=self._engine.identity,
            template_version=TEMPLATE_VERSION,
            principle_ids=tuple(p.id for p in principles),
            orders=orders,
            seed=seed,
            protocol=protocol,
        )


async def run_prompts(
    prefixes: Mapping[Key, Prefix],
    suffixes: Sequence[tuple[int, ...]],
    run: Callable[[Key, tuple[int, ...]], Awaitable[Answer]],
    start: Callable[[], Awaitable[None]] | None = None,
) -> dict[tuple[Key, int], Answer]:
    """Run every suffix after every prefix; returns (key, index of the suffix) -> answer of `run`.

    start: awaited before each prompt is made, to spread that work. Raises EngineError when any
    prompt fails; the others are then cancelled.
    """
    answers: dict[tuple[Key, int], Answer] = {}

    async def run_one(key: Key, index: int) -> None:
        if start is not None:
            await start()
        answers[key, index] = await run(key, prefixes[key].prompt(suffixes[index]))

    async def run_prefix(key: Key) -> None:
        # The first suffix computes the prefix; the others then find it in the engine's cache.
        await run_one(key, 0)
        if len(suffixes) == 1:
            return
        async with asyncio.TaskGroup() as rest:
            for index in range(1, len(suffixes)):
                rest.create_task(run_one(key, index))

    try:
        async with asyncio.TaskGroup() as group:
            for key in prefixes:
                group.create_task(run_prefix(key))
    except ExceptionGroup as failures:
        if failures.split(EngineError)[1] is not None:
            raise  # a bug of ours among them, not only engine failures
        raise EngineError(str(_first_leaf(failures))) from failures
    return answers


def usage_of_read(answer: LabelLogprobs) -> Usage:
    """What one read cost; a stored one cost nothing but counts."""
    if answer.stored:
        return Usage(stored_reads=1)
    return Usage(answer.prompt_tokens, answer.cached_tokens, output_tokens=1, reads=1)


def usage_of_writing(written: Written) -> Usage:
    """What one generated text cost; a stored one nothing."""
    if written.stored:
        return Usage()
    return Usage(written.prompt_tokens, written.cached_tokens, len(written.token_ids))


def find_empty(texts: Mapping[str, str]) -> Unjudged | None:
    """EMPTY_RESPONSE for the first text that is only white space."""
    for name, text in texts.items():
        if not text.strip():
            return Unjudged(
                UnjudgedReason.EMPTY_RESPONSE, f"{name} is empty; send a text that can be judged"
            )
    return None


def no_principle(constitution: Constitution) -> Unjudged:
    """NO_PRINCIPLE_APPLIES, naming the constitution."""
    return Unjudged(
        UnjudgedReason.NO_PRINCIPLE_APPLIES,
        f"no principle of {constitution.name} {constitution.version} applies to this "
        "conversation; add a principle without a scope",
    )


def low_mass(masses: Sequence[float], minimum: float, usage: Usage) -> Unjudged:
    """LOW_LABEL_MASS, from the masses of the reads that had a usable number."""
    lowest = f"as low as {min(masses):.3f}" if masses else "no usable number"
    return Unjudged(
        UnjudgedReason.LOW_LABEL_MASS,
        "the judge did not answer with a label, or not in every order by any principle: its label "
        f"mass is {lowest}, min_label_mass is "
        f"{minimum:g}; use a stronger judge model or a lower min_label_mass",
        usage,
    )


def _priority(interactive: bool) -> int:
    return _INTERACTIVE if interactive else _BULK


def _first_leaf(group: ExceptionGroup[Exception]) -> Exception:
    error = group.exceptions[0]
    return _first_leaf(error) if isinstance(error, ExceptionGroup) else error
