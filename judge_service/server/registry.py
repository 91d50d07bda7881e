"""The constitutions of a server, by name and by digest; read again when their files change.

A reload takes each file by itself: one that cannot be used leaves the version that was there, and
says so. Judgments under way finish under the version they began with, and a version once served
stays known by its digest, so that a client which pinned it is not cut off by an edit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from constitution.errors import UserError
from constitution.schema import Constitution, nearest
from judge_service.errors import InvalidRequest, ServerStartError
from judge_service.file_watch import FileWatch
from judge_service.server_info import ConstitutionSummary

UNKNOWN = "UNKNOWN_CONSTITUTION"


class ConstitutionRegistry:
    """The first is the default. `sources`: shipped names or files.

    Raises ConstitutionError for a file that cannot be used, and ServerStartError for two of one
    name or one of more than `max_principles`.
    """

    def __init__(self, sources: Sequence[str], max_principles: int) -> None:
        self._max_principles = max_principles
        self._sources = tuple(sources)
        self._watch = FileWatch(map(Path, sources))  # a shipped name is a file that is not there
        self._laws: list[Constitution] = []  # in the order of the sources
        for source in sources:
            self._laws.append(self._load(source, self._laws))
        self._digests = {law.digest: law for law in self._laws}

    def changed(self) -> bool:
        """Whether a source was changed since it was read; call it once a poll."""
        return self._watch.changed()

    def reload(self) -> list[str]:
        """Read every source again. One line for each that changed, or cannot be used any more."""
        said = []
        self._watch.mark()
        for place, (source, before) in enumerate(zip(self._sources, self._laws, strict=True)):
            try:
                law = self._load(source, self._laws[:place] + self._laws[place + 1 :])
            except UserError as error:
                said.append(f"{source} cannot be used, {before.name} stays as it was: {error}")
                continue
            if law.digest != before.digest:
                self._laws[place] = self._digests[law.digest] = law
                said.append(f"{law.name} is now {law.version} (sha256 {law.digest[:12]})")
        return said

    def _load(self, source: str, others: Sequence[Constitution]) -> Constitution:
        law = Constitution.load(source)
        if any(other.name == law.name for other in others):
            raise ServerStartError(
                f"two constitutions are called '{law.name}': {source} is the second; rename one"
            )
        if len(law.principles) > self._max_principles:
            raise ServerStartError(
                f"{source} has {len(law.principles)} principles, the server takes "
                f"{self._max_principles}: drop some, or raise max_principles"
            )
        return law

    @property
    def summaries(self) -> tuple[ConstitutionSummary, ...]:
        return tuple(ConstitutionSummary(law.name, law.version, law.digest) for law in self._laws)

    def find(self, name: str, sha256: str) -> Constitution:
        """By name, by digest, or by both, which must agree; neither: the default.

        Raises InvalidRequest.
        """
        by_name = {law.name: law for law in self._laws}
        if name and name not in by_name:
            hint = nearest(name, by_name) or f"this server has: {', '.join(by_name)}"
            shown = name if len(name) <= 64 else name[:61] + "..."
            raise InvalidRequest("constitution.name", f"unknown '{shown}'; {hint}", reason=UNKNOWN)
        law = by_name[name] if name else self._laws[0]
        if not sha256:
            return law
        pinned = self._digests.get(sha256)
        if pinned is None or (name and pinned.name != name):
            raise InvalidRequest(
                "constitution.sha256",
                f"this server has no such {name or 'constitution'}; it has {self._listing()}",
                reason=UNKNOWN,
            )
        return pinned

    def _listing(self) -> str:
        return ", ".join(f"{s.name} {s.version} ({s.sha256[:12]}…)" for s in self.summaries)
