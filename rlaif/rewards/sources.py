"""Where the score of a response comes from: one source, or several mixed by weight.

    score = Σ_i weight_i · score_i          None as soon as one source has none

    runs/reward            a reward model's folder: its overall score, standard deviations around
                           the mean of its training responses
    judge:HOST:PORT        a judge service's rating of the response alone, in [-1, 1]
    package.module:name    a Python callable (conversations, responses) → numbers or None
    0.5*runs/reward        any of them with a weight, which may be negative; without one it is 1

A response without a score is None, never a number: PPO masks it, ReST leaves it out. Who failed to
score it, and why, is counted in `Reward.unscored` and said on stderr once per kind.
Left out: normalizing the sources against each other; the weights are in score per source's unit.
"""

from __future__ import annotations

import importlib
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from constitution.errors import UserError
from constitution.schema import Message

if TYPE_CHECKING:
    from rlaif.models.backbone import Backbone
    from rlaif.models.reward_model import RewardFunction

_CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_FORMS = "a reward model's folder, judge:HOST:PORT, or module:function"

# (HOST:PORT) → its scores, for as long as the block lasts (rlaif.feedback.client.judge_reward)
OpenJudge = Callable[[str], "AbstractContextManager[RewardFunction]"]


class RewardError(UserError):
    """A source of scores that cannot be used: which, why, and what to do."""


def reasons(function: RewardFunction) -> Counter[str]:
    """Why the function gave None so far, as far as it tells: a mapping `unscored`, reason → how
    often."""
    told = getattr(function, "unscored", None)
    return Counter(told) if isinstance(told, Mapping) else Counter()


def reasons_since(known: Counter[str], function: RewardFunction, missing: int) -> Counter[str]:
    """Why `missing` responses got no score since `reasons` were `known`; what the function does not
    explain is "gave None"."""
    found = reasons(function) - known
    unexplained = missing - found.total()
    return found + Counter({"gave None": unexplained})  # drops what is not above 0


@dataclass(frozen=True, slots=True)
class RewardSource:
    """One source as the user wrote it. kind: "folder", "judge" or "callable"."""

    kind: str
    where: str
    weight: float


def parse_source(text: str) -> RewardSource:
    """Read "0.5*runs/reward" and its like. Raises RewardError."""
    before, star, where = text.partition("*")
    weight = 1.0
    if star:
        try:
            weight = float(before)
        except ValueError:
            weight = math.nan
        if not math.isfinite(weight) or weight == 0:
            raise RewardError(
                f"reward {text!r}: the weight {before!r} is not a number other than 0; write for "
                f"example 0.5*{where}"
            )
    else:
        where = text
    where = where.strip()
    if where.startswith("judge:"):
        return RewardSource("judge", where.removeprefix("judge:"), weight)
    if Path(where).is_dir():
        return RewardSource("folder", where, weight)
    if _CALLABLE.fullmatch(where):
        return RewardSource("callable", where, weight)
    raise RewardError(f"reward {text!r}: {where!r} is no existing folder; give {_FORMS}")


class Reward:
    """The weighted sum of several sources, a RewardFunction.

    `unscored` counts the responses that got no score, by the first source that had none and why:
    {"judge:127.0.0.1:50051: timed out": 3}. `identity` is what a resumed run must find again.
    """

    def __init__(
        self, sources: Sequence[tuple[str, float, RewardFunction]], identity: Any = "callables"
    ) -> None:
        """sources: (name, weight, function) each."""
        if not sources:
            raise RewardError(f"no reward is given; give {_FORMS}")
        self._sources = tuple(sources)
        self.identity = identity
        self.unscored: Counter[str] = Counter()

    def __call__(
        self, conversations: Sequence[Sequence[Message]], responses: Sequence[str]
    ) -> list[float | None]:
        """Sources are asked in order, each only for what the ones before it could score."""
        totals: list[float | None] = [0.0] * len(responses)
        for name, weight, function in self._sources:
            open_places = [i for i, total in enumerate(totals) if total is not None]
            if not open_places:
                break
            known = reasons(function)
            scores = _checked(
                name,
                function(
                    [conversations[i] for i in open_places], [responses[i] for i in open_places]
                ),
                len(open_places),
            )
            for place, score in zip(open_places, scores, strict=True):
                before = totals[place]
                assert before is not None
                totals[place] = None if score is None else before + weight * score
            self._count(name, reasons_since(known, function, scores.count(None)))
        return totals

    @property
    def backbones(self) -> list[Backbone]:
        """The models that it computes with."""
        from rlaif.models.reward_model import backbones_of

        return [each for _, _, function in self._sources for each in backbones_of(function)]

    def over(self, backbone: Backbone) -> Reward:
        """The same with its reward models opened: the first that is an adapter becomes the role
        "reward" of the backbone; another, or one that was fully tuned, is loaded apart.

        Raises RewardModelError for a folder that does not hold a reward model over this base.
        """
        opened: list[tuple[str, float, RewardFunction]] = []
        free = True  # the backbone's role
        for name, weight, function in self._sources:
            if isinstance(function, _Folder):
                opened.append((name, weight, function.over(backbone, free)))
                free = free and not function.an_adapter
            else:
                opened.append((name, weight, function))
        return Reward(opened, self.identity)

    def _count(self, name: str, why: Counter[str]) -> None:
        found = Counter({f"{name}: {reason}": n for reason, n in why.items()})
        for kind in found.keys() - self.unscored.keys():
            print(
                f"left out of training, without a score: {kind} (said once; counted as unscored)",
                file=sys.stderr,
            )
        self.unscored += found


def mixed(sources: Sequence[tuple[float, RewardFunction]]) -> Reward:
    """Weighted sum; None when any source has None. Example: `mixed([(1.0, f), (-0.1, length)])`."""
    return Reward([(f"source {i}", w, f) for i, (w, f) in enumerate(sources, start=1)])


@dataclass(frozen=True, slots=True)
class _Folder:
    """A reward model that waits for a backbone (`Reward.over`)."""

    path: Path

    @property
    def an_adapter(self) -> bool:
        """Else it is a whole model of its own."""
        return (self.path / "adapter_config.json").is_file()

    def over(self, backbone: Backbone, free: bool) -> RewardFunction:
        """free: the backbone has no role "reward" yet."""
        from rlaif.models.reward_model import ModelScores, RewardModel

        if self.an_adapter and free:
            return ModelScores(RewardModel.attach(backbone, self.path))
        return ModelScores(RewardModel.load(backbone.name, self.path, workers=backbone.workers))

    def __call__(
        self, conversations: Sequence[Sequence[Message]], responses: Sequence[str]
    ) -> list[float | None]:
        raise AssertionError(f"{self.path}: Reward.over(backbone) comes first")


@contextmanager
def open_rewards(texts: Sequence[str], judge: OpenJudge | None = None) -> Iterator[Reward]:
    """The sources that `texts` name, for as long as the block lasts; the trainers open its reward
    models over their own backbone (`Reward.over`), so that no second base is in memory.

    judge: opens a judge service's scores; without it a judge cannot be named.
    Raises RewardError, or RewardModelError for a folder that does not hold a reward model.
    """
    from rlaif.models.reward_model import reward_identity

    sources = [parse_source(text) for text in texts]
    with ExitStack() as stack:
        opened: list[tuple[str, float, RewardFunction]] = []
        identity: list[Any] = []
        for text, source in zip(texts, sources, strict=True):
            name = text.rpartition("*")[2].strip()
            function: RewardFunction
            if source.kind == "folder":
                function = _Folder(Path(source.where))
            elif source.kind == "callable":
                function = load_callable(source.where)
            elif judge is None:
                raise RewardError(f"reward {text!r}: no judge can be asked here; give {_FORMS}")
            else:
                function = stack.enter_context(judge(source.where))
            opened.append((name, source.weight, function))
            folder = Path(source.where) if source.kind == "folder" else None
            identity.append([text, folder and reward_identity(folder)])
        yield Reward(opened, identity)


def load_callable(where: str) -> RewardFunction:
    """The function that "package.module:name" names; modules of the working folder are found.

    Raises RewardError: the module cannot be imported, or has no such callable.
    """
    module_name, _, path = where.partition(":")
    here = str(Path.cwd())
    searched = sys.path.copy()
    if here not in (str(Path(p).resolve()) for p in sys.path):
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module raises while it is imported
        raise RewardError(
            f"reward {where!r}: module {module_name!r} cannot be imported "
            f"({type(error).__name__}: {error}); is it installed, or in this folder?"
        ) from error
    finally:
        sys.path[:] = searched
    for part in path.split("."):
        if not hasattr(found, part):
            raise RewardError(
                f"reward {where!r}: {module_name!r} has no {path!r}; name a function of it that "
                "takes (conversations, responses) and returns one number or None per response"
            )
        found = getattr(found, part)
    if not callable(found):
        raise RewardError(
            f"reward {where!r} is a {type(found).__name__}, not a function; it must take "
            "(conversations, responses) and return one number or None per response"
        )
    function: RewardFunction = found
    return function


def _checked(name: str, scores: Any, count: int) -> list[float | None]:
    """What a source returned, as one finite float or None per response. Raises RewardError."""
    if isinstance(scores, str) or not hasattr(scores, "__iter__"):
        raise RewardError(
            f"reward {name}: it returned {_short(scores)}, not a list; return one number or None "
            "per response"
        )
    found = list(scores)
    if len(found) != count:
        raise RewardError(
            f"reward {name}: it returned {len(found)} scores for {count} responses; return one "
            "number or None per response, in their order"
        )
    return [None if score is None else _number(name, score) for score in found]


def _number(name: str, score: Any) -> float:
    try:
        value = float(score)  # a 0-dimensional tensor or array is one too
    except (TypeError, ValueError):
        value = math.nan
    if isinstance(score, str) or not math.isfinite(value):
        raise RewardError(
            f"reward {name}: {_short(score)} is not a finite number; return None for a response "
            "that cannot be scored"
        )
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
