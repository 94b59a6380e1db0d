"""Text in the user's language."""

try:
    from slicer.i18n import tr as _
except ModuleNotFoundError:  # what needs no scene also runs where there is no Slicer

    def _(text: str) -> str:
        return text


__all__ = ["_"]
