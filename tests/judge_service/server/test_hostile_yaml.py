"""Hostile constitutions: every text gives a Constitution, or errors with line and column, quickly.

The shipped constitutions with bytes changed, lines moved and doubled, values replaced by the worst;
and bombs made to cost memory or time: aliases, merge keys, depth, width, repeated keys, megabytes.
400 mutations by default, 10 000 with RLAIF_FULL=1, the same ones in every run; a tenth of them also
goes through ValidateConstitution, as do all bombs.

What a text costs is counted in executed lines of Python, so no machine is too slow for these tests;
half a million of them take about 50 ms. The counts are printed (pytest -rP).
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

from constitution.errors import ConstitutionError, Diagnostic
from constitution.loader import library_names
from constitution.schema import Constitution
from constitution.strict_yaml import MAX_BYTES
from judge_service.client.sync import AsyncJudgeClient, JudgeRequestError
from tests.support.fakes import FakeEngine
from tests.support.service.serving import ONE_PRINCIPLE, one_principle, serving
from tests.support.steps import steps

pytestmark = pytest.mark.timeout(3600)

FULL = os.environ.get("RLAIF_FULL") == "1"
MUTATIONS = 10_000 if FULL else 400
MOST_STEPS = 500_000
AVERAGE_STEPS = 30_000  # per mutation; most are a whole shipped constitution
MIB = 2**20

LAUGHS = "".join(
    f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]\n" if n else "l0: &l0 [x]\n" for n in range(60)
)
MERGES = "".join(
    f"m{n}: &m{n} {{<<: [*m{n - 1}, *m{n - 1}]}}\n" if n else "m0: &m0 {a: b}\n" for n in range(999)
)
BOMBS = {
    "a billion laughs": LAUGHS,
    "laughs in a constitution": ONE_PRINCIPLE + LAUGHS,
    "merge keys of merge keys": MERGES,
    "an alias of itself": "a: &a [*a, *a]\n",
    "merges of one mapping": ONE_PRINCIPLE + "base: &b {x: 1}\nmore: [" + "{<<: *b}, " * 9999 + "]",
    "deep lists": "[" * 100_000,
    "deep mappings": "{a: " * 100_000,
    "deep indents": "".join(f"{' ' * n}a:\n" for n in range(1200)),
    "deep dashes": "- " * 100_000,
    "wide list": "a: [" + "x, " * 200_000 + "]",
    "wide mapping": "".join(f"k{n}: v\n" for n in range(80_000)),
    "one key again and again": "name: x\n" * 100_000,
    "keys again under traits": ONE_PRINCIPLE + "traits: {" + "helpful: {}, " * 9999 + "}",
    "many principles": ONE_PRINCIPLE + ONE_PRINCIPLE[ONE_PRINCIPLE.index("  - id") :] * 4000,
    "one long word": "name: " + "x" * (MIB - 10),
    "one long quoted word": 'name: "' + "\\n" * 500_000 + '"',
    "a long key": "x" * (MIB - 10) + ": 1\n",
    "a quote never closed": ONE_PRINCIPLE + 'version: "' + "x\n" * 400_000,
    "a folded text": "name: >\n" + "  x\n" * 200_000,
    "comments": "# nothing\n" * 90_000 + ONE_PRINCIPLE,
    "empty lines": "\n" * (MIB - 400) + ONE_PRINCIPLE,
    "documents": "---\na: b\n" * 90_000,
    "tags": "a: !!python/object/apply:os.system [x]\n" * 20_000,
    "anchors": "".join(f"a{n}: &a{n} x\n" for n in range(60_000)),
    "complex keys": "? [a, b]\n: c\n" * 60_000,
    "directives": "%TAG ! tag:x,2000:\n" * 40_000,
    "numbers": "weight: " + "9" * 900_000,
    "base 60": "a: " + ":".join(["59"] * 300_000),
    "ten megabytes": ONE_PRINCIPLE + "# more\n" * (10 * MIB // 7),
    "ten megabytes of brackets": "[" * (10 * MIB),
    "control characters": "name: \x07\x1b[2J\n",
    "a surrogate": "name: \ud800\n",
    "nothing": "",
    "a byte order mark": "\ufeff" + ONE_PRINCIPLE,
    "tabs": ONE_PRINCIPLE.replace("  ", "\t"),
    "a nul": ONE_PRINCIPLE + "\x00",
}
WORST = [
    "", "null", "~", "[]", "{}", "*a", "&a x", "<<: *a", "!!set {x}", "1e999", ".nan", "-.inf",
    "2026-01-01", "1:30:00", "0o17", "yes", "|\n", ">-\n", "'", '"', "{", "]", ": ", "- ", "? x",
    "x" * 9_000, "\u2028", "\x07", "%", "@x", "`x`", "\\", "!!binary x", "{{principle}}",
]  # fmt: skip


def mutations(count: int) -> Iterator[str]:
    dice = random.Random(1)
    folder = resources.files("constitution") / "library"
    shipped = [(folder / f"{name}.yaml").read_text(encoding="utf-8") for name in library_names()]
    for _ in range(count):
        lines = dice.choice(shipped).splitlines(keepends=True)
        for _ in range(dice.randint(1, 5)):
            _change(lines, dice)
        yield "".join(lines)


def _change(lines: list[str], dice: random.Random) -> None:
    at = dice.randrange(len(lines))
    line = lines[at]
    here = dice.randrange(len(line) + 1)
    match dice.randrange(8):
        case 0:
            lines[at:] = [line[:here]]
        case 1:
            lines.insert(dice.randrange(len(lines)), line)
        case 2:
            lines[at : at + 3] = ["\n"]
        case 3:
            key, colon, _ = line.partition(":")
            lines[at] = f"{key}{colon} {dice.choice(WORST)}\n"
        case 4:
            lines[at] = dice.choice(("", " ", "   ", "\t", "- ")) + line.lstrip(" ")
        case 5:
            lines[at] = line[:here] + dice.choice(WORST) + line[here:]
        case 6:
            lines[at] = line[:here] + chr(dice.randrange(1, 0x2FFF)) + line[here + 1 :]
        case _:
            lines[at : at + 1] = [line] * dice.choice((2, 3, 300))


Outcome = Constitution | tuple[Diagnostic, ...]


def outcome(text: str) -> Outcome:
    """The constitution in a text, or its problems."""
    try:
        return Constitution.from_yaml(text, "mine.yaml")
    except ConstitutionError as error:
        return tuple(error.diagnostics)


def outcome_and_cost(text: str) -> tuple[Outcome, int]:
    """The outcome of a text, and the steps that it took."""
    outcomes: list[Outcome] = []
    cost = steps(lambda: outcomes.append(outcome(text)))
    return outcomes[0], cost


def check(text: str, result: Outcome) -> None:
    if isinstance(result, Constitution):
        return
    assert result, "an error has at least one problem"
    lines = text.splitlines() or [""]
    for problem in result:
        assert problem.message
        assert len(str(problem)) < 2000
        assert 1 <= problem.line <= len(lines) + 1
        assert 1 <= problem.column <= MAX_BYTES + 1


def test_mutated_constitutions_are_constitutions_or_errors_with_line_and_column() -> None:
    good, costs = 0, []
    for text in mutations(MUTATIONS):
        result, cost = outcome_and_cost(text)
        check(text, result)
        good += isinstance(result, Constitution)
        costs.append(cost)
    assert 0 < good < MUTATIONS
    average = sum(costs) / len(costs)
    summary = f"{MUTATIONS} mutations: at most {max(costs)} steps, {average:.0f} on average"
    print(f"{summary}, {good} still good")
    assert max(costs) < MOST_STEPS, summary
    assert average < AVERAGE_STEPS, summary


@pytest.mark.timeout(120)  # work inside libyaml or one regular expression is not counted
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_an_error_or_harmless_and_costs_few_steps(name: str) -> None:
    result, cost = outcome_and_cost(BOMBS[name])
    check(BOMBS[name], result)
    print(f"{name}: {cost} steps")
    assert cost < MOST_STEPS


async def test_the_server_reports_the_same_and_keeps_serving(tmp_path: Path) -> None:
    async with (
        serving(FakeEngine(), constitutions=[one_principle(tmp_path)]) as server,
        AsyncJudgeClient(server.address, max_message_bytes=16 * MIB) as client,
    ):
        for text in [*BOMBS.values(), *mutations(MUTATIONS // 10)]:
            here = outcome(text)
            if len(text) > 4 * MIB or "\ud800" in text:
                with pytest.raises(JudgeRequestError, match=r"too large|cannot be sent"):
                    await client.validate_constitution(text, "mine.yaml")
                continue
            problems = await client.validate_constitution(text, "mine.yaml")
            assert problems == (() if isinstance(here, Constitution) else here)
        assert not await client.validate_constitution(ONE_PRINCIPLE)
