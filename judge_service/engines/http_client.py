"""HTTP client of a model server: bounded concurrency with priorities, and retries.

Cancelling a request closes its connection, which aborts it in the server. A request that waits for
its next attempt holds no slot.

Retried: 429, 5xx, and connections that fail or break; after the time that Retry-After asks for,
else with exponential backoff. That is safe, since a completion changes nothing. An answer that
takes longer than ANSWER_SECONDS is not retried.

Errors carry a status and never a server's own text, which may quote the prompt.
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
_PEEK_SECONDS = 5.0
_WAITS = (0.25, 0.5, 1.0, 2.0)  # seconds before the second attempt, the third, ...
_LONGEST_WAIT = 30.0  # a server that asks for more counts as unavailable
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class UpstreamError(UserError):
    """A model server that does not work with these settings. Names setting, value and remedy."""


class Refused(Exception):  # noqa: N818  the server's answer, not a fault
    """The server refuses the request for good. `status` is the HTTP status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {describe(status)}")
        self.status = status


class NoAnswer(Exception):  # noqa: N818
    """The server does not answer now, after all attempts; the text is the last one's failure.

    of_prompt: this prompt may be the cause (500, or no answer in time); check the server before
    giving it up.
    """

    def __init__(self, why: str, *, of_prompt: bool = False) -> None:
        super().__init__(why)
        self.of_prompt = of_prompt


class Upstream:
    """A server by its base URL (http://host:8000/v1). Create it inside the running event loop.

    key: sent as a bearer token, "" for none. at_a_time: concurrent requests, each on its own
    connection. url, root: the base URL with and without /v1. is_plain_text: whether requests leave
    this machine unencrypted.

    Raises UpstreamError for an invalid URL or key.
    """

    def __init__(self, url: str, key: str, *, at_a_time: int) -> None:
        try:
            base = httpx2.URL(url)
        except httpx2.InvalidURL as error:
            raise UpstreamError(
                f"setting 'openai_url': invalid URL {url!r} ({error}); write it as "
                "http://127.0.0.1:8000/v1"
            ) from None
        if not (key.isascii() and key.isprintable()):
            raise UpstreamError(
                f"environment {KEY_VARIABLE}: unexpected characters, such as a line break or an "
                "accented letter; set it to the key alone"
            )
        self.url = str(base.copy_with(path="/v1") if base.path in ("", "/") else base).rstrip("/")
        self.root = self.url.removesuffix("/v1")
        self.is_plain_text = base.scheme == "http" and base.host not in _LOOPBACK
        self._slots = PrioritySemaphore(at_a_time)
        self._client = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            # One more than requests: `peek` never waits behind them.
            limits=httpx2.Limits(max_connections=at_a_time + 1, max_keepalive_connections=None),
            timeout=httpx2.Timeout(ANSWER_SECONDS, connect=_CONNECT_SECONDS),
            trust_env=base.host not in _LOOPBACK,  # no proxy leads to this very machine
        )

    async def post(self, path: str, body: Mapping[str, Any], *, priority: int = 0) -> Any:
        """The JSON answer to a POST, after retries; a request waits for a slot by its priority.

        path: after the base URL, such as "/completions". priority: lower numbers go first. Raises
        Refused for an answer that a retry does not change, and NoAnswer after the last attempt.
        """
        content = json.dumps(body, separators=(",", ":")).encode()
        for wait in _WAITS:
            try:
                return await self._attempt(path, content, priority)
            except _Temporary as failed:
                if failed.wait > _LONGEST_WAIT:
                    raise NoAnswer(f"{failed}, not for the next {failed.wait:.0f} s") from None
                await asyncio.sleep(max(failed.wait, wait * random.uniform(0.5, 1.0)))
        try:
            return await self._attempt(path, content, priority)
        except _Temporary as failed:
            raise NoAnswer(str(failed), of_prompt=failed.of_prompt) from None

    async def peek(self, url: str) -> Any:
        """The JSON of a GET that is quick to produce, without retries and concurrency limit.

        Raises Refused, and NoAnswer after five seconds.
        """
        try:
            return _json(await self._client.get(url, timeout=_PEEK_SECONDS))
        except httpx2.RequestError as error:
            raise NoAnswer(_kind(error)) from None
        except _Temporary as failed:
            raise NoAnswer(str(failed)) from None

    async def close(self) -> None:
        """Close the connections; later requests raise NoAnswer."""
        await self._client.aclose()

    async def _attempt(self, path: str, content: bytes, priority: int) -> Any:
        headers = {"Content-Type": "application/json"}
        async with self._slots.acquire(priority):
            if self._client.is_closed:
                raise NoAnswer("the connection was closed on this side")
            try:
                url = f"{self.url}{path}"
                return _json(await self._client.post(url, content=content, headers=headers))
            except httpx2.ReadTimeout:
                why = f"no answer within {ANSWER_SECONDS:.0f} s"
                raise NoAnswer(why, of_prompt=True) from None
            except httpx2.RequestError as error:
                raise _Temporary(_kind(error)) from None


class _Temporary(Exception):  # noqa: N818
    def __init__(self, why: str, wait: float = 0.0, *, of_prompt: bool = False) -> None:
        super().__init__(why)
        self.wait = wait  # seconds that the server asks for
        self.of_prompt = of_prompt  # as in NoAnswer


def _json(response: httpx2.Response) -> Any:
    status = response.status_code
    if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        of_prompt = status == HTTPStatus.INTERNAL_SERVER_ERROR
        raise _Temporary(f"HTTP {describe(status)}", _retry_after(response), of_prompt=of_prompt)
    if status != HTTPStatus.OK:
        raise Refused(status)
    try:
        return response.json()
    except ValueError:
        raise _Temporary("an answer that is not JSON") from None


def _retry_after(response: httpx2.Response) -> float:
    """Seconds, from either form of the header (RFC 9110, section 10.2.3); 0 without one."""
    header = response.headers.get("retry-after", "").strip()
    if header.isdecimal():
        return float(header)
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def describe(status: int) -> str:
    """The status with its phrase.

    >>> describe(429)
    '429 Too Many Requests'
    """
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _kind(error: httpx2.RequestError) -> str:
    """The error's kind in words, from its type: ConnectError -> "connect error"."""
    name = type(error).__name__
    return "".join(f" {c.lower()}" if c.isupper() else c for c in name).strip()
