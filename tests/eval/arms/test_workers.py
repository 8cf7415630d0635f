import threading
from collections import deque

import pytest

from eval.arms.workers import outcomes
from skingpt4.support.errors import UserError


def work(unit):
    yield f"{unit} a"
    if unit % 3 == 0:
        raise UserError(f"{unit} failed")
    yield f"{unit} b"


@pytest.mark.parametrize("num_workers", [1, 2, 20])
def test_every_result_comes_once_and_failures_stop_only_their_own_unit(num_workers):
    results = list(outcomes(deque(range(1, 10)), work, num_workers))
    for unit in range(1, 10):
        own = [str(result) for number, result in results if number == unit]
        assert own == [f"{unit} a", *([f"{unit} failed"] if unit % 3 == 0 else [f"{unit} b", "None"])]


@pytest.mark.parametrize("num_workers", [1, 3])
def test_what_is_no_expected_failure_is_raised(num_workers):
    def broken(unit):
        yield unit
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        list(outcomes(deque(range(5)), broken, num_workers))


@pytest.mark.parametrize("num_workers", [1, 3])
def test_no_memory_is_the_failure_of_one_unit(num_workers):
    def hungry(unit):
        if unit == 1:
            raise MemoryError
        yield unit

    results = list(outcomes(deque(range(4)), hungry, num_workers))
    assert sum(isinstance(result, MemoryError) for _, result in results) == 1
    assert sum(result is None for _, result in results) == 3


def test_units_are_worked_on_at_the_same_time_and_clearing_the_list_begins_no_further_one():
    together, todo, cleared = threading.Barrier(3, timeout=20), deque(range(100)), threading.Event()

    def meet(unit):
        if unit < 3:
            together.wait()
        else:
            cleared.wait(20)
        yield unit

    results = []
    for unit, result in outcomes(todo, meet, 3):
        results.append((unit, result))
        todo.clear()
        cleared.set()
    assert 6 <= len(results) <= 12
    assert len([r for _, r in results if r is None]) == len({unit for unit, _ in results})
