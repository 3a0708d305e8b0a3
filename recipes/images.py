"""Images to train on, and images that are kept aside: a folder's, scikit-learn's digits, or made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import typer
from torch.utils.data import Dataset, TensorDataset, random_split

Data = Dataset[tuple[torch.Tensor, int]]


def data_of(text: str, size: int) -> tuple[Data, Data, int]:
    """(training, kept aside, classes) of `digits` (scikit-learn's), `synthetic`, or a folder of images.

    A folder has a subfolder for each class, or such in `train` and `val`.
    """
    if text == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = torch.from_numpy(digits.images).float()[:, None] / 8 - 1
        images = F.interpolate(images, (size, size)).expand(-1, 3, -1, -1)
        return *_split(TensorDataset(images, torch.from_numpy(digits.target))), 10
    if text == "synthetic":
        # The brighter half tells the class.
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(256, 3, size, size, generator=generator)
        labels = torch.arange(256) % 2
        images[labels == 1, :, : size // 2] += 0.5
        images[labels == 0, :, size // 2 :] += 0.5
        return *_split(TensorDataset(images, labels)), 2
    return _folder(Path(text), size)


def _folder(folder: Path, size: int) -> tuple[Data, Data, int]:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    if not folder.is_dir():
        raise typer.BadParameter(f"{folder} is no folder with a subfolder for each class (nor digits, nor synthetic)")
    end = [
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
    training = v2.Compose([v2.RandomResizedCrop(size, scale=(0.35, 1.0)), v2.RandomHorizontalFlip(), *end])
    validation = v2.Compose([v2.Resize(size * 8 // 7), v2.CenterCrop(size), *end])
    if (folder / "train").is_dir() and (folder / "val").is_dir():
        both = ImageFolder(folder / "train", training), ImageFolder(folder / "val", validation)
        if both[0].classes != both[1].classes:
            raise typer.BadParameter(f"{folder}/train and {folder}/val have other subfolders: each is a class")
        return *both, len(both[0].classes)
    # One folder: the same images stay aside in every run.
    own, aside = _split(ImageFolder(folder, training))[0], _split(ImageFolder(folder, validation))[1]
    return own, aside, len(ImageFolder(folder).classes)


def _split(data: Any) -> tuple[Any, Any]:
    return tuple(random_split(data, [0.8, 0.2], generator=torch.Generator().manual_seed(0)))  # type: ignore[return-value]
