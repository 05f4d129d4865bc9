"""Damage, at random but by a seed: bytes as disks, networks and other programs change them, JSON as people edit it."""

import copy
import json
from random import Random
from typing import Any

_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 512, 0.5, -0.0, 1e308, 1e-320, 10**30, -(10**30), 2**31, 2**63, "", " ", "0",
    "x", "../x", "/etc/passwd", "\x1b[31m", "\0", "\ud83d", "\u202e", "x" * 9000, "<|im_end|>", "{}", [], {}, [[]],
    [None], {"": None}, [1, "a"], {"error": {"message": "no"}}, float("nan"), float("inf"), "I'm sorry.", "P0", "a",
)  # fmt: skip


def mutated(random: Random, data: bytes, other: bytes = b"") -> bytes:
    """The bytes with one to eight changes; `other` is something to splice in."""
    data = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 3, 8))):
        if not data:
            break
        at, length = random.randrange(len(data)), random.choice((1, 1, 2, 4, 16, 200))
        match random.randrange(9):
            case 0:
                data[at] ^= 1 << random.randrange(8)
            case 1:
                data[at] = random.choice(_NUMBERS) & 0xFF
            case 2:
                number, size = random.choice(_NUMBERS), random.choice((2, 4, 8))
                data[at : at + size] = number.to_bytes(8, random.choice(("big", "little")))[:size]
            case 3:
                del data[at : at + length]
            case 4:
                data[at:at] = data[at : at + length] * random.choice((1, 2, 50))
            case 5:
                data[at : at + length] = random.randbytes(length)
            case 6:
                data[at : at + length] = bytes(length)
            case 7:
                del data[at:]
            case 8:
                data[at:at] = other[random.randrange(len(other) + 1) :][: 4 * length]
    return bytes(data)


def mutated_json(random: Random, value: Any) -> bytes:
    """The JSON value with one to three changes of fields or elements, written as loosely as programs do, and now and
    then with changed bytes."""
    value = copy.deepcopy(value)
    for _ in range(random.choice((1, 1, 1, 1, 2, 3))):
        places = list(_places(value))
        if not places:
            break
        *path, last = random.choice(places)
        inner = value
        for key in path:
            inner = inner[key]
        match random.randrange(8):
            case 6 if type(inner[last]) is int:
                inner[last] += random.choice((-512, -1, 1, 2, 512))
            case 7 if inner[last] and isinstance(inner[last], str):
                inner[last] = inner[last].replace(random.choice(inner[last]), random.choice("01af.-/ "), 1)
            case 0 if isinstance(inner, dict):
                inner[random.choice(("", "x", "\ud83d", "schema", "id", "content"))] = inner.pop(last)
            case 1:
                del inner[last]
            case 2 if isinstance(inner, list):
                inner.insert(random.randrange(len(inner) + 1), copy.deepcopy(inner[last]))
            case 3:
                for _ in range(random.choice((1, 40, 150))):
                    inner[last] = [inner[last]]
            case _:
                inner[last] = copy.deepcopy(random.choice(ODD))
    content = json.dumps(value, ensure_ascii=random.random() < 0.7).encode("utf-8", "surrogatepass")
    match random.randrange(12):
        case 0:
            return mutated(random, content, content)
        case 1:
            return content.decode("utf-8", "replace").encode(random.choice(("utf-16", "utf-8-sig", "utf-32")))
        case 2:
            return content.replace(b"}", b', "id": 1}', 1)
    return content


def _places(value: Any, path: tuple = ()):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        if len(path) < 30:
            yield from _places(inner, (*path, key))
