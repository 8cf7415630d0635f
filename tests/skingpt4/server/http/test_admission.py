"""What requests share is never given twice, and short requests do not wait behind long ones."""

import anyio
import pytest

from skingpt4.server.http.admission import LineFull, Pool


def run(test):
    anyio.run(test)


def test_who_asks_for_little_goes_first():
    async def test():
        pool, order = Pool(10, 5), []

        async def take(name, amount, seconds):
            with await pool.hold(amount, seconds):
                order.append(name)

        first = await pool.hold(10)
        async with anyio.create_task_group() as group:
            for name, amount, seconds in (("large", 10, 50.0), ("small", 1, 0.0), ("smaller", 1, -1.0)):
                group.start_soon(take, name, amount, seconds)
            await anyio.wait_all_tasks_blocked()
            assert pool.num_waiting == 3
            first.release()
        assert order == ["smaller", "small", "large"]
        assert (pool.free, pool.num_waiting) == (10, 0)

    run(test)


def test_who_leaves_the_line_makes_room():
    async def test():
        pool = Pool(2, 5)
        with await pool.hold(2):
            with anyio.move_on_after(0.01):
                await pool.hold(2)
            assert pool.num_waiting == 0
        assert pool.free == 2

    run(test)


def test_a_hold_is_given_back_once():
    async def test():
        pool = Pool(3, 5)
        hold = await pool.hold(2)
        hold.release()
        hold.release()
        with pytest.raises(ZeroDivisionError), await pool.hold(1):
            raise ZeroDivisionError
        assert pool.free == 3
        with await pool.hold(100):
            assert pool.free == 0, "who asks for more than there is gets all"

    run(test)


def test_if_the_line_is_full_the_last_in_it_is_refused():
    async def test():
        pool, outcomes = Pool(1, 2), {}

        async def take(name, seconds):
            try:
                with await pool.hold(1, seconds):
                    outcomes[name] = "served"
            except LineFull:
                outcomes[name] = "refused"

        with await pool.hold():
            async with anyio.create_task_group() as group:
                for name, seconds in (("short", 1.0), ("long", 9.0), ("shorter", 0.5), ("longest", 10.0)):
                    group.start_soon(take, name, seconds)
                await anyio.wait_all_tasks_blocked()
                assert outcomes == {"long": "refused", "longest": "refused"}
                group.cancel_scope.cancel()
        assert (pool.free, pool.num_waiting) == (1, 0)

    run(test)
