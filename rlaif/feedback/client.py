"""A judge for training and commands: a client to a server that runs somewhere, or to one of our own
for the while; its scores as a reward; its comparisons with the start as a held-out score.

A server of our own is a child process that ends when its standard input does: if this process
dies, even by kill -9, the pipe closes and the server goes with it.

A reward is the judge's `score` of a response alone: its expected rating E[r], r from 1 to 9, by
each principle as (E[r] - 5) / 4, their weighted mean: in [-1, 1], 0 in the middle of the scale
(direct RLAIF, arXiv:2309.00267, section 2.2.3).
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.console import Console

from constitution.errors import UserError
from constitution.schema import Constitution, Message
from judge_service.client.sync import JudgeClient, JudgeRequestError, JudgeUnavailable
from judge_service.types import JudgeOptions, Score, Unjudged
from rlaif.data.records import Prompt, Sample
from rlaif.evaluation.policies import Compare, compare_with_start, judge_score
from rlaif.feedback.connection import judge_at, wait_until_ready

START_TIMEOUT_S = 900.0
STOP_GRACE_S = 20.0
FIND_TIMEOUT_S = 10.0  # for a server that should be running


class JudgeServerError(UserError):
    """The judge server did not come up; the message ends with the last lines of its log."""


@contextmanager
def judge_client(
    model: str,
    constitution: str | Sequence[str],
    log: Path,
    server: str = "",
    *,
    flags: Sequence[str] = (),
    wait: float = FIND_TIMEOUT_S,
) -> Iterator[JudgeClient]:
    """A client to a judge that serves.

    With a `model`, `rlaif serve` is started with it and `constitution` (one or several, the first
    is the default, "" leaves it to the server; and `flags`) on a free port, its output going to
    `log`, and stopped at the end; it takes inline constitutions too. Without a model, `server` must
    serve within `wait` seconds, and is reached as `rlaif.feedback.connection` says.
    Raises JudgeServerError, or JudgeUnavailable when `server` does not answer.
    """
    if not model:
        with judge_at(server) as client:
            wait_until_ready(client, wait)
            yield client
        return
    port = _free_port()
    command = [sys.executable, "-m", "rlaif", "serve", "--model", model, "--port", str(port)]
    names = [constitution] if isinstance(constitution, str) else constitution
    given = dict.fromkeys(name for name in names if name)
    command += [word for name in given for word in ("--constitution", name)]
    command += ["--allow-inline", "--exit-on-stdin-close", *flags]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as out:
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=out, stderr=out, env=_without_serve_settings()
        )
    try:
        with JudgeClient(f"127.0.0.1:{port}") as client:
            _await(client, child, log)
            yield client
    finally:
        _stop(child)


def _without_serve_settings() -> dict[str, str]:
    """Our environment but for what is set there for servers: ours needs no tokens and no TLS."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith("RLAIF_SERVE_")
    }


def _await(client: JudgeClient, child: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until it serves. On a terminal a spinner turns; loading takes half a minute or more."""

    def look(*_: object) -> None:
        if child.poll() is not None:
            raise JudgeServerError(f"the judge server ended before it was ready:\n{_tail(log)}")

    with Console(stderr=True).status("the judge server loads its model"):
        client.wait_until_ready(START_TIMEOUT_S, look)


def _stop(child: subprocess.Popen[bytes]) -> None:
    assert child.stdin is not None
    child.stdin.close()
    try:
        child.wait(STOP_GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


# ── scores as a reward ───────────────────────────────────────────────────────────────────────


class ScoringClient(Protocol):
    """What a reward needs of `JudgeClient`. Called from several threads."""

    def score(
        self,
        conversation: tuple[Message, ...],
        response: str,
        constitution: str | Constitution,
        options: JudgeOptions,
        *,
        timeout: float | None,
    ) -> Score | Unjudged: ...


@contextmanager
def judge_reward(
    address: str,
    constitution: str | Constitution = "",
    *,
    options: JudgeOptions | None = None,
    timeout: float = 60.0,
    in_flight: int = 16,
) -> Iterator[JudgeReward]:
    """The scores of the judge at HOST:PORT, as `rlaif.rewards.sources.open_rewards` takes them.

    Raises JudgeUnavailable when none answers, JudgeRequestError for a constitution it lacks.
    """
    with judge_at(address) as client:
        client.wait_until_ready(FIND_TIMEOUT_S)
        if isinstance(constitution, str):
            client.constitution(constitution)  # else every response would be refused, one by one
        yield JudgeReward(
            client, constitution, options=options, timeout=timeout, in_flight=in_flight
        )


class JudgeReward:
    """A RewardFunction over a judge: (conversations, responses) → scores in [-1, 1], or None.

    timeout: of one score, seconds, waiting in the server's queue included. in_flight: asked at a
    time. `unscored` counts the Nones by reason: "timed out", "unavailable", "refused" (such as a
    text too long for the judge), or the judge's own (judgment.UnjudgedReason).
    """

    def __init__(
        self,
        client: ScoringClient,
        constitution: str | Constitution = "",
        *,
        options: JudgeOptions | None = None,
        timeout: float = 60.0,
        in_flight: int = 16,
    ) -> None:
        self._client = client
        self._constitution = constitution
        self._options = options or JudgeOptions(interactive=False)
        self._timeout = timeout
        self._in_flight = in_flight
        self.unscored: Counter[str] = Counter()

    def __call__(
        self, conversations: Sequence[Sequence[Message]], responses: Sequence[str]
    ) -> list[float | None]:
        """Raises JudgeUnavailable when the judge is away for all of them: training then stops at
        its last checkpoint instead of going on without scores."""
        with ThreadPoolExecutor(self._in_flight) as pool:
            found = list(pool.map(self._ask, conversations, responses))
        away = [each for each in found if isinstance(each, JudgeUnavailable)]
        if found and len(away) == len(found):
            raise away[0]
        scores: list[float | None] = []
        for each in found:
            scores.append(each if isinstance(each, float) else None)
            if isinstance(each, JudgeUnavailable):
                self.unscored["unavailable"] += 1
            elif isinstance(each, str):
                self.unscored[each] += 1
        return scores

    def _ask(self, conversation: Sequence[Message], response: str) -> float | str | UserError:
        """The score, or why there is none."""
        started = time.monotonic()
        try:
            found = self._client.score(
                tuple(conversation),
                response,
                self._constitution,
                self._options,
                timeout=self._timeout,
            )
        except JudgeRequestError:
            return "refused"
        except JudgeUnavailable as error:
            late = time.monotonic() - started >= self._timeout
            return "timed out" if late else error
        return found.reason.value if isinstance(found, Unjudged) else found.score


# ── the policy beside its start ──────────────────────────────────────────────────────────────


def held_out_judge(
    compare: Compare, start: Sequence[Sample]
) -> Callable[[Sequence[Prompt], Sequence[str]], float | None]:
    """(prompts, the policy's responses) → mean P(better than the start's), as `ppo.train` takes it.

    compare: `labeling.comparer`, whose judge looks at both orders and whose journal makes a resumed
    run cost no read twice. start: the starting policy's samples; the first to each prompt counts.
    Two equal responses are ½ without asking. Pairs without a label are left out; None when no pair
    is left. Raises EvaluationError for a prompt that the start has no response to.
    """

    def judge(prompts: Sequence[Prompt], responses: Sequence[str]) -> float | None:
        now = [
            Sample(prompt=p, index=0, response=text, tokens=0, complete=True, seed=0)
            for p, text in zip(prompts, responses, strict=True)
        ]
        found = judge_score(compare_with_start(now, start, compare, "held-out"))
        return None if found is None else found.value

    return judge
