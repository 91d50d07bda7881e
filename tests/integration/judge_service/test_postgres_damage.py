"""Damaged rows in a real PostgreSQL: missed, computed again, replaced by the first new answer."""

from __future__ import annotations

import asyncio

import pytest

from judge_service.engine import Written
from judge_service.store import open_store
from tests.integration.judge_service.test_postgres import answer, key
from tests.support.service.postgres import Postgres, name

pytestmark = pytest.mark.integration

DAMAGE = {
    "reads, a bit": "UPDATE rlaif_reads SET logprobs = set_bit(logprobs, 3,"
    " 1 - get_bit(logprobs, 3))",
    "reads, cut": "UPDATE rlaif_reads SET logprobs = substr(logprobs, 1, 3)",
    "reads, a count": "UPDATE rlaif_reads SET prompt_tokens = prompt_tokens + 1",
    "writings, not UTF-8": "UPDATE rlaif_writings SET text = '\\xff'",
    "writings, another text": "UPDATE rlaif_writings SET text = 'other'",
    "writings, cut": "UPDATE rlaif_writings SET token_ids = substr(token_ids, 1, 9)",
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_damaged_row_is_a_miss_and_the_first_new_answer_replaces_it(
    damage: str, postgres: Postgres, database: str
) -> None:
    first, second = open_store(database), open_store(database)
    written = Written("a text", (1, 2), True, 10, 0)
    await first.put_read(key(1), answer(-1.0, -2.0))
    await first.put_writing(key(2), written)
    await first.put_read(key(3), answer(-3.0))
    postgres.execute(
        f"{DAMAGE[damage]} WHERE key <> '{chr(92)}x{key(3).hex()}'", database=name(database)
    )
    found = (await first.find_read(key(1)), await first.find_writing(key(2)))
    assert [each is None for each in found] == [damage.startswith("reads"), damage.startswith("w")]
    assert first.damaged == 1

    # Both servers compute it again at the same time: what the first of them stores stands.
    await asyncio.gather(
        *(store.put_read(key(1), answer(-number)) for number, store in ((4, first), (5, second))),
        *(store.put_writing(key(2), written) for store in (first, second)),
    )
    reads = [await store.find_read(key(1)) for store in (first, second)]
    assert None not in reads
    assert reads[0] == reads[1]
    texts = [await store.find_writing(key(2)) for store in (first, second)]
    assert [text.text for text in texts if text] == ["a text"] * 2
    other = await second.find_read(key(3))
    assert other is not None
    assert other.logprobs == (-3.0,)
    assert (first.damaged, second.damaged) == (1, 0)
    await first.close()
    await second.close()
