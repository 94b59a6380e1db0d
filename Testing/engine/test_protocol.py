import json
from typing import Any

import pytest

from SAMAutoSegLib.engine.protocol import (
    LONGEST_LINE,
    VERSION,
    ProtocolError,
    event_line,
    parse_event,
    parse_request,
    request_line,
)

CLICK: dict[str, Any] = {"volume": "v", "backbone": "b", "axis": "axial", "slice": 3}


def test_a_request_comes_through_as_it_was_sent() -> None:
    line = request_line(7, "click", {**CLICK, "points": [[1.5, 2, 1], [3, 4, -1]], "box": None})
    assert "\n" not in line
    request = parse_request(line)
    assert (request.id, request.do) == (7, "click")
    assert request.params == {**CLICK, "points": [[1.5, 2, 1], [3, 4, -1]]}


def test_an_event_comes_through_as_it_was_sent() -> None:
    event = parse_event(event_line("progress", 7, fraction=0.5, message="é", seconds_left=None))
    assert (event.id, event.name) == (7, "progress")
    assert event.fields == {"fraction": 0.5, "message": "é", "seconds_left": None}
    assert parse_event(event_line("log", message="hello")).id is None


@pytest.mark.parametrize(
    "line",
    ["", "no JSON", "[1, 2]", "null", "\x00\xff", "{" * 100_000, '{"v": 1', '{"v": 1, "id": "7"}'],
)
def test_garbage_is_told_and_short(line: str) -> None:
    for parse in (parse_request, parse_event):
        with pytest.raises(ProtocolError) as told:
            parse(line)
        assert len(str(told.value)) < 300 and "\n" not in str(told.value)


def test_a_request_of_another_version_names_the_request_and_what_to_do() -> None:
    line = json.dumps({"v": VERSION + 1, "id": 4, "do": "devices"})
    with pytest.raises(ProtocolError, match="restart the program") as told:
        parse_request(line)
    assert told.value.id == 4


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"slice": -1}, "slice"),
        ({"slice": True}, "slice"),
        ({"slice": 1.5}, "slice"),
        ({"slice": None}, "slice"),
        ({"axis": 3}, "axis"),
        ({"points": [[1, 2]]}, "points"),
        ({"points": [[1, 2, 0]]}, "points"),
        ({"points": "here"}, "points"),
        ({"box": [1, 2, 3]}, "box"),
        ({"mask": {"file": "x"}}, "mask"),
        ({"color": "red"}, "color"),
    ],
)
def test_a_field_that_breaks_the_rules_is_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ProtocolError, match=named) as told:
        request_line(1, "click", {**CLICK, **changes})
    assert told.value.id == 1


def test_unknown_requests_and_events_are_refused() -> None:
    with pytest.raises(ProtocolError, match="'fly' is not known: expected hello"):
        request_line(1, "fly", {})
    with pytest.raises(ProtocolError, match="'flown' is not known"):
        event_line("flown", 1)
    with pytest.raises(ProtocolError, match="answers no request"):
        event_line("result")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_what_json_cannot_hold_is_not_sent(value: Any) -> None:
    with pytest.raises(ProtocolError):
        event_line("result", 1, score=value)
    with pytest.raises(ProtocolError, match="no JSON"):
        parse_event('{"v": 1, "id": 1, "event": "result", "score": NaN}')


def test_a_line_has_a_limit() -> None:
    with pytest.raises(ProtocolError, match="at most"):
        event_line("log", message="x" * LONGEST_LINE)
