"""Download over HTTP(S): resumed after a break, checked, and put in place in one step."""

import http.client
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from SAMAutoSegLib import __version__
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.fetch.wanted import WantedFile, wrong_checksum
from SAMAutoSegLib.files import replace_file, sha256_of_file, write_errors_named
from SAMAutoSegLib.progress import Progress, silent

_SECONDS_WITHOUT_ANSWER = 30.0
_PAUSES = (1.0, 3.0, 10.0)  # seconds before each new try; a try that brought bytes starts over
_SECONDS_BETWEEN_LOOKS = 0.1  # at whether the user has cancelled
_BLOCK_BYTES = 1 << 17
_BUSY = {408, 425, 429, 500, 502, 503, 504}


class _Interrupted(Exception):
    """The transfer broke off; another try may go on where it stopped."""


def fetch_url(url: str, wanted: WantedFile, progress: Progress = silent) -> None:
    """Download a file unless the right one is there already.

    What has arrived is kept beside the target (suffix ``.part``) when the transfer breaks off or
    is cancelled, and the next call goes on from there. The target changes only when a whole and
    checked file takes its place. Proxies are those of the system or of ``HTTPS_PROXY``.

    Raises:
        SAMAutoSegError: no network, refused, not found, wrong content, disk full.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise SAMAutoSegError(f"{url}: only http and https addresses can be downloaded")
    if wanted.is_there():
        return
    part = wanted.target.with_name(wanted.target.name + ".part")
    with write_errors_named(part):
        part.parent.mkdir(parents=True, exist_ok=True)

    resumed = part.is_file()
    found = _download_and_digest(url, part, wanted, progress)
    if found != wanted.sha256 and resumed:
        # The first bytes may have been of another version of the file.
        part.unlink()
        found = _download_and_digest(url, part, wanted, progress)
    if found != wanted.sha256:
        part.unlink()
        raise wrong_checksum(url, found, wanted.sha256)
    with write_errors_named(wanted.target):
        replace_file(part, wanted.target)


def _download_and_digest(url: str, part: Path, wanted: WantedFile, progress: Progress) -> str:
    tries = 0
    while True:
        before = _length(part)
        try:
            _transfer(url, part, wanted, progress)
            return sha256_of_file(part)
        except _Interrupted as error:
            tries = 1 if _length(part) > before else tries + 1
            if tries > len(_PAUSES):
                raise SAMAutoSegError(
                    f"{url}: the download broke off ({error}); what arrived is kept: try again"
                ) from error
            fraction = _length(part) / wanted.size if wanted.size else 0.0
            until = time.monotonic() + _PAUSES[tries - 1]
            while time.monotonic() < until:
                progress(fraction, f"connection lost, trying again ({wanted.target.name})")
                time.sleep(_SECONDS_BETWEEN_LOOKS)


def _transfer(url: str, part: Path, wanted: WantedFile, progress: Progress) -> None:
    """Append to ``part`` what is missing of the file."""
    start = _length(part)
    if wanted.size is not None and start == wanted.size:
        return
    headers = {"User-Agent": f"SAMAutoSeg/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        request = urllib.request.Request(url, headers=headers)
        with urllib.request.urlopen(request, timeout=_SECONDS_WITHOUT_ANSWER) as response:
            start, total = _where_the_answer_starts(response, start)
            if None not in (total, wanted.size) and total != wanted.size:
                part.unlink(missing_ok=True)
                raise SAMAutoSegError(
                    f"{url}: {total} bytes instead of {wanted.size}: the file was changed there,"
                    " or a login page answered instead; open the address in a browser to see"
                )
            _append(response, part, start, total or wanted.size, progress, wanted.target.name)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # more is here than there
            part.unlink(missing_ok=True)
            raise _Interrupted("the file was changed on the server") from error
        if error.code in _BUSY:
            raise _Interrupted(f"the server answered {error.code} {error.reason}") from error
        raise SAMAutoSegError(f"{url}: {_refusal(error)}") from error
    except urllib.error.URLError as error:
        # Without a single byte so far there is most likely no network at all.
        if _length(part) and not isinstance(error.reason, ssl.SSLCertVerificationError):
            raise _Interrupted(str(error.reason)) from error
        raise SAMAutoSegError(f"{url}: {_unreachable(url, error.reason)}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Interrupted(str(error) or type(error).__name__) from error


def _where_the_answer_starts(
    response: http.client.HTTPResponse, wished: int
) -> tuple[int, int | None]:
    """Return the offset of the first byte of the answer, and the length of the whole file."""
    length = response.headers.get("Content-Length")
    if response.status != 206:
        return 0, None if length is None else int(length)
    kind, _, numbers = response.headers.get("Content-Range", "").partition(" ")
    span, _, total = numbers.partition("/")
    first = span.partition("-")[0]
    if kind != "bytes" or first != str(wished):
        raise _Interrupted(f"asked for bytes from {wished}, the server sent {numbers or 'others'}")
    return wished, int(total) if total.isdigit() else None


def _append(
    response: http.client.HTTPResponse,
    part: Path,
    start: int,
    total: int | None,
    progress: Progress,
    name: str,
) -> None:
    done = start
    with write_errors_named(part):
        output = part.open("r+b" if start else "wb")
    with output:
        output.seek(start)
        while block := response.read(_BLOCK_BYTES):
            with write_errors_named(part):
                output.write(block)
            done += len(block)
            megabytes = f"{done / 1e6:.0f}" + (f" of {total / 1e6:.0f}" if total else "")
            progress(done / total if total else 0.0, f"downloading {name}, {megabytes} MB")
        with write_errors_named(part):
            output.flush()
    if total is not None and done < total:
        raise _Interrupted(f"{done} of {total} bytes arrived")


def _refusal(error: urllib.error.HTTPError) -> str:
    if error.code in (404, 410):
        return f"not found ({error.code}); the file was moved or the address is wrong"
    if error.code == 407:
        return "the proxy wants a name and a password (407); set HTTPS_PROXY=http://name:…@proxy"
    return f"the server refused it ({error.code} {error.reason}); try again later"


def _unreachable(url: str, reason: object) -> str:
    if isinstance(reason, ssl.SSLCertVerificationError):
        if sys.platform == "darwin":
            mac = "; Python from python.org needs its 'Install Certificates.command' to be run once"
        else:
            mac = ""
        return (
            "its certificate is not trusted (a proxy that inspects traffic?); let SSL_CERT_FILE"
            f" name the certificate of your organization{mac}"
        )
    return (
        f"{urlsplit(url).hostname} cannot be reached ({reason}); check the network and the proxy"
        " (HTTPS_PROXY), or take the file from a folder ('samautoseg models fetch --from-folder')"
    )


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
