"""Text in the user's language."""

from SAMAutoSegScene.Translation import _

__all__ = ["_"]
