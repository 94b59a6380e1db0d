"""How reports put numbers into words."""


def counted(number: int, noun: str) -> str:
    """'1 slice', '2 slices'."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
