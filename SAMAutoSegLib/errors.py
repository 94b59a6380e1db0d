"""Errors that a user can cause or can mend."""


class SAMAutoSegError(Exception):
    """Something the user can put right.

    ``str(error)`` is one line that names the offending value, says what was expected and
    what to do. It is shown as it stands, without a traceback.
    """


class Cancelled(SAMAutoSegError):
    """The user asked to stop; the message says what was kept."""
