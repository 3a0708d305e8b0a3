"""Models with several patched parts become files, and come back; the files of one part are as they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from attn_inject import CheckpointError, attention_state_dict, inject, load, save
from attn_inject.cli.inspect import _facts
from attn_inject.saving.formats import read_file
from attn_inject.saving.inspection import inspect
from attn_inject.saving.record import record_from_text, record_to_text
from attn_inject.tracing.parts import patched_parts

from ..parted import SCOPES, parted
from ..surgery.test_parts import SIZE, patched
from .nets import assert_same


@pytest.mark.slow
@pytest.mark.parametrize("attention_only", [False, True])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_round_trip(tmp_path: Path, suffix: str, attention_only: bool) -> None:
    original = parted()
    model = patched(original, (2, 0, 1), init="identity")
    with torch.no_grad():
        for tensor in attention_state_dict(model).values():
            tensor.uniform_(-1, 1)
    model.get_submodule("inner.last").get_submodule("stem").requires_grad_(False)
    path = tmp_path / f"net{suffix}"
    save(model, path, attention_only=attention_only)
    if not attention_only:
        torch.manual_seed(7)
    again: Any = load(path, original if attention_only else type(original)())
    assert_same(again, model)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(again(x), model(x))
    assert not torch.equal(again(x), original(x))
    record: Any = model.injection
    assert again.injection.plan == record.plan
    assert [other.plan for other in again.injection.others] == [other.plan for other in record.others]
    assert again.injection.verification == record.verification
    for scope in SCOPES:
        ours, theirs = (patched_parts(m)[scope].injection for m in (again, model))
        assert (ours.plan, ours.verification, ours.fingerprint) == (
            theirs.plan,
            theirs.verification,
            theirs.fingerprint,
        )
        assert ours.verification
    if not attention_only:
        frozen = [name for name, p in again.named_parameters() if not p.requires_grad]
        assert frozen == ["inner.last.stem.weight", "inner.last.stem.bias"]


def test_what_is_said_of_a_file(tmp_path: Path) -> None:
    model = patched(parted(), (2, 0, 1))
    save(model, tmp_path / "net.pt")
    info = inspect(tmp_path / "net.pt")
    assert info.plan.scope == "inner.decoder"
    assert [other.plan.scope for other in info.others] == ["encoder", "inner.last"]
    assert info.added == sum(tensor.numel() for tensor in attention_state_dict(model).values())
    said = [f"{name} {text}" for name, text in _facts(info)]
    assert [line for line in said if line.startswith("attention ")] == [
        "attention se, init paper, in encoder",
        "attention se, init paper, in inner.last",
        "attention eca, init paper, in inner.decoder",
    ]
    assert "verified edits, weights, shapes, trace, finite, gradients" in said


def test_one_part_is_written_in_the_words_that_older_versions_know(tmp_path: Path) -> None:
    save(patched(parted(), (0,)), tmp_path / "net.pt")
    record, _ = read_file(tmp_path / "net.pt")
    assert list(json.loads(record_to_text(record))) == [
        "format", "plan", "versions", "fingerprint", "attention_only", "training", "frozen", "aliases", "verification",
    ]  # fmt: skip


def _text(tmp_path: Path) -> Any:
    save(patched(parted()), tmp_path / "net.pt")
    return json.loads(record_to_text(read_file(tmp_path / "net.pt")[0]))


def test_bad_records_of_several_parts_are_refused(tmp_path: Path) -> None:
    table = _text(tmp_path)
    for change, reason in [
        (lambda t: t["others"].append(t["others"][0]), "two plans for the same part"),
        (lambda t: t["others"][0].update(others=[]), "unknown key 'others'"),
        (lambda t: t["others"][0].pop("plan"), "lacks plan"),
        (lambda t: t.update(others={}), "others"),
    ]:
        text = json.loads(json.dumps(table))
        change(text)
        with pytest.raises(CheckpointError, match=reason):
            record_from_text(json.dumps(text), "net.pt")


def test_another_parts_plan_is_not_trusted_more(tmp_path: Path) -> None:
    model = patched(parted())
    save(model, tmp_path / "net.pt")
    bare = {"weights_only": True}
    held = torch.load(tmp_path / "net.pt", **bare)
    (key,) = [name for name, value in held.items() if isinstance(value, str)]
    for harm, reason in [
        (lambda made: made.update(attention="os:system"), "names the code 'os:system'"),
        (lambda made: made.update(attention="se", options={"min_width": 10**6}, channels=10**6), "more weights"),
    ]:
        text = json.loads(held[key])
        harm(text["others"][0]["plan"]["insertions"][0])
        torch.save({**held, key: json.dumps(text)}, tmp_path / "bad.pt")
        with pytest.raises(CheckpointError, match=reason):
            load(tmp_path / "bad.pt", parted())


def test_a_part_that_was_patched_apart_is_not_saved(tmp_path: Path) -> None:
    holder = nn.Sequential(inject(parted(), "eca", input_size=16), nn.Flatten())
    with pytest.raises(CheckpointError, match=r"^0 was patched apart from this model, .*scope='0'"):
        save(holder, tmp_path / "net.pt")
    assert not list(tmp_path.iterdir())


def test_inputs_of_each_part(tmp_path: Path) -> None:
    model = patched(parted())
    save(model, tmp_path / "net.pt")
    image = torch.zeros(3, *SIZE["encoder"])
    again: Any = load(tmp_path / "net.pt", parted(), example_inputs={"encoder": image})
    assert_same(again, model)
    with pytest.raises(CheckpointError, match=r"a dict with those of each, by its path \(encoder, inner"):
        load(tmp_path / "net.pt", parted(), example_inputs=image)


def test_the_attention_of_a_whole_that_was_patched_twice_fits_its_original(tmp_path: Path) -> None:
    original = parted()
    once = inject(original, "se", reduction=4, include="encoder", input_size=16)
    twice = inject(once, "eca", input_size=16)
    assert {insertion.attention for insertion in twice.injection.plan.insertions} == {"se", "eca"}
    save(twice, tmp_path / "attention.pt", attention_only=True)
    assert_same(load(tmp_path / "attention.pt", original), twice)


@pytest.mark.parametrize("order", [(1,), (2, 0, 1)])
@pytest.mark.slow
def test_an_export_of_the_whole(tmp_path: Path, order: tuple[int, ...]) -> None:
    model = patched(parted(), order)
    save(model, tmp_path / "net.pt2")
    x = torch.randn(3, 3, 224, 224) if order == (1,) else torch.randn(3, 3, 16, 16)
    exported = torch.export.load(tmp_path / "net.pt2").module()
    torch.testing.assert_close(exported(x), model(x), rtol=1e-5, atol=1e-5)
    assert len(inspect(tmp_path / "net.pt2").plans) == len(order)


def test_an_export_of_a_whole_that_takes_no_image(tmp_path: Path) -> None:
    model = inject(nn.ModuleDict({"net": parted()}), "eca", scope="net", input_size=16)
    with pytest.raises(CheckpointError, match="runs on no image of a usual size: export it with torch.export"):
        save(model, tmp_path / "net.pt2")
