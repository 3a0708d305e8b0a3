"""Changes to a sound input that keep its outer form, so that they get past checksums and length fields.

Bytes alone hardly do: one flipped bit anywhere in a zip ends at the checksum.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import random
import re
import struct
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

Bytes = Callable[[bytes, random.Random], bytes]
CANARY = "canary_module"
NUMBERS = (
    -1, 0, 1, 2, 3, 4, 5, 7, 8, 16, 32, 64, 99, 255, 4096, 2**31, 2**40, 2**40 + 1, 2**53, 2**62, 2**63, 2**64,
    10**400, -(2**63), 0.0, -0.0, 0.5, 1.5, 1e-9, 1e300, float("nan"), float("inf"), True, False,
)  # fmt: skip
WORDS = (
    "", " ", "\n", "a\nb", "x" * 3000, "é", "\0", "\x1b[31m", "..", "../../x", "/etc/passwd", "a..b", "a.b", "None",
    "body", "body.conv1", "body.se", "stem", "head", "se", "eca", "psa", "se-gc", "se-var1", "eca-ns", "none",
    "timm:cbam", "timm:", "timm:nope", "os:system", f"{CANARY}:make", f"{CANARY}.py:make", "builtins:eval",
    "residual", "mixed", "stage", "block", "standard", "pre", "post", "identity", "conv3x3", "replace", "paper",
    "zero", "skip", "stack", "timm", "torchvision", "cifar", "module", "file", "object", "resnet20", "resnet18",
    "hf-hub:a/b", "local-dir:.", "m.pt", "channels_first", "channels_last", "F32", "I32", "BF16", "F8_E4M3", "BOOL",
    "C64", "\ud800",
)  # fmt: skip
NAMES = (
    "format", "plan", "versions", "fingerprint", "attention_only", "training", "frozen", "aliases", "verification",
    "insertions", "attention", "init", "removals", "source", "scope", "kinds", "input_shape", "notes", "site",
    "module", "options", "placement", "channels", "replaces", "kind", "block", "index", "size", "layout", "stage",
    "node", "join", "calls", "existing", "name", "args", "pretrained", "checkpoint", "seed", "reduction", "k",
    "gamma", "b", "kernels", "groups", "rd_channels", "num_classes", "checkpoint_path", "weights", "pretrained_cfg",
    "dtype", "shape", "data_offsets", "__metadata__", "attn_inject", "title", "paper", "model", "expect_sites",
    "expect_parameters", "model_args", "note", "input_size", "include", "exclude", "stages", "every", "min_channels",
    "stage_options", "preset", "folding", "folded", "kept", "tolerance", "error", "images", "parameters", "measure",
    "speed",
)  # fmt: skip
SOURCES = (
    {"kind": "cifar", "name": "resnet20"},
    {"kind": "cifar", "name": "resnet20", "args": {"num_classes": 10**9}, "seed": 1},
    {"kind": "timm", "name": "nope"},
    {"kind": "timm", "name": "hf-hub:a/b"},
    {"kind": "timm", "name": "test_resnet", "args": {"checkpoint_path": "m.pt"}},
    {"kind": "torchvision", "name": "squeezenet1_1", "args": {"weights": "DEFAULT"}},
    {"kind": "module", "name": f"{CANARY}:make"},
    {"kind": "file", "name": f"{CANARY}.py:make"},
    {"kind": "object", "name": "Toy", "checkpoint": "m.pt"},
)


def raw(data: bytes, chance: random.Random) -> bytes:
    """Bytes flipped, cut out, put in, copied about, or the end missing."""
    content = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 8))):
        place = chance.randrange(len(content) + 1)
        match chance.randrange(6):
            case 0 if content:
                content[place % len(content)] ^= 1 << chance.randrange(8)
            case 1:
                content[place:place] = chance.randbytes(chance.randrange(1, 9))
            case 2:
                del content[place : place + chance.randrange(1, 33)]
            case 3:
                start = chance.randrange(len(content) + 1)
                content[place:place] = content[start : start + chance.randrange(1, 65)]
            case 4:
                width = chance.choice((1, 2, 4, 8))
                number = chance.choice((0, 1, 255, 2**31, 2**63, 2**64 - 1, chance.getrandbits(64)))
                content[place : place + width] = (number % 256**width).to_bytes(width, "little")
            case _ if chance.random() < 0.2:
                del content[place:]
    return bytes(content)


def value(chance: random.Random) -> Any:
    """Something that a reader may not expect."""
    match chance.randrange(7):
        case 0 | 1:
            return chance.choice(NUMBERS)
        case 2 | 3:
            return chance.choice(WORDS)
        case 4:
            return [value(chance) for _ in range(chance.randrange(4))]
        case 5:
            return {chance.choice(NAMES + WORDS): value(chance) for _ in range(chance.randrange(4))}
        case _:
            return chance.choice((None, [], {}, dict(chance.choice(SOURCES)), _deep(chance.choice((5, 80, 980)))))


def _deep(levels: int) -> Any:
    nested: Any = 1
    for _ in range(levels):
        nested = [nested]
    return nested


def _spots(tree: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value in a tree."""
    if depth < 12 and isinstance(tree, (dict, list)):
        for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
            yield tree, key
            yield from _spots(tree[key], depth + 1)


def tree(data: Any, chance: random.Random) -> Any:
    """Plain data, changed: values replaced, dropped, doubled, swapped, renamed."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        spots = list(_spots(data))
        if not spots:
            return value(chance)
        home, key = chance.choice(spots)
        match chance.randrange(8):
            case 0 | 1 | 2:
                home[key] = value(chance)
            case 3:
                del home[key]
            case 4 if isinstance(home, dict):
                home[chance.choice(NAMES + WORDS)] = value(chance)
            case 5 if isinstance(home, dict):
                home[chance.choice(NAMES)] = home.pop(key)
            case 6:
                other, there = chance.choice(spots)
                with contextlib.suppress(KeyError, IndexError, RecursionError):
                    home[key] = copy.deepcopy(other[there])
            case _:
                if isinstance(home, list):
                    with contextlib.suppress(RecursionError):
                        home.insert(chance.randrange(len(home) + 1), copy.deepcopy(home[key]))
                elif isinstance(home[key], int):
                    home[key] += chance.choice((-1, 1, 8, 2**20))
    return data


def json_text(data: bytes, chance: random.Random) -> bytes:
    """JSON changed as data; as bytes when it is none."""
    if chance.random() < 0.85:
        with contextlib.suppress(ValueError, RecursionError):
            return json.dumps(tree(json.loads(data), chance)).encode("utf-8", "surrogatepass")
    return raw(data, chance)


def toml_text(data: bytes, chance: random.Random) -> bytes:
    """TOML changed as data, by line, or as bytes."""
    if chance.random() < 0.7:
        with contextlib.suppress(ValueError, RecursionError):
            table = tree(tomllib.loads(data.decode()), chance)
            if not isinstance(table, dict):
                table = {"format": table}
            return "\n".join(f"{_key(k)} = {_toml(v)}" for k, v in table.items()).encode("utf-8", "surrogatepass")
    if chance.random() < 0.5:
        lines = data.split(b"\n")
        first, second = chance.randrange(len(lines)), chance.randrange(len(lines))
        match chance.randrange(4):
            case 0:
                del lines[first]
            case 1:
                lines.insert(second, lines[first])
            case 2:
                lines[first], lines[second] = lines[second], lines[first]
            case _:
                lines[first] = b" = ".join([_key(chance.choice(NAMES)).encode(), chance.choice(_LITERALS)])
        return b"\n".join(lines)
    return raw(data, chance)


_LITERALS = (
    b"0x" + b"f" * 5000, b"9" * 5000, b"1e999", b"-inf", b"nan", b"1979-05-27T07:32:00Z", b"[[[[1]]]]", b"'a'",
    b'"""a\nb"""', b"[" * 2000, b"{a.b.c=1}", b"0000-00-00", b"0o17", b"1_000",
)  # fmt: skip


def _key(name: Any) -> str:
    return json.dumps(str(name)).replace("\x7f", "\\u007f")


def _toml(item: Any, depth: int = 0) -> str:
    if isinstance(item, dict) and depth < 90:
        return "{" + ", ".join(f"{_key(k)} = {_toml(v, depth + 1)}" for k, v in item.items()) + "}"
    if isinstance(item, list) and depth < 90:
        return "[" + ", ".join(_toml(v, depth + 1) for v in item) + "]"
    if isinstance(item, bool):
        return str(item).lower()
    if isinstance(item, int) and item.bit_length() > 10_000:
        return hex(item)
    return repr(item) if isinstance(item, (int, float)) else _key(item)


def safetensors(data: bytes, chance: random.Random) -> bytes:
    """The header or the record in it changed as data, with the lengths put right; or bytes."""
    if chance.random() < 0.15 or len(data) < 8:
        return raw(data, chance)
    length = struct.unpack("<Q", data[:8])[0]
    head, tensors = data[8 : 8 + length], data[8 + length :]
    with contextlib.suppress(ValueError, RecursionError, TypeError, KeyError):
        header = json.loads(head)
        record = header["__metadata__"]["attn_inject"]
        match chance.randrange(8):
            case 0 | 1 | 2 | 3:
                header["__metadata__"]["attn_inject"] = json_text(record.encode(), chance).decode("utf-8", "replace")
            case 4 | 5:
                header = tree(header, chance)
            case 6:
                _other_type(header, chance)
            case _:
                tensors = raw(tensors, chance)
        head = json.dumps(header).encode("utf-8", "surrogatepass")
        return struct.pack("<Q", len(head)) + head + tensors
    return raw(data, chance)


def _other_type(header: dict[str, Any], chance: random.Random) -> None:
    """Another type of the same width, or another shape of the same size: sound for the format, wrong for the model."""
    entry = header[chance.choice([name for name in header if name != "__metadata__"])]
    if chance.random() < 0.5:
        same = (
            {"F32", "I32", "U32"},
            {"I64", "F64", "C64", "U64"},
            {"F16", "BF16", "I16", "U16"},
            {"U8", "I8", "BOOL"},
        )
        entry["dtype"] = chance.choice(sorted(next((group for group in same if entry["dtype"] in group), {"F32"})))
    else:
        entry["shape"] = chance.choice(([1, *entry["shape"]], entry["shape"][::-1], [*entry["shape"], 1]))


def archive(data: bytes, chance: random.Random) -> bytes:
    """A member of a zip changed, and the zip packed anew with right checksums; or bytes."""
    if chance.random() < 0.15:
        return raw(data, chance)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as old:
            if sum(member.file_size for member in old.infolist()) > 4_000_000:
                return raw(data, chance)
            members = {member.filename: old.read(member) for member in old.infolist()}
    except Exception:
        return raw(data, chance)
    if not members:
        return raw(data, chance)
    name = chance.choice([*members, *(n for n in members if n.endswith((".pkl", ".json")) for _ in range(12))])
    extra: list[tuple[str, bytes]] = []
    match chance.randrange(10):
        case 0 if len(members) > 1:
            del members[name]
        case 1:
            extra.append(
                (chance.choice((name, "../x", "/x", "m/data/99", "m/code/x.py", "m/b.pkl", "m/constants.pkl")), b"x")
            )
        case 2:
            members[chance.choice((*members, "m/x"))] = members.pop(name)
        case _:
            members[name] = _member(name, members[name], chance)
    packing = zipfile.ZIP_STORED if chance.random() < 0.95 else chance.choice((8, 12, 14))
    out = io.BytesIO()
    with contextlib.suppress(Exception), zipfile.ZipFile(out, "w", packing) as new:
        for member, content in [*members.items(), *extra]:
            new.writestr(zipfile.ZipInfo(member), content, packing)
    return out.getvalue() or raw(data, chance)


def _member(name: str, content: bytes, chance: random.Random) -> bytes:
    if name.endswith(".json"):
        return json_text(content, chance)
    if name.endswith(".pkl"):
        return pickled(content, chance)
    return raw(content, chance)


_RECORD = re.compile(rb"X(.{4})(\{\"format\")", re.DOTALL)
GLOBALS = (
    b"posix\nsystem", b"builtins\neval", b"torch\nload", b"collections\nOrderedDict",
    b"torch._utils\n_rebuild_tensor_v2", b"torch._utils\n_rebuild_parameter", b"torch\nHalfStorage",
    b"torch\nLongStorage", b"torch\nComplexFloatStorage", b"torch\nSize", b"torch.storage\nUntypedStorage",
    b"torch.fx.graph_module\nreduce_graph_module", b"torch\nFloatStorage", CANARY.encode() + b"\nmake",
)  # fmt: skip


def pickled(content: bytes, chance: random.Random) -> bytes:
    """The record in a pickle changed as JSON, a global replaced, a small number changed; or bytes."""
    match chance.randrange(5):
        case 0 | 1 if found := _RECORD.search(content):
            start = found.end() - len(found.group(2))
            end = start + int.from_bytes(found.group(1), "little")
            text = json_text(content[start:end], chance)
            return content[: found.start()] + b"X" + struct.pack("<I", len(text)) + text + content[end:]
        case 2:
            spots = list(re.finditer(rb"c([\w.]+\n\w+)\n", content))
            if spots:
                spot = chance.choice(spots)
                return content[: spot.start(1)] + chance.choice(GLOBALS) + content[spot.end(1) :]
        case 3:
            spots = list(re.finditer(rb"K(.)", content, re.DOTALL))
            if spots:
                place = chance.choice(spots)
                number = chance.choice(
                    (b"K\x00", b"K\x01", b"M\xff\xff", b"J\xff\xff\xff\xff", b"J\xff\xff\xff\x7f", b"N", b"\x88")
                )
                return content[: place.start()] + number + content[place.end() :]
    return raw(content, chance)
