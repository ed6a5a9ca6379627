"""Native code in a thread with a larger stack. Oracles: by hand; the sizes that macOS takes, by a stand-in."""

from __future__ import annotations

import _thread
import threading
import time

import pytest

from edgeskip.runtime.large_stack import with_stack_for


@pytest.mark.parametrize("num_bytes", [10, 1025, 70_001, 1_234_567])
def test_the_size_is_whole_pages(num_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """pthread_attr_setstacksize(3) of macOS refuses others (EINVAL); the largest pages are of 64 KiB."""
    real, asked = threading.stack_size, list[int]()

    def stack_size(size: int = 0) -> int:
        asked.append(size)
        if size % (64 << 10):
            raise ValueError("size not valid")
        return real(size)

    monkeypatch.setattr(threading, "stack_size", stack_size)
    assert with_stack_for(num_bytes, lambda a, b: a + b, 2, 3) == 5
    assert not asked or max(asked) >= 320 * num_bytes  # what a byte was measured to take


def test_interrupted_it_ends_with_the_native_code() -> None:
    """By hand: memory that the code reads must not be freed before it returns."""
    ended = []

    def native() -> int:
        _thread.interrupt_main()
        time.sleep(0.3)
        ended.append(True)
        return 0

    with pytest.raises(KeyboardInterrupt):
        with_stack_for(100_000, native)
    assert ended
