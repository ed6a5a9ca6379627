"""GGUF files as `fuzz_harness.Reader`s: what `inspect` and `export` read of them, and opening them with llama.cpp.

Damage goes to bytes anywhere in the header, to single keys by their type, to counts, tensors and arrays, or splices one
file into another. The child that a file of unknown origin is opened in is a fork here, of the same code: starting
Python for each of thousands of inputs would take hours.
"""

from __future__ import annotations

import io
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import mutations
from fuzz_harness import Reader
from raw_gguf import ARRAY, BOOL, F32, F64, I8, I16, I32, I64, STRING, U8, U16, U32, U64, RawArray, RawGguf, RawKey

_NUMBERS = (0, 1, 2, 3, 7, 31, 32, 255, 511, 512, 513, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1)
_FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e38, -1e38, math.nan, math.inf, -math.inf)
_TEXTS = (b"", b"\0", b"a\0b", b"\xff\xfe", b"linear", b"yarn", b"no_vocab", b"llama", b"{", b"null", b"a" * 4000)
_RANGES = {U8: (0, 2**8), I8: (-(2**7), 2**7), U16: (0, 2**16), I16: (-(2**15), 2**15), U32: (0, 2**32),
           I32: (-(2**31), 2**31), U64: (0, 2**64), I64: (-(2**63), 2**63)}  # fmt: skip
# Keys that llama.cpp reads of many architectures, and that the files here have not.
_ABSENT = (
    "expert_count", "expert_used_count", "expert_group_count", "expert_group_used_count", "nextn_predict_layers",
    "expert_shared_count", "expert_feed_forward_length", "attention.sliding_window", "attention.causal",
    "attention.scale", "attention.key_length_swa", "attention.layer_norm_epsilon", "rope.dimension_count",
    "rope.dimension_sections", "rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length",
    "rope.scaling.yarn_ext_factor", "rope.scale_linear", "pooling_type", "vocab_size", "logit_scale", "ssm.conv_kernel",
    "embedding_length_out", "residual_scale", "embedding_scale", "use_parallel_residual", "full_attention_interval",
)  # fmt: skip
_ARCHITECTURES = (
    b"llama", b"qwen2", b"qwen3", b"smollm3", b"deci", b"falcon", b"gpt2", b"bert", b"t5", b"clip", b"mamba", b"rwkv7",
    b"gemma3", b"phi3", b"smallthinker", b"paddleocr", b"qwen2moe", b"deepseek2", b"granite", b"olmo2", b"nonsense",
)  # fmt: skip
_KINDS = (b"gpt2", b"llama", b"bert", b"t5", b"rwkv", b"plamo2", b"no_vocab", b"none", b"test", b"gemma4", b"x")


def mutate(random: Random, name: str, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """A damaged copy of a GGUF; most damage is to its parts, the rest to bytes, most of those in the header."""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        chance = random.random()
        try:
            file = RawGguf.parse(data)
        except Exception:  # damaged too far already
            return mutations.mutate_bytes(random, data, others)
        if not file.keys or not file.tensors:  # nothing is left to damage
            return data
        if chance < 0.7:
            data = random.choice(_PARTS)(random, file) or file.to_bytes()
        elif chance < 0.92:
            head = len(data) - len(file.data)
            data = mutations.mutate_bytes(random, data[:head], others) + data[head:]
        else:
            data = mutations.mutate_bytes(random, data, others)
    return data


def _value(random: Random, kind: int, depth: int = 0) -> Any:
    if kind in _RANGES:
        low, high = _RANGES[kind]
        number = random.choice((*_NUMBERS, *(-n for n in _NUMBERS), random.randrange(low, high)))
        return (number - low) % (high - low) + low
    if kind in (F32, F64):
        return random.choice(_FLOATS)
    if kind == BOOL:
        return random.random() < 0.5
    if kind == STRING:
        return random.choice(_TEXTS)
    if kind == ARRAY:
        element = random.choice((*range(13), 13, 99)) if depth == 0 else random.choice((STRING, U32, I32, F32))
        if element == ARRAY:
            return RawArray(ARRAY, [_value(random, ARRAY, depth + 1)] if depth < 3 else [])
        count = random.choice((0, 1, 2, 4, 5, 320, 600))
        length = None if random.random() < 0.7 else random.choice(_NUMBERS)
        values = [_value(random, element, 1) for _ in range(count)] if element < 13 else []
        return RawArray(element, values, length)
    return random.randbytes(random.randrange(9))


def _change_value(random: Random, file: RawGguf) -> None:
    """Another value of the same type."""
    index = random.randrange(len(file.keys))
    key = file.keys[index]
    if key.type == ARRAY and key.value.values and random.random() < 0.8:
        values, at = list(key.value.values), random.randrange(len(key.value.values))
        match random.randrange(5):
            case 0:
                values[at] = _value(random, key.value.element, 1)
            case 1:
                values = values[:at]
            case 2:
                values[at] = values[random.randrange(len(values))]
            case 3:
                values *= random.choice((0, 2, 3))
            case _:
                length = random.choice((*_NUMBERS, len(values) + 1, len(values) - 1))
                file.keys[index] = replace(key, value=replace(key.value, length=length))
                return
        file.keys[index] = replace(key, value=replace(key.value, values=values))
        return
    value = _value(random, key.type)
    if key.name == b"general.architecture":
        value = random.choice(_ARCHITECTURES)
    elif key.name == b"tokenizer.ggml.model":
        value = random.choice(_KINDS)
    file.keys[index] = replace(key, value=value)


def _change_type(random: Random, file: RawGguf) -> None:
    index, kind = random.randrange(len(file.keys)), random.choice((*range(13), 13, 2**31, 2**32 - 1))
    value = _value(random, kind) if kind < 13 else b"\0" * random.choice((0, 1, 8))
    file.keys[index] = replace(file.keys[index], type=kind, value=value)


def _add_key(random: Random, file: RawGguf) -> None:
    architecture = next((k.value for k in file.keys if k.name == b"general.architecture"), b"llama")
    prefix = architecture if isinstance(architecture, bytes) else b"llama"
    name = prefix + b"." + random.choice(_ABSENT).encode()
    if random.random() < 0.3:
        name = random.choice((b"", b"general.alignment", b"split.count", b"split.no", b"x" * 70000, file.keys[0].name,
                              b"edgeskip.label", b"edgeskip.header_sha256", b"tokenizer.ggml.scores",
                              b"tokenizer.ggml.suppress_tokens", b"tokenizer.chat_template"))  # fmt: skip
    kind = random.choice((U32, U32, U32, F32, BOOL, STRING, ARRAY, U16, I32, U64))
    file.keys.append(RawKey(name, kind, _value(random, kind)))


def _remove_key(random: Random, file: RawGguf) -> None:
    del file.keys[random.randrange(len(file.keys))]


def _rename_architecture(random: Random, file: RawGguf) -> None:
    """The same tensors as another architecture, with all its keys."""
    old = next((k.value for k in file.keys if k.name == b"general.architecture"), None)
    if not isinstance(old, bytes):
        return
    old, new = old + b".", random.choice(_ARCHITECTURES)
    file.keys = [
        replace(key, name=new + b"." + key.name.removeprefix(old)) if key.name.startswith(old) else key
        for key in file.keys
    ]
    file.set("general.architecture", STRING, new)


def _change_tensor(random: Random, file: RawGguf) -> None:
    index = random.randrange(len(file.tensors))
    tensor = file.tensors[index]
    match random.randrange(6):
        case 0:
            dims = list(tensor.dims) or [1]
            dims[random.randrange(len(dims))] = random.choice(_NUMBERS)
            tensor = replace(tensor, dims=tuple(dims))
        case 1:
            tensor = replace(tensor, dims=tuple(random.choice(_NUMBERS) for _ in range(random.randrange(7))))
        case 2:
            tensor = replace(tensor, type=random.choice((*range(45), 255, 2**31, 2**32 - 1)))
        case 3:
            offset = random.choice((*_NUMBERS, tensor.offset + 1, tensor.offset + 32))
            tensor = replace(tensor, offset=offset % 2**64)
        case 4:
            name = random.choice((b"", b"x" * 63, b"x" * 64, b"\xff", b"blk.999.attn_q.weight", tensor.name + b"\0"))
            tensor = replace(tensor, name=random.choice((name, file.tensors[0].name)))
        case _:
            tensor = replace(tensor, dims=tensor.dims[::-1])
    file.tensors[index] = tensor


def _list_tensors(random: Random, file: RawGguf) -> None:
    match random.randrange(3):
        case 0:
            del file.tensors[random.randrange(len(file.tensors))]
        case 1:
            file.tensors.append(random.choice(file.tensors))
        case _:
            random.shuffle(file.tensors)


def _change_counts(random: Random, file: RawGguf) -> None:
    if random.random() < 0.5:
        file.num_keys = random.choice((*_NUMBERS, len(file.keys) + 1, len(file.keys) - 1))
    else:
        file.num_tensors = random.choice((*_NUMBERS, len(file.tensors) + 1, len(file.tensors) - 1))
    if random.random() < 0.2:
        file.version = random.choice((0, 1, 2, 4, 2**31, 0x03000000))


def _cut(random: Random, file: RawGguf) -> bytes:
    data = file.to_bytes()
    return data[: random.randrange(len(data) + 1)]


def _retype(random: Random, file: RawGguf) -> None:
    """One tensor of another type, with all that follow it moved as they would be."""
    from edgeskip.artifacts.gguf.types import TYPES_BY_NUMBER, GgmlType

    index, kind = random.randrange(len(file.tensors)), random.choice(list(GgmlType))
    file.tensors[index] = replace(file.tensors[index], type=int(kind))
    if not all(tensor.type in TYPES_BY_NUMBER for tensor in file.tensors):
        return
    offset, moved = 0, []
    for tensor in file.tensors:
        block = GgmlType(tensor.type)
        size = math.prod(tensor.dims) // block.block * block.block_bytes
        moved.append(replace(tensor, offset=offset))
        offset += size + -size % 32
    file.tensors, file.data = moved, (file.data * 3)[:offset]


_PARTS: tuple[Callable[[Random, RawGguf], bytes | None], ...] = (
    *(_change_value,) * 5,
    *(_change_type,) * 3,
    *(_add_key,) * 3,
    _remove_key,
    _rename_architecture,
    *(_change_tensor,) * 2,
    _retype,
    _list_tensors,
    _change_counts,
    _cut,
)


def _files(folder: Path) -> None:
    """A file of others in three families, a SentencePiece vocabulary, and our own, digest and all."""
    from talking_gguf import talking_gguf

    from edgeskip.artifacts.gguf.seal import SEAL_KEY, UNSEALED, seal_gguf

    small = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 96}
    for family in ("llama", "qwen2", "qwen3"):
        talking_gguf(folder / f"{family}.gguf", family=family, **small)
    talking_gguf(folder / "pieces.gguf", _pieces(), **small)
    file = RawGguf.read(folder / "llama.gguf")
    file.set(SEAL_KEY, STRING, UNSEALED)
    seal_gguf(file.write(folder / "sealed.gguf"))


def _pieces() -> dict[str, Any]:
    """A vocabulary as SentencePiece makes it: special pieces, every byte, some characters and pairs of them."""
    characters = [*"▁abcdefghijklmnopqrstuvwxyzéT.", "▁T", "he", "▁the", "fo"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *characters]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": None,
        "tokenizer.ggml.merges": None,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [-float(index) for index in range(len(tokens))],
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * len(characters)],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": True,
    }


def _each(folder: Path, read: Callable[[Path], object]) -> None:
    """Every file is read, damaged or not: which one is damaged, the reader is not told."""
    refused: BaseException | None = None
    for path in sorted(folder.glob("*.gguf")):
        if path.stat().st_mtime_ns == _UNTOUCHED:
            continue
        try:
            read(path)
        except Exception as error:
            from edgeskip.core.user_errors import explain

            if explain(error) is None:
                raise
            refused = error
    if refused is not None:
        raise refused


_UNTOUCHED = 10**18  # ns: the time that sound files are given, and copies of them keep


def _prepare(folder: Path) -> None:
    _files(folder)
    for path in folder.iterdir():
        os.utime(path, ns=(_UNTOUCHED, _UNTOUCHED))


def _inspect(folder: Path) -> None:
    import json

    from edgeskip.artifacts.gguf.inspection import inspect_gguf
    from edgeskip.bench.model_cost import model_cost_of
    from edgeskip.cli.commands.inspect import inspect
    from edgeskip.core.errors import EdgeSkipError

    def read(path: Path) -> None:
        json.dumps(inspect_gguf(path).as_json())
        try:
            inspect(str(path))
        finally:
            with suppress(EdgeSkipError):
                model_cost_of(path)

    _each(folder, read)


def _export(folder: Path) -> None:
    """What `calibrate` and `export` read of a GGUF that is the model: config, weights, tokenizer."""
    from edgeskip.models.source import open_model

    def read(path: Path) -> None:
        source = open_model(str(path))
        assert source.record()
        for tensor in source.tensors.values():
            tensor.read()
        (folder / "tokenizer").mkdir(exist_ok=True)
        source.write_tokenizer(folder / "tokenizer")

    _each(folder, read)


def _run(folder: Path) -> None:
    """As `run` does: the trial in a child, then here."""
    import edgeskip

    _forked_trials()

    def read(path: Path) -> None:
        with edgeskip.load(path, threads=1) as session:
            session.generate("The fox é 🙂", max_tokens=3)
            session.generate("Hi", max_tokens=2, chat=False)

    _each(folder, read)


def _forked_trials() -> None:
    from edgeskip.runtime.engines.llamacpp import trial as llamacpp_trial
    from edgeskip.runtime.engines.llamacpp import trial_child

    os.environ["GGML_NO_BACKTRACE"] = "1"

    def fork(command: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
        *_, provider, size, path = command
        out_reading, out = os.pipe()
        child = os.fork()
        if child == 0:
            os.dup2(out, 1)
            said = io.StringIO()
            try:
                with redirect_stdout(os.fdopen(out, "w", buffering=1)), redirect_stderr(said):
                    code = trial_child.main(provider, size, path)
                    sys.stdout.flush()
            except BaseException:
                code = 1
            os._exit(code)
        os.close(out)
        stdout = b""
        while block := os.read(out_reading, 1 << 16):
            stdout += block
        os.close(out_reading)
        _, status = os.waitpid(child, 0)
        return subprocess.CompletedProcess(command, os.waitstatus_to_exitcode(status), stdout.decode(), "")

    llamacpp_trial.run_child = fork
    llamacpp_trial._mark = lambda files, provider: None  # nothing is remembered


COMMON = (
    "edgeskip.cli.main",
    "edgeskip.artifacts.gguf.inspection",
    "gguf",
    "rich.console",
    "rich.table",
    "edgeskip.bench.model_cost",
)
RUNTIME = (
    "edgeskip.runtime.session", "edgeskip.runtime.loader", "edgeskip.runtime.engines.llamacpp.engine",
    "edgeskip.runtime.engines.llamacpp.text", "llama_cpp.llama_cpp", "jinja2.sandbox",
)  # fmt: skip
EXPORTERS = ("edgeskip.models.source", "edgeskip.models.readers.gguf_tokenizer", "gguf.quants")

READERS = [
    Reader("gguf-inspect", _prepare, ("*.gguf",), _inspect, COMMON, mutate=mutate),
    Reader("gguf-export", _prepare, ("*.gguf",), _export, (*COMMON, *EXPORTERS), mutate=mutate),
    Reader("gguf-run", _prepare, ("*.gguf",), _run, (*COMMON, *RUNTIME), mutate=mutate),
]
