"""Requests that wait for the thread that computes, the most urgent first."""

from __future__ import annotations

import heapq
import itertools
import threading

from SAMAutoSegLib.engine.protocol import Request

# What a user waits for with the mouse in the hand goes before what has a progress bar. All else
# is done in a moment.
_URGENCY = {"click": 1, "prepare_clicks": 2, "segment": 3, "estimate": 3}


class WorkQueue:
    """Filled by the thread that reads, emptied by the one that computes."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[tuple[int, int, Request]] = []
        self._order = itertools.count()
        self._active: set[int] = set()
        self._cancelled: set[int] = set()
        self.closed = False

    def put(self, request: Request) -> None:
        """Add a request behind those that are as urgent."""
        with self._changed:
            entry = (_URGENCY.get(request.do, 0), next(self._order), request)
            heapq.heappush(self._waiting, entry)
            self._changed.notify()

    def take(self, seconds: float | None = None) -> Request | None:
        """The most urgent request, which becomes active; None if none came in that time.

        Without `seconds` it waits until one comes or the queue is closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self.closed, seconds)
            return None if self.closed else self._pop()

    def take_more_urgent(self, than: Request) -> Request | None:
        """The most urgent request if it cannot wait for `than` to end, else None; never waits."""
        with self._changed:
            limit = _URGENCY.get(than.do, 0)
            urgent = self._waiting and self._waiting[0][0] < limit and not self.closed
            return self._pop() if urgent else None

    def finish(self, request: Request) -> None:
        """Say that an active request is done."""
        with self._changed:
            self._active.discard(request.id)
            self._cancelled.discard(request.id)

    def cancel(self, id: int) -> bool:
        """Cancel a request; True if it was still waiting and will never be active."""
        with self._changed:
            if id in self._active:
                self._cancelled.add(id)
            kept = [entry for entry in self._waiting if entry[2].id != id]
            removed = len(kept) < len(self._waiting)
            self._waiting = kept
            heapq.heapify(self._waiting)
            return removed

    def is_cancelled(self, request: Request) -> bool:
        """Whether an active request is to stop; all are once the queue is closed."""
        return self.closed or request.id in self._cancelled

    def close(self) -> None:
        """Nothing is taken any more, what is active is to stop."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def _pop(self) -> Request | None:
        if not self._waiting:
            return None
        request = heapq.heappop(self._waiting)[2]
        self._active.add(request.id)
        return request
