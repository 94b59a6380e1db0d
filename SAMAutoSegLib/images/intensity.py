"""Map the values of an image to the 0..255 gray levels that a segmentation model is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.volume import Volume

# (center, width) in Hounsfield units, the usual radiology presets.
CT_WINDOWS: dict[str, tuple[float, float]] = {
    "abdomen": (40, 400),
    "bone": (400, 1800),
    "brain": (40, 80),
    "liver": (60, 160),
    "lung": (-600, 1500),
    "mediastinum": (50, 350),
}

# Percentiles of more voxels than this are taken from every n-th one: sorting all of a 512x512x600
# volume costs seconds and gigabytes, and moves the percentile by less than a gray level.
_MOST_VOXELS_SORTED = 1 << 24


@dataclass(frozen=True)
class Intensity:
    """A linear map of image values to gray: `low` becomes 0, `high` becomes 255.

    With kind 'window' the limits are image values (Hounsfield units for CT); with kind 'percentile'
    they are percentiles of the finite voxels that are not 0 (0 is the empty background of MR).
    Percentiles belong to a whole volume: apply the map to the volume, then take slices.
    """

    kind: Literal["window", "percentile"]
    low: float
    high: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.low) and np.isfinite(self.high) and self.low < self.high):
            raise SAMAutoSegError(
                f"intensity limits {self.low:g},{self.high:g}: the first must be below the second"
            )
        if self.kind == "percentile" and not (self.low >= 0 and self.high <= 100):
            raise SAMAutoSegError(
                f"intensity percentiles {self.low:g},{self.high:g}: expected values from 0 to 100"
            )

    @classmethod
    def window(cls, center: float, width: float) -> Intensity:
        return cls("window", center - width / 2, center + width / 2)

    @classmethod
    def parse(cls, text: str) -> Intensity:
        """Read `ct:abdomen` (or another name of `CT_WINDOWS`), `-160,240`, `percentile:0.5,99.5`.

        Anything else raises `SAMAutoSegError` with the accepted forms. `str()` is the inverse.
        """
        kind, colon, rest = text.strip().lower().rpartition(":")
        if kind == "ct":
            if rest not in CT_WINDOWS:
                raise SAMAutoSegError(
                    f"unknown CT window '{rest}': choose one of {', '.join(CT_WINDOWS)}"
                )
            return cls.window(*CT_WINDOWS[rest])
        try:
            low, high = (float(part) for part in rest.split(","))
        except ValueError as error:
            raise _unreadable(text) from error
        if kind == "percentile":
            return cls("percentile", low, high)
        if not colon:
            return cls("window", low, high)
        raise _unreadable(text)

    def __str__(self) -> str:
        prefix = "percentile:" if self.kind == "percentile" else ""
        low, high = (np.format_float_positional(x, trim="-") for x in (self.low, self.high))
        return f"{prefix}{low},{high}"

    def limits(self, array: np.ndarray) -> tuple[float, float]:
        """The image values that become 0 and 255; equal if the image holds one value only."""
        if self.kind == "window":
            return self.low, self.high
        finite = array[np.isfinite(array)]
        values = finite[finite != 0]
        if values.size == 0:
            return 0.0, 0.0
        sample = values[:: -(-values.size // _MOST_VOXELS_SORTED)]
        low, high = np.percentile(sample, (self.low, self.high))
        if low == high:
            # Nearly all voxels hold one value (a mask, a phantom): show whatever else there is.
            low, high = finite.min(), finite.max()
        return float(low), float(high)

    def apply(self, array: np.ndarray) -> np.ndarray:
        """Gray levels of an array of any shape and numeric type, as uint8 of the same shape.

        NaN becomes 0; infinities become 0 and 255. An array that holds one value becomes all 0
        under percentiles.
        """
        low, high = self.limits(array)
        gray = np.zeros(array.shape, dtype=np.uint8)
        if low == high:
            return gray
        # Plane by plane: the float32 copy of a whole CT would be four times its gray levels.
        planes = zip(gray, array, strict=True) if array.ndim > 2 else [(gray, array)]
        for target, source in planes:
            values: np.ndarray = source.astype(np.float32 if source.itemsize <= 2 else np.float64)
            values -= low
            values *= 255.0 / (high - low)
            np.nan_to_num(values, copy=False, nan=0.0)
            target[...] = np.rint(np.clip(values, 0, 255, out=values), out=values)
        return gray

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "low": self.low, "high": self.high}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Intensity:
        """Read what `to_json` wrote; `SAMAutoSegError` if a field is missing or malformed."""
        try:
            kind, low, high = data["kind"], float(data["low"]), float(data["high"])
        except (KeyError, TypeError, ValueError) as error:
            raise SAMAutoSegError(f"not an intensity with kind, low and high: {data!r}") from error
        if kind not in ("window", "percentile"):
            raise SAMAutoSegError(f"unknown intensity kind '{kind}': expected window or percentile")
        return cls(kind, low, high)


def default_intensity(volume: Volume) -> Intensity:
    """The abdomen window for CT, the 0.5 to 99.5 percentiles of the non-zero voxels otherwise."""
    if volume.modality == "CT" or (volume.modality is None and looks_like_ct(volume.array)):
        return Intensity.window(*CT_WINDOWS["abdomen"])
    return Intensity("percentile", 0.5, 99.5)


def looks_like_ct(array: np.ndarray) -> bool:
    """Guess whether the values are Hounsfield units, for files that do not name their modality.

    A CT holds air (near -1000) and soft tissue (near 0), each in more than 1 % of its voxels. A
    CT that was cropped to the inside of the body is not recognized.
    """
    sample = array.reshape(-1)[:: max(1, array.size // 1_000_000)]
    air = np.mean((sample >= -1100) & (sample <= -800))
    soft = np.mean((sample >= -150) & (sample <= 250) & (sample != 0))
    return bool(air > 0.01 and soft > 0.01)


def _unreadable(text: str) -> SAMAutoSegError:
    return SAMAutoSegError(
        f"cannot read intensity '{text}': expected ct:NAME, LOW,HIGH or percentile:LOW,HIGH"
    )
