"""Damaging files: a mutation takes a generator and bytes and returns bytes, the same ones for the same generator."""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

__all__ = [
    "BYTE_MUTATIONS",
    "Mutation",
    "mutate",
    "mutate_json",
    "mutate_json_lines",
    "mutate_protobuf",
    "mutate_text",
    "mutate_zip",
    "seal_png",
]

Mutation = Callable[[np.random.Generator, bytes], bytes]

LARGEST = 1 << 20
"""Bytes that a mutated file may have: what is larger shows nothing new and costs time."""

_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")

_NUMBERS = (
    *(b"nan", b"NaN", b"inf", b"-Infinity", b"1e999", b"-1e999", b"1e-999", b"5e-324", b"1.7976931348623157e308"),
    *(b"0", b"-0", b"-0.0", b"-1", b"1", b"00", b"0x10", b"1_0", b"1e", b"+1", b".5", b"", b'"1"', b"null", b"true"),
    *(b"127", b"128", b"255", b"256", b"65535", b"65536", b"2147483647", b"2147483648", b"-2147483649"),
    *(b"4294967296", b"9223372036854775807", b"9223372036854775808", b"18446744073709551616", b"1" + b"0" * 400),
    *(b"9" * 5000, "١٢".encode(), "²".encode(), b"1" + b"0" * 30 + b".0", b"3.4028236e38", b"1e-46"),
)

_TEXTS = (
    *(
        "",
        " ",
        "\n",
        "\r",
        "\r\n",
        "\t",
        "\x00",
        "\x0b",
        "\x0c",
        "\x1c",
        "\x1b[31m",
        "\x7f",
        "\x85",
        "\u2028",
        "\u202e",
    ),
    *("\ufeff", "\ufffe", "\ud800", "\udfff\ud800", "\U0010ffff", "e\u0301", "\u0130", "\u00df", "İ", "'", '"', "`"),
    *("\\", "/", "..", "../../etc/passwd", "/dev/stdin", "{0}", "%s%n", ": ", "nan", "inf", "None", "null", "x" * 300),
    *("a\nTraceback (most recent call last):", "é", "名前", "=1+1", "<b>", "--force", "#", ",", ";"),
)

_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 127, 256, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, 10**400),
    *(0.0, -0.0, 0.5, 1e308, 5e-324, 1e-46, 3.5e38, math.nan, math.inf, -math.inf),
    *([], {}, [[]], [None], {"": None}, [0, 0], [1, 2, 3, 4], ["x"], {"x": 1}, [{}], "1", "x"),
)

_DEPTHS = (3, 200, 1100, 20_000)


def mutate(
    rng: np.random.Generator,
    seeds: Sequence[bytes],
    *,
    structured: Mutation | None = None,
    seal: Callable[[bytes], bytes] | None = None,
) -> bytes:
    """One damaged file.

    Args:
        rng: decides everything.
        seeds: files to start from.
        structured: a mutation that knows the format; four of ten files get no other, so that some are accepted.
        seal: makes checksums and lengths fit again; done to three of four files, so that what they guard is reached.
    """
    content = seeds[rng.integers(len(seeds))]
    share = 1.0 if rng.random() < 0.4 else 0.4
    for _ in range(min(int(rng.geometric(0.5)), 6)):
        if structured is not None and rng.random() < share:
            content = structured(rng, content)
        elif rng.random() < 0.1:
            content = splice(rng, content, seeds[rng.integers(len(seeds))])
        else:
            content = BYTE_MUTATIONS[rng.integers(len(BYTE_MUTATIONS))](rng, content)
        content = content[:LARGEST]
    return seal(content) if seal is not None and rng.random() < 0.75 else content


def flip_bits(rng: np.random.Generator, content: bytes) -> bytes:
    """Up to eight bits."""
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 9)) if changed else 0):
        changed[rng.integers(len(changed))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def set_bytes(rng: np.random.Generator, content: bytes) -> bytes:
    """A few bytes become any bytes, or all of one kind."""
    start, end = _block(rng, content, 16)
    size = end - start
    filling = rng.bytes(size) if rng.random() < 0.5 else bytes([(0, 255, 32, 10, 127)[rng.integers(5)]]) * size
    return content[:start] + filling + content[end:]


def truncate(rng: np.random.Generator, content: bytes) -> bytes:
    """The end is missing, or the beginning."""
    cut = int(rng.integers(len(content) + 1))
    return content[:cut] if rng.random() < 0.8 else content[cut:]


def delete_block(rng: np.random.Generator, content: bytes) -> bytes:
    start, end = _block(rng, content, 400)
    return content[:start] + content[end:]


def duplicate_block(rng: np.random.Generator, content: bytes) -> bytes:
    start, end = _block(rng, content, 400)
    times = int(rng.choice((1, 1, 1, 2, 50)))
    return content[:end] + content[start:end] * times + content[end:]


def move_block(rng: np.random.Generator, content: bytes) -> bytes:
    start, end = _block(rng, content, 400)
    rest = content[:start] + content[end:]
    place = int(rng.integers(len(rest) + 1))
    return rest[:place] + content[start:end] + rest[place:]


def insert_bytes(rng: np.random.Generator, content: bytes) -> bytes:
    place = int(rng.integers(len(content) + 1))
    return content[:place] + rng.bytes(int(rng.integers(1, 20))) + content[place:]


def insert_text(rng: np.random.Generator, content: bytes) -> bytes:
    """Characters that are odd in names, as UTF-8 (surrogates too), UTF-16 or escaped as in JSON."""
    text = _TEXTS[rng.integers(len(_TEXTS))]
    form = rng.integers(4)
    if form == 0:
        new = "".join(f"\\u{unit:04x}" for unit in struct.unpack(f"<{len(_utf16(text)) // 2}H", _utf16(text))).encode()
    else:
        new = _utf16(text) if form == 1 else text.encode("utf-8", "surrogatepass")
    place = int(rng.integers(len(content) + 1))
    return content[:place] + new + content[place:]


def replace_number(rng: np.random.Generator, content: bytes) -> bytes:
    """A number in text becomes a special one, one out of range, or none."""
    start = int(rng.integers(len(content) + 1))
    found = _NUMBER.search(content, start) or _NUMBER.search(content)
    if found is None:
        return content
    return content[: found.start()] + _NUMBERS[rng.integers(len(_NUMBERS))] + content[found.end() :]


def set_integer(rng: np.random.Generator, content: bytes) -> bytes:
    """Four bytes, or one, two or eight, become a length, offset or count that leaves the file."""
    width = int(rng.choice((1, 2, 4, 4, 4, 8)))
    if len(content) < width:
        return content
    place = int(rng.integers(len(content) - width + 1))
    if rng.random() < 0.5:
        place -= place % width
    bits = 8 * width
    near = (len(content), len(content) - place, place, 1 << (bits - 1), 1 << bits, 1 << (bits // 2), 0, 1 << 24)
    value = near[rng.integers(len(near))] + int(rng.integers(-4, 5))
    order = "little" if rng.random() < 0.7 else "big"
    return content[:place] + (value % (1 << bits)).to_bytes(width, order) + content[place + width :]


def set_varint(rng: np.random.Generator, content: bytes) -> bytes:
    """A byte becomes a number as protobuf writes them, of up to ten bytes."""
    place = int(rng.integers(len(content) + 1))
    value = int((0, 1, 127, 128, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 64) - 1)[rng.integers(8)])
    new = bytearray()
    while value > 127:
        new.append(value & 127 | 128)
        value >>= 7
    return content[:place] + bytes([*new, value]) + content[place + 1 :]


def nest(rng: np.random.Generator, content: bytes) -> bytes:
    """Opens lists or objects, many deep, and closes them or not."""
    depth = _DEPTHS[rng.integers(len(_DEPTHS))]
    opening, closing = ((b"[", b"]"), (b'{"a":', b"}"))[rng.integers(2)]
    place = int(rng.integers(len(content) + 1))
    end = closing * depth if rng.random() < 0.5 else b""
    return content[:place] + opening * depth + b"1" + end + content[place:]


BYTE_MUTATIONS: tuple[Mutation, ...] = (
    flip_bits,
    set_bytes,
    truncate,
    delete_block,
    duplicate_block,
    move_block,
    insert_bytes,
    insert_text,
    replace_number,
    set_integer,
    set_varint,
    nest,
)


def splice(rng: np.random.Generator, content: bytes, other: bytes) -> bytes:
    """The beginning of one file and the end of another."""
    return content[: rng.integers(len(content) + 1)] + other[rng.integers(len(other) + 1) :]


def mutate_text(rng: np.random.Generator, content: bytes) -> bytes:
    """Lines of text: one is deleted, repeated, swapped with another, ended otherwise or filled with odd characters."""
    lines = content.split(b"\n")
    i, j = (int(n) for n in rng.integers(len(lines), size=2))
    kind = rng.integers(6)
    if kind == 0:
        del lines[i]
    elif kind == 1:
        lines.insert(j, lines[i])
    elif kind == 2:
        lines[i], lines[j] = lines[j], lines[i]
    elif kind == 3:
        lines[i] = insert_text(rng, lines[i])
    elif kind == 4:
        lines[i] = replace_number(rng, lines[i])
    else:
        return content.replace(b"\n", (b"\r\n", b"\r", b"\x00", b"")[rng.integers(4)])
    return b"\n".join(lines)


def mutate_json(rng: np.random.Generator, content: bytes) -> bytes:
    """A member of a JSON document is deleted, renamed, repeated, or becomes a value of another type."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return replace_number(rng, content)
    holder: list[Any] = [document]
    places: list[tuple[Any, Any]] = [(holder, 0)]
    for container, key in places:
        value = container[key]
        if isinstance(value, dict):
            places += [(value, name) for name in value]
        elif isinstance(value, list):
            places += [(value, i) for i in range(min(len(value), 200))]
    _change_member(rng, *places[rng.integers(len(places))], places)
    try:
        return json.dumps(holder[0], ensure_ascii=bool(rng.random() < 0.5)).encode("utf-8", "surrogatepass")
    except RecursionError:
        return content


def _change_member(rng: np.random.Generator, container: Any, key: Any, places: list[tuple[Any, Any]]) -> None:
    kind = rng.integers(8)
    other, other_key = places[rng.integers(len(places))]
    if kind == 0 and isinstance(container, dict):
        del container[key]
    elif kind == 1 and isinstance(container, dict):
        container[str(key) + _TEXTS[rng.integers(len(_TEXTS))]] = container.pop(key)
    elif kind == 2 and isinstance(container, list):
        container.insert(key, json.loads(json.dumps(container[key])))
    elif kind == 3:
        container[key] = _TEXTS[rng.integers(len(_TEXTS))]
    elif kind == 4:
        container[key] = [container[key]] if rng.random() < 0.5 else {"x": container[key]}
    elif kind == 5 and other_key in (other if isinstance(other, dict) else range(len(other))):
        container[key] = json.loads(json.dumps(other[other_key]))
    elif kind == 6 and isinstance(container[key], (int, float)):
        factor = (-1, 0, 0.5, 2, 127, 1e-40, 1e40)[rng.integers(7)]
        with contextlib.suppress(OverflowError):  # a number of 400 digits, which an earlier step put there
            container[key] = container[key] * factor
    else:
        container[key] = json.loads(json.dumps(_VALUES[rng.integers(len(_VALUES))]))


def mutate_json_lines(rng: np.random.Generator, content: bytes) -> bytes:
    """One line of JSON lines, or the order of the lines."""
    lines = content.split(b"\n")
    if rng.random() < 0.3:
        return mutate_text(rng, content)
    i = int(rng.integers(len(lines)))
    lines[i] = mutate_json(rng, lines[i])
    return b"\n".join(lines)


def mutate_protobuf(make: Callable[[], Any]) -> Mutation:
    """A mutation of messages: fields cleared, repeated, swapped, or with other values, at any depth.

    Args:
        make: an empty message.
    """

    def change(rng: np.random.Generator, content: bytes) -> bytes:
        message = make()
        try:
            message.ParseFromString(content)
        except Exception:
            return set_varint(rng, content)
        places: list[tuple[Any, Any]] = []
        messages = [message]
        for each in messages:
            for descriptor, value in each.ListFields():
                places.append((each, descriptor))
                if descriptor.type == descriptor.TYPE_MESSAGE:
                    messages += list(value)[:200] if _is_repeated(descriptor) else [value]
        try:
            if places:
                _change_field(rng, *places[rng.integers(len(places))])
            return bytes(message.SerializeToString(deterministic=True))
        except Exception:
            return content

    return change


def _is_repeated(descriptor: Any) -> bool:
    repeated = getattr(descriptor, "is_repeated", None)
    return bool(repeated) if repeated is not None else descriptor.label == descriptor.LABEL_REPEATED


def _change_field(rng: np.random.Generator, message: Any, descriptor: Any) -> None:
    name = descriptor.name
    value = getattr(message, name)
    kind = rng.integers(4)
    if kind == 0:
        message.ClearField(name)
    elif _is_repeated(descriptor):
        i, j = (int(n) for n in rng.integers(len(value), size=2))
        if kind == 1:
            del value[i]
        elif descriptor.type == descriptor.TYPE_MESSAGE:
            if kind == 2:
                value.add().CopyFrom(value[i])
            else:
                first, second = type(value[i])(), type(value[i])()
                first.CopyFrom(value[i])
                second.CopyFrom(value[j])
                value[i].CopyFrom(second)
                value[j].CopyFrom(first)
        elif kind == 2:
            value[i] = value[j]
        else:
            value[i] = _odd_scalar(rng, descriptor, value[i])
    elif descriptor.type != descriptor.TYPE_MESSAGE:
        setattr(message, name, _odd_scalar(rng, descriptor, value))


def _odd_scalar(rng: np.random.Generator, descriptor: Any, value: Any) -> Any:
    if isinstance(value, str):
        odd = _TEXTS[rng.integers(len(_TEXTS))].encode("utf-8", "replace").decode()
        return odd if rng.random() < 0.5 else value + odd
    if isinstance(value, bytes):
        return BYTE_MUTATIONS[rng.integers(4)](rng, value)
    if isinstance(value, float):
        return float((0.0, -1.0, math.nan, math.inf, -math.inf, 1e-45, 3e38)[rng.integers(7)])
    if descriptor.type == descriptor.TYPE_ENUM or rng.random() < 0.6:
        return int(rng.integers(0, 30))
    return int((-1, 127, 255, 1 << 16, (1 << 31) - 1, -(1 << 31))[rng.integers(6)])


def mutate_zip(inner: Mutation) -> Mutation:
    """A mutation of one member of a ZIP archive, whose checksums fit again, or of a member's name."""

    def change(rng: np.random.Generator, content: bytes) -> bytes:
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                members = [(info.filename, archive.read(info)) for info in archive.infolist()]
        except Exception:
            return set_integer(rng, content)
        if not members:
            return content
        i = int(rng.integers(len(members)))
        name, data = members[i]
        kind = rng.integers(8)
        if kind == 0:
            del members[i]
        elif kind == 1:
            members[i] = (name + _TEXTS[rng.integers(len(_TEXTS))].encode("utf-8", "replace").decode(), data)
        else:
            members[i] = (name, inner(rng, data)[:LARGEST])
        made = io.BytesIO()
        compression = zipfile.ZIP_DEFLATED if rng.random() < 0.5 else zipfile.ZIP_STORED
        with zipfile.ZipFile(made, "w", compression) as archive:
            for filename, member in members:
                archive.writestr(zipfile.ZipInfo(filename or "x"), member)
        return made.getvalue()

    return change


def seal_png(content: bytes) -> bytes:
    """The checksums of a PNG's chunks made to fit."""
    sealed, place = bytearray(content), 8
    while place + 12 <= len(sealed):
        end = place + 8 + int.from_bytes(sealed[place : place + 4], "big")
        if end + 4 > len(sealed):
            break
        sealed[end : end + 4] = zlib.crc32(sealed[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return bytes(sealed)


def _block(rng: np.random.Generator, content: bytes, longest: int) -> tuple[int, int]:
    start = int(rng.integers(len(content) + 1))
    return start, min(start + int(rng.integers(1, longest)), len(content))


def _utf16(text: str) -> bytes:
    return text.encode("utf-16-le", "surrogatepass")
