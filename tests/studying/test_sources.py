"""Words that name data: folders of images, functions of the user's, noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import timm
import torch
import torchvision
from PIL import Image
from torchvision.utils import save_image

from attn_inject import AttnInjectError, inject
from attn_inject.studying.images import image_folder
from attn_inject.studying.sources import feed_of
from attn_inject.types import Source
from attn_inject.zoo.cifar import models

FACTORY = """
import torch
from torch.utils.data import DataLoader, TensorDataset

def dataset():
    return TensorDataset(torch.zeros(10, 3, 8, 8), torch.arange(10))
def loader():
    return DataLoader(dataset(), batch_size=5)
def nothing():
    return 7
def broken():
    raise OSError("no disk")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four classes of two images, grey by class."""
    for number, name in enumerate(("ant", "bee", "cat", "dog")):
        (tmp_path / "val" / name).mkdir(parents=True)
        for index in range(2):
            save_image(torch.full((3, 40, 50), number / 4), tmp_path / "val" / name / f"{index}.png")
    return tmp_path / "val"


@pytest.fixture
def patched() -> Any:
    return inject(models()["resnet20"](), "eca", input_size=(3, 32, 32))


def test_class_folders(folder: Path, patched: Any) -> None:
    feed = feed_of(str(folder), patched, batch=4)
    batches = list(feed.first(None))
    assert (feed.classes, feed.synthetic, feed.is_single) == (4, False, False)
    assert [tuple(batch.inputs.tensors[0].shape) for batch in batches] == [(4, 3, 32, 32)] * 2
    for batch in batches:
        grey = batch.inputs.tensors[0].mean((1, 2, 3)) * 4
        assert torch.equal(grey.round().long(), batch.labels)
    # Not in the order of the classes, and the same every time.
    assert batches[0].labels.tolist() != [0, 0, 1, 1]
    assert [batch.labels.tolist() for batch in feed.first(None)] == [batch.labels.tolist() for batch in batches]
    assert "not normalised" in feed.notes[0]


def test_a_flat_folder_has_no_classes(folder: Path, patched: Any) -> None:
    feed = feed_of(str(folder / "ant"), patched, batch=4)
    (batch,) = feed.first(None)
    assert (feed.classes, batch.targets, batch.size) == (None, None, 2)


def test_folders_without_images_and_files_that_are_none(folder: Path, patched: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(AttnInjectError, match="has no images"):
        feed_of(str(tmp_path / "empty"), patched, batch=4)
    (folder / "ant" / "2.png").write_text("no image")
    with pytest.raises(AttnInjectError, match=r"2\.png cannot be read as an image"):
        list(feed_of(str(folder), patched, batch=4).first(None))


def test_images_are_prepared_as_the_zoo_does_it(folder: Path) -> None:
    model = timm.create_model("resnet10t")
    feed = image_folder(folder, model, None, (3, 64, 64), batch=8)
    (batch,) = feed.first(None)
    assert batch.inputs.tensors[0].shape == (8, 3, 64, 64)
    assert not feed.notes
    mean, std = (torch.tensor(model.pretrained_cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
    torch.testing.assert_close(
        batch.inputs.tensors[0][0], ((batch.labels[0] / 4) - mean).expand(3, 64, 64) / std, atol=0.02, rtol=0
    )
    net = torchvision.models.resnet18()
    for size in (224, 96):
        feed = image_folder(folder, net, Source("torchvision", "resnet18"), (3, size, size), batch=2)
        first = next(feed.first(1)).inputs.tensors[0]
        assert first.shape == (2, 3, size, size)
        assert float(first.mean()) < 0.6
        assert not feed.notes


def test_models_of_one_channel_get_grey_images_and_others_none(folder: Path) -> None:
    model = models()["resnet20"]()
    (batch,) = image_folder(folder, model, None, (1, 16, 24), batch=8).first(None)
    assert batch.inputs.tensors[0].shape == (8, 1, 16, 24)
    with pytest.raises(AttnInjectError, match="which images are not"):
        image_folder(folder, model, None, (4, 16, 16), batch=8)
    grey = timm.create_model("resnet10t", in_chans=1)
    (batch,) = image_folder(folder, grey, None, (1, 64, 64), batch=8).first(None)
    mean, std = (sum(grey.pretrained_cfg[name]) / 3 for name in ("mean", "std"))
    expected = ((batch.labels / 4 - mean) / std).view(8, 1, 1, 1).expand(8, 1, 64, 64)
    torch.testing.assert_close(batch.inputs.tensors[0], expected, atol=0.02, rtol=0)


def test_images_that_are_not_square_and_margins_as_the_weights_have_them(folder: Path) -> None:
    source = Source("torchvision", "resnet50")
    for size, resized in (((3, 224, 224), 232), ((3, 112, 112), 116), ((3, 64, 96), 99)):
        feed = image_folder(folder, torchvision.models.resnet50(), source, size, batch=2)
        prepare = feed.batches.dataset._transform  # type: ignore[attr-defined]
        assert prepare.resize_size == [resized]
        assert next(feed.first(1)).inputs.tensors[0].shape == (2, *size)


def test_grey_images_of_sixteen_bits_keep_their_range(tmp_path: Path, patched: Any) -> None:
    ramp = numpy.linspace(0, 65535, 32 * 32, dtype=numpy.uint16).reshape(32, 32)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    (batch,) = feed_of(str(tmp_path), patched, batch=1).first(None)
    expected = torch.from_numpy(ramp / 65535).float().expand(1, 3, 32, 32)
    torch.testing.assert_close(batch.inputs.tensors[0], expected, atol=1 / 255, rtol=0)


def test_what_is_left_out_is_said_and_a_folder_has_a_name(folder: Path, patched: Any) -> None:
    save_image(torch.zeros(3, 40, 50), folder / "loose.png")
    assert feed_of(str(folder), patched, batch=4).notes[-1] == (
        "images beside the folders of the classes were left out: 1"
    )
    with pytest.raises(AttnInjectError, match="there is no folder without a name"):
        feed_of("", patched, batch=4)


def test_functions_of_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patched: Any) -> None:
    (tmp_path / "mydata.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    assert [batch.size for batch in feed_of("mydata.py:loader", patched, batch=4).first(None)] == [5, 5]
    assert [batch.size for batch in feed_of("mydata:dataset", patched, batch=4).first(2)] == [4, 4]
    for text, said in (
        ("mydata.py:nothing", "gave a int, which has no batches"),
        ("mydata.py:broken", "made no data: OSError: no disk"),
        ("mydata.py:missing", "there is no 'missing'"),
        ("nowhere", "there is no folder nowhere"),
        ("cifar:resnet20", "names a model"),
    ):
        with pytest.raises(AttnInjectError, match=said):
            feed_of(text, patched, batch=4)


def test_noise_is_the_same_every_time_and_says_that_it_is_noise(patched: Any) -> None:
    feed = feed_of("noise", patched, batch=4)
    first, again = list(feed.first(2)), list(feed.first(2))
    assert feed.synthetic
    assert first[0].inputs.tensors[0].shape == (4, 3, 32, 32)
    assert torch.equal(first[1].inputs.tensors[0], again[1].inputs.tensors[0])
    assert not torch.equal(first[0].inputs.tensors[0], first[1].inputs.tensors[0])


def test_noise_of_a_patched_part_has_the_size_of_the_whole() -> None:
    part = inject(models()["resnet20"](), "se", scope="layer3", input_size=(32, 8, 8))
    (batch,) = feed_of("noise", part, batch=2).first(1)
    assert batch.inputs.tensors[0].shape[:2] == (2, 3)
