"""``samautoseg models``: the models of the catalogue and of this computer."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.progress import Progress, console_or_json_progress

_BLOCK_BYTES = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``samautoseg models``."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    listing = actions.add_parser("list", help="what can be fetched and what is here")
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(action=_list)

    inspect = actions.add_parser("inspect", help="say what a weights file is")
    inspect.add_argument("model", help="a file, or a name, as 'segment' and '--base' take it")
    inspect.add_argument("--json", action="store_true", help="print JSON")
    inspect.set_defaults(action=_inspect)

    fetch = actions.add_parser("fetch", help="bring a model of the catalogue to this computer")
    fetch.add_argument("name", nargs="+", help="as shown by: samautoseg models list")
    fetch.add_argument(
        "--from-folder",
        type=Path,
        metavar="DIR",
        help="take it from a folder that holds the file or its package, without internet",
    )
    fetch.add_argument("--json", action="store_true", help="print JSON, a line for each progress")
    fetch.set_defaults(action=_fetch)

    add = actions.add_parser("add", help="copy a weights file into the model folder")
    add.add_argument("file", type=Path, help="any file that 'inspect' recognizes")
    add.add_argument("--json", action="store_true", help="print JSON, a line for each progress")
    add.set_defaults(action=_add)

    remove = actions.add_parser("remove", help="delete a model from the model folder")
    remove.add_argument("name", nargs="+", help="as shown by: samautoseg models list")
    remove.set_defaults(action=_remove)


def run(arguments: argparse.Namespace) -> int:
    """Run the chosen action."""
    arguments.action(arguments)
    return 0


def _list(arguments: argparse.Namespace) -> None:
    from SAMAutoSegLib.files import user_data_dir

    models = _models()
    if arguments.json:
        print(json.dumps(models, indent=2))
        return
    width = max(len(model["name"]) for model in models)
    for model in models:
        state = "here" if model["here"] else "not fetched"
        megabytes = f"{model['bytes'] / 1e6:.0f} MB"
        license_name = model["license"] or ""
        print(f"{model['name']:{width}}  {state:11}  {megabytes:>7}  {license_name:10}  ", end="")
        print(model["title"])
    print(f"\nModel folder: {user_data_dir() / 'models'}")


def _models() -> list[dict[str, Any]]:
    """The catalogue, then the other files of the model folder."""
    from SAMAutoSegLib.adapt.adapted_file import shipped_models
    from SAMAutoSegLib.sam import catalog

    models = [
        {
            "name": entry.name,
            "title": entry.title,
            "here": entry.local_path.is_file(),
            "bytes": entry.bytes,
            "license": entry.license,
            "path": str(entry.local_path),
        }
        for entry in catalog.entries()
    ]
    shipped = shipped_models()
    models += [
        {
            "name": path.stem if path in shipped else path.name,
            "title": _words(path),
            "here": True,
            "bytes": path.stat().st_size if path.exists() else 0,
            "license": None,
            "path": str(path),
        }
        for path in (*shipped, *catalog.own_files())
    ]
    return models


def _words(path: Path) -> str:
    from SAMAutoSegLib.adapt.inspection import describe

    if path.is_symlink() and not path.exists():
        return f"unusable: a link to {path.readlink()}, which does not exist"
    try:
        about = describe(path)
    except SAMAutoSegError as error:  # one damaged file must not hide the others
        return f"unusable: {error}"
    if about["structures"]:
        return f"segments {', '.join(about['structures'])}"
    return str(about["words"])


def _inspect(arguments: argparse.Namespace) -> None:
    from SAMAutoSegLib.adapt.adapted_file import located
    from SAMAutoSegLib.adapt.inspection import describe
    from SAMAutoSegLib.files import user_data_dir

    path = located(arguments.model)
    in_folder = user_data_dir() / "models" / arguments.model
    about = describe(in_folder if not path.exists() and in_folder.is_file() else path)
    if arguments.json:
        print(json.dumps(about, indent=2))
        return
    print(about["summary"])
    print(f"\nfile       {about['path']} ({about['bytes'] / 1e6:.1f} MB)")
    print(f"SHA-256    {about['sha256']}")
    print(f"license    {about['license'] or 'unknown'}")
    if about["family"]:
        sides = ", ".join(map(str, about["sides"]))
        possible = f" (possible: {sides})" if sides else ""
        print(f"family     {about['family']}, input side {about['side']}{possible}")
    print(f"tensors    {about['tensors']} with {about['values'] / 1e6:.1f} million values")
    for label in ("missing", "unexpected"):
        names = about[label]
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            print(f"{label:10} {', '.join(names[:5])}{more}")


def _fetch(arguments: argparse.Namespace) -> None:
    from SAMAutoSegLib.adapt.adapted_file import shipped_models
    from SAMAutoSegLib.sam import catalog
    from SAMAutoSegLib.sam.fetch import fetch_model

    shipped = {path.stem for path in shipped_models()}
    for name in arguments.name:
        if name in shipped:
            raise SAMAutoSegError(f"{name} comes with the program: there is nothing to fetch")
    entries = [catalog.get(name) for name in arguments.name]
    paths = {}
    for entry in entries:
        with console_or_json_progress(arguments.json) as progress:
            paths[entry.name] = fetch_model(entry, arguments.from_folder, progress)
        if not arguments.json:
            print(f"{entry.name}: {paths[entry.name]}")
    if arguments.json:
        print(json.dumps({name: str(path) for name, path in paths.items()}))


def _add(arguments: argparse.Namespace) -> None:
    from SAMAutoSegLib.adapt.inspection import describe
    from SAMAutoSegLib.files import replace_when_complete, sha256_of_file, user_data_dir
    from SAMAutoSegLib.sam import catalog

    about = describe(arguments.file)
    if not about["family"] and not about["structures"]:
        raise SAMAutoSegError(f"{arguments.file} is {about['words']}: no model to segment with")
    # A model of the catalogue is known by its content, whatever its file is called.
    entry = catalog.find_by_sha256(about["sha256"])
    folder = user_data_dir() / "models"
    target = folder / (entry.file_name if entry else _name_in_folder(arguments.file, about))
    if target.exists() and sha256_of_file(target) != about["sha256"]:
        raise SAMAutoSegError(
            f"the model folder has another {target.name}: rename {arguments.file} first"
        )
    if not target.exists():
        with (
            console_or_json_progress(arguments.json) as progress,
            replace_when_complete(target) as temporary,
        ):
            _copy(arguments.file, temporary, progress)
    if arguments.json:
        print(json.dumps({**about, "path": str(target)}))
    else:
        print(f"{target}: {about['words']}")


def _name_in_folder(file: Path, about: dict[str, Any]) -> str:
    """With a suffix by which it is found; `SAMAutoSegError` for the name of another model."""
    from SAMAutoSegLib.adapt.adapted_file import SUFFIX, shipped_models
    from SAMAutoSegLib.files import sha256_of_file
    from SAMAutoSegLib.sam.catalog import SUFFIXES

    suffix = file.suffix if file.suffix in SUFFIXES else ".pth"
    name = f"{file.stem}{SUFFIX if about['adapted'] and about['header'] else suffix}"
    for other in shipped_models():
        if name == other.name and sha256_of_file(other) != about["sha256"]:
            raise SAMAutoSegError(
                f"{other.stem} is a model that comes with the program: rename {file} first"
            )
    return name


def _copy(source: Path, target: Path, progress: Progress) -> None:
    size = max(source.stat().st_size, 1)
    with source.open("rb") as stream, target.open("wb") as copy:
        while block := stream.read(_BLOCK_BYTES):
            copy.write(block)
            progress(min(copy.tell() / size, 1.0), f"copying {source.name}")


def _remove(arguments: argparse.Namespace) -> None:
    from SAMAutoSegLib.adapt.adapted_file import shipped_models

    paths = {model["name"]: Path(model["path"]) for model in _models()}
    paths = {name: path for name, path in paths.items() if os.path.lexists(path)}
    shipped = [path.stem for path in shipped_models()]
    for name in shipped:
        paths.pop(name, None)
    chosen = []
    for name in arguments.name:
        named = [path for key, path in paths.items() if name in (key, path.name)]
        named = named or [path for key, path in paths.items() if name == Path(key).stem]
        if name in shipped and not named:
            raise SAMAutoSegError(f"{name} comes with the program and cannot be removed")
        if len(named) != 1:
            here = ", ".join(paths) or "none"
            what = "is several models" if named else "is not in the model folder"
            raise SAMAutoSegError(f"model {name!r} {what}; there: {here}")
        chosen += named
    for path in dict.fromkeys(chosen):
        size = path.lstat().st_size
        try:
            os.remove(path)
        except OSError as error:
            raise SAMAutoSegError(f"cannot remove {path}: {error.strerror}") from error
        print(f"removed {path} ({size / 1e6:.0f} MB)")
