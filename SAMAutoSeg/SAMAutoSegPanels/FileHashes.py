"""SHA-256 of large files, without a pause of the interface."""

import hashlib

# Some milliseconds of work.
_STEP_BYTES = 4 << 20


class FileHashes:
    """Computes a hash once for each content of a file, a piece for each turn of the event loop.

    Args:
        later: calls a function once the event loop has drawn and answered.
        onKnown: called when another hash is known.
    """

    def __init__(self, later, onKnown):
        self._later = later
        self._onKnown = onKnown
        self._known = {}

    def of(self, path):
        """64 lower-case hexadecimal digits; '' if it cannot be read, None if it is yet to come."""
        try:
            facts = path.stat()
        except OSError:
            return ""
        content = path, facts.st_size, facts.st_mtime_ns
        if content not in self._known:
            self._known[content] = None
            steps = _hashInSteps(path)
            self._later(lambda: self._step(content, steps))
        return self._known[content]

    def _step(self, content, steps):
        try:
            next(steps)
        except StopIteration as end:
            self._known[content] = end.value
            self._onKnown()
        except OSError:
            self._known[content] = ""
            self._onKnown()
        else:
            self._later(lambda: self._step(content, steps))


def _hashInSteps(path):
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(_STEP_BYTES):
            digest.update(block)
            yield
    return digest.hexdigest()
