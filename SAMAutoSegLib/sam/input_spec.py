"""How a slice becomes the encoder's input, and how logits and prompts go back and forth."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.label_resampling import label_planes, smoothly, winning_labels

Normalization = Literal["sam", "unit"]
Padding = Literal["bottom_right", "center"]
Aspect = Literal["pixel", "stretch"]

INPUT_HEADER = "samautoseg_input"
"""Entry of a safetensors header that holds a specification as JSON."""

# Sam.pixel_mean and Sam.pixel_std of segment-anything, for RGB values 0..255.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Placement:
    """Where the resized slice lies in the S x S input: size and offset in input pixels."""

    height: int
    width: int
    top: int
    left: int


@dataclass(frozen=True)
class InputSpec:
    """The input an encoder was trained with, stored in every adapted model.

    Attributes:
        side: S, the side of the square input in pixels.
        normalization: 'sam' subtracts SAM's RGB mean and divides by its standard deviation;
            'unit' divides 0..255 by 255 (LiteMedSAM and the BLO-SAM, AutoSAM, WeSAM files).
        padding: where the zeros go, after normalizing: 'bottom_right' (SAM) or 'center' (WeSAM).
        aspect: 'pixel' keeps the array's aspect ratio as SAM does, 'stretch' fills the square
            whatever the ratio (SAMed and BLO-SAM).
    """

    side: int = 1024
    normalization: Normalization = "sam"
    padding: Padding = "bottom_right"
    aspect: Aspect = "pixel"

    def __post_init__(self) -> None:
        if not isinstance(self.side, int) or self.side < 16:
            raise SAMAutoSegError(f"input side {self.side!r}: expected a whole number from 16")
        for name, allowed in (
            ("normalization", get_args(Normalization)),
            ("padding", get_args(Padding)),
            ("aspect", get_args(Aspect)),
        ):
            value = getattr(self, name)
            if value not in allowed:
                raise SAMAutoSegError(
                    f"input specification {name} {value!r}: expected one of {', '.join(allowed)}"
                )

    def to_json(self) -> dict[str, Any]:
        """The specification as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "InputSpec":
        """Read what `to_json` wrote, also that of earlier versions.

        Raises:
            SAMAutoSegError: an unknown entry or a value that is not allowed.
        """
        own = dict(values)
        # Files of earlier versions say how a slice becomes three channels, all in this one way.
        channels = own.pop("channels", "repeat")
        if channels != "repeat":
            raise SAMAutoSegError(
                f"input specification channels {channels!r}: expected repeat, the slice three times"
            )
        unknown = set(own) - {field.name for field in fields(cls)}
        if unknown:
            raise SAMAutoSegError(
                f"input specification entry {min(unknown)!r} is not known: update SAMAutoSeg"
            )
        return cls(**own)

    def placement(self, original: tuple[int, int]) -> Placement:
        """Where a slice of `original` (H, W) pixels is put."""
        if self.aspect == "stretch":
            return Placement(self.side, self.side, 0, 0)
        high, wide = original
        scale = self.side * 1.0 / max(high, wide)
        # The rounding of ResizeLongestSide.get_preprocess_shape; a very thin slice keeps one row.
        height = max(1, int(high * scale + 0.5))
        width = max(1, int(wide * scale + 0.5))
        if self.padding == "center":
            return Placement(height, width, (self.side - height) // 2, (self.side - width) // 2)
        return Placement(height, width, 0, 0)

    def prepare(self, image: np.ndarray) -> torch.Tensor:
        """The encoder's input [3, S, S], float32, of a uint8 slice [H, W] or [H, W, 3].

        With aspect 'pixel' and normalization 'sam' this is bit for bit what
        `SamPredictor.set_image` computes (Pillow's antialiased bilinear resampling).

        Raises:
            SAMAutoSegError: not uint8, or not one of the two shapes.
        """
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.size == 0:
            raise SAMAutoSegError(
                f"slice of type {image.dtype} and shape {image.shape}: "
                "expected uint8 [H, W] or [H, W, 3]"
            )
        if image.ndim == 3 and image.shape[2] != 3:
            raise SAMAutoSegError(f"slice with {image.shape[2]} channels: expected 1 or 3")
        place = self.placement((image.shape[0], image.shape[1]))
        picture = Image.fromarray(np.ascontiguousarray(image))
        resized = np.array(picture.resize((place.width, place.height), Image.Resampling.BILINEAR))
        pixels = torch.from_numpy(resized)
        pixels = pixels.expand(3, -1, -1) if pixels.ndim == 2 else pixels.permute(2, 0, 1)
        if self.normalization == "sam":
            mean = torch.tensor(PIXEL_MEAN).view(-1, 1, 1)
            std = torch.tensor(PIXEL_STD).view(-1, 1, 1)
            values = (pixels - mean) / std
        else:
            values = pixels / 255.0
        right = self.side - place.width - place.left
        bottom = self.side - place.height - place.top
        return F.pad(values, (place.left, right, place.top, bottom)).contiguous()

    def logits_to_slice(self, low_res: torch.Tensor, original: tuple[int, int]) -> torch.Tensor:
        """Low-res logits [..., m, m] at the size of the slice: [..., H, W].

        Up to S x S, padding cut off, then to H x W, both bilinear: `Sam.postprocess_masks`.
        """
        place = self.placement(original)
        leading = low_res.shape[:-2]
        maps = low_res.reshape(-1, 1, *low_res.shape[-2:])
        maps = F.interpolate(maps, (self.side, self.side), mode="bilinear", align_corners=False)
        maps = maps[
            ..., place.top : place.top + place.height, place.left : place.left + place.width
        ]
        maps = F.interpolate(maps, original, mode="bilinear", align_corners=False)
        return maps.reshape(*leading, *original)

    def slice_to_low_res(
        self, planes: torch.Tensor, side: int, outside: float = 0.0, smooth: bool = False
    ) -> torch.Tensor:
        """Planes [C, H, W] of a slice where low-res logits have it: [C, side, side].

        Args:
            outside: what the padding has.
            smooth: as images are made larger and smaller; else the nearest pixel's value.

        Raises:
            SAMAutoSegError: the slice is so thin that no low-res pixel lies in it.
        """
        height, width = planes.shape[1:]
        place = self.placement((height, width))
        centers = (torch.arange(side) + 0.5) * (self.side / side)
        for start, length in ((place.top, place.height), (place.left, place.width)):
            if not ((centers >= start) & (centers < start + length)).any():
                raise SAMAutoSegError(
                    f"slices of {height} x {width} pixels are too thin: shown at side {self.side} "
                    "nothing is left of them in the model's output; choose another axis"
                )

        def resized(planes: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
            if smooth:
                return smoothly(planes, shape)
            return F.interpolate(planes[None], shape, mode="nearest-exact")[0]

        shown = resized(planes, (place.height, place.width))
        right = self.side - place.width - place.left
        bottom = self.side - place.height - place.top
        whole = F.pad(shown, (place.left, right, place.top, bottom), value=outside)
        return whole if side == self.side else resized(whole, (side, side))

    def labels_to_low_res(self, labels: np.ndarray, side: int, outside: int = 0) -> torch.Tensor:
        """Labels [H, W], uint8, of a slice where low-res logits have it: [side, side], uint8.

        Args:
            outside: the label of the padding.

        Raises:
            SAMAutoSegError: the slice is so thin that no low-res pixel lies in it.
        """
        if self.pixels_per_logit(labels.shape, side) <= 1:
            planes = torch.from_numpy(np.ascontiguousarray(labels))[None].float()
            return self.slice_to_low_res(planes, side, outside)[0].to(torch.uint8)
        values, planes = label_planes(labels)
        covered = torch.ones(1, *labels.shape)
        shares = self.slice_to_low_res(torch.cat([planes, covered]), side, smooth=True)
        shares[-1] = 1 - shares[-1]
        return torch.from_numpy(winning_labels(np.append(values, np.uint8(outside)), shares))

    def pixels_per_logit(self, shape: tuple[int, ...], side: int) -> float:
        """How many pixels of a slice one of side x side logits stands for, along either axis."""
        height, width = shape
        place = self.placement((height, width))
        return max(height / place.height, width / place.width) * self.side / side

    def to_input_points(self, points: np.ndarray, original: tuple[int, int]) -> np.ndarray:
        """Points [..., 2] as (column, row) of the slice -> (x, y) in the encoder's input."""
        place = self.placement(original)
        moved = np.array(points, dtype=float)
        moved[..., 0] = moved[..., 0] * (place.width / original[1]) + place.left
        moved[..., 1] = moved[..., 1] * (place.height / original[0]) + place.top
        return moved

    def to_input_boxes(self, boxes: np.ndarray, original: tuple[int, int]) -> np.ndarray:
        """Boxes [..., 4] as (column0, row0, column1, row1) of the slice -> the input's pixels."""
        boxes = np.asarray(boxes)
        corners = boxes.reshape(*boxes.shape[:-1], 2, 2)
        return self.to_input_points(corners, original).reshape(boxes.shape)
