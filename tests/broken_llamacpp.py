"""A copy of the installed llama.cpp whose matrix product is broken, by an instruction written over its first bytes.

`hlt` is a general protection fault in a program, which is what AMX's tile instructions give where gcc bug 114098 has
left their configuration empty; so the real library dies as it does on such a processor, in the same function.
"""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

from edgeskip.runtime.engines.llamacpp.self_test import library_files

X86 = {
    "SIGSEGV": b"\xf4",  # hlt
    "SIGILL": b"\x0f\x0b",  # ud2
    "SIGTRAP": b"\xcc",  # int3
    "wrong": b"\xc3",  # ret: the result is whatever was in memory
}
PRODUCT = "ggml_compute_forward_mul_mat"


def break_llamacpp(folder: Path, how: str, function: str = PRODUCT, library: str = "libggml-cpu.so") -> Path:
    """`folder` with the copy, for LLAMA_CPP_LIB_PATH."""
    shutil.copytree(library_files()[0].parent, folder, symlinks=True)
    for path in folder.glob(f"{library}*"):  # copies of one file, or links to it
        if not path.is_symlink():
            content = bytearray(path.read_bytes())
            begin = offset_of(bytes(content), function)
            content[begin : begin + len(X86[how])] = X86[how]
            path.write_bytes(content)
    return folder


def offset_of(elf: bytes, function: str) -> int:
    """Where an exported function begins in a 64-bit ELF file (System V ABI, chapters 4 and 5)."""
    program_headers, section_headers = struct.unpack_from("<QQ", elf, 32)
    size, count, section_size, sections = struct.unpack_from("<HHHH", elf, 54)
    table = [struct.unpack_from("<IIQQQQIIQQ", elf, section_headers + n * section_size) for n in range(sections)]
    symbols = next(section for section in table if section[1] == 11)  # SHT_DYNSYM
    names = table[symbols[6]][4]
    for begin in range(symbols[4], symbols[4] + symbols[5], 24):
        name, _, _, _, address, _ = struct.unpack_from("<IBBHQQ", elf, begin)
        if elf.startswith(function.encode() + b"\0", names + name) and address:
            for n in range(count):
                kind, _, offset, start, _, held = struct.unpack_from("<IIQQQQ", elf, program_headers + n * size)
                if kind == 1 and start <= address < start + held:  # PT_LOAD
                    return int(offset + address - start)
    raise LookupError(function)
