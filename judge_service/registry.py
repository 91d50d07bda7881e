"""The constitutions a server judges by, found by name or digest."""

from __future__ import annotations

from collections.abc import Sequence

from constitution.schema import Constitution, nearest
from judge_service.errors import InvalidRequest, ServerStartError
from judge_service.server_info import ConstitutionSummary

UNKNOWN = "UNKNOWN_CONSTITUTION"


class ConstitutionRegistry:
    """Loaded once, the first is the default.

    Raises ConstitutionError for a file that cannot be used, and ServerStartError for two of one
    name or one of more than `max_principles`.
    """

    def __init__(self, names: Sequence[str], max_principles: int) -> None:
        self._by_name: dict[str, Constitution] = {}
        for name in names:
            law = Constitution.load(name)
            if law.name in self._by_name:
                raise ServerStartError(
                    f"two constitutions are called '{law.name}': {name} is the second; rename one"
                )
            if len(law.principles) > max_principles:
                raise ServerStartError(
                    f"{name} has {len(law.principles)} principles, the server takes "
                    f"{max_principles}: drop some, or raise max_principles"
                )
            self._by_name[law.name] = law
        self._digests = {law.digest: law for law in self._by_name.values()}

    @property
    def summaries(self) -> tuple[ConstitutionSummary, ...]:
        return tuple(
            ConstitutionSummary(law.name, law.version, digest)
            for digest, law in self._digests.items()
        )

    def find(self, name: str, sha256: str) -> Constitution:
        """By name, by digest, or by both, which must agree; neither: the default.

        Raises InvalidRequest.
        """
        known = ", ".join(self._by_name)
        if name and name not in self._by_name:
            hint = nearest(name, self._by_name) or f"this server has: {known}"
            shown = name if len(name) <= 64 else name[:61] + "..."
            raise InvalidRequest("constitution.name", f"unknown '{shown}'; {hint}", reason=UNKNOWN)
        law = self._by_name[name] if name else next(iter(self._by_name.values()))
        if not sha256:
            return law
        pinned = self._digests.get(sha256)
        if pinned is None or (name and pinned is not law):
            raise InvalidRequest(
                "constitution.sha256",
                f"this server has no such {name or 'constitution'}; it has {self._listing()}",
                reason=UNKNOWN,
            )
        return pinned

    def _listing(self) -> str:
        return ", ".join(f"{s.name} {s.version} ({s.sha256[:12]}…)" for s in self.summaries)
