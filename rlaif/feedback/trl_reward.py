"""Our judge as a reward function of trl's trainers (GRPOTrainer, RLOOTrainer; trl 1.16).

    reward = TRLJudgeReward(lambda: AsyncJudgeClient("127.0.0.1:50051"))
    trainer = GRPOTrainer(model, reward_funcs=reward, train_dataset=prompts)

The judge rates each completion alone (ScoreCandidate, in [-1, 1]; arXiv:2309.00267, section 2.2.3),
many at once and with a bound. What it could not rate, or not in time, is None: trl makes NaN of
that, leaves it out of the group's mean, and the completion gets no advantage. It is never 0.

trl calls the function with keyword arguments, on an event loop of its own that lives in another
thread; a gRPC channel belongs to its loop, so that a client is opened there for each call. This
file imports neither trl nor the judge's client: it is handed the latter.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from constitution.errors import UserError
from constitution.schema import Message

_log = logging.getLogger(__name__)

Turns = Sequence[Mapping[str, Any]]
"""A conversation as trl has it: {"role", "content"} each."""


class TRLRewardError(UserError):
    """The judge answers nothing at all, or was asked about what it cannot read."""


class Scoring(Protocol):
    """What this needs of `AsyncJudgeClient`. A judge's Score has `score`; an Unjudged has
    `reason` and `detail` in its place."""

    async def score(
        self,
        conversation: tuple[Message, ...],
        response: str,
        constitution: str,
        *,
        timeout: float | None = None,
    ) -> Any: ...


class TRLJudgeReward:
    """An async reward function. Several may stand beside each other and beside trl's own.

    connect: opens a client, in the running event loop. constitution: a name the server knows, ""
    for its default. concurrency: completions under way at once. timeout: seconds for one of them.
    name: under which trl logs it, as rewards/<name>/mean. `unrated` counts what got no rating, by
    reason, over all calls.
    """

    def __init__(
        self,
        connect: Callable[[], AbstractAsyncContextManager[Scoring]],
        constitution: str = "",
        *,
        concurrency: int = 32,
        timeout: float = 120.0,
        name: str = "judge",
    ) -> None:
        if concurrency < 1 or not timeout > 0:
            raise TRLRewardError(
                f"concurrency={concurrency}, timeout={timeout}: both must be over 0"
            )
        self._connect = connect
        self._constitution = constitution
        self._concurrency = concurrency
        self._timeout = timeout
        self.__name__ = name
        self.unrated: Counter[str] = Counter()

    async def __call__(
        self,
        prompts: Sequence[str | Turns],
        completions: Sequence[str | Turns],
        **kwargs: Any,  # the data set's other columns, token ids, trl's state and loggers
    ) -> list[float | None]:
        """One rating in [-1, 1] per completion, None where there is none. Logs the share without
        one as <name>/unrated.

        Raises TRLRewardError when every question failed: the judge is away, or refuses them all.
        """
        asked = [
            (conversation(prompt), reply(completion))
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        free = asyncio.Semaphore(self._concurrency)
        async with self._connect() as client:
            found = await asyncio.gather(*(self._rate(client, free, *each) for each in asked))
        if found and all(isinstance(each, UserError) for each in found):
            raise TRLRewardError(f"none of {len(found)} completions could be rated: {found[0]}")
        missing = [each for each in found if not isinstance(each, float)]
        self._tell(missing, len(found), kwargs.get("log_metric"))
        return [each if isinstance(each, float) else None for each in found]

    async def _rate(
        self,
        client: Scoring,
        free: asyncio.Semaphore,
        conversation: tuple[Message, ...],
        response: str,
    ) -> float | str | UserError:
        """The rating, or why there is none."""
        if not response.strip():
            return "empty_response: there is nothing to rate"
        async with free:
            try:
                found = await client.score(
                    conversation, response, self._constitution, timeout=self._timeout
                )
            except UserError as error:  # the judge is away, too slow, or refuses this one
                return error
        rating = getattr(found, "score", None)
        return f"{found.reason}: {found.detail}" if rating is None else float(rating)

    def _tell(
        self,
        missing: Sequence[str | UserError],
        asked: int,
        log_metric: Callable[[str, float], None] | None,
    ) -> None:
        if log_metric is not None:
            log_metric(f"{self.__name__}/unrated", len(missing) / max(asked, 1))
        if not missing:
            return
        self.unrated.update(
            why.partition(":")[0] if isinstance(why, str) else type(why).__name__ for why in missing
        )
        _log.warning(
            "%d of %d completions were not rated, the first: %s", len(missing), asked, missing[0]
        )


def conversation(prompt: str | Turns) -> tuple[Message, ...]:
    """A prompt of trl's as turns; text is the user's only turn.

    Raises TRLRewardError for what is not text: images, tool calls.
    """
    if isinstance(prompt, str):
        return (Message(role="user", content=prompt),)
    return tuple(Message(role=_role(turn), content=_content(turn)) for turn in prompt)


def reply(completion: str | Turns) -> str:
    """A completion of trl's as text: the assistant's last turn."""
    return completion if isinstance(completion, str) else _content(completion[-1])


def _role(turn: Mapping[str, Any]) -> Any:
    role = turn.get("role")
    if role not in ("system", "user", "assistant"):
        raise TRLRewardError(
            f"a prompt has a turn of the role {role!r}; the judge reads system, user and assistant"
        )
    return role


def _content(turn: Mapping[str, Any]) -> str:
    content = turn.get("content")
    if isinstance(content, str):
        return content
    raise TRLRewardError(
        f"a turn of the {turn.get('role')} is not text ({type(content).__name__}); the judge reads "
        "text only"
    )
