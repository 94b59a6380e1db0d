"""Downloads against a server on this machine that can break off, lie and refuse."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from SAMAutoSegLib.errors import Cancelled, SAMAutoSegError
from SAMAutoSegLib.fetch import http
from SAMAutoSegLib.fetch.http import fetch_url
from SAMAutoSegLib.fetch.wanted import WantedFile

CONTENT = bytes(range(256)) * 4000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT at /file, with Range; counts what it was asked for."""

    content = CONTENT
    break_after: int | None = None  # bytes of each answer, then the connection is closed
    ranges = True
    answers: list[int]  # status codes to give before a real answer

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = []
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        if self.server.answers:
            self.send_error(self.server.answers.pop(0))
            return
        if self.path != "/file":
            self.send_error(404)
            return
        content = self.server.content
        first = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if asked and self.server.ranges:
            if first >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            content = content[first:]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: self.server.break_after])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(http, "_PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def wanted(tmp_path: Path) -> WantedFile:
    return WantedFile(tmp_path / "models" / "file.pth", DIGEST, len(CONTENT))


def folder_of(wanted: WantedFile) -> list[str]:
    return sorted(path.name for path in wanted.target.parent.iterdir())


def test_a_file_arrives_whole_with_progress_and_is_not_downloaded_again(
    server: Server, wanted: WantedFile
) -> None:
    told: list[float] = []
    fetch_url(server.url, wanted, lambda fraction, message: told.append(fraction))
    assert wanted.target.read_bytes() == CONTENT
    assert folder_of(wanted) == ["file.pth"]
    assert told == sorted(told) and told[-1] == 1.0 and len(told) > 3
    fetch_url(server.url, wanted)
    assert len(server.asked) == 1


def test_a_damaged_file_at_the_target_is_replaced(server: Server, wanted: WantedFile) -> None:
    wanted.target.parent.mkdir()
    wanted.target.write_bytes(CONTENT[:-1] + b"x")
    fetch_url(server.url, wanted)
    assert wanted.target.read_bytes() == CONTENT


@pytest.mark.parametrize("size_known", [True, False])
def test_a_transfer_that_breaks_off_again_and_again_goes_on_where_it_stopped(
    server: Server, wanted: WantedFile, size_known: bool
) -> None:
    server.break_after = len(CONTENT) // 9
    fetch_url(server.url, wanted if size_known else WantedFile(wanted.target, DIGEST))
    assert wanted.target.read_bytes() == CONTENT
    starts = [int(asked[6:-1]) for asked in server.asked if asked]
    assert len(starts) == 9 and starts == sorted(set(starts))


def test_a_server_without_ranges_starts_over(server: Server, wanted: WantedFile) -> None:
    server.ranges = False
    wanted.target.parent.mkdir()
    wanted.target.with_name("file.pth.part").write_bytes(CONTENT[:1000])
    fetch_url(server.url, wanted)
    assert wanted.target.read_bytes() == CONTENT
    assert server.asked == ["bytes=1000-"]


def test_the_beginning_of_another_version_is_thrown_away(
    server: Server, wanted: WantedFile
) -> None:
    wanted.target.parent.mkdir()
    wanted.target.with_name("file.pth.part").write_bytes(b"x" * 1000)
    fetch_url(server.url, wanted)
    assert wanted.target.read_bytes() == CONTENT
    assert server.asked == ["bytes=1000-", None]


def test_a_partial_file_longer_than_the_file_is_thrown_away(
    server: Server, wanted: WantedFile
) -> None:
    wanted.target.parent.mkdir()
    wanted.target.with_name("file.pth.part").write_bytes(b"x" * (len(CONTENT) + 5))
    fetch_url(server.url, wanted)
    assert wanted.target.read_bytes() == CONTENT


def test_a_cancelled_download_is_resumed_by_the_next_call(
    server: Server, wanted: WantedFile
) -> None:
    def cancel_halfway(fraction: float, message: str) -> None:
        if fraction > 0.5:
            raise Cancelled("cancelled.")

    with pytest.raises(Cancelled):
        fetch_url(server.url, wanted, cancel_halfway)
    assert folder_of(wanted) == ["file.pth.part"]
    fetch_url(server.url, wanted)
    assert wanted.target.read_bytes() == CONTENT
    assert int((server.asked[1] or "")[6:-1]) > len(CONTENT) // 2


def test_a_wrong_checksum_leaves_no_file_and_keeps_the_old_one(
    server: Server, wanted: WantedFile
) -> None:
    server.content = bytes(len(CONTENT))
    wanted.target.parent.mkdir()
    wanted.target.write_bytes(b"old")
    with pytest.raises(SAMAutoSegError, match="wrong checksum.*" + DIGEST[:12]):
        fetch_url(server.url, wanted)
    assert folder_of(wanted) == ["file.pth"]
    assert wanted.target.read_bytes() == b"old"


def test_an_answer_of_another_length_is_refused_before_it_is_downloaded(
    server: Server, wanted: WantedFile
) -> None:
    server.content = b"<html>please log in</html>"
    with pytest.raises(SAMAutoSegError, match="26 bytes instead of 1024000.*login page"):
        fetch_url(server.url, wanted)
    assert folder_of(wanted) == []


def test_not_found_is_said_at_once(server: Server, wanted: WantedFile) -> None:
    with pytest.raises(SAMAutoSegError, match=r"file-x: not found \(404\)"):
        fetch_url(server.url + "-x", wanted)
    assert len(server.asked) == 1
    assert folder_of(wanted) == []


def test_a_busy_server_is_asked_again(server: Server, wanted: WantedFile) -> None:
    server.answers = [503, 429]
    fetch_url(server.url, wanted)
    assert wanted.target.read_bytes() == CONTENT


def test_a_server_that_stays_busy_is_given_up(server: Server, wanted: WantedFile) -> None:
    server.answers = [503] * 9
    with pytest.raises(SAMAutoSegError, match="broke off .*503.*try again"):
        fetch_url(server.url, wanted)
    assert len(server.asked) == 4


def test_a_proxy_that_wants_a_password_is_named(server: Server, wanted: WantedFile) -> None:
    server.answers = [407]
    with pytest.raises(SAMAutoSegError, match="proxy wants a name.*HTTPS_PROXY"):
        fetch_url(server.url, wanted)


def test_no_network_is_said_with_the_way_out(wanted: WantedFile) -> None:
    with Server() as closed:
        url = closed.url
    with pytest.raises(SAMAutoSegError, match="127.0.0.1 cannot be reached.*--from-folder"):
        fetch_url(url, wanted)


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://example.org/x", "lite-medsam"])
def test_only_http_is_downloaded(url: str, wanted: WantedFile) -> None:
    with pytest.raises(SAMAutoSegError, match="only http and https"):
        fetch_url(url, wanted)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_named(server: Server, wanted: WantedFile) -> None:
    wanted.target.parent.mkdir()
    wanted.target.with_name("file.pth.part").symlink_to("/dev/full")
    with pytest.raises(SAMAutoSegError, match=r"cannot write .*file\.pth.*No space left"):
        fetch_url(server.url, wanted)
    assert not wanted.target.exists()
