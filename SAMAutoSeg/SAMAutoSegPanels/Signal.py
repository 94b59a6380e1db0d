"""Tells listeners that something changed; PythonQt cannot declare signals of its own."""


class Signal:
    """Listeners are called in the order in which they were connected."""

    def __init__(self):
        self._listeners = []

    def connect(self, listener):
        self._listeners.append(listener)

    def disconnectAll(self):
        self._listeners.clear()

    def emit(self, *values):
        for listener in list(self._listeners):
            listener(*values)
