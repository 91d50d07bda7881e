"""The priority semaphore: urgent waiters first, and no slot is lost to a cancelled waiter."""

from __future__ import annotations

import asyncio

from judge_service.engines.priority_semaphore import PrioritySemaphore


async def test_slots_go_to_the_urgent_first_and_none_is_lost_to_a_cancelled_waiter() -> None:
    semaphore, order = PrioritySemaphore(1), []

    async def work(name: str, priority: int) -> None:
        async with semaphore.acquire(priority):
            order.append(name)
            await asyncio.sleep(0)

    async with semaphore.acquire():
        waiting = [
            asyncio.create_task(work(name, priority))
            for name, priority in (("bulk", 1), ("gone", 0), ("first", 0), ("second", 0))
        ]
        await asyncio.sleep(0)
        waiting[1].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert order == ["first", "second", "bulk"]
    async with asyncio.timeout(60), semaphore.acquire():
        pass


async def test_a_slot_given_to_a_cancelled_waiter_passes_to_the_next() -> None:
    semaphore = PrioritySemaphore(1)

    async def work() -> None:
        async with semaphore.acquire():
            pass

    async with semaphore.acquire():
        gone = asyncio.create_task(work())
        await asyncio.sleep(0)
    gone.cancel()  # given the slot and cancelled in one step of the loop
    await asyncio.gather(gone, return_exceptions=True)
    async with asyncio.timeout(60), semaphore.acquire():
        pass
