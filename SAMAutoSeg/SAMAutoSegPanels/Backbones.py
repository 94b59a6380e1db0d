"""Which SAM a model needs, and where it lies on this computer."""

from SAMAutoSegPanels.FileHashes import FileHashes
from SAMAutoSegPanels.Translation import _


class Backbones:
    """Finds the SAM that a model was learned on: in the catalog, else among the user's own files.

    Args:
        library: a `ModelLibrary`.
        later: calls a function once the event loop has drawn and answered.
        onFound: called when more is known of the user's own files.
    """

    def __init__(self, library, later, onFound):
        self._library = library
        self._hashes = FileHashes(later, onFound)

    def fileOf(self, entry):
        """The SAM that a model is or was learned on; for None any of the catalog that is here.

        None where it is not on this computer, or where the files are being looked through.
        """
        if entry is not None and not entry.structures:
            return entry.path
        for known in self._library.catalog:
            fits = entry is None or known["sha256"] == entry.backboneSha256
            if fits and self._library.isHere(known):
                return self._library.folder / known["file_name"]
        return self.baseOf(entry)

    def baseOf(self, entry):
        """The user's own SAM that a model was learned on; None where it is of the catalog."""
        return self._own(entry)[0]

    def problemOf(self, entry):
        """Why the SAM of a model cannot be used, '' if it can."""
        if self.fileOf(entry) is not None:
            return ""
        if entry is None:
            return _("A SAM is needed: download LiteMedSAM under Model.")
        if self._inCatalog(entry):
            return _("{model} needs {backbone}: download that too, under Model.").format(
                model=entry.title, backbone=entry.backbone
            )
        if self._own(entry)[1]:
            return _("Looking for the SAM that {model} was trained on...").format(model=entry.title)
        return _(
            "{model} was trained on {backbone}, which is not on this computer: load that weights"
            " file under Model."
        ).format(model=entry.title, backbone=entry.backbone)

    def _own(self, entry):
        """The file, and whether that is still being found out."""
        if entry is None or not entry.structures or self._inCatalog(entry):
            return None, False
        listed = {known["file_name"] for known in self._library.catalog}
        found = [
            one.path
            for one in self._library.models()
            if not one.structures and not one.problem and one.path.name not in listed
        ]
        # One after the other, as they are large; the one with the right name first.
        for path in sorted(found, key=lambda path: path.name != entry.backbone):
            digest = self._hashes.of(path)
            if digest is None:
                return None, True
            if digest == entry.backboneSha256:
                return path, False
        return None, False

    def _inCatalog(self, entry):
        return any(known["sha256"] == entry.backboneSha256 for known in self._library.catalog)
