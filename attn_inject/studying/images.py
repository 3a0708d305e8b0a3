"""A folder of images as batches, prepared as the model's zoo does it: with a class for each subfolder, or flat."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ..errors import AttnInjectError, first_line
from ..types import Source
from .feeds import Feed

Transform = Callable[[Any], torch.Tensor]


def image_folder(folder: Path, model: nn.Module, source: Source | None, size: tuple[int, ...], *, batch: int) -> Feed:
    """The images of a folder in an order drawn once and for all, so that the first batches have images of all classes.

    Raises:
        AttnInjectError: there are no images, or the model takes none.

    """
    if len(size) != 3 or size[0] not in (1, 3):
        raise AttnInjectError(
            f"the model takes inputs of {'x'.join(map(str, size))}, which images are not: give data as file.py:factory"
        )
    paths, names, loose = _images(folder)
    transform, said = _preparation(model, source, size)
    if size[0] == 1:
        transform = _grey(transform)
    order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(0), device="cpu").tolist()
    images = _Images([paths[index] for index in order], names, transform)
    return Feed(
        DataLoader(images, batch_size=batch),
        f"images of {folder}",
        classes=len(names) or None,
        notes=tuple(note for note in (said, loose) if note),
    )


class _Images(Dataset[Any]):
    """(image, class), or the image alone where there are no classes."""

    def __init__(self, paths: list[Path], names: list[str], transform: Transform) -> None:
        self._paths, self._numbers, self._transform = paths, {name: i for i, name in enumerate(names)}, transform

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Any:
        from PIL import Image

        path = self._paths[index]
        try:
            with Image.open(path) as opened:
                picture = _of_eight_bits(opened).convert("RGB")
        except OSError as error:
            raise AttnInjectError(f"{path} cannot be read as an image") from error
        try:
            image = self._transform(picture)
        except (RuntimeError, TypeError, ValueError) as error:
            raise AttnInjectError(f"{path} cannot be prepared for the model: {first_line(error)}") from error
        return (image, self._numbers[path.parent.name]) if self._numbers else image


def _of_eight_bits(picture: Any) -> Any:
    """Grey pictures of 16 bits scaled to 8, which PIL would cut off at 255."""
    if not picture.mode.startswith("I"):
        return picture
    return picture.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L")


def _images(folder: Path) -> tuple[list[Path], list[str], str]:
    """(the images, the names of the classes): of the subfolders that hold images, else of the folder itself; and what
    was left out.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS

    def within(home: Path) -> list[Path]:
        return sorted(path for path in home.iterdir() if path.suffix.lower() in IMG_EXTENSIONS and path.is_file())

    classes = {home.name: found for home in sorted(folder.iterdir()) if home.is_dir() and (found := within(home))}
    beside = within(folder)
    if classes:
        left = f"images beside the folders of the classes were left out: {len(beside)}" if beside else ""
        return [path for found in classes.values() for path in found], list(classes), left
    if beside:
        return beside, [], ""
    raise AttnInjectError(f"{folder} has no images, neither in it nor in its subfolders ({', '.join(IMG_EXTENSIONS)})")


def _preparation(model: nn.Module, source: Source | None, size: tuple[int, ...]) -> tuple[Transform, str]:
    """(image -> tensor, a note where nobody says how): timm's or torchvision's own, at the model's size."""
    if getattr(model, "pretrained_cfg", None):
        from timm.data.config import resolve_data_config
        from timm.data.transforms_factory import create_transform

        config = resolve_data_config({"input_size": size}, model=model)  # type: ignore[no-untyped-call]
        if size[0] == 1:
            config |= {name: (sum(config[name]) / len(config[name]),) for name in ("mean", "std")}
        return create_transform(**config, is_training=False), ""
    if source is not None and source.kind == "torchvision" and size[0] == 3:
        from torchvision.models import get_model_weights

        weights = get_model_weights(source.name)
        if len(weights):
            made = weights.DEFAULT.transforms()
            crop = getattr(made, "crop_size", None)
            if crop and {*crop} != {*size[1:]}:
                # The margin that is cut off stays the same share.
                resized = round(made.resize_size[0] * max(size[1:]) / crop[0])
                made = weights.DEFAULT.transforms(crop_size=size[1], resize_size=resized)
                made.crop_size = list(size[1:])
            return made, ""
    from torchvision import transforms

    plain = transforms.Compose(
        [transforms.Resize(min(size[1:])), transforms.CenterCrop(size[1:]), transforms.ToTensor()]
    )
    return plain, (
        f"nobody says how this model's images are prepared: they were cut to {size[1]}x{size[2]} and scaled to 0..1, "
        "not normalised; pass file.py:factory for your own way"
    )


def _grey(transform: Transform) -> Transform:
    """The same for models of one channel."""

    def made(picture: Any) -> torch.Tensor:
        return transform(picture.convert("L"))

    return made
