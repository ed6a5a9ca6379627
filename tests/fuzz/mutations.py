"""Damage to real files, drawn by a seeded `random.Random`: JSON values, bytes, lines, headers, protobufs."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

_DEEP, _HUGE, _OVERFLOW = "@deep@", "@huge@", "@overflow@"
_NUMBERS: tuple[Any, ...] = (
    0, -1, 1, 2, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63), 10**12, 10**30, 1.5,
    -0.0, 1e308, -1e308, 1e300, 1e17, 5e-324, 1e-300, float("nan"), float("inf"), float("-inf"), _HUGE, _OVERFLOW,
)  # fmt: skip
_TEXTS = (
    "", " ", "\0", "a" * 5000, "\ud800", "é\u202e", "../../etc/passwd", "/dev/zero", ".", "..", "a/b", "\x1b[31m",
    "1e999", "-1", "nan", "attn.999999", "ffn.-1", "{{ x", "float16", "int8", "%s%n", "C:\\x",
)  # fmt: skip
_OTHERS: tuple[Any, ...] = (None, True, False, [], {}, [[]], [None], {"": None}, [0] * 2000, _DEEP)
INTEGERS = tuple(number for number in _NUMBERS if isinstance(number, int))


def mutate(random: Random, name: str, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """`data`, the content of a file called `name`, damaged one to three times; `others` are to splice in."""
    for _ in range(random.choice((1, 1, 1, 1, 2, 3))):
        structured = _structured(name)
        if structured is not None and random.random() < 0.75:
            try:
                data = structured(random, data)
                continue
            except Exception:  # it was damaged too far already to be taken apart
                pass
        data = mutate_bytes(random, data, others)
    return data


def _structured(name: str) -> Callable[[Random, bytes], bytes] | None:
    end = name.rpartition(".")[2]
    return {
        "json": mutate_json,
        "jsonl": mutate_lines,
        "csv": mutate_text,
        "tsv": mutate_text,
        "txt": mutate_text,
        "jinja": mutate_text,
        "npy": mutate_npy,
        "safetensors": mutate_safetensors,
        "onnx": mutate_onnx,
    }.get(end)


def mutate_bytes(random: Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Flips, cuts, repeats, overwrites or splices bytes anywhere."""
    if not data:
        return random.randbytes(random.randrange(64))
    at, length = random.randrange(len(data)), random.choice((1, 1, 2, 4, 8, 64, 4096))
    end = min(at + length, len(data))
    match random.randrange(8):
        case 0:
            return data[:at] + bytes([data[at] ^ (1 << random.randrange(8))]) + data[at + 1 :]
        case 1:
            return data[:at]
        case 2:
            return data[:at] + data[end:]
        case 3:
            return data[:end] + data[at:end] * random.choice((1, 2, 100)) + data[end:]
        case 4:
            return data[:at] + bytes([random.choice((0, 255, 127, 128))]) * (end - at) + data[end:]
        case 5:
            return data[:at] + random.randbytes(end - at) + data[end:]
        case 6:
            other = random.choice(others) if others else data
            start = random.randrange(len(other) + 1)
            return data[:at] + other[start : start + random.choice((16, 256, 1 << 20))]
        case _:
            return random.choice((b"", b"\0", b"\n", b"{}", b"[]", b"null", b"\xef\xbb\xbf" + data, data * 2))


def mutate_json(random: Random, data: bytes) -> bytes:
    """One value replaced, left out, doubled under its key, or moved to another place."""
    content = json.loads(data)
    places = list(_places(content))
    if not places:
        return _dumps(_value(random, content))
    parent, key = random.choice(places)
    old = parent[key]
    duplicate = None
    match random.randrange(9):
        case 8:
            mutate_everywhere(random, [content])
            return _dumps(content)
        case 0 if isinstance(parent, dict):
            del parent[key]
        case 1 if isinstance(parent, list):
            parent[key:key] = [old] * random.choice((1, 2, 100))
        case 2 if isinstance(parent, dict):
            duplicate = json.dumps(key) + ": "
            parent[key] = old
        case 3:
            other, there = random.choice(places)
            parent[key] = other[there] if not isinstance(other[there], (dict, list)) else old
        case 4 if isinstance(parent, dict):
            parent[random.choice(("x", "", "__class__", key.upper() if isinstance(key, str) else "y"))] = old
        case _:
            parent[key] = _value(random, old)
    text = _dumps(content)
    if duplicate is not None:
        value = _dumps(_value(random, old)).decode("utf-8", "surrogatepass")
        text = text.replace(duplicate.encode(), f"{duplicate}{value}, {duplicate}".encode("utf-8", "surrogatepass"), 1)
    return text


def _value(random: Random, old: Any) -> Any:
    """Something hostile in the place of `old`: near what it was, of its type, or of any."""
    if isinstance(old, (int, float)) and not isinstance(old, bool) and random.random() < 0.6:
        near = (old + 1, old - 1, -old, old * 2, old * 1000, old / 7, 0)
        return random.choice((*near, *_NUMBERS))
    if isinstance(old, str) and random.random() < 0.6:
        at = random.randrange(len(old) + 1)
        return random.choice((*_TEXTS, old[:at], old + old, old[:at] + "\ud800" + old[at:], old[:at] + "\0" + old[at:]))
    if isinstance(old, list) and random.random() < 0.5:
        return random.choice(([], old[:1], old + old, old[::-1], [old], old * 50))
    return random.choice((*_NUMBERS, *_TEXTS, *_OTHERS))


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value within."""
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in inner:
        yield content, key
        yield from _places(value)


def _dumps(content: Any) -> bytes:
    text = json.dumps(content, ensure_ascii=True)
    text = text.replace(f'"{_DEEP}"', "[" * 100_000 + "]" * 100_000, 1).replace(f'"{_DEEP}"', "[]")
    return text.replace(f'"{_HUGE}"', "9" * 5000).replace(f'"{_OVERFLOW}"', "1e999").encode()


def mutate_everywhere(random: Random, contents: Sequence[Any]) -> None:
    """Every number under one key, in all of `contents`, replaced by one hostile number or one of a pair of them."""
    places = [place for content in contents for place in _places(content) if _is_number(place[0][place[1]])]
    if not places:
        return
    parent, _ = random.choice(places)
    names = [name for name in parent if _is_number(parent[name])] if isinstance(parent, dict) else []
    chosen = random.choice(names) if names else None
    numbers = random.sample([*_NUMBERS[:-2], 1e-9, 1e8, 10_000_000, 0.0, 1.0], 2)
    for other, there in places:
        if there == chosen if chosen is not None else isinstance(other, list):
            other[there] = random.choice(numbers)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def mutate_lines(random: Random, data: bytes) -> bytes:
    """A line of JSON lines mutated as JSON, one key in all of them, or lines left out, repeated or swapped."""
    lines = data.split(b"\n")
    at = random.randrange(len(lines))
    match random.randrange(9):
        case 6 | 7:
            contents = [json.loads(line) for line in lines if line.strip()]
            mutate_everywhere(random, contents)
            return b"".join(_dumps(content) + b"\n" for content in contents)
        case 8 if lines[at].strip():  # many that differ in one value
            content = json.loads(lines[at])
            parent, key = random.choice([p for p in _places(content) if not isinstance(p[0][p[1]], (dict, list))])
            for number in range(random.choice((3, 300))):
                parent[key] = f"{number}" if isinstance(parent[key], str) else number
                lines.insert(at, _dumps(content))
        case 0:
            del lines[at]
        case 1:
            lines.insert(random.randrange(len(lines) + 1), lines[at])
        case 2:
            other = random.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        case _ if lines[at].strip():
            lines[at] = mutate_json(random, lines[at])
        case _:
            return mutate_text(random, data)
    return b"\n".join(lines)


def mutate_text(random: Random, data: bytes) -> bytes:
    """Characters and fields that readers of text, tables and prompts trip over."""
    at = random.randrange(len(data) + 1)
    hostile = (
        b"\0", b'"', b"'", b"\r", b"\r\n", b"\t", b",", b"\xff\xfe", b"\xc3", b"\xed\xa0\x80", b"\x1b[2J",
        b"a" * 200_000, b"," * 5000, b"\n" * 5000, b'"' + b"a" * 140_000, b"9" * 5000, b"1e999", b"nan", b"\x85",
        b"\xe2\x80\xa8", b"<|im_end|>", b"{%", b"\xef\xbb\xbf",
    )  # fmt: skip
    end = min(len(data), at + random.choice((0, 0, 1, 10)))
    return data[:at] + random.choice(hostile) + data[end:]


def mutate_npy(random: Random, data: bytes) -> bytes:
    """The header of a .npy file with another type, shape or order, its length told rightly or not."""
    length = struct.unpack("<H", data[8:10])[0]
    header = data[10 : 10 + length].decode("latin-1")
    descr = random.choice(("<i8", "<i4", "|O", "<f4", "<f8", "|u1", "<U9", "|V0", "|b1", "<c8", "<m8[s]", "x", "<i999"))
    shape = random.choice(
        ("()", "(0,)", "(1,)", "(-1,)", "(1000000000000,)", "(3, 3)", "(4611686018427387904, 4)", "(2, 0)", "None",
         "(18446744073709551616,)", "(1.5,)", "(" * 90 + ")" * 90, "(True,)", "(1,) * 10 ** 9")
    )  # fmt: skip
    match random.randrange(5):
        case 0:
            header = re.sub(r"'descr': '[^']*'", f"'descr': '{descr}'", header)
        case 1:
            header = re.sub(r"'shape': \([^)]*\)", f"'shape': {shape}", header)
        case 2:
            header = header.replace("False", random.choice(("True", "None", "1", "[]")))
        case 3:
            header = random.choice(("{}", "[]", "", "{'a': 1}", "{" * 500, "\0", header.strip() + " " * 20_000))
        case _:
            body = bytearray(data)
            for index in range(10 + length, len(body)):
                if random.random() < 0.05:
                    body[index] = random.choice((0, 255, 127, 128))
            return bytes(body)
    told = len(header) + random.choice((0, 0, 0, 0, 1, -1, 60_000))
    return data[:8] + struct.pack("<H", max(0, min(told, 65535))) + header.encode("latin-1") + data[10 + length :]


def mutate_safetensors(random: Random, data: bytes) -> bytes:
    """The header of a safetensors file mutated as JSON, or its length a lie."""
    length = struct.unpack("<Q", data[:8])[0]
    header, body = data[8 : 8 + length], data[8 + length :]
    match random.randrange(6):
        case 0:
            lies = (0, 1, length - 1, length + 1, len(data), 2**31, 10**8, 2**63, 2**64 - 1)
            return struct.pack("<Q", random.choice(lies)) + data[8:]
        case 1:
            entries = json.loads(header)
            name = random.choice([name for name in entries if name != "__metadata__"])
            change = random.choice(("shape", "dtype", "offsets", "zero"))
            if change == "shape":
                entries[name]["shape"] = random.choice(([], [0], [-1], [2**62, 4], [1, 10**12], [2**64]))
            elif change == "dtype":
                entries[name]["dtype"] = random.choice(("F16", "F64", "I8", "BOOL", "BF16", "F8_E5M2", "U64", "", "F4"))
            elif change == "offsets":
                entries[name]["data_offsets"] = random.choice(([0, 0], [10**12, 10**13], [8, 4], [0, len(body)], [0]))
            else:
                entries[name] = {**entries[name], "shape": [0, *entries[name]["shape"][1:]], "data_offsets": [0, 0]}
            header = _dumps(entries)
        case 2:
            at = random.randrange(0, max(1, len(body) - 8))
            value = random.choice((b"\x00\x00\xc0\x7f", b"\xff\xff\x7f\x7f", b"\0" * 8, b"\xff" * 8, b"\x00\x7c"))
            body = body[:at] + value + body[at + len(value) :]
        case _:
            header = mutate_json(random, header)
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + body


def mutate_onnx(random: Random, data: bytes) -> bytes:
    """One to three fields of the protobuf set to something hostile, left out, repeated or taken from a neighbour."""
    import onnx

    model = onnx.ModelProto.FromString(data)
    messages = list(_messages(model))
    nodes = [message for message in messages if message.DESCRIPTOR.name == "NodeProto"]
    tensors = [message for message in messages if message.DESCRIPTOR.name == "TensorProto"]
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        match random.randrange(8):
            case 0 if nodes:
                _mutate_node(random, nodes)
            case 1 if tensors:
                _mutate_tensor(random, random.choice(tensors))
            case _:
                _mutate_message(random, random.choice(messages))
    return bytes(model.SerializeToString())


def _mutate_node(random: Random, nodes: Sequence[Any]) -> None:
    node, other = random.choice(nodes), random.choice(nodes)
    match random.randrange(6):
        case 0 if node.input and node.output:
            node.input[0] = node.output[0]  # it waits for itself
        case 1 if node.input and other.output:
            node.input[random.randrange(len(node.input))] = random.choice(other.output)
        case 2:
            node.op_type = random.choice((other.op_type, "If", "Loop", "Scan", "ConstantOfShape", "Expand", "Tile", ""))
        case 3:
            node.CopyFrom(other)
        case 4 if node.input:
            del node.input[random.randrange(len(node.input)) :]
        case _ if node.attribute:
            attribute = random.choice(node.attribute)
            if attribute.HasField("i"):
                attribute.i = random.choice([i for i in INTEGERS if -(2**63) <= i < 2**63])
            else:
                node.attribute.remove(attribute)
        case _:
            node.ClearField("output")


def _mutate_tensor(random: Random, tensor: Any) -> None:
    match random.randrange(6):
        case 0:
            del tensor.dims[:]
            tensor.dims.extend(random.choice(((), (0,), (-1,), (2**62, 4), (10**12,), (1,), (2**31, 2**31, 2**31))))
        case 1:
            tensor.data_type = random.choice((0, 1, 2, 7, 8, 9, 10, 16, 21, 22, 23, 99, -1))
        case 2:
            tensor.raw_data = tensor.raw_data[: random.randrange(len(tensor.raw_data) + 1)]
        case 3 if tensor.external_data:
            entry = random.choice(tensor.external_data)
            entry.value = random.choice(
                (
                    "-1",
                    "0",
                    "1e9",
                    "x",
                    "",
                    str(2**63),
                    str(2**64),
                    str(10**12),
                    "/dev/zero",
                    "../x",
                    ".",
                    "1",
                    "9" * 5000,
                )
            )
        case 4 if tensor.external_data:
            del tensor.external_data[random.randrange(len(tensor.external_data))]
        case _:
            tensor.name = random.choice(("", "x", tensor.name + "x"))


def _mutate_message(random: Random, message: Any) -> None:
    fields = [field for field, _ in message.ListFields()]
    if not fields:
        return
    field = random.choice(fields)
    value = getattr(message, field.name)
    repeated = not isinstance(value, (str, bytes, int, float)) and hasattr(value, "__len__")
    if repeated and len(value):
        at = random.randrange(len(value))
        if random.random() < 0.3:
            del value[at]
        elif field.message_type is not None:
            if random.random() < 0.3:
                value.add().CopyFrom(value[at])
            elif random.random() < 0.5 and len(value) > 1:
                value[at].CopyFrom(value[random.randrange(len(value))])
        elif field.type != field.TYPE_BYTES:
            value[at] = _scalar(random, field, value[at])
    elif field.message_type is not None or random.random() < 0.2:
        message.ClearField(field.name)
    else:
        setattr(message, field.name, _scalar(random, field, value))


def _scalar(random: Random, field: Any, old: Any) -> Any:
    if isinstance(old, bytes):
        return mutate_bytes(random, old)
    if isinstance(old, str):
        return random.choice(("", "x", old * 2, "../x", "a" * 5000, "é", old[: len(old) // 2]))
    if isinstance(old, float):
        return random.choice((0.0, -1.0, 3e38, 1e-45, float("nan"), float("inf")))
    narrow = field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_ENUM)
    limit = 31 if narrow else 63
    fitting = [number for number in INTEGERS if -(2**limit) <= number < 2**limit]
    if field.enum_type is not None:
        return random.choice([value.number for value in field.enum_type.values])
    return random.choice([*fitting, max(min(old + 1, 2**limit - 1), 0), max(old - 1, 0), old // 2])


def _messages(message: Any) -> Iterator[Any]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for inner in value if hasattr(value, "__len__") and not hasattr(value, "ListFields") else (value,):
            yield from _messages(inner)
