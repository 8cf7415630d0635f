"""Work in a thread that ends with it."""

import threading

import pytest

from skingpt4.support.threads import in_own_thread


def test_what_the_work_returns_and_raises_comes_back_and_the_thread_is_gone():
    seen = in_own_thread(threading.current_thread)
    assert seen is not threading.current_thread()
    assert not seen.is_alive()
    with pytest.raises(KeyError, match="lost"):
        in_own_thread(lambda: {}["lost"])
