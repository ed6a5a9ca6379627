"""Which errors a user can fix, and the one line each gets; anything else is a defect and keeps its traceback."""

from __future__ import annotations

import errno
import importlib.util
import os
import re

from edgeskip.core.errors import EdgeSkipError, MissingExtraError
from edgeskip.core.files import FULL_BY_NUMPY

_REMEDIES = {
    errno.ENOSPC: "free some space or choose an output on another disk",
    errno.EDQUOT: "free some of your quota or choose an output on another disk",
    errno.EFBIG: "this file system cannot hold so large a file; choose an output on another disk",
    errno.EACCES: "check the permissions or choose another path",
    errno.EPERM: "check the permissions or choose another path",
    errno.EROFS: "choose an output on a disk that can be written",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a part of the path is a file; check the path",
    errno.EISDIR: "this is a folder, not a file; check the path",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.EIO: "the disk cannot be read or written; check it",
    errno.ENOMEM: "close other programs or use a smaller model or context",
}
LONGEST = 1500  # characters of a line: a name from a damaged file may have any length
_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


def one_line(text: str) -> str:
    """Return the text with every run of white space, line ends included, replaced by one space."""
    return " ".join(text.split())


def shortened(line: str) -> str:
    """Return `line`; of one that is too long only the problem and the fix, without most of what is between."""
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 300]} … {line[-297:]}"


def explain(error: BaseException) -> str | None:
    """Return one line, problem and fix; None if it is not an error that a user can fix."""
    line = _explain(error)
    return None if line is None else shortened(one_line(line))


def _explain(error: BaseException) -> str | None:
    text = str(error)
    if isinstance(error, EdgeSkipError):
        return text
    if isinstance(error, ImportError):
        return _explain_import(error)
    if isinstance(error, MemoryError) or _is_out_of_memory(error):
        return f"not enough memory ({one_line(text)[:200] or 'allocation failed'}): {_REMEDIES[errno.ENOMEM]}"
    if isinstance(error, OSError):
        if error.errno is None:
            return _explain_os(errno.ENOSPC, None) if FULL_BY_NUMPY.search(text) else text
        # A copy names both files; the second is the one that could not be written.
        second = error.filename2 if error.errno in _WRITING else None
        return _explain_os(error.errno, second or error.filename)
    # Libraries written in Rust (safetensors, tokenizers) raise their own exceptions, with "(os error 28)" in them.
    number = re.search(r"\(os error (\d+)\)", text)
    return _explain_os(int(number[1]), None) if number else None


def _explain_os(number: int, path: str | bytes | int | None) -> str:
    where = f"{os.fsdecode(path)}: " if isinstance(path, (str, bytes)) else ""
    remedy = _REMEDIES.get(number)
    return f"{where}{os.strerror(number)}" + (f": {remedy}" if remedy else "")


def _explain_import(error: ImportError) -> str | None:
    from edgeskip.core.requirements import distribution_name, extra_of

    module = (error.name or "").partition(".")[0]
    if not module or module == "edgeskip":
        return None
    extra = extra_of(module)
    if importlib.util.find_spec(module) is not None:
        package = distribution_name(module)
        return (
            f"the installed package {package!r} does not work here ({one_line(str(error))[:200]}): "
            f"run  pip install --upgrade --force-reinstall {package}"
        )
    if extra is not None:
        return str(MissingExtraError(distribution_name(module), extra))
    return f"the package {distribution_name(module)!r} is missing: run  edgeskip doctor"


def _is_out_of_memory(error: BaseException) -> bool:
    # torch raises torch.OutOfMemoryError on a GPU and a RuntimeError on the CPU; neither is a MemoryError.
    return type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
