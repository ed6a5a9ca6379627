"""Call native code that recurses with the length of a text in a thread whose stack is large enough for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from edgeskip.core.errors import EdgeSkipError

# llama.cpp cuts text by std::regex, which libstdc++ runs by recursion: measured 105 bytes of stack for each character
# of a long word or a row of spaces, 320 if cases alternate. Only the stack that is used takes memory.
_PER_BYTE = 1 << 10
_LEAST = 16 << 20
_SHORT = 1 << 10  # bytes of text that any thread has the stack for
_PAGE = 1 << 16  # macOS takes whole pages only; no system has larger ones
_setting = threading.Lock()  # the size is one for the whole process


def with_stack_for(num_bytes: int, function: Callable[..., int], *arguments: Any) -> int:
    """Return `function(*arguments)`, called with the stack that a text of `num_bytes` may need.

    Args:
        num_bytes: length of the text in UTF-8.
        function: native code, which raises nothing.
        arguments: of the function.

    Raises:
        EdgeSkipError: if there is no room for such a stack.
    """
    if num_bytes <= _SHORT:
        return function(*arguments)
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(function(*arguments)), daemon=True)
    try:
        _start(thread, -(-(_LEAST + num_bytes * _PER_BYTE) // _PAGE) * _PAGE)
        thread.join()
    except (RuntimeError, ValueError, OverflowError):
        raise EdgeSkipError(f"not enough memory to tokenize a text of {num_bytes} bytes: shorten it") from None
    except BaseException:  # Ctrl-C: the native code goes on, with memory that the caller would free now
        if thread.is_alive():
            thread.join()
        raise
    return results[0]


def _start(thread: threading.Thread, size: int) -> None:
    with _setting:
        before = threading.stack_size(size)
        try:
            thread.start()
        finally:
            threading.stack_size(before)
