"""Calibration of the judge's probabilities on gold pairs. Pure; file access is at the end.

    q                P(chosen is better), as the judge read it: one number per gold pair
    temperature      p' = sigmoid(logit(p) / T)      T minimizes the mean of -log q'
                     (Guo et al. 2017, arXiv 1706.04599, section 4.2)
    isotonic         p' = the non-decreasing function nearest to the outcomes in least squares,
                     linear between the centers of its blocks (Zadrozny, Elkan 2002)

Which response is called A is arbitrary, so a gold pair is two samples, (q, 1) and (1 - q, 0), and a
curve is defined by its upper half, p ≥ ½: apply(1 - p) = 1 - apply(p) to the last bit. A curve
never flips a verdict. Probabilities are kept within [ε, 1 - ε], ε = 10⁻⁶, before and after.

In place of a curve, a calibration may hold a fitted reader (reader.py), which sees all reads of a
pair, not their mean alone, and may flip a verdict.

Left out: a negative temperature (a judge that prefers the worse response needs another model, not
a calibration) and a curve per principle or per trait.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from constitution.errors import UserError
from constitution.validation import field_problems
from judge_service.judge.calibration_metrics import EPSILON, clipped, confidence, right
from judge_service.judge.reader import FittedReader, Lengths
from judge_service.types import ModelIdentity, PrincipleVote, Provenance

LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.05, 100.0
SUFFIX = ".calibration.json"


class CalibrationError(UserError):
    """A calibration that cannot be fitted, read or written; the message names file and remedy."""


# ── curves ───────────────────────────────────────────────────────────────────────────────────


def _rising(knots: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    """Check the knots of an upper half: start at (½, ½), p increasing, p' non-decreasing below 1.

    >>> _rising(((0.5, 0.5), (0.9, 0.8)))
    ((0.5, 0.5), (0.9, 0.8))
    """
    if not knots or knots[0] != (0.5, 0.5):
        raise ValueError("the first knot must be [0.5, 0.5]")
    for (p, low), (next_p, high) in itertools.pairwise(knots):
        if not (p < next_p <= 1.0 and low <= high < 1.0):
            raise ValueError("knots must rise and end below [1, 1]")
    return knots


@dataclass(frozen=True, slots=True)
class Temperature:
    """p' = sigmoid(logit(p) / T): T > 1 lowers confidence, T < 1 raises it, T = 1 is identity."""

    temperature: Annotated[float, Field(ge=LOWEST_TEMPERATURE, le=HIGHEST_TEMPERATURE)]
    kind: Literal["temperature"] = "temperature"

    def apply(self, prob: float) -> float:
        """The calibrated probability, in [ε, 1 - ε]."""

        def upper(p: float) -> float:
            return min(_sigmoid(_logit(p) / self.temperature), 1.0 - EPSILON)

        return _mirrored(upper, prob)


@dataclass(frozen=True, slots=True)
class Isotonic:
    """Linear interpolation between knots (p, p') with p ≥ ½; constant after the last, up to 1."""

    knots: Annotated[tuple[tuple[float, float], ...], AfterValidator(_rising)]
    kind: Literal["isotonic"] = "isotonic"

    def apply(self, prob: float) -> float:
        """The calibrated probability, interpolated between the knots."""

        def upper(p: float) -> float:
            above = bisect_right(self.knots, p, key=lambda knot: knot[0])
            if above == len(self.knots):
                return self.knots[-1][1]
            (x0, y0), (x1, y1) = self.knots[above - 1], self.knots[above]
            return min(y0 + (y1 - y0) * ((p - x0) / (x1 - x0)), y1)

        return _mirrored(upper, prob)


Curve = Temperature | Isotonic


def _mirrored(upper: Callable[[float], float], prob: float) -> float:
    return upper(prob) if prob >= 0.5 else 1.0 - upper(1.0 - prob)


def _logit(prob: float) -> float:
    p = clipped(prob)
    return math.log(p / (1.0 - p))


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


# ── fitting ──────────────────────────────────────────────────────────────────────────────────


def fit_temperature(probs: Sequence[float]) -> Temperature:
    """The T that minimizes the NLL, within its bounds. probs: q of each pair, at least one.

    With β = 1/T and l = logit(q) the NLL is the mean of log(1 + e^(-βl)): convex in β, so the root
    of its slope is found by bisection. If every pair is right, T is the lowest; if confident errors
    outweigh, the highest, where every p' is near ½.
    """
    logits = [_logit(q) for q in probs]

    def falls(log_beta: float) -> bool:  # d NLL / dβ = -mean of l sigmoid(-βl)
        beta = math.exp(log_beta)
        return math.fsum(x * _sigmoid(-beta * x) for x in logits) > 0.0

    low, high = -math.log(HIGHEST_TEMPERATURE), -math.log(LOWEST_TEMPERATURE)
    if not falls(low):
        return Temperature(HIGHEST_TEMPERATURE)
    if falls(high):
        return Temperature(LOWEST_TEMPERATURE)
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if falls(middle) else (low, middle)
    return Temperature(math.exp(-(low + high) / 2))


@dataclass(frozen=True, slots=True)
class Block:
    """`n` samples pooled to one value: the sums of their x and of their outcomes y."""

    n: float
    sum_x: float
    sum_y: float

    @property
    def x(self) -> float:
        """Mean x of the samples."""
        return self.sum_x / self.n

    @property
    def y(self) -> float:
        """Mean outcome: the fitted value."""
        return self.sum_y / self.n

    def __add__(self, other: Block) -> Block:
        return Block(self.n + other.n, self.sum_x + other.sum_x, self.sum_y + other.sum_y)


def pool_adjacent_violators(samples: Iterable[tuple[float, float]]) -> list[Block]:
    """The non-decreasing least-squares fit to (x, y), as blocks of increasing value, by x.

    Source: Ayer et al. 1955. Samples of equal x start as one block.
    """
    by_x = itertools.groupby(sorted(samples), key=lambda sample: sample[0])
    return _pool(
        Block(len(ys), x * len(ys), math.fsum(ys))
        for x, ys in ((x, [y for _, y in s]) for x, s in by_x)
    )


def _pool(blocks: Iterable[Block]) -> list[Block]:
    pooled: list[Block] = []
    for block in blocks:
        pooled.append(block)
        while len(pooled) > 1 and pooled[-2].y >= pooled[-1].y:
            last = pooled.pop()
            pooled[-1] += last
    return pooled


def fit_isotonic(probs: Sequence[float]) -> Isotonic:
    """The isotonic curve of the gold pairs. probs: q of each pair.

    The samples are symmetric, so the fit is too: its upper half is the fit to (confidence, 1 if
    right) where that is above ½; everything below belongs to the middle block, centered on ½ with
    the value ½. A block of n pairs, k of them right, gets (k + 1) / (n + 2) (Laplace), never 0 or
    1; blocks that this puts out of order are pooled again.
    """
    upper = pool_adjacent_violators((confidence(q), right(q)) for q in probs)
    smooth = _pool(Block(b.n, b.sum_x, b.n * (b.sum_y + 1) / (b.n + 2)) for b in upper)
    knots = ((b.x, b.y) for b in smooth if b.y > 0.5 and b.x > 0.5)
    return Isotonic(((0.5, 0.5), *knots))


# ── calibrations of a constitution, and their files ──────────────────────────────────────────

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, slots=True)
class Calibration:
    """A curve or a reader, and the only setup it is valid for: constitution, model, template,
    protocol."""

    constitution: str  # its name, for people
    constitution_sha256: Digest
    model: str  # its name, for people
    model_sha256: Digest  # see `model_sha256`
    template_version: str
    protocol: str  # "pairwise" or "pointwise"
    pairs: Annotated[int, Field(ge=1)]  # gold pairs it was fitted on
    curve: Annotated[Curve | FittedReader, Field(discriminator="kind")]

    @property
    def kind(self) -> str:
        """The curve's kind: temperature, isotonic or reader."""
        return self.curve.kind

    @property
    def sha256(self) -> str:
        """Digest of all fields (hex), as in the provenance of a judgment."""
        return hashlib.sha256(_CALIBRATIONS.dump_json([self])).hexdigest()

    @property
    def key(self) -> tuple[str, str, str, str]:
        """The setup it is valid for; a file and a server hold one calibration per key."""
        return self.constitution_sha256, self.model_sha256, self.template_version, self.protocol

    def apply(
        self,
        prob_a: float,
        trait_probs: Mapping[str, float],
        votes: Sequence[PrincipleVote],
        lengths: Lengths,
    ) -> tuple[float, dict[str, float]]:
        """(P(A is better), the same per trait), calibrated from those of the votes.

        Swapping the responses gives the complement to the last bit.
        """
        curve = self.curve
        if isinstance(curve, FittedReader):
            return curve.prob_a(votes, lengths), curve.trait_probs(votes, lengths)
        # Traits too: a reward model learns them beside the label that they are parts of.
        return curve.apply(prob_a), {trait: curve.apply(p) for trait, p in trait_probs.items()}

    def recorded_in(self, provenance: Provenance) -> Provenance:
        """The provenance of a judgment that this was applied to."""
        if isinstance(self.curve, FittedReader):
            return replace(provenance, reader=self.sha256)
        return replace(provenance, calibration=self.sha256)

    def unfit_for(self, provenance: Provenance) -> str:
        """How the setup of a judgment differs from the one it is valid for; "" if it does not."""
        digests = (self.constitution_sha256, provenance.constitution_sha256)
        model = model_sha256(provenance.model)
        pairs = (
            ("constitution", self.constitution, provenance.constitution_name, digests),
            ("model", self.model, provenance.model.name, (self.model_sha256, model)),
            ("template", "", "", (self.template_version, provenance.template_version)),
            ("protocol", "", "", (self.protocol, provenance.protocol)),
        )
        return ", ".join(
            f"{what} {f'{name} '.lstrip()}{fitted[:12]}, not {f'{other} '.lstrip()}{given[:12]}"
            for what, name, other, (fitted, given) in pairs
            if fitted != given
        )


_CALIBRATIONS = TypeAdapter(list[Calibration])


def model_sha256(model: ModelIdentity) -> str:
    """Digest of what a probability depends on: weights, tokenizer and dtype, not the name."""
    identity = [model.weights_sha256, model.tokenizer_sha256, model.dtype]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()


class Calibrations:
    """Calibrations by the setup they were fitted for; of two for the same setup the first wins."""

    def __init__(self, calibrations: Iterable[Calibration] = ()) -> None:
        self._by_key: dict[tuple[str, str, str, str], Calibration] = {}
        for calibration in calibrations:
            self._by_key.setdefault(calibration.key, calibration)

    @classmethod
    def load(cls, files: Iterable[Path]) -> Calibrations:
        """All calibrations of the files; earlier files win. Raises CalibrationError."""
        return cls(calibration for file in files for calibration in read_calibrations(file))

    def __len__(self) -> int:
        return len(self._by_key)

    def find(
        self, constitution_sha256: str, model: ModelIdentity, template_version: str, protocol: str
    ) -> Calibration | None:
        """The calibration fitted for exactly this setup, or None."""
        key = (constitution_sha256, model_sha256(model), template_version, protocol)
        return self._by_key.get(key)


def calibration_file(constitution: str, user_folder: Path) -> Path:
    """The file of a constitution's calibrations.

    Beside a YAML file; for the name of a shipped constitution, in the user's folder.
    """
    if os.sep in constitution or "/" in constitution or constitution.endswith((".yaml", ".yml")):
        path = Path(constitution)
        return path.with_name(path.stem + SUFFIX)
    return user_folder / f"{constitution}{SUFFIX}"


def calibration_files(constitution: str, user_folder: Path | None) -> tuple[Path, ...]:
    """The existing files with calibrations of a constitution, the user's before the shipped."""
    library = Path(str(resources.files("constitution") / "library"))
    paths = [calibration_file(constitution, folder) for folder in (user_folder, library) if folder]
    return tuple(path for path in dict.fromkeys(paths) if path.is_file())


def read_calibrations(path: Path) -> list[Calibration]:
    """The calibrations in a file. Raises CalibrationError naming file, entry and field."""
    remedy = "fit it again with `rlaif judge calibrate`, after deleting"
    try:
        return _CALIBRATIONS.validate_json(path.read_bytes(), strict=True)
    except OSError as error:
        raise CalibrationError(
            f"{path}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from error
    except ValidationError as error:
        problem = field_problems(error, noun="field")[0]
        entry, *location = problem.path or ("",)
        if not location:
            raise CalibrationError(
                f"{path}: not a list of calibrations ({problem.message}); {remedy} the file"
            ) from error
        field = ".".join(map(str, location))
        raise CalibrationError(
            f"{path}: entry {int(entry) + 1}: {field}: {problem.message}; {remedy} this entry, or "
            "the file"
        ) from error


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Add a calibration to a file, replacing one for the same setup. Atomic.

    Raises CalibrationError; the file is then unchanged.
    """
    before = read_calibrations(path) if path.exists() else []
    kept = [other for other in before if other.key != calibration.key]
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as out:
            out.write(_CALIBRATIONS.dump_json([*kept, calibration], indent=2) + b"\n")
            out.flush()
            os.fsync(out.fileno())
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise CalibrationError(
            f"{path}: cannot be written ({error.strerror}), nothing was changed; choose another "
            "file with --out"
        ) from error
