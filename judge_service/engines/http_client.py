"""HTTP to a model server: at most so many requests at a time, the urgent ones first; tried again
where that may help; a cancelled one is hung up on, which aborts it in the server. One that waits
for its next try holds no turn.

What is tried again: 429, 5xx, connections that fail or break; after the wait that Retry-After
asks for, else after growing ones. That is safe, for a completion changes nothing. An answer that
takes longer than ANSWER_SECONDS is not waited for again.

Errors carry a status and never a server's own words: those may quote the prompt.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

import httpx2

from constitution.errors import UserError
from judge_service.engines.priority_semaphore import PrioritySemaphore

KEY_VARIABLE = "RLAIF_OPENAI_API_KEY"
ANSWER_SECONDS = 600.0
_CONNECT_SECONDS = 5.0
_GLANCE_SECONDS = 5.0
_WAITS = (0.25, 0.5, 1.0, 2.0)  # seconds before the second try, the third, ...
_LONGEST_WAIT = 30.0  # who asks for more is not available
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class UpstreamError(UserError):
    """A model server that cannot be used as it is set: which setting, its value, the remedy."""


class Refused(Exception):  # noqa: N818  what the server did
    """The server will not do this; asking again gives the same. `status` is that of HTTP."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {describe(status)}")
        self.status = status


class NoAnswer(Exception):  # noqa: N818
    """The server does not answer now, after all tries. Says how the last one failed.

    of_prompt: this prompt may be what it fails at (500, or no answer in time); look before giving
    up the server.
    """

    def __init__(self, why: str, *, of_prompt: bool = False) -> None:
        super().__init__(why)
        self.of_prompt = of_prompt


class Upstream:
    """One server by its base URL (http://host:8000/v1). Make it where its event loop runs.

    key: sent as a bearer token, "" for none. at_a_time: requests, each on a connection of its own.

    Raises UpstreamError for what is no URL or no key.
    """

    def __init__(self, url: str, key: str, *, at_a_time: int) -> None:
        try:
            base = httpx2.URL(url)
        except httpx2.InvalidURL as error:
            raise UpstreamError(
                f"setting 'openai_url': {url!r} is no address ({error}); write it as "
                "http://127.0.0.1:8000/v1"
            ) from None
        if not (key.isascii() and key.isprintable()):
            raise UpstreamError(
                f"environment {KEY_VARIABLE}: it holds characters that no key has (a line break, "
                "a letter with an accent); set it to the key alone"
            )
        self.url = str(base.copy_with(path="/v1") if base.path in ("", "/") else base).rstrip("/")
        self.root = self.url.removesuffix("/v1")
        self.in_the_clear = base.scheme == "http" and base.host not in _LOOPBACK
        self._turns = PrioritySemaphore(at_a_time)
        self._client = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            # One more than there are turns: a glance never waits behind requests.
            limits=httpx2.Limits(max_connections=at_a_time + 1, max_keepalive_connections=None),
            timeout=httpx2.Timeout(ANSWER_SECONDS, connect=_CONNECT_SECONDS),
            trust_env=base.host not in _LOOPBACK,  # no proxy stands before this machine itself
        )

    async def post(self, path: str, body: Mapping[str, Any], *, priority: int = 0) -> Any:
        """The JSON that comes back. Raises Refused and NoAnswer."""
        content = json.dumps(body, separators=(",", ":")).encode()
        for wait in _WAITS:
            try:
                return await self._try(path, content, priority)
            except _MayPass as failed:
                if failed.wait > _LONGEST_WAIT:
                    raise NoAnswer(f"{failed}, not for the next {failed.wait:.0f} s") from None
                await asyncio.sleep(max(failed.wait, wait * random.uniform(0.5, 1.0)))
        try:
            return await self._try(path, content, priority)
        except _MayPass as failed:
            raise NoAnswer(str(failed), of_prompt=failed.of_prompt) from None

    async def glance(self, url: str) -> Any:
        """GET without a second try and without a turn, for JSON that is quickly had. Raises Refused
        and NoAnswer."""
        try:
            return _json(await self._client.get(url, timeout=_GLANCE_SECONDS))
        except httpx2.RequestError as error:
            raise NoAnswer(_kind(error)) from None
        except _MayPass as failed:
            raise NoAnswer(str(failed)) from None

    async def close(self) -> None:
        await self._client.aclose()

    async def _try(self, path: str, content: bytes, priority: int) -> Any:
        headers = {"Content-Type": "application/json"}
        async with self._turns.acquire(priority):
            if self._client.is_closed:
                raise NoAnswer("the connection was closed on this side")
            try:
                url = f"{self.url}{path}"
                return _json(await self._client.post(url, content=content, headers=headers))
            except httpx2.ReadTimeout:
                why = f"no answer within {ANSWER_SECONDS:.0f} s"
                raise NoAnswer(why, of_prompt=True) from None
            except httpx2.RequestError as error:
                raise _MayPass(_kind(error)) from None


class _MayPass(Exception):  # noqa: N818
    def __init__(self, why: str, wait: float = 0.0, *, of_prompt: bool = False) -> None:
        super().__init__(why)
        self.wait = wait  # seconds that the server asks for
        self.of_prompt = of_prompt  # as in NoAnswer


def _json(response: httpx2.Response) -> Any:
    status = response.status_code
    if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        of_prompt = status == HTTPStatus.INTERNAL_SERVER_ERROR
        raise _MayPass(f"HTTP {describe(status)}", _retry_after(response), of_prompt=of_prompt)
    if status != HTTPStatus.OK:
        raise Refused(status)
    try:
        return response.json()
    except ValueError:
        raise _MayPass("an answer that is not JSON") from None


def _retry_after(response: httpx2.Response) -> float:
    """Seconds, from either form of the header (RFC 9110, section 10.2.3); 0 when there is none."""
    asked = response.headers.get("retry-after", "").strip()
    if asked.isdecimal():
        return float(asked)
    try:
        return max(0.0, (parsedate_to_datetime(asked) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def describe(status: int) -> str:
    """
    >>> describe(429)
    '429 Too Many Requests'
    """
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _kind(error: httpx2.RequestError) -> str:
    """What failed, by the name of its type: ConnectError -> "connect error"."""
    name = type(error).__name__
    return "".join(f" {c.lower()}" if c.isupper() else c for c in name).strip()
