"""What the judge asks of its engine: every suffix after every prefix, read or written.

All questions are under way at once, but each prefix's first suffix goes ahead of the others: the
engine's prefix cache shares a prompt's blocks once they are computed, so the others find their
prefix there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from constitution.schema import Constitution, Principle
from judge_service.engine import Engine, EngineError, LabelLogprobs, Written
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
_QUICK_CHARACTERS = 32_768  # tokenized in some 20 ms


class PromptRunner:
    """An engine, with the wordings in its chat format. They are made when first needed."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._templates: dict[PromptSpec, Template] = {}

    def template(self, wording: PromptSpec) -> Template:
        """Raises TemplateError when this model cannot carry the wording."""
        if wording not in self._templates:
            self._templates[wording] = Template(self._engine.tokenizer, wording)
        return self._templates[wording]

    async def read(
        self, template: Template, prompt: tuple[int, ...], options: JudgeOptions
    ) -> tuple[LabelLogprobs, str]:
        """The engine's answer, and the digest of what it was asked."""
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
        return await self._engine.write(
            prompt,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            priority=_priority(options.interactive),
            use_store=options.use_store,
        )

    async def find_overlong(
        self, conversation: Conversation, texts: Mapping[str, str]
    ) -> Unjudged | None:
        """A text that by itself is more than the context holds; None where each may fit.

        Tokenizing a megabyte takes most of a second, so the long ones are counted beside the event
        loop: nobody else waits for those that are refused. What may fit is left to `find_overflow`.
        """
        said = "\n".join(message.content for message in conversation)
        limit = self._engine.max_context_tokens
        for name, text in {"the conversation": said, **texts}.items():
            if len(text) > _QUICK_CHARACTERS:
                ids = await asyncio.to_thread(self._engine.tokenizer.encode_data, text)
                if detail := describe_overflow({name: len(ids)}, len(ids), 0, limit):
                    return Unjudged(UnjudgedReason.TOO_LONG, detail)
        return None

    def find_overflow(
        self,
        prefix: Prefix,
        names: Sequence[str],
        suffixes: Sequence[tuple[int, ...]],
        output_tokens: int,
    ) -> Unjudged | None:
        """None when every prompt fits with its output; `names` are those of the replies."""
        parts = {"the conversation": prefix.conversation_tokens}
        parts |= dict(zip(names, prefix.reply_tokens, strict=True))
        prompt_tokens = len(prefix.ids) + max(map(len, suffixes))
        limit = self._engine.max_context_tokens
        detail = describe_overflow(parts, prompt_tokens, output_tokens, limit)
        return Unjudged(UnjudgedReason.TOO_LONG, detail) if detail else None

    def preview(
        self, template: Template, order: Order, principle: Principle, prompt: tuple[int, ...]
    ) -> PromptPreview:
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
) -> dict[tuple[Key, int], Answer]:
    """(key, place of the suffix) -> what `run` made of the prompt.

    Raises EngineError, with all other questions cancelled.
    """
    answers: dict[tuple[Key, int], Answer] = {}

    async def run_one(key: Key, place: int) -> None:
        answers[key, place] = await run(key, (*prefixes[key].ids, *suffixes[place]))

    async def run_prefix(key: Key) -> None:
        await run_one(key, 0)
        async with asyncio.TaskGroup() as rest:
            for place in range(1, len(suffixes)):
                rest.create_task(run_one(key, place))

    try:
        async with asyncio.TaskGroup() as group:
            for key in prefixes:
                group.create_task(run_prefix(key))
    except ExceptionGroup as failures:
        if failures.split(EngineError)[1] is not None:
            raise  # a mistake of ours among them
        raise EngineError(str(_first_leaf(failures))) from failures
    return answers


def usage_of_read(answer: LabelLogprobs) -> Usage:
    if answer.stored:
        return Usage(stored_reads=1)
    return Usage(answer.prompt_tokens, answer.cached_tokens, output_tokens=1, reads=1)


def usage_of_writing(written: Written) -> Usage:
    if written.stored:
        return Usage()
    return Usage(written.prompt_tokens, written.cached_tokens, len(written.token_ids))


def find_empty(texts: Mapping[str, str]) -> Unjudged | None:
    for name, text in texts.items():
        if not text.strip():
            return Unjudged(
                UnjudgedReason.EMPTY_RESPONSE, f"{name} is empty: there is nothing to judge"
            )
    return None


def no_principle(constitution: Constitution) -> Unjudged:
    return Unjudged(
        UnjudgedReason.NO_PRINCIPLE_APPLIES,
        f"no principle of {constitution.name} {constitution.version} applies to this "
        "conversation: add one without a scope",
    )


def low_mass(masses: Sequence[float], minimum: float, usage: Usage) -> Unjudged:
    best = f"at most {max(masses):.3f}" if masses else "no number at all"
    return Unjudged(
        UnjudgedReason.LOW_LABEL_MASS,
        f"the judge did not want to give a label: its labels got {best} of the probability, "
        f"min_label_mass is {minimum:g}; use a stronger judge model or a lower minimum",
        usage,
    )


def _priority(interactive: bool) -> int:
    return _INTERACTIVE if interactive else _BULK


def _first_leaf(group: ExceptionGroup[Exception]) -> Exception:
    error = group.exceptions[0]
    return _first_leaf(error) if isinstance(error, ExceptionGroup) else error
