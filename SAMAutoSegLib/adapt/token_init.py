"""Where class tokens start from."""

from typing import Literal

TokenInit = Literal["random", "sam"]
