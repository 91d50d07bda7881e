"""Judge clients for training and commands: a running server or one started for the block.

Where answers are kept, a judge is started only for what they lack (`judge_when_needed`).

Also the judge's scores as a reward, and the policy's win probability over its start as a held-out
metric.

A server started here is a child process that ends when its standard input closes: if this process
dies, even by kill -9, the pipe closes and the server exits too.

A reward is the judge's `score` of a single response: for each principle, the expected rating E[r]
on a scale of 1 to 9, mapped to (E[r] - 5) / 4; then their weighted mean. It lies in [-1, 1], and 0
is the middle of the scale (direct RLAIF, arXiv:2309.00267, section 2.2.3).
"""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from threading import Lock
from typing import Protocol

from pydantic import TypeAdapter
from rich.console import Console

from constitution import DEFAULT_CONSTITUTION
from constitution.errors import UserError
from constitution.schema import Constitution, Message
from judge_service.client.sync import JudgeClient, JudgeRequestError, JudgeUnavailable
from judge_service.engines.model_folder import model_name, weights_sha256
from judge_service.judge.calibration import calibration_files
from judge_service.judge.prompts import TEMPLATE_VERSION
from judge_service.planted.file import PlantedJudge, planted_file
from judge_service.server_info import ServerInfo
from judge_service.types import Comparison, JudgeOptions, Judgment, Score, Unjudged
from rlaif.data.records import Prompt, Sample, write_json
from rlaif.evaluation.comparison import Compare, compare_with_start
from rlaif.feedback.connection import judge_at, wait_until_ready
from rlaif.feedback.pairs import digest
from rlaif.models import catalog

START_TIMEOUT_S = 900.0
STOP_GRACE_S = 20.0
FIND_TIMEOUT_S = 10.0  # for a server that should be running already


class JudgeServerError(UserError):
    """The judge server failed to start; the message ends with the last lines of its log."""


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
    """Yield a client to a judge server that is ready.

    With a `model`, start `rlaif serve` on a free port with that model, with `constitution` (one or
    several; the first is the default, "" leaves it to the server) and with `flags`. Its output goes
    to `log`; it accepts inline constitutions, and is stopped at the end of the block. A planted
    judge (planted:FILE) is served by the engine planted, and stderr says so. Without a model,
    connect to `server`, which must be ready within `wait` seconds, with the credentials of
    `rlaif.feedback.connection`.

    Raises JudgeServerError, or JudgeUnavailable when `server` does not answer.
    """
    if not model:
        with judge_at(server) as client:
            wait_until_ready(client, wait)
            yield client
        return
    # Each constitution once, in the order given: the server's default is its first.
    port = _free_port()
    command = [sys.executable, "-m", "rlaif", "serve", "--model", model, "--port", str(port)]
    names = [constitution] if isinstance(constitution, str) else constitution
    distinct = dict.fromkeys(name for name in names if name)
    command += [word for name in distinct for word in ("--constitution", name)]
    if planted_file(model) is not None:
        command += ["--engine", "planted"]
        print(f"the judge {model} is planted: simulated by rules, not a model", file=sys.stderr)
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


# ── started when needed ──────────────────────────────────────────────────────────────────────

SERVED = "judge.served.json"
_INFOS = TypeAdapter(dict[str, ServerInfo])


class JudgeWhenNeeded:
    """A client whose judge is started for the first request. known: what the same judge said of
    itself before, which names the answers in a journal. May be called from several threads."""

    def __init__(self, known: ServerInfo, start: Callable[[], JudgeClient]) -> None:
        self._known = known
        self._start = start
        self._one_at_a_time = Lock()
        self.started: JudgeClient | None = None

    def server_info(self) -> ServerInfo:
        """The judge's own, or what it said before."""
        return self._known if self.started is None else self.started.server_info()

    def stream(
        self,
        comparisons: Iterable[Comparison],
        constitution: str | Constitution,
        options: JudgeOptions,
    ) -> Iterator[tuple[str, Judgment | Unjudged]]:
        """As JudgeClient.stream."""
        return self._judge().stream(comparisons, constitution=constitution, options=options)

    def score(
        self,
        conversation: tuple[Message, ...],
        response: str,
        constitution: str | Constitution,
        options: JudgeOptions,
        *,
        timeout: float | None,
    ) -> Score | Unjudged:
        """As JudgeClient.score."""
        return self._judge().score(conversation, response, constitution, options, timeout=timeout)

    def _judge(self) -> JudgeClient:
        """The judge, which is started now if it was not before."""
        with self._one_at_a_time:
            self.started = self.started or self._start()
            return self.started


@contextmanager
def judge_when_needed(
    model: str, constitution: str, log: Path, server: str = "", *, wait: float = FIND_TIMEOUT_S
) -> Iterator[JudgeClient | JudgeWhenNeeded]:
    """As `judge_client`, but a judge that has served in the log's folder before is started only for
    pairs that its journal there has no answer to; stderr says so where there were none.

    What it said of itself is kept in judge.served.json, under a digest of what that follows from.
    """
    key = _digest_of_served(model, constitution) if model else ""
    file = log.with_name(SERVED)
    with ExitStack() as stack:

        def start() -> JudgeClient:
            client = stack.enter_context(judge_client(model, constitution, log, server, wait=wait))
            if key:
                written = _INFOS.dump_python(
                    _served(file) | {key: client.server_info()}, mode="json"
                )
                write_json(file, written)
            return client

        known = _served(file).get(key) if key else None
        if known is None:
            yield start()
            return
        judge = JudgeWhenNeeded(known, start)
        yield judge
        if judge.started is None:
            print(
                f"the judge {model} was not started: all its answers are in {log.parent} already",
                file=sys.stderr,
            )


def _served(file: Path) -> dict[str, ServerInfo]:
    try:
        return _INFOS.validate_json(file.read_bytes())
    except (OSError, ValueError):  # none yet, or of another version: the judge is asked again
        return {}


def _digest_of_served(model: str, constitution: str) -> str:
    """A digest of all that a judge's identity follows from; "" for weights that are not here."""
    if planted_file(model) is not None:
        content = [PlantedJudge.load(model).digest]
    else:
        folder = Path(catalog.resolve(model))
        if not folder.is_dir():
            return ""
        content = [model_name(folder), weights_sha256(folder)]
        for each in sorted(folder.glob("*.json*")) + sorted(folder.glob("*.jinja")):
            content += [each.name, each.read_text(encoding="utf-8", errors="replace")]
    by = constitution or DEFAULT_CONSTITUTION
    rules = [Constitution.load(by).digest]
    # `rlaif serve` applies the calibrations that it finds for its constitution.
    for file in calibration_files(by, catalog.cache_folder() / "calibrations"):
        rules.append(file.read_text(encoding="utf-8", errors="replace"))
    packages = [d for name in ("rlaif", "vllm", "torch") for d in metadata.distributions(name=name)]
    versions = [package.version for package in packages]
    return digest([content, rules, TEMPLATE_VERSION, versions, platform.node()])


def _without_serve_settings() -> dict[str, str]:
    """This process's environment without server settings: a local server needs no tokens or TLS."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith("RLAIF_SERVE_")
    }


def _await(client: JudgeClient, child: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the server is ready, with a spinner on a terminal: loading takes half a minute."""

    def require_alive(*_: object) -> None:
        if child.poll() is not None:
            raise JudgeServerError(f"the judge server exited before it was ready:\n{_tail(log)}")

    console, loading = Console(stderr=True), "the judge server is loading its model"
    if not console.is_terminal:  # where a spinner would show nothing for minutes
        print(f"{loading}; its log is {log}", file=sys.stderr)
    with console.status(loading):
        client.wait_until_ready(START_TIMEOUT_S, require_alive)


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
    """The part of `JudgeClient` that a reward uses. Called from several threads."""

    def score(
        self,
        conversation: tuple[Message, ...],
        response: str,
        constitution: str | Constitution,
        options: JudgeOptions,
        *,
        timeout: float | None,
    ) -> Score | Unjudged:
        """Rate one response, within `timeout` seconds.

        Raises JudgeRequestError for a refused request, JudgeUnavailable without an answer in time.
        """


@contextmanager
def judge_reward(
    address: str,
    constitution: str | Constitution = "",
    *,
    options: JudgeOptions | None = None,
    timeout: float = 60.0,
    in_flight: int = 16,
) -> Iterator[JudgeReward]:
    """Yield a reward of the judge at HOST:PORT, for `rlaif.rewards.sources.open_rewards`.

    Raises JudgeUnavailable when no server answers, JudgeRequestError for an unknown constitution.
    """
    with judge_at(address) as client:
        client.wait_until_ready(FIND_TIMEOUT_S)
        if isinstance(constitution, str):
            client.constitution(constitution)  # fail now rather than once per response
        yield JudgeReward(
            client, constitution, options=options, timeout=timeout, in_flight=in_flight
        )


class JudgeReward:
    """A RewardFunction backed by a judge: (conversations, responses) → scores in [-1, 1], or None.

    constitution: a name that the server knows ("" for its default), or a Constitution. timeout:
    seconds per score, including the time in the server's queue. in_flight: concurrent requests.
    `unscored` counts the Nones by reason: "timed out", "unavailable", "refused" (such as
    a text too long for the judge), or an `UnjudgedReason`.
    """

    own_scale = False  # PPO and ReST standardize its scores (rlaif/rewards/scale.py)

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
        """One score per response. Raises JudgeUnavailable when the judge is unavailable for all of
        them, so that training stops at its last checkpoint instead of going on without scores."""
        with ThreadPoolExecutor(self._in_flight) as pool:
            outcomes = list(pool.map(self._score, conversations, responses))
        failures = [outcome for outcome in outcomes if isinstance(outcome, JudgeUnavailable)]
        if outcomes and len(failures) == len(outcomes):
            raise failures[0]
        scores: list[float | None] = []
        for outcome in outcomes:
            scores.append(outcome if isinstance(outcome, float) else None)
            if isinstance(outcome, JudgeUnavailable):
                self.unscored["unavailable"] += 1
            elif isinstance(outcome, str):
                self.unscored[outcome] += 1
        return scores

    def _score(self, conversation: Sequence[Message], response: str) -> float | str | UserError:
        """The score, or the reason or error in place of one."""
        started = time.monotonic()
        try:
            answer = self._client.score(
                tuple(conversation),
                response,
                self._constitution,
                self._options,
                timeout=self._timeout,
            )
        except JudgeRequestError:
            return "refused"
        except JudgeUnavailable as error:
            timed_out = time.monotonic() - started >= self._timeout
            return "timed out" if timed_out else error
        return answer.reason.value if isinstance(answer, Unjudged) else answer.score


# ── the policy against its start ─────────────────────────────────────────────────────────────


def held_out_judge(
    compare: Compare, start: Sequence[Sample]
) -> Callable[[Sequence[Prompt], Sequence[str]], list[float | None]]:
    """(prompts, the policy's responses) → P(better than the start's) of each, for `ppo.train`.

    compare: `labeler.comparer`, whose judge reads both orders and whose journal keeps a resumed run
    from repeating reads. start: the starting policy's samples; the first for each prompt counts.
    Two equal responses count as ½ without a read; a pair without a judgment has None. The returned
    function raises EvaluationError for a prompt that the start has no response to.
    """

    def judge(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float | None]:
        current = [
            Sample(prompt=p, index=0, response=text, tokens=0, complete=True, seed=0)
            for p, text in zip(prompts, responses, strict=True)
        ]
        compared = compare_with_start(current, start, compare, "held-out")
        by_prompt = {comparison.prompt: comparison.prob for comparison in compared}
        return [by_prompt[prompt.id] for prompt in prompts]

    return judge
