"""The judge of work on shards: connected once, and waited for where it restarts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from constitution import Constitution
from constitution.errors import UserError
from constitution.writer import to_yaml
from judge_service.client.sync import JudgeClient, JudgeUnavailable
from judge_service.server_info import ServerInfo
from rlaif.data.files import RecordError
from rlaif.data.records import atomic_open
from rlaif.feedback.client import judge_client
from rlaif.feedback.connection import wait_until_ready
from rlaif.feedback.earlier_labels import JudgeIdentity
from rlaif.feedback.labeler import CONSTITUTION, LabelingError, identify
from rlaif.sharding.jobs import discard_log, own_log

Result = TypeVar("Result")

_SAID = "judge.info.json"
_INFO = TypeAdapter(ServerInfo)


@dataclass(frozen=True, slots=True)
class ConnectedJudge:
    """A judge that is ready. traits: of its constitution, where that is at hand here."""

    client: JudgeClient
    identity: JudgeIdentity
    traits: tuple[str, ...]
    wait: float  # seconds that it may be away

    def settings(self, calibrated: bool) -> dict[str, Any]:
        """What answers depend on, by name."""
        judge = self.identity
        return {
            "constitution": f"{judge.constitution.name} {judge.constitution.version}",
            "constitution_sha256": judge.constitution.sha256,
            "judge": asdict(judge.model),
            "template": judge.template_version,
            "calibrations": list(judge.calibrations) if calibrated else [],
        }

    def keep_server_info(self, out: Path) -> None:
        """Leave what the judge says of itself in `out`, for `read_server_info`."""
        said = _INFO.dump_json(self.client.server_info(), indent=2)
        _replace(out / _SAID, said.decode() + "\n")

    def once_more_if_away(self, work: Callable[[], Result]) -> Result:
        """The result of `work`; where the judge went away meanwhile, as when it is restarted, of
        the second try. Raises JudgeUnavailable where it does not come back within `wait`."""
        try:
            return work()
        except (JudgeUnavailable, LabelingError) as error:
            if JudgeUnavailable not in (type(error), type(error.__cause__)):
                raise
        wait_until_ready(self.client, self.wait)
        return work()


@contextmanager
def connected(
    model: str,
    server: str,
    constitution: str,
    wait: float,
    out: Path,
    gpus: int = 0,
    flags: Sequence[str] = (),
) -> Iterator[ConnectedJudge]:
    """A judge that runs at `server`, or is started with `model` for the block.

    constitution: a name, or a YAML file, whose rules are left in `out` so that training finds the
    weights of its traits. gpus: over which a model is split that is started here; flags: further
    ones of `rlaif serve` for it. Raises as `judge_client` and `identify`.
    """
    log = own_log(out, "judge")
    flags = (*flags, *(("--tensor-parallel-size", str(gpus)) if gpus else ()))
    with judge_client(model, constitution, log, server, flags=flags, wait=wait) as client:
        identity = identify(client.server_info(), constitution)
        rules = _rules(constitution, identity)
        if rules is not None:
            _replace(out / CONSTITUTION, to_yaml(rules))
        traits = tuple(sorted(rules.trait_weights)) if rules else ()
        yield ConnectedJudge(client, identity, traits, wait)
    discard_log(log)


def read_server_info(out: Path) -> ServerInfo:
    """What the judge that made the shards in `out` said of itself. Raises RecordError."""
    try:
        return _INFO.validate_json((out / _SAID).read_bytes())
    except (OSError, ValueError) as error:
        raise RecordError(f"{out / _SAID}: cannot be read: {error}; delete {out}") from error


def _replace(path: Path, text: str) -> None:
    """Write a file that several processes may write at once."""
    own = path.with_name(f".{path.name}.{os.getpid()}")
    with atomic_open(own) as file:
        file.write(text)
    own.replace(path)


def _rules(constitution: str, judge: JudgeIdentity) -> Constitution | None:
    """The constitution that judges, where it is at hand and not only on the judge's machine."""
    try:
        found = Constitution.load(constitution or judge.constitution.name)
    except UserError:
        return None
    return found if found.digest == judge.constitution.sha256 else None
