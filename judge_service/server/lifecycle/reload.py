"""Reloads constitutions, tokens and certificates while the server runs.

    SIGHUP      everything
    polling     a constitution's file, or the file of tokens, within a second of its change

A certificate and its key are two files that must match, so only SIGHUP marks both as complete.
"""

from __future__ import annotations

import asyncio
import logging

from judge_service.errors import ServerStartError
from judge_service.observability.metrics import NoMetrics
from judge_service.security.interceptor import TokenGate
from judge_service.security.tls import ServerTls
from judge_service.server.lifecycle.health import Health
from judge_service.server.registry import ConstitutionRegistry

_POLL_SECONDS = 0.3  # a change counts at the second poll that sees it: within a second

_log = logging.getLogger("judge_service")


class Reloader:
    """Reads the files of a running server again, and publishes the state of its tokens.

    gate, tls: None for a server without tokens, or without TLS. health: shows alarms about tokens.
    """

    def __init__(
        self,
        constitutions: ConstitutionRegistry,
        gate: TokenGate | None,
        tls: ServerTls | None,
        health: Health,
        metrics: NoMetrics,
    ) -> None:
        self._constitutions = constitutions
        self._gate = gate
        self._tls = tls
        self._health = health
        self._metrics = metrics
        self._show_tokens()

    def reload(self) -> None:
        """Read everything again, now. Problems of a file are logged, never raised."""
        for reload in (self._reload_constitutions, self._reload_tokens, self._reload_tls):
            try:
                reload()
            except Exception as error:  # such as too many open files; the server goes on
                # Without the error's text, which may quote the file of tokens.
                _log.error("cannot reload, all stays as it was: %s", type(error).__name__)

    def _reload_tls(self) -> None:
        try:
            if self._tls is not None:
                self._tls.reload()
        except ServerStartError as error:
            _log.error("cannot reload certificates, the old ones stay in use: %s", error)

    async def watch(self) -> None:
        """Reload what has changed, until cancelled."""
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            try:
                self._poll()
            except Exception as error:  # the watch must go on, or revocations would be missed
                # Without the error's text, which may quote the file of tokens.
                _log.error("cannot check for changed files: %s", type(error).__name__)

    def _poll(self) -> None:
        if self._constitutions.changed():
            self._reload_constitutions()
        if self._gate is None:
            return
        if self._gate.tokens.changed():
            self._reload_tokens()
        elif self._gate.tokens.unread:
            # The failure may pass without a change of the file; it was logged when it began.
            problems = self._gate.reload()
            if not self._gate.tokens.unread:
                self._log_tokens(problems)
            self._show_tokens()

    def _reload_constitutions(self) -> None:
        for line in self._constitutions.reload():
            _log.warning("%s", line)

    def _reload_tokens(self) -> None:
        if self._gate is not None:
            self._log_tokens(self._gate.reload())
            self._show_tokens()

    def _log_tokens(self, problems: tuple[str, ...]) -> None:
        assert self._gate is not None
        for problem in problems:
            _log.error("%s", problem)
        if not self._gate.tokens.stale:
            _log.info("tokens reloaded: %d admitted", len(self._gate.tokens))

    def _show_tokens(self) -> None:
        """Publish the state of the tokens in the metrics and among the alarms of health."""
        if self._gate is not None:
            tokens = self._gate.tokens
            self._metrics.tokens_read(len(tokens), tokens.rejected, stale=tokens.stale)
            self._health.show_alarms("tokens", *tokens.alarms)
