"""The split of attack families between training and tests.

    place(family) = sha256(salt, family) / 2^48        in [0, 1)
    tests  ⇔  place < share                             0.3 by default

A family's side depends on its name and the share alone: whatever is found first, adopted first or
attacked with first, a test never asks in a way that training has seen. A larger share moves
families to the tests and none away from them. Of the families that ship, fiction and encoding are
for tests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from rlaif.redteam.strategies import AttackFile, RedTeamError

TRAIN_SIDE, TEST_SIDE = "train", "tests"
SHARE_OF_TESTS = 0.3


def side_of(family: str, share: float = SHARE_OF_TESTS) -> str:
    """TRAIN_SIDE or TEST_SIDE. share: of all families there may be, those for tests, 0 to 1."""
    digest = hashlib.sha256(f"attack families\0{family}".encode()).digest()
    place = int.from_bytes(digest[:6], "big") / 2**48
    return TEST_SIDE if place < share else TRAIN_SIDE


def selected_families(file: AttackFile, wanted: Sequence[str]) -> list[str]:
    """The families that `wanted` names, themselves or by their side; [] (all) for none.

    Raises RedTeamError for a side that has no family.
    """
    names = list(dict.fromkeys(strategy.family_name for strategy in file.strategies))
    found: list[str] = []
    for each in wanted:
        if each not in (TRAIN_SIDE, TEST_SIDE):
            found.append(each)
            continue
        on_side = [name for name in names if side_of(name) == each]
        if not on_side:
            raise RedTeamError(
                f"families: none of {', '.join(names)} is on the side {each!r} of the split; name "
                "the families themselves, or add strategies"
            )
        found += on_side
    return list(dict.fromkeys(found))
