"""Downloads and unpacks Slicer for the workflow: install_slicer.py stable|preview FOLDER.

Sets SLICER and PYTHON_SLICER for the next steps.
"""

import os
import subprocess
import sys
import tarfile
import urllib.request
from pathlib import Path

_SYSTEMS = {"linux": "linux", "darwin": "macosx", "win32": "win"}
_SUFFIXES = {"linux": ".tar.gz", "darwin": ".dmg", "win32": ".exe"}


def main(stability: str, folder: Path) -> None:
    folder.mkdir(parents=True)
    package = folder / f"slicer{_SUFFIXES[sys.platform]}"
    wanted = {"stable": "release", "preview": "nightly"}[stability]
    address = f"https://download.slicer.org/download?os={_SYSTEMS[sys.platform]}&stability={wanted}"
    print(f"downloading {address}", flush=True)
    urllib.request.urlretrieve(address, package)
    slicer = {"linux": _linux, "darwin": _macos, "win32": _windows}[sys.platform](package, folder)
    name = "PythonSlicer.exe" if sys.platform == "win32" else "PythonSlicer"
    folders = (slicer.parent / "bin", slicer.parent / ".." / "bin")
    found = [path / name for path in folders if (path / name).is_file()]
    if not slicer.exists() or not found:
        sys.exit(f"{slicer} or PythonSlicer is not where it was expected")
    with open(os.environ["GITHUB_ENV"], "a", encoding="utf-8") as stream:
        stream.write(f"SLICER={slicer.as_posix()}\nPYTHON_SLICER={found[0].resolve().as_posix()}\n")


def _linux(package: Path, folder: Path) -> Path:
    with tarfile.open(package) as archive:
        archive.extractall(folder, filter="tar")
    (root,) = [path for path in folder.iterdir() if path.is_dir()]
    return root / "Slicer"


def _macos(package: Path, folder: Path) -> Path:
    mounted = folder / "mounted"
    attach = ["hdiutil", "attach", "-nobrowse", "-mountpoint", str(mounted), str(package)]
    subprocess.run(attach, input=b"Y\n", check=True)  # it shows a license first
    (application,) = mounted.glob("Slicer*.app")
    subprocess.run(["cp", "-R", str(application), str(folder / "Slicer.app")], check=True)
    subprocess.run(["hdiutil", "detach", str(mounted)], check=True)
    return folder / "Slicer.app" / "Contents" / "MacOS" / "Slicer"


def _windows(package: Path, folder: Path) -> Path:
    target = folder / "Slicer"
    subprocess.run([str(package), "/S", f"/D={target}"], check=True)
    return target / "Slicer.exe"


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
