"""How reports put numbers and long lists into words."""

from collections.abc import Iterable

_MOST = 10


def counted(number: int, noun: str) -> str:
    """'1 slice', '2 slices'."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def first_of(items: Iterable[str]) -> str:
    """'a, b, c', of many the first ones and how many more there are."""
    shown = list(items)
    more = f" and {len(shown) - _MOST} more" if len(shown) > _MOST else ""
    return ", ".join(shown[:_MOST]) + more
