"""Writing without leaving halves behind: files and folders appear whole under their name, or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.leftovers import OLD, PART, clean_up
from edgeskip.core.locks import claim

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a write without a file name fails with
# numpy's tofile reports a full disk as "8192 requested and 512 written", without a number.
FULL_BY_NUMPY = re.compile(r"requested and \d+ written")


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replace_file(path: Path, data: bytes, *, overwrite: bool = True) -> None:
    """Write `data` beside `path`, flushes it to disk and rename it into place; an OSError names `path`.

    Raises EdgeSkipError if something is there and `overwrite` is false, however lately it came.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        _put(temporary, path, overwrite=overwrite)
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # not the temporary one
        raise


def refuse_folder(target: Path, *, overwrite: bool) -> None:
    """Raise EdgeSkipError if `target` cannot become a new folder; called before long work as well as after it."""
    if target.exists() and not target.is_dir():
        raise EdgeSkipError(f"{target} is a file, not a folder: choose another -o")
    if target.exists() and not overwrite:
        raise EdgeSkipError(f"{target} exists: choose another -o or add --overwrite")
    if (target / ".git").exists() or target.resolve() in (Path.cwd(), *Path.cwd().parents):
        raise EdgeSkipError(f"{target} is not a folder to replace: choose another -o")
    _refuse_parent(target)


def refuse_file(target: Path, *, overwrite: bool, option: str = "-o", replaceable: bool = True) -> None:
    """Raise EdgeSkipError if `target` cannot become a new file; called before long work as well as after it.

    `option` is what named it, and `replaceable` whether the command has an --overwrite for it.
    """
    if target.is_dir():
        raise EdgeSkipError(f"{target} is a folder, not a file: choose another {option}")
    if target.exists() and not overwrite:
        instead = " or add --overwrite" if replaceable else ""
        raise EdgeSkipError(f"{target} exists: choose another {option}{instead}")
    _refuse_parent(target, option)


@contextmanager
def staged_files(targets: Sequence[Path], *, overwrite: bool) -> Iterator[list[Path]]:
    """Paths in a temporary folder beside the `targets` (all of one folder), under their names, that become them
    together when the block ends without an error.

    Raises EdgeSkipError if one exists and `overwrite` is false; on any error nothing at the targets has changed. An
    OSError in writing names the first.
    """
    for target in targets:
        refuse_file(target, overwrite=overwrite)
    with claim(*targets):
        for target in targets:
            clean_up(target)
            refuse_file(target, overwrite=overwrite)  # whoever had claimed it may have made it
        with _staging(targets[0], whole=False) as staging:
            staged = [staging / target.name for target in targets]
            yield staged
            _take_places(staged, targets, overwrite=overwrite)


@contextmanager
def staged_folder(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Return a temporary folder beside `target` that becomes `target` when the block ends without an error.

    Raises EdgeSkipError if `target` exists and `overwrite` is false; on any error the temporary folder is removed
    and what was at `target` stays as it was. An OSError in writing names `target`.
    """
    refuse_folder(target, overwrite=overwrite)
    with claim(target):
        clean_up(target)
        refuse_folder(target, overwrite=overwrite)  # whoever had claimed it may have made it
        with _staging(target) as staging:
            staging.chmod(0o755)
            yield staging
            _take_place(staging, target, overwrite=overwrite)


def _take_place(staging: Path, target: Path, *, overwrite: bool) -> None:
    """Rename the folder `staging` to `target`; what was there stays where that fails."""
    if target.exists() and not overwrite:
        raise _appeared(target)
    if target.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=OLD, dir=target.parent))
        kept = old / target.name
        try:
            target.rename(kept)
            staging.rename(target)
        except BaseException:
            if kept.exists() and not target.exists():
                kept.rename(target)
            raise
        finally:
            if target.exists():
                shutil.rmtree(old)
    else:
        try:
            staging.rename(target)
        except OSError as error:  # a folder with something in it, or a file
            if target.exists() and error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise _appeared(target) from None
            raise


@contextmanager
def named_instead(temporary: Path, target: Path) -> Iterator[None]:
    """In messages of EdgeSkipErrors: `target` in place of `temporary`, which is gone when they are read."""
    try:
        yield
    except EdgeSkipError as error:
        error.args = tuple(_renamed(one, temporary, target) for one in error.args)
        raise


def _renamed(argument: object, temporary: Path, target: Path) -> object:
    if not isinstance(argument, str):
        return argument
    for old in dict.fromkeys([str(temporary.resolve()), str(temporary)]):
        argument = argument.replace(old, str(target))
    return argument


@contextmanager
def _staging(target: Path, *, whole: bool = True) -> Iterator[Path]:
    """Return a temporary folder beside `target`, gone when the block ends; so are, on an error, the folders made for
    it.

    It becomes `target` as a `whole`, or files in it get places beside `target`.
    """
    made = [folder for folder in target.absolute().parents if not folder.exists()]  # the deepest first
    prefix = f".{target.name}."
    staging: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Named before it is made: a signal between the two would leave it behind.
        staging = target.parent / f"{prefix}{secrets.token_hex(4)}{PART}"
        staging.mkdir(mode=0o700)
        with named_instead(staging, target if whole else target.parent):
            yield staging
        made = []
    except OSError as error:
        if error.errno is None and FULL_BY_NUMPY.search(str(error)):
            error.errno, error.strerror = errno.ENOSPC, os.strerror(errno.ENOSPC)
        if (error.filename is None and error.errno in _FULL) or prefix in str(error.filename):
            error.filename = str(target)  # not the temporary one
        raise
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
        with suppress(OSError):  # someone else has put something there
            for folder in made:
                folder.rmdir()


def _take_places(staged: Sequence[Path], targets: Sequence[Path], *, overwrite: bool) -> None:
    """Rename each staged file to its target; where one fails, those before it are as they were."""
    for path in staged:
        path.chmod(0o644)
    kept = [path.with_name(f"old.{path.name}") for path in staged]
    try:
        for path, target, old in zip(staged, targets, kept, strict=True):
            if target != targets[-1] and target.exists():  # nothing can fail after the last
                target.rename(old)
            _put(path, target, overwrite=overwrite)
    except BaseException:
        if any(path.exists() for path in staged):
            for path, target, old in zip(staged, targets, kept, strict=True):
                if not path.exists() or (target.exists() and path.samefile(target)):
                    target.unlink()
                if old.exists():
                    old.rename(target)
        raise


def _put(path: Path, target: Path, *, overwrite: bool) -> None:
    """Rename the file `path` to `target`; raises EdgeSkipError if something is there and `overwrite` is false."""
    if overwrite:
        path.replace(target)
        return
    try:
        try:
            os.link(path, target)  # unlike a rename, which replaces, this fails if something is
            path.unlink()
        except FileExistsError:
            raise
        except OSError:  # no hard links on this file system
            os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            path.replace(target)
    except FileExistsError:
        raise _appeared(target) from None


def _appeared(target: Path) -> EdgeSkipError:
    return EdgeSkipError(
        f"{target} exists, it was made meanwhile by another process: choose another -o or add --overwrite"
    )


def _refuse_parent(target: Path, option: str = "-o") -> None:
    parent = target.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not (parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)):
        raise EdgeSkipError(f"cannot write to {parent}: check its permissions or choose another {option}")
