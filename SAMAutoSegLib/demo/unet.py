"""A plain U-Net trained from scratch on the same labeled slices: the baseline without a SAM."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandGaussianNoised,
    RandScaleIntensityd,
)
from torch import nn

from SAMAutoSegLib.images.slices import SliceStack
from SAMAutoSegLib.progress import Progress, silent

_STEPS = 400
_BATCH = 5
_LEARNING_RATE = 2e-3
_CHANNELS = (24, 48, 96, 192, 256)
# Four halvings: sides have to be a multiple of 16.
_MULTIPLE = 16


def segment_by_unet(
    images: SliceStack,
    classes: SliceStack,
    labeled: Sequence[int],
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> np.ndarray:
    """Train a U-Net on labeled slices of a volume, then segment every slice.

    Args:
        images: uint8 gray slices.
        classes: class numbers, looked at in the labeled slices only.

    Returns:
        Class numbers [K, J, I] uint8.
    """
    known = [(images.slice_at(n), classes.slice_at(n)) for n in labeled]
    net = train_unet(known, int(classes.array.max()) + 1, seed=seed, progress=progress)
    return unet_classes(net, images)


def train_unet(
    labeled: Sequence[tuple[np.ndarray, np.ndarray]],
    classes: int,
    *,
    seed: int = 0,
    batch: int = _BATCH,
    progress: Progress = silent,
) -> nn.Module:
    """MONAI's residual U-Net, trained from scratch.

    With the augmentation that is usual for it (rotation, scaling, shift, noise, contrast).

    Args:
        labeled: uint8 gray slices and their class numbers, of one size or several.
        classes: how many, with the background.
        batch: slices per step.
    """
    torch.manual_seed(seed)
    net = UNet(2, 1, classes, _CHANNELS, (2,) * (len(_CHANNELS) - 1), num_res_units=2)
    optimizer = torch.optim.AdamW(net.parameters(), _LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, _STEPS, 0.9)
    loss_of = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False)
    augment = _augmentation(seed)
    size = tuple(max(image.shape[axis] for image, _ in labeled) for axis in (0, 1))
    shown = [_padded(image, size)[None].astype(np.float32) / 255 for image, _ in labeled]
    wanted = [_padded(reference, size)[None] for _, reference in labeled]
    rng = np.random.default_rng(seed)
    for step in range(_STEPS):
        chosen = rng.choice(len(labeled), min(batch, len(labeled)), replace=False)
        samples = [augment({"image": shown[n], "label": wanted[n]}) for n in chosen]
        logits = net(torch.stack([torch.as_tensor(sample["image"]) for sample in samples]))
        labels = torch.stack([torch.as_tensor(sample["label"]) for sample in samples])
        loss = loss_of(logits, labels.long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress((step + 1) / _STEPS, f"U-Net: step {step + 1} of {_STEPS}")
    return net.eval()


def unet_classes(net: nn.Module, images: SliceStack) -> np.ndarray:
    """Class numbers [K, J, I] uint8 of every slice of a volume of uint8 gray levels."""
    found = np.zeros_like(images.array, dtype=np.uint8)
    target = SliceStack(found, images.grid, images.plane)
    rows, columns = images.slice_shape
    with torch.inference_mode():
        for n in range(len(images)):
            gray = _padded(images.slice_at(n), (rows, columns)).astype(np.float32) / 255
            predicted = net(torch.from_numpy(gray)[None, None]).argmax(1)[0, :rows, :columns]
            target.put(n, predicted.numpy().astype(np.uint8))
    return found


def _augmentation(seed: int) -> Compose:
    both = ("image", "label")
    steps = [
        RandAffined(
            both,
            prob=0.8,
            rotate_range=0.2,
            scale_range=0.15,
            translate_range=8,
            mode=("bilinear", "nearest"),
            padding_mode="zeros",
        ),
        RandGaussianNoised("image", prob=0.3, std=0.03),
        RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5)),
        RandScaleIntensityd("image", prob=0.3, factors=0.1),
    ]
    return Compose(steps).set_random_state(seed)


def _padded(image: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """The image with zeros up to the next allowed size."""
    allowed = (-(-length // _MULTIPLE) * _MULTIPLE for length in size)
    return np.pad(
        image, [(0, length - own) for length, own in zip(allowed, image.shape, strict=True)]
    )
