"""The constitutions of a server, by name and by digest; read again when their files change.

A reload treats each file by itself: an invalid one is reported, and the version before it stays.
Judgments in progress finish with the version they began with, and a version once served stays known
by its digest, so that an edit does not cut off a client that pinned it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from constitution.errors import UserError, nearest
from constitution.schema import Constitution
from judge_service.errors import InvalidRequest, ServerStartError
from judge_service.security.file_watch import FileWatch
from judge_service.server_info import ConstitutionSummary

UNKNOWN = "UNKNOWN_CONSTITUTION"


class ConstitutionRegistry:
    """The constitutions of a server, by name and digest; the first is the default.

    sources: shipped names or files. max_principles: of each.

    Raises ConstitutionError for an invalid file, and ServerStartError for two of the same name or
    one with more than `max_principles`.
    """

    def __init__(self, sources: Sequence[str], max_principles: int) -> None:
        self._max_principles = max_principles
        self._sources = tuple(sources)
        self._watch = FileWatch(map(Path, sources))  # a shipped name is a file that does not exist
        self._served: list[Constitution] = []  # in the order of the sources
        for source in sources:
            self._served.append(self._load(source, self._served))
        self._by_digest = {each.digest: each for each in self._served}

    def changed(self) -> bool:
        """Whether a source was changed since it was read; call it once a poll."""
        return self._watch.changed()

    def reload(self) -> list[str]:
        """Read every source again. One line for each that changed, or is invalid now."""
        changes = []
        self._watch.mark()
        for index, (source, before) in enumerate(zip(self._sources, self._served, strict=True)):
            others = self._served[:index] + self._served[index + 1 :]
            if _blocks(Path(source)):
                changes.append(f"{source} is a pipe or device, {before.name} stays as it was")
                continue
            try:
                now = self._load(source, others)
            except UserError as error:
                changes.append(f"{source} cannot be used, {before.name} stays as it was: {error}")
                continue
            if now.digest != before.digest:
                self._served[index] = self._by_digest[now.digest] = now
                changes.append(f"{now.name} is now {now.version} (sha256 {now.digest[:12]})")
        return changes

    def _load(self, source: str, others: Sequence[Constitution]) -> Constitution:
        loaded = Constitution.load(source)
        if any(other.name == loaded.name for other in others):
            raise ServerStartError(
                f"two constitutions are called '{loaded.name}': {source} is the second; rename one"
            )
        if len(loaded.principles) > self._max_principles:
            raise ServerStartError(
                f"{source} has {len(loaded.principles)} principles, the server takes "
                f"{self._max_principles}: drop some, or raise max_principles"
            )
        return loaded

    @property
    def summaries(self) -> tuple[ConstitutionSummary, ...]:
        """Name, version and digest of those that are served now, in the order of the sources."""
        return tuple(ConstitutionSummary(c.name, c.version, c.digest) for c in self._served)

    def find(self, name: str, sha256: str) -> Constitution:
        """The constitution of this name and this digest; "" matches any, both "" the default.

        A version that was served before a reload is still found by its digest. Raises
        InvalidRequest.
        """
        by_name = {each.name: each for each in self._served}
        if name and name not in by_name:
            hint = nearest(name, by_name) or f"this server has: {', '.join(by_name)}"
            shown = name if len(name) <= 64 else name[:61] + "..."
            raise InvalidRequest("constitution.name", f"unknown '{shown}'; {hint}", reason=UNKNOWN)
        if not sha256:
            return by_name[name] if name else self._served[0]
        pinned = self._by_digest.get(sha256)
        if pinned is None or (name and pinned.name != name):
            raise InvalidRequest(
                "constitution.sha256",
                f"this server has no such {name or 'constitution'}; it has {self._listing()}",
                reason=UNKNOWN,
            )
        return pinned

    def _listing(self) -> str:
        return ", ".join(f"{s.name} {s.version} ({s.sha256[:12]}…)" for s in self.summaries)


def _blocks(path: Path) -> bool:
    """Whether reading this may wait forever, as for the writer of a pipe."""
    return path.exists() and not (path.is_file() or path.is_dir())
