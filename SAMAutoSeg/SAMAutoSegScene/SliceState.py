"""Apart from the ledger, because what draws states needs no scene."""

from enum import StrEnum


class SliceState(StrEnum):
    """What is known of a slice."""

    UNTOUCHED = "untouched"
    MODEL = "model"
    UNCHECKED = "unchecked"
    CORRECTED = "corrected"
    REVIEWED = "reviewed"
    EXCLUDED = "excluded"
