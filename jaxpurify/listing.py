"""Which files of a folder are images, and what is left out."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from jaxpurify.files import identity, printable
from jaxpurify.formats import ENDINGS

# What systems and notebooks leave in folders, besides what begins with a dot.
LEFTOVERS = {"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found", "__pycache__"}
LEFTOVERS |= {"thumbs.db", "desktop.ini"}
NAMED = 5


class Listing(NamedTuple):
    """What a folder holds, without what is hidden or was left by a system."""

    images: list[Path]  # sorted
    others: list[Path]  # files that do not end as images do
    broken: list[str]  # a sentence for each image or folder that cannot be read


def is_leftover(name: str) -> bool:
    """Tell whether a file or folder is no part of the data: hidden, or left by a system.

    Args:
        name: its name, without the path.

    Returns:
        Whether to skip it.
    """
    return name.startswith(".") or name.lower() in LEFTOVERS


def list_images(folder: Path, *, deep: bool = True) -> Listing:
    """List the images of a folder: files that end as images do, but what is hidden or was left by a system.

    Links are followed. A folder that is reached a second time is left out, so that links in a circle end.

    Args:
        folder: where to look.
        deep: whether to look in its sub-folders too; else these are among the others.

    Returns:
        The images and what is left out.
    """
    found = Listing([], [], [])
    _list(folder, deep, found, {identity(folder): folder})
    for paths in (found.images, found.others):
        paths.sort()
    return found


def _list(folder: Path, deep: bool, found: Listing, seen: dict) -> None:
    try:
        names = sorted(name for name in os.listdir(folder) if not is_leftover(name))
    except OSError as error:
        found.broken.append(f"{folder} cannot be read: {error.strerror}")
        return
    folders: list[Path] = []
    for path in (folder / name for name in names):
        if path.is_dir():
            (folders if deep else found.others).append(path)
        elif path.suffix.lower() not in ENDINGS:
            found.others.append(path)
        elif path.is_file():
            found.images.append(path)
        else:
            why = "is no ordinary file" if path.exists() else "is a link to what does not exist"
            found.broken.append(f"{path} {why}")
    for path in sorted(folders, key=Path.is_symlink):  # folders themselves before links to them
        first = seen.setdefault(identity(path), path)
        if first is path:
            _list(path, deep, found, seen)
        else:
            found.broken.append(f"{path} is a link to {first}, whose images are taken there")


def some(names: Iterable[object]) -> str:
    """Return a few names in one line, and how many more there are.

    Args:
        names: names or paths.

    Returns:
        The text.
    """
    shown = [printable(str(name)) for name in names]
    more = f" and {len(shown) - NAMED} more" if len(shown) > NAMED else ""
    return ", ".join(shown[:NAMED]) + more
