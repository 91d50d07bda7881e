"""The judge as a reward function for TRL's trainers (GRPOTrainer, RLOOTrainer; trl 1.16).

    reward = TRLJudgeReward(lambda: AsyncJudgeClient("127.0.0.1:50051"))
    trainer = GRPOTrainer(model, reward_funcs=reward, train_dataset=prompts)

The judge rates each completion by itself (ScoreCandidate, in [-1, 1]; arXiv:2309.00267, section
2.2.3), with a limited number of concurrent requests. A completion that it cannot rate, or not in
time, is None and never 0: trl turns that into NaN, leaves it out of the group's mean, and gives the
completion no advantage.

trl calls the function with keyword arguments, on an event loop of its own in another thread. A gRPC
channel belongs to one loop, so a client is opened there for each call. This module imports neither
trl nor the judge client, which the caller passes in.
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
"""A conversation in trl's form: a mapping with "role" and "content" for each turn."""


class TRLRewardError(UserError):
    """The judge rated none of the completions, or a conversation is not plain text."""


class Scoring(Protocol):
    """The part of `AsyncJudgeClient` that the reward uses."""

    async def score(
        self,
        conversation: tuple[Message, ...],
        response: str,
        constitution: str,
        *,
        timeout: float | None = None,
    ) -> Any:
        """Rate one response: a Score has `score`; an Unjudged has `reason` and `detail` instead.

        timeout: seconds. Raises UserErrors for a request that is refused or not answered.
        """


class TRLJudgeReward:
    """An async reward function; it can be combined with others and with trl's own.

    connect: opens a client in the running event loop. constitution: a name the server knows, ""
    for its default. concurrency: requests at a time. timeout: seconds per completion. name: used by
    trl for logging, as rewards/<name>/mean. `unrated` counts completions without a rating, by
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
                f"invalid concurrency={concurrency} or timeout={timeout}: both must be above 0"
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
        """One rating in [-1, 1] per completion, None for those without one. Logs the share of the
        latter as <name>/unrated.

        Raises TRLRewardError when every request failed: the judge is unavailable or refuses all.
        """
        pairs = [
            (conversation(prompt), reply(completion))
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        limit = asyncio.Semaphore(self._concurrency)
        async with self._connect() as client:
            outcomes = await asyncio.gather(*(self._rate(client, limit, *pair) for pair in pairs))
        # A failed request is a missing rating; if all fail, training would go on without a reward.
        if outcomes and all(isinstance(outcome, UserError) for outcome in outcomes):
            raise TRLRewardError(
                f"none of {len(outcomes)} completions could be rated: {outcomes[0]}"
            )
        missing = [outcome for outcome in outcomes if not isinstance(outcome, float)]
        self._report(missing, len(outcomes), kwargs.get("log_metric"))
        return [outcome if isinstance(outcome, float) else None for outcome in outcomes]

    async def _rate(
        self,
        client: Scoring,
        limit: asyncio.Semaphore,
        conversation: tuple[Message, ...],
        response: str,
    ) -> float | str | UserError:
        """The rating, or the reason or error in place of one."""
        if not response.strip():
            return "empty_response: there is nothing to rate"
        async with limit:
            try:
                answer = await client.score(
                    conversation, response, self._constitution, timeout=self._timeout
                )
            except UserError as error:  # the judge is unavailable, too slow, or refuses this one
                return error
        rating = getattr(answer, "score", None)
        return f"{answer.reason}: {answer.detail}" if rating is None else float(rating)

    def _report(
        self,
        missing: Sequence[str | UserError],
        total: int,
        log_metric: Callable[[str, float], None] | None,
    ) -> None:
        if log_metric is not None:
            log_metric(f"{self.__name__}/unrated", len(missing) / max(total, 1))
        if not missing:
            return
        self.unrated.update(
            reason.partition(":")[0] if isinstance(reason, str) else type(reason).__name__
            for reason in missing
        )
        _log.warning(
            "%d of %d completions were not rated; the first: %s", len(missing), total, missing[0]
        )


def conversation(prompt: str | Turns) -> tuple[Message, ...]:
    """A trl prompt as messages; text is a single user turn.

    Raises TRLRewardError for content other than text, such as images and tool calls.
    """
    if isinstance(prompt, str):
        return (Message(role="user", content=prompt),)
    return tuple(Message(role=_role(turn), content=_content(turn)) for turn in prompt)


def reply(completion: str | Turns) -> str:
    """A trl completion as text: the assistant's last turn."""
    return completion if isinstance(completion, str) else _content(completion[-1])


def _role(turn: Mapping[str, Any]) -> Any:
    role = turn.get("role")
    if role not in ("system", "user", "assistant"):
        raise TRLRewardError(
            f"unknown role in a prompt: {role!r}; the judge reads system, user and assistant turns"
        )
    return role


def _content(turn: Mapping[str, Any]) -> str:
    content = turn.get("content")
    if isinstance(content, str):
        return content
    raise TRLRewardError(
        f"content of a turn by the {turn.get('role')} is not text: {type(content).__name__}; the "
        "judge reads text only"
    )
