"""The lines that a program and its engine process exchange: one JSON object each.

A request is ``{"v": 1, "id": 7, "do": "segment", ...}``. What answers it carries the same id: any
number of ``progress`` and ``slice`` events, then one of ``result``, ``error`` and ``cancelled``.
Only ``log``, and an ``error`` about a line that is no request, come without an id. `REQUESTS` and
`EVENTS` say which fields each has; both sides check every line against them. Arrays are passed as
files, see `arrays`.

Results:

- hello: `version`, `python`, `torch`, `pid`, `threads`
- devices: see `machine.devices`
- open_volume: `volume`, its key
- segment: `labels` [K, J, I], `axis` (the plane of the slices), `slices_done`, `notes`, `seconds`;
  with `uncertainty`: `per_slice` (wrong pixels to expect, by slice number as text) and `array`
  (uint8 [K, J, I], 255 for a label that is surely wrong). The same when it was cancelled, of the
  slices that were done; nothing if there are none
  With `refine`: as often at most the prediction prompts the decoder, and `keep_iteration` is the
  pass to keep, see `Refinement`; the result has `refined`, see `decisions`
  With `corrected_slices`: these stay as they are, and the others follow them, see
  `CorrectedShapes`; `corrected` holds their labels [N, rows, columns] by the structures' values
- estimate: `seconds`
- click: `mask` [rows, columns] bool, `score` (how good the model takes it for, 0 to 1)

Rows and columns are those of `SliceStack.slice_at`, a box ends behind its last row and column. As
`backbone` an adapted model may be named: its backbone and its gray levels are taken, so that what
was encoded to segment need not be encoded again for clicks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from SAMAutoSegLib.errors import SAMAutoSegError

VERSION = 1

# No honest message is longer; a stream of anything else must not fill the memory.
LONGEST_LINE = 1 << 20


class ProtocolError(SAMAutoSegError):
    """A line that is no message of this protocol; `id` is the request's, if it could be read."""

    def __init__(self, message: str, id: int | None = None) -> None:
        super().__init__(message)
        self.id = id


@dataclass(frozen=True)
class Request:
    """One thing to do, with its parameters."""

    id: int
    do: str
    params: dict[str, Any]


@dataclass(frozen=True)
class Event:
    """What the engine tells; `id` is None where no request was made."""

    id: int | None
    name: str
    fields: dict[str, Any]


@dataclass(frozen=True)
class Check:
    """What a field may hold: in words, and as a test. An optional one may be absent or None."""

    words: str
    holds: Callable[[Any], bool]
    required: bool = True


def _optional(check: Check) -> Check:
    return Check(check.words, check.holds, required=False)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    real = isinstance(value, int | float) and not isinstance(value, bool)
    return real and math.isfinite(value)


def _is_list(value: Any, item: Callable[[Any], bool], length: int | None = None) -> bool:
    fits = isinstance(value, list) and (length is None or len(value) == length)
    return fits and all(item(one) for one in value)


def _is_array(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"file", "dtype", "shape"}
        and isinstance(value["file"], str)
        and isinstance(value["dtype"], str)
        and _is_list(value["shape"], _is_whole)
    )


def _is_range(value: Any) -> bool:
    return _is_list(value, _is_whole, 2) and value[0] < value[1]


def _is_point(value: Any) -> bool:
    return _is_list(value, _is_number, 3) and value[2] in (-1, 1)


def _numbers(length: int, words: str) -> Check:
    return Check(words, lambda value: _is_list(value, _is_number, length))


TEXT = Check("text", lambda value: isinstance(value, str) and value != "")
ANY_TEXT = Check("text", lambda value: isinstance(value, str))
FLAG = Check("true or false", lambda value: isinstance(value, bool))
WHOLE = Check("a whole number from 0", _is_whole)
NUMBER = Check("a number", _is_number)
ARRAY = Check("an array with file, dtype and shape", _is_array)
MAPPING = Check("an object", lambda value: isinstance(value, dict))
SLICES = Check("a list of slice numbers", lambda value: _is_list(value, _is_whole))
ROI = Check("[[i0, i1], [j0, j1], [k0, k1]]", lambda value: _is_list(value, _is_range, 3))
POINTS = Check("[[row, column, 1 or -1], ...]", lambda value: _is_list(value, _is_point))
SIZE = Check("three whole numbers", lambda value: _is_list(value, _is_whole, 3))

_LOADED = {
    "model": TEXT,
    "base": _optional(TEXT),
    "device": _optional(TEXT),
    "precision": _optional(TEXT),
}
_SHOWN = {
    "volume": TEXT,
    "backbone": TEXT,
    "axis": TEXT,
    "slice": WHOLE,
    "intensity": _optional(TEXT),
    "base": _optional(TEXT),
    "device": _optional(TEXT),
}

REQUESTS: dict[str, dict[str, Check]] = {
    "hello": {"folder": TEXT},
    "devices": {},
    "open_volume": {
        "volume": TEXT,
        "array": ARRAY,
        "size": SIZE,
        "spacing": _numbers(3, "three numbers, in mm along I, J, K"),
        "origin": _numbers(3, "three numbers, in mm LPS"),
        "direction": _numbers(9, "nine numbers, the rows of the LPS direction matrix"),
        "name": ANY_TEXT,
        "modality": _optional(TEXT),
    },
    "close_volume": {"volume": TEXT},
    "segment": {
        "volume": TEXT,
        **_LOADED,
        "axis": _optional(TEXT),
        "slices": _optional(SLICES),
        "roi": _optional(ROI),
        "intensity": _optional(TEXT),
        "corrected_slices": _optional(SLICES),
        "corrected": _optional(ARRAY),
        "cleanup": _optional(MAPPING),
        "refine": _optional(WHOLE),
        "keep_iteration": _optional(WHOLE),
        "uncertainty": _optional(FLAG),
    },
    "estimate": {"volume": TEXT, **_LOADED, "axis": _optional(TEXT)},
    "prepare_clicks": _SHOWN,
    "click": {
        **_SHOWN,
        "points": _optional(POINTS),
        "box": _optional(_numbers(4, "row0, column0, row1, column1")),
        "mask": _optional(ARRAY),
    },
    "cancel": {"request": WHOLE},
    "shutdown": {},
}

EVENTS: dict[str, dict[str, Check]] = {
    "progress": {"fraction": NUMBER, "message": ANY_TEXT, "seconds_left": _optional(NUMBER)},
    "slice": {"number": WHOLE, "axis": TEXT, "array": ARRAY},
    "result": {},
    "error": {"message": TEXT, "details": ANY_TEXT},
    "cancelled": {},
    "log": {"message": ANY_TEXT},
}


def request_line(id: int, do: str, params: Mapping[str, Any]) -> str:
    """The line of a request, without the line break; `ProtocolError` if it breaks the rules."""
    line = _dump({"v": VERSION, "id": id, "do": do, **params})
    parse_request(line)
    return line


def event_line(event: str, id: int | None = None, **fields: Any) -> str:
    """The line of an event, without the line break; `ProtocolError` if it breaks the rules."""
    about = {} if id is None else {"id": id}
    line = _dump({"v": VERSION, **about, "event": event, **fields})
    parse_event(line)
    return line


def parse_request(line: str) -> Request:
    """Read a line that the engine received.

    Raises:
        ProtocolError: no JSON object, of another version, or with other fields than `REQUESTS`.
    """
    message = _load(line)
    id = message.pop("id", None)
    if not _is_whole(id):
        raise ProtocolError(f"a request without a number as its id: {_start(line)}")
    _check_version(message, id)
    do = message.pop("do", None)
    if not isinstance(do, str) or do not in REQUESTS:
        raise ProtocolError(f"request {do!r} is not known: expected {', '.join(REQUESTS)}", id)
    unknown = sorted(message.keys() - REQUESTS[do].keys())
    if unknown:
        raise ProtocolError(f"request {do} has no field {unknown[0]!r}", id)
    _check_fields(f"request {do}", message, REQUESTS[do], id)
    return Request(id, do, {name: value for name, value in message.items() if value is not None})


def parse_event(line: str) -> Event:
    """Read a line that the engine wrote.

    Raises:
        ProtocolError: no JSON object, of another version, or without the fields of `EVENTS`.
    """
    message = _load(line)
    id = message.pop("id", None)
    if id is not None and not _is_whole(id):
        raise ProtocolError(f"an event with the id {id!r}: {_start(line)}")
    _check_version(message, id)
    name = message.pop("event", None)
    if not isinstance(name, str) or name not in EVENTS:
        raise ProtocolError(f"event {name!r} is not known: expected {', '.join(EVENTS)}", id)
    if id is None and name not in ("log", "error"):
        raise ProtocolError(f"event {name} answers no request: {_start(line)}")
    _check_fields(f"event {name}", message, EVENTS[name], id)
    return Event(id, name, message)


def _dump(message: dict[str, Any]) -> str:
    try:
        line = json.dumps(message, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise ProtocolError(f"a message that JSON cannot hold: {error}") from error
    if len(line) > LONGEST_LINE:
        raise ProtocolError(f"a message of {len(line)} characters: at most {LONGEST_LINE}")
    return line


def _load(line: str) -> dict[str, Any]:
    try:
        message = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a line that is no JSON: {_start(line)}") from error
    if not isinstance(message, dict):
        raise ProtocolError(f"a line that is no JSON object: {_start(line)}")
    return message


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _check_version(message: dict[str, Any], id: int | None) -> None:
    version = message.pop("v", None)
    if version != VERSION:
        raise ProtocolError(
            f"the program and its engine do not fit together (version {version!r} against "
            f"{VERSION}): restart the program after an update",
            id,
        )


def _check_fields(
    what: str, message: dict[str, Any], checks: dict[str, Check], id: int | None
) -> None:
    for name, check in checks.items():
        value = message.get(name)
        if value is None and not check.required:
            continue
        if value is None or not check.holds(value):
            raise ProtocolError(
                f"{what}: {name} is {_start(repr(value))}, expected {check.words}", id
            )


def _start(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "...")
