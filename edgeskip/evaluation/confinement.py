"""What the Linux kernel can forbid a process: Landlock (files, programs, TCP) and seccomp (system calls).

Runs inside the sandbox, before the program: the standard library only. Both bind the calling process and all it starts,
need no privileges and cannot be taken back.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from collections.abc import Callable

# linux/landlock.h: the numbers of the system calls (alike on all architectures) and the bits of its three masks.
_CREATE_RULESET, _RESTRICT_SELF = 444, 446
_VERSION_FLAG = 1
_READS = (1 << 2) | (1 << 3)  # READ_FILE, READ_DIR: not restricted, the interpreter imports its modules
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # ABI → how many rights on files it knows; 16 since 5
_TCP = 0b11  # BIND_TCP, CONNECT_TCP, since ABI 4
_SCOPES = 0b11  # ABSTRACT_UNIX_SOCKET, SIGNAL, since ABI 6
_NO_NEW_PRIVILEGES = 38  # linux/prctl.h PR_SET_NO_NEW_PRIVS

# What no solution needs: other processes, programs, sockets, signals to others, mounts and the kernel's back rooms.
_REFUSED_CALLS = (
    "fork", "vfork", "execve", "execveat", "socket", "socketpair", "connect", "bind", "listen", "accept", "accept4",
    "kill", "tkill", "pidfd_send_signal", "pidfd_open", "ptrace", "process_vm_readv", "process_vm_writev", "mount",
    "umount2", "unshare", "setns", "chroot", "pivot_root", "bpf", "perf_event_open", "userfaultfd", "io_uring_setup",
    "keyctl", "add_key", "request_key", "memfd_create", "shmget", "msgget", "semget", "mq_open", "setsid",
)  # fmt: skip
_CLONE_THREAD = 0x10000


class _RulesetAttributes(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


def confine(pyseccomp: str | None) -> list[str]:
    """Forbid this process everything it does not need; return the names of the layers that are in force.

    Args:
        pyseccomp: Path of the module pyseccomp, which wraps libseccomp; None if it is not installed.
    """
    if sys.platform != "linux":
        return []
    layers: dict[str, Callable[[], bool]] = {}
    if pyseccomp is not None:  # first: it looks for its C library with programs, which Landlock forbids
        layers["seccomp"] = lambda: _seccomp(pyseccomp)
    layers["Landlock"] = _landlock
    return [name for name, apply in layers.items() if apply()]


def _landlock() -> bool:
    """Return a ruleset that handles every right but reading, and grants none: no writes, no programs, no TCP."""
    libc = ctypes.CDLL(None, use_errno=True)
    abi = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_FLAG))
    if abi < 1:
        return False
    attributes = _RulesetAttributes(
        ((1 << _FILE_RIGHTS.get(abi, 16)) - 1) & ~_READS, _TCP if abi >= 4 else 0, _SCOPES if abi >= 6 else 0
    )
    size = 8 if abi < 4 else 16 if abi < 6 else 24  # an older kernel refuses fields that it does not know
    ruleset = libc.syscall(_CREATE_RULESET, ctypes.byref(attributes), ctypes.c_size_t(size), ctypes.c_uint32(0))
    if ruleset < 0 or libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        return False
    return bool(libc.syscall(_RESTRICT_SELF, ruleset, ctypes.c_uint32(0)) == 0)


def _seccomp(path: str) -> bool:
    """Return a filter that answers the refused calls with EPERM; threads may still be started."""
    try:
        spec = importlib.util.spec_from_file_location("pyseccomp", path)
        assert spec is not None
        assert spec.loader is not None
        library = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(library)
        refuse = library.ERRNO(1)  # EPERM
        rules = library.SyscallFilter(defaction=library.ALLOW)
        for name in _REFUSED_CALLS:
            _add(rules, refuse, name)
        _add(rules, refuse, "clone", library.Arg(0, library.MASKED_EQ, _CLONE_THREAD, 0))
        _add(rules, library.ERRNO(38), "clone3")  # ENOSYS: the C library then takes clone, whose flags can be seen
        rules.load()
    except Exception:  # no libseccomp, or a kernel that refuses the filter: a layer less, and said so
        return False
    return True


def _add(rules: object, action: object, *arguments: object) -> None:
    try:
        rules.add_rule(action, *arguments)  # type: ignore[attr-defined]
    except (OSError, ValueError):  # this architecture has no such call
        return
