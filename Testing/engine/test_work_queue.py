import threading

from SAMAutoSegLib.engine.protocol import Request
from SAMAutoSegLib.engine.work_queue import WorkQueue


def requests(*names: str) -> list[Request]:
    return [Request(id, do, {}) for id, do in enumerate(names, start=1)]


def test_the_most_urgent_goes_first_and_equals_in_turn() -> None:
    queue = WorkQueue()
    for request in requests("segment", "click", "prepare_clicks", "click", "devices"):
        queue.put(request)
    taken = [queue.take(0) for _ in range(6)]
    assert [request.id if request else None for request in taken] == [5, 2, 4, 3, 1, None]


def test_only_what_cannot_wait_interrupts() -> None:
    queue = WorkQueue()
    first, second, click = requests("segment", "segment", "click")
    queue.put(first)
    assert queue.take(0) is first
    queue.put(second)
    assert queue.take_more_urgent(first) is None
    queue.put(click)
    assert queue.take_more_urgent(first) is click
    assert queue.take_more_urgent(click) is None


def test_what_waits_is_cancelled_for_good_and_what_runs_is_told_to_stop() -> None:
    queue = WorkQueue()
    running, waiting = requests("segment", "segment")
    queue.put(running)
    queue.take(0)
    queue.put(waiting)
    assert queue.cancel(waiting.id) and queue.take(0) is None
    assert not queue.is_cancelled(running)
    assert not queue.cancel(running.id) and queue.is_cancelled(running)
    queue.finish(running)
    assert not queue.cancel(running.id) and not queue.is_cancelled(running)


def test_closing_wakes_who_waits_and_stops_what_runs() -> None:
    queue = WorkQueue()
    (running,) = requests("segment")
    taken: list[Request | None] = []
    thread = threading.Thread(target=lambda: taken.append(queue.take()))
    thread.start()
    queue.close()
    thread.join(10)
    assert taken == [None] and queue.is_cancelled(running)
    queue.put(running)
    assert queue.take(0) is None and queue.take_more_urgent(running) is None
