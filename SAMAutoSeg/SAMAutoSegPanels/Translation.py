"""Text in the user's language."""

try:
    from slicer.i18n import tr as _
except ModuleNotFoundError:  # the logic of the panels also runs where there is no Slicer

    def _(text):
        return text


__all__ = ["_"]
