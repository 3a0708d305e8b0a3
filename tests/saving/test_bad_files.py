"""Files that are damaged, forged or of another kind: one clear line each, and nothing in them runs."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attn_inject import CheckpointError, PlanError, load, save
from attn_inject.planning.text import plan_from_json, plan_from_toml, plan_to_dict, plan_to_json, plan_to_toml
from attn_inject.saving.inspection import inspect
from attn_inject.types import Source

from .nets import patched


class Payload:
    """Runs a command when it is unpickled; the command makes the canary file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    model = patched()
    save(model, folder / "m.pt")
    save(model, folder / "m.safetensors")
    save(model, folder / "m.pt2")
    return folder


def _rezip(
    path: Path,
    change: Callable[[str, bytes], bytes | None],
    compression: int = zipfile.ZIP_STORED,
    extra: dict[str, bytes] | None = None,
) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w", compression) as new:
        for member in old.infolist():
            data = change(member.filename, old.read(member))
            if data is not None:
                new.writestr(member.filename, data)
        for name, data in (extra or {}).items():
            new.writestr(name, data)
    return out.getvalue()


def _with_pickle(data: bytes) -> Callable[[str, bytes], bytes]:
    return lambda name, content: data if name.endswith("data.pkl") else content


def _forged_directory(content: bytes, member: str, change: dict[str, int]) -> bytes:
    """The zip with another entry for `member` in its directory; the members stay as they are."""
    out = io.BytesIO(content)
    with zipfile.ZipFile(out, "a") as archive:
        info = next(m for m in archive.infolist() if m.filename.endswith(member))
        for name, value in change.items():
            setattr(info, name, value)
        archive.__dict__["_didModify"] = True
    return out.getvalue()


def _header(path: Path, change: Callable[[dict[str, Any]], None]) -> bytes:
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def _record(path: Path, change: Callable[[dict[str, Any]], None]) -> bytes:
    def edit(header: dict[str, Any]) -> None:
        record = json.loads(header["__metadata__"]["attn_inject"])
        change(record)
        header["__metadata__"]["attn_inject"] = json.dumps(record)

    return _header(path, edit)


def corpus(good: Path, canary: Path) -> Iterator[tuple[str, bytes]]:
    """(file name, content) of bad files of every kind that we could think of."""
    pt, st_file, pt2 = good / "m.pt", good / "m.safetensors", good / "m.pt2"
    evil = pickle.dumps(Payload(canary), protocol=2)
    nested = pickle.dumps({"attn_inject": "{}", "state_dict": [{"a": (Payload(canary),)}]}, protocol=2)
    for protocol in range(5):
        yield f"plain{protocol}.pt", pickle.dumps(Payload(canary), protocol=protocol)
    yield "nested.pt", nested
    for name, data in (("evil", evil), ("nested", nested), ("proto4", pickle.dumps(Payload(canary), protocol=4))):
        yield f"zip-{name}.pt", _rezip(pt, _with_pickle(data))
        yield (
            f"deflated-{name}.pt",
            _rezip(pt, _with_pickle(data), zipfile.ZIP_DEFLATED),
        )
    buffer = io.BytesIO()
    torch.save({"attn_inject": "{}", "state_dict": {"a": Payload(canary)}}, buffer)
    yield "saved.pt", buffer.getvalue()
    buffer = io.BytesIO()
    torch.save(torch.fx.symbolic_trace(torch.nn.ReLU()), buffer)
    yield "graph-module.pt", buffer.getvalue()
    buffer = io.BytesIO()
    torch.save(
        {"attn_inject": "{}", "state_dict": {"a": Payload(canary)}}, buffer, _use_new_zipfile_serialization=False
    )
    yield "legacy.pt", buffer.getvalue()
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.ones(1)), buffer)
    yield "scripted.pt", buffer.getvalue()
    for target in (
        "builtins eval",
        "posix system",
        "torch.fx.graph_module reduce_graph_module",
        "torch load",
        "torch.hub load",
    ):
        module, name = target.split()
        code = b"\x80\x02c" + module.encode() + b"\n" + name.encode() + b"\nX\x01\x00\x00\x00a\x85R."
        yield f"global-{name}.pt", _rezip(pt, _with_pickle(code))
    for name in ("../up.pt", "/abs.pt", "archive/../../x"):
        yield f"path-{abs(hash(name))}.pt", _rezip(pt, lambda n, d: d, extra={name: b"x"})
    yield "bomb.pt", _rezip(pt, lambda n, d: b"\0" * 50_000_000 if n.endswith("data/0") else d, zipfile.ZIP_DEFLATED)
    yield "compressed.pt", _rezip(pt, lambda n, d: d, zipfile.ZIP_DEFLATED)
    yield "twice.pt", _rezip(pt, lambda n, d: d, extra={"m/data.pkl": evil})
    yield "code.pt", _rezip(pt, lambda n, d: d, extra={"m/code/a.py": b"import os"})
    yield "missing-storage.pt", _rezip(pt, lambda n, d: None if n.endswith("data/3") else d)
    yield "short-storage.pt", _rezip(pt, lambda n, d: d[:-4] if n.endswith("data/3") else d)
    content = pt.read_bytes()
    for share in (0, 1, 4, 100, len(content) // 2, len(content) - 1):
        yield f"truncated{share}.pt", content[:share]
    generator = random.Random(0)
    for number in range(6):
        position = generator.randrange(200, len(content) - 200)
        yield f"flipped{number}.pt", content[:position] + bytes([content[position] ^ 0x41]) + content[position + 1 :]
    for what, change in (
        ("overlapping", {"header_offset": 0}),
        ("terabytes", {"file_size": 2**42, "compress_size": 2**42}),
        ("encrypted", {"flag_bits": 1}),
        ("offset", {"header_offset": len(content) - 1}),
    ):
        yield f"zip-{what}.pt", _forged_directory(content, "data/3", change)
    buffer = io.BytesIO()
    torch.save({"attn_inject": "{}", "state_dict": {"conv1.weight": torch.zeros(1).expand(2**40)}}, buffer)
    yield "expanded.pt", buffer.getvalue()
    yield "text.pt", b"hello"
    yield "safetensors.pt", st_file.read_bytes()
    yield "pt.safetensors", content
    yield from _headers_and_records(st_file, canary)
    yield from _exports(pt2, evil)


def _headers_and_records(st_file: Path, canary: Path) -> Iterator[tuple[str, bytes]]:
    tensors = st_file.read_bytes()
    for name, length in (("terabytes", 2**43), ("negative", 2**64 - 1), ("zero", 0), ("one", 1)):
        yield f"{name}.safetensors", struct.pack("<Q", length) + tensors[8:]
    for share in (0, 7, 9, len(tensors) // 2, len(tensors) - 1):
        yield f"short{share}.safetensors", tensors[:share]
    yield "longer.safetensors", tensors + b"\0"
    first = "conv1.weight"

    def offsets(begin: float, end: float) -> Callable[[dict[str, Any]], None]:
        return lambda h: h[first].update(data_offsets=[begin, end])

    for number, change in enumerate(
        [
            offsets(0, 4),
            offsets(-4, 10),
            offsets(0, 2**60),
            offsets(10, 0),
            offsets(0, float("nan")),
            offsets(0, 10**400),
            lambda h: h[first].update(dtype="I32"),
            lambda h: h["bn1.bias"].update(data_offsets=h["bn1.weight"]["data_offsets"]),
            lambda h: h.update({"a\nb" * 500: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}),
            lambda h: h.pop(first),
            lambda h: h[first].update(shape=[2**40, 2**40]),
            lambda h: h[first].update(dtype="F1000"),
            lambda h: h[first].update(shape="x"),
            lambda h: h.update(extra=7),
            lambda h: h.update(__metadata__=3),
            lambda h: h.update(__metadata__={}),
            lambda h: h["__metadata__"].update(attn_inject="{"),
            lambda h: h["__metadata__"].update(attn_inject="[" * 100_000),
            lambda h: h["__metadata__"].update(attn_inject="{}"),
        ]
    ):
        yield f"header{number}.safetensors", _header(st_file, change)
    for number, edit in enumerate(
        [
            lambda r: r.update(format=99),
            lambda r: r.update(format="1"),
            lambda r: r.update(format=10**4000),
            lambda r: r.pop("format"),
            lambda r: r.pop("plan"),
            lambda r: r["plan"].update(format=10**4000),
            lambda r: r.update(surprise=1),
            lambda r: r["plan"].update(format=2),
            lambda r: r["plan"].update(surprise=1),
            lambda r: r["plan"].pop("insertions"),
            lambda r: r["plan"]["insertions"][0].update(channels=17),
            lambda r: r["plan"]["insertions"][0]["site"].update(channels=17),
            lambda r: r["plan"]["insertions"][0].update(channels=-1),
            lambda r: r["plan"]["insertions"][0].update(channels=float("1e300")),
            lambda r: r["plan"]["insertions"][0].update(channels=float("nan")),
            lambda r: r["plan"]["insertions"][0].update(channels=10**400),
            lambda r: r["plan"]["insertions"][0].update(options={"gamma": float("nan")}),
            lambda r: r["plan"]["insertions"][0].update(options={"gamma": float("inf")}),
            lambda r: r["plan"]["insertions"][0].update(options={"k": 10**400}),
            lambda r: r["plan"]["insertions"][0].update(attention="se", options={"rd_channels": 10**9}),
            lambda r: r["plan"]["insertions"][0].update(replaces="../.."),
            lambda r: r["plan"].update(scope="../.."),
            lambda r: r["plan"]["insertions"][0].update(module="../../etc"),
            lambda r: r["plan"]["insertions"][0].update(module="conv1"),
            lambda r: r["plan"]["insertions"][0].update(module="None"),
            lambda r: r["plan"]["insertions"][0].update(module="layer1.0.forward"),
            lambda r: r["plan"]["insertions"][0].update(attention="nothing"),
            lambda r: r["plan"]["insertions"][0].update(attention="os:system"),
            lambda r: r["plan"]["insertions"][0]["site"].update(block="a..b"),
            lambda r: r["plan"]["insertions"][0]["site"].update(block="nowhere"),
            lambda r: r["plan"]["insertions"][0].update(options={"k": 4}),
            lambda r: r["plan"].update(insertions=r["plan"]["insertions"] * 2),
            lambda r: r["plan"].update(input_shape=[2, 3, 10**12, 10**12]),
            lambda r: r["plan"].update(source={"kind": "file", "name": f"{canary}.py:make"}),
            lambda r: r["plan"].update(source={"kind": "module", "name": "os:getcwd"}),
            lambda r: r["plan"].update(source={"kind": "cifar", "name": "resnet1000"}),
            lambda r: r["plan"].update(source={"kind": "cifar", "name": "resnet20", "args": {"num_classes": 10**9}}),
            lambda r: r["plan"].update(source={"kind": "torchvision", "name": "nope"}),
            lambda r: r["plan"].update(
                source={"kind": "torchvision", "name": "resnet18", "args": {"weights": "DEFAULT"}}
            ),
            lambda r: r["plan"].update(
                source={"kind": "torchvision", "name": "resnet18", "args": {"pretrained": True}}
            ),
            lambda r: r["plan"].update(source={"kind": "timm", "name": "nope"}),
            lambda r: r["plan"].update(source={"kind": "timm", "name": "hf-hub:nobody/nothing"}),
            lambda r: r["plan"].update(source={"kind": "timm", "name": f"local-dir:{canary.parent}"}),
            lambda r: r["plan"].update(
                source={"kind": "timm", "name": "test_resnet", "args": {"checkpoint_path": f"{canary.parent}/evil.pth"}}
            ),
            lambda r: r["plan"].update(source={"kind": "alien", "name": "x"}),
            lambda r: r.update(aliases={"a": "b"}),
            lambda r: r.update(frozen=[1]),
            lambda r: r.update(verification=[["a"]]),
        ]
    ):
        yield f"record{number}.safetensors", _record(st_file, edit)


def _exports(pt2: Path, evil: bytes) -> Iterator[tuple[str, bytes]]:
    yield "tampered.pt2", _rezip(pt2, lambda n, d: evil if n.endswith((".pt", ".pkl", "sample_inputs")) else d)
    yield "planless.pt2", _rezip(pt2, lambda n, d: None if "attn_inject" in n else d)
    yield "pickle.pt2", evil
    yield "cut.pt2", pt2.read_bytes()[:-30]
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", method) as archive:
            archive.writestr("m/extra/attn_inject.json", b" " * 30_000_000)
        size = struct.pack("<I", 30_000_000)
        yield f"bomb{method}.pt2", packed.getvalue().replace(size, struct.pack("<I", 1000))
    yield "text.onnx", b"hello"
    yield "pickle.onnx", evil


def test_nothing_in_a_bad_file_runs_and_each_is_one_clear_line(good: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    torch.save(Payload(canary), tmp_path / "evil.pth")
    (tmp_path / "canary.py").write_text(f"open({str(canary)!r}, 'w').close()\ndef make(): pass\n")
    count = 0
    for name, content in corpus(good, canary):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(CheckpointError) as caught:
            load(path)
        assert "\n" not in str(caught.value), name
        assert len(str(caught.value)) < 700, name
        try:
            inspect(path)
        except CheckpointError as error:
            assert "\n" not in str(error), name
        assert not canary.exists(), name
        count += 1
    assert count >= 130


def test_folders_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "d.pt").mkdir()
    for name, words in (
        ("d.pt", "it is a folder"),
        ("none.pt", "there is no such file"),
        ("x.bin", "must be one of .pt, .safetensors"),
    ):
        with pytest.raises(CheckpointError, match=words):
            load(tmp_path / name)
    with pytest.raises(CheckpointError, match="File name too long"):
        load(tmp_path / f"{'x' * 300}.pt")
    (tmp_path / "empty.pt").touch()
    with pytest.raises(CheckpointError, match="is empty"):
        inspect(tmp_path / "empty.pt")


def test_code_named_by_a_file_is_imported_only_on_trust(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("from attn_inject.zoo.cifar import models\nmake = models()['resnet20']\n")
    from attn_inject import inject
    from attn_inject.zoo.building import build
    from attn_inject.zoo.parsing import parse_source

    source = parse_source(f"{tmp_path / 'net.py'}:make", seed=1)
    assert isinstance(source, Source)
    model = inject(build(source), "eca", source=source, input_size=(3, 32, 32))
    save(model, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="trust_source=True"):
        load(tmp_path / "m.pt")
    again = load(tmp_path / "m.pt", trust_source=True)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


def test_plans_survive_both_texts() -> None:
    for options in ({"attention": "se", "reduction": 4}, {"attention": "psa", "placement": "pre", "init": "identity"}):
        plan = patched(**options).injection.plan
        assert plan_from_json(plan_to_json(plan)) == plan
        assert plan_from_toml(plan_to_toml(plan)) == plan


def test_what_fuzzing_found_in_plans() -> None:
    start = "format = 1\nattention = 'se'\ninsertions = []\n"
    with pytest.raises(PlanError, match="input_shape 0 must be a whole number from 1, got a number of 20000 bits"):
        plan_from_toml(f"{start}input_shape = [0x{'f' * 5000}]")
    with pytest.raises(PlanError, match="the plan is of format a number of 20000 bits"):
        plan_from_toml(start.replace("1", "0x" + "f" * 5000, 1))
    assert plan_from_json(plan_to_json(plan_from_toml(start + "kinds = []"))).kinds == ()
    for levels in range(900, 1000):
        # Between the depth at which the parser gives up and the depth at which Python can still print a list.
        text = f'{{"format":1,"attention":"se","insertions":[],"input_shape":[{"[" * levels}{"]" * levels}]}}'
        with pytest.raises(PlanError):
            plan_from_json(text)


def test_an_option_that_is_none_is_not_the_default() -> None:
    plan = patched().injection.plan
    first = replace(plan.insertions[0], options={"act": None, "more": {"x": None}})
    plan = replace(plan, insertions=(first, *plan.insertions[1:]))
    assert plan_from_json(plan_to_json(plan)) == plan
    with pytest.raises(PlanError, match="TOML has no word for"):
        plan_to_toml(plan)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_fuzzed_plans_end_in_plan_errors(data: st.DataObject) -> None:
    table = (
        _PLAN if data.draw(st.booleans()) else data.draw(st.dictionaries(st.text(max_size=12), json_like, max_size=5))
    )
    table = json.loads(json.dumps(table))
    spots = [table, *table.get("insertions", [])] if isinstance(table.get("insertions", []), list) else [table]
    spot = data.draw(st.sampled_from(spots))
    if isinstance(spot, dict) and spot:
        spot[data.draw(st.sampled_from(sorted(spot)))] = data.draw(json_like)
    for parse, text in (
        (plan_from_json, json.dumps(table)),
        (plan_from_toml, json.dumps(table)),
        (plan_from_json, data.draw(st.binary(max_size=60))),
    ):
        try:
            parse(text)
        except PlanError as error:
            assert str(error)


_PLAN = plan_to_dict(patched().injection.plan)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["m.pt", "m.safetensors"]), st.integers(0, 2**31), st.binary(min_size=1, max_size=40))
def test_fuzzed_files_end_in_checkpoint_errors(
    good: Path, tmp_path: Path, name: str, position: int, junk: bytes
) -> None:
    content = bytearray((good / name).read_bytes())
    start = position % len(content)
    content[start : start + len(junk)] = junk[: len(content) - start]
    path = tmp_path / name
    path.write_bytes(content)
    try:
        inspect(path)
    except CheckpointError as error:
        assert "\n" not in str(error)
