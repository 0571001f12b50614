"""``jaxpurify purify``: purify an image file, or a folder of them."""

import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from tyro import conf

from jaxpurify.cli.options import Flag, Specification, joined
from jaxpurify.cli.purified import Record
from jaxpurify.cli.start import start
from jaxpurify.files import check_apart, expanded, identity, printable
from jaxpurify.formats import BY_ENDING, COMMON, ENDINGS, check_held, format_of
from jaxpurify.image_files import Picture, load, save
from jaxpurify.listing import Listing, list_images, some
from jaxpurify.progress import Progress

IMAGES, PIXELS = 64, 2**22  # read at a time, at most so many or a little more than so many


@joined
def purify(
    source: Annotated[conf.Positional[str], conf.arg(metavar="SOURCE")],
    target: Annotated[conf.Positional[str], conf.arg(metavar="TARGET")],
    *,
    purifier: Specification,
    format: Annotated[str | None, conf.arg(metavar="NAME", help_behavior_hint="")] = None,
    seed: int = 0,
    overwrite: Flag = False,
    no_cache: Flag = False,
    quiet: Flag = False,
) -> int:
    """Purify an image file, or all images in a folder and its subfolders, of any sizes.

    Opacity, 16 bits a channel and the notes of cameras and editors are kept, a photograph is turned upright, and
    colours are converted to sRGB. What a format cannot hold is refused. Images that the target folder has already are
    left alone, so a stopped command goes on when it is typed again; a folder holds images of one purifier only.

        jaxpurify purify photo.png clean.png --purifier gaussian-smoothing:sigma=1
        jaxpurify purify photos/ clean/ --purifier bit-depth:bits=4+gaussian-smoothing --format png

    Args:
        source: An image file or a folder.
        target: The file or folder to write; in a folder files keep their names. PNG keeps every pixel, JPEG does not.
        purifier: The purifier, or several in turn with + between them; `jaxpurify list` shows all.
        format: Format of all images in the target folder, such as png (default: that of the image).
        seed: Number from which all randomness follows; an image has its own by its name.
        overwrite: Replace images that are there already.
        no_cache: Do not keep compiled programs in ~/.cache/jaxpurify.
        quiet: Show no progress bar.

    Returns:
        The exit code: 2 if an image of the folder could not be purified.
    """
    start(cache=not no_cache)
    from jaxpurify.purifiers import make

    work = _Work(make(purifier), seed)
    before, after, ending = expanded(source), expanded(target), _ending(format)
    if before.is_dir():
        return _folder(work, before, after, ending, overwrite, progress=False if quiet else None)
    file = _File(before, after, before.name)
    if after.is_dir():
        file = file._replace(target=_renamed(after / before.name, ending))
    elif ending is not None and BY_ENDING.get(after.suffix.lower()) is not BY_ENDING[ending]:
        raise ValueError(f"{after} must end in {ending}, as --format says: give the name with that ending")
    format_of(file.target)
    if file.target.exists() and not overwrite:
        raise ValueError(f"{file.target} is there already: pass --overwrite to replace it")
    check_apart(file.target, [before])
    Record.around(file.target, work.purifier, seed)
    list(work.run([file], refuse=True))
    print(f"purified {printable(before)} into {printable(file.target)}")
    return 0


class _File(NamedTuple):
    source: Path
    target: Path
    name: str


def _ending(name: str | None) -> str | None:
    """Return the ending that the name of a format means."""
    ending = None if name is None else "." + name.lower().removeprefix(".")
    if ending is not None and ending not in BY_ENDING:
        known = ", ".join(each.removeprefix(".") for each in COMMON)
        raise ValueError(f"unknown format {name!r}, expected one such as {known}")
    return ending


def _renamed(path: Path, ending: str | None) -> Path:
    """Return the path with another ending, unless it says that format already."""
    if ending is None or BY_ENDING.get(path.suffix.lower()) is BY_ENDING[ending]:
        return path
    return path.with_name(path.stem + ending)


def _folder(
    work: "_Work", source: Path, target: Path, ending: str | None, overwrite: bool, *, progress: bool | None
) -> int:
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target} is a file, expected a folder since {source} is one")
    if target.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"{target} lies in {source}: choose a folder outside, or its images would be purified again")
    listing = list_images(source)
    files = _files(listing, source, target, ending)
    if len(files) > 1 and work.couples_images:
        raise ValueError(
            f"{work.name} treats the images of a batch alike, and what an image of a folder becomes would depend on "
            "those left to do: purify one file at a time, or an array of all"
        )
    record = Record(target, work.purifier, work.seed)
    record.check([file.target for file in files], overwrite=overwrite)
    waiting = [file for file in files if overwrite or not file.target.exists() or file.target.is_dir()]
    failures = list(listing.broken)
    work.before_writing = record.begin
    with Progress("purifying", len(waiting), enabled=progress) as bar:
        for failure in work.run(waiting, refuse=False):
            bar.advance()
            failures += [failure] if failure else []
    failed = len(failures) - len(listing.broken)
    record.end(whole=not failed)
    print(f"purified {len(waiting) - failed} images of {printable(source)} into {printable(target)}", end="")
    print(f", {len(files) - len(waiting)} were there already" if len(waiting) < len(files) else "", end="")
    others = some(path.name for path in listing.others)
    print(f"; left out what is no image: {others}" if others else "")
    for failure in failures:
        print(f"jaxpurify: {printable(failure)}", file=sys.stderr)
    return 2 if failures else 0


def _files(listing: Listing, source: Path, target: Path, ending: str | None) -> list[_File]:
    """Say where each image of a folder goes; no two to one place, and none to where one of them is."""
    if not listing.images:
        raise ValueError(
            f"{source} holds no images, expected files that end in {', '.join(ENDINGS)}"
            + (f"; {listing.broken[0]}" if listing.broken else "")
        )
    files, places = [], dict[Path, Path]()
    sources = {identity(path) for path in listing.images}
    for path in listing.images:
        name = path.relative_to(source)
        file = _File(path, _renamed(target / name, ending), name.as_posix())
        if file.target in places:
            raise ValueError(f"{places[file.target]} and {path} would both become {file.target}: rename one of them")
        if file.target.exists() and identity(file.target) in sources:
            raise ValueError(f"{file.target} is an image of {source} itself, by a link: choose another folder")
        if path.resolve().is_relative_to(target.resolve()):
            raise ValueError(f"{path} leads into {target}: choose another folder, or it would be purified again")
        places[file.target] = path
        files.append(file)
    return files


class _Read(NamedTuple):
    file: _File
    picture: Picture


class _Work:
    """A purifier at work on files."""

    def __init__(self, purifier: Any, seed: int):
        import jax

        from jaxpurify.models import attribute

        self.purifier, self.seed, self.key = purifier, seed, jax.random.key(seed)
        self.name = getattr(purifier, "name", type(purifier).__name__)
        self.couples_images = attribute(purifier, "couples_images")
        self.before_writing: Any = lambda: None

    def run(self, files: Sequence[_File], *, refuse: bool) -> Iterator[str | None]:
        """Purify files; for each, yield nothing or, unless it is to be raised, what was wrong with it."""
        from jaxpurify import keys
        from jaxpurify.images import deep_as_float
        from jaxpurify.purifiers.apply import purify as apply

        for chunk, failures in self._read(files, refuse):
            yield from failures
            if not chunk:
                continue
            numbers = np.array([zlib.crc32(os.fsencode(each.file.name)) for each in chunk], np.uint32)
            own, images = keys.fold_each(self.key, numbers), [deep_as_float(each.picture.pixels) for each in chunk]
            try:
                purified: Sequence[Any] = apply(self.purifier, images, key=own)
            except (ValueError, MemoryError) as error:
                if refuse and isinstance(error, MemoryError):
                    raise MemoryError(f"{chunk[0].file.source}: {error}") from None
                if refuse:
                    raise
                # One that the purifier cannot take must not stop the others.
                purified = [_attempt(apply, self.purifier, images[i], own[i : i + 1]) for i in range(len(chunk))]
            for (file, picture), image in zip(chunk, purified, strict=True):
                try:
                    if isinstance(image, ValueError | MemoryError):
                        raise ValueError(f"{file.source}: {image}")
                    self.before_writing()
                    _write(file.target, image, picture)
                    yield None
                except (ValueError, OSError) as error:
                    if refuse:
                        raise
                    yield str(error)

    def _read(self, files: Sequence[_File], refuse: bool) -> Iterator[tuple[list[_Read], list[str]]]:
        """Yield files with their images, a bounded number of pixels at a time, and what could not be read or held."""
        chunk: list[_Read] = []
        failures: list[str] = []
        for file in files:
            try:
                if file.target.is_dir():
                    raise ValueError(f"{file.target} is a folder, expected a file or nothing: move it away")
                picture = load(file.source)
                check_held(file.target, picture.pixels.shape, picture.pixels.dtype)
                chunk.append(_Read(file, picture))
            except (ValueError, MemoryError) as error:
                if refuse:
                    raise
                failures.append(_advised(error, file) or f"{file.source} does not fit the memory")
            if len(chunk) == IMAGES or sum(each.picture.pixels[..., 0].size for each in chunk) >= PIXELS:
                yield chunk, failures
                chunk, failures = [], []
        yield chunk, failures


def _advised(error: Exception, file: _File) -> str:
    """Return an error as a sentence whose advice suits a folder."""
    words = str(error)
    if not words.startswith(str(file.target)):
        return words
    what = words.split(", expected one such as")[0].removesuffix(": write a .png or .tif instead")
    return words if what == words else f"{what}: pass --format png"


def _attempt(apply: Any, purifier: Any, image: np.ndarray, key: Any) -> Any:
    """Return the purified image, or the error."""
    try:
        return apply(purifier, image[None], key=key)[0]
    except (ValueError, MemoryError) as error:
        return error


def _write(path: Path, image: np.ndarray, picture: Picture) -> None:
    """Write an image as deep as it was read, with what else its file held."""
    if picture.pixels.dtype == np.uint16:
        levels = np.clip(image, 0, 1)  # in place from here: a copy of a large photograph is 300 MB
        levels *= 65535
        image = np.rint(levels, out=levels).astype(np.uint16)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, image, about=picture.about)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror or error}") from None
