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
from jaxpurify.cli.start import start
from jaxpurify.datasets.folders import ENDINGS
from jaxpurify.files import check_apart, expanded, identity, printable
from jaxpurify.progress import Progress

IMAGES, PIXELS = 64, 2**22  # read at a time, at most so many or a little more than so many
NAMED = 5


@joined
def purify(
    source: Annotated[conf.Positional[str], conf.arg(metavar="SOURCE")],
    target: Annotated[conf.Positional[str], conf.arg(metavar="TARGET")],
    *,
    purifier: Specification,
    seed: int = 0,
    overwrite: Flag = False,
    no_cache: Flag = False,
    quiet: Flag = False,
) -> int:
    """Purify an image file, or all images in a folder and its subfolders, of any sizes.

    Opacity is kept, and a photograph is turned upright. Images that the target folder has already are left alone, so a
    stopped command goes on when it is typed again.

        jaxpurify purify photo.png clean.png --purifier gaussian-smoothing:sigma=1
        jaxpurify purify photos/ clean/ --purifier bit-depth:bits=4+gaussian-smoothing

    Args:
        source: An image file or a folder.
        target: The file or folder to write; in a folder files keep their names. PNG keeps every pixel, JPEG does not.
        purifier: The purifier, or several in turn with + between them; `jaxpurify list` shows all.
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
    before, after = expanded(source), expanded(target)
    if before.is_dir():
        return _folder(work, before, after, overwrite, progress=False if quiet else None)
    file = after / before.name if after.is_dir() else after
    if file.exists() and not overwrite:
        raise ValueError(f"{file} is there already: pass --overwrite to replace it")
    check_apart(file, [before])
    list(work.run([_File(before, file, before.name)], refuse=True))
    print(f"purified {printable(before)} into {printable(file)}")
    return 0


class _File(NamedTuple):
    source: Path
    target: Path
    name: str


def _folder(work: "_Work", source: Path, target: Path, overwrite: bool, *, progress: bool | None) -> int:
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target} is a file, expected a folder since {source} is one")
    if target.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"{target} lies in {source}: choose a folder outside, or its images would be purified again")
    paths = [path for path in sorted(source.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    images = [path for path in paths if path.suffix.lower() in ENDINGS]
    others = [printable(path.name) for path in paths if path.suffix.lower() not in ENDINGS]
    if not images:
        raise ValueError(f"{source} holds no images, expected files that end in {', '.join(ENDINGS)}")
    files = [_File(path, target / path.relative_to(source), path.relative_to(source).as_posix()) for path in images]
    waiting = [file for file in files if overwrite or not file.target.exists()]
    sources = {identity(file.source) for file in files}
    same = next((file.target for file in waiting if file.target.exists() and identity(file.target) in sources), None)
    if same is not None:
        raise ValueError(f"{same} is an image of {source} itself, by a link: choose another folder")
    failures = []
    with Progress("purifying", len(waiting), enabled=progress) as bar:
        for failure in work.run(waiting, refuse=False):
            bar.advance()
            failures += [failure] if failure else []
    print(f"purified {len(waiting) - len(failures)} images of {printable(source)} into {printable(target)}", end="")
    print(f", {len(files) - len(waiting)} were there already" if len(waiting) < len(files) else "", end="")
    more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
    print(f"; left out what is no image: {', '.join(others[:NAMED])}{more}" if others else "")
    for failure in failures:
        print(f"jaxpurify: {failure}", file=sys.stderr)
    return 2 if failures else 0


class _Work:
    """A purifier at work on files."""

    def __init__(self, purifier: Any, seed: int):
        import jax

        self.purifier, self.key = purifier, jax.random.key(seed)

    def run(self, files: Sequence[_File], *, refuse: bool) -> Iterator[str | None]:
        """Purify files; for each, yield nothing or, unless it is to be raised, what was wrong with it."""
        from jaxpurify import keys
        from jaxpurify.purifiers.apply import purify as apply

        for chunk, images, failures in self._read(files, refuse):
            yield from failures
            if not chunk:
                continue
            numbers = np.array([zlib.crc32(os.fsencode(file.name)) for file in chunk], np.uint32)
            own = keys.fold_each(self.key, numbers)
            try:
                purified: Sequence[Any] = apply(self.purifier, images, key=own)
            except ValueError:
                if refuse:
                    raise
                # One that the purifier cannot take must not stop the others.
                purified = [_attempt(apply, self.purifier, images[i], own[i : i + 1]) for i in range(len(chunk))]
            for file, image in zip(chunk, purified, strict=True):
                try:
                    if isinstance(image, ValueError):
                        raise ValueError(f"{file.source}: {image}")
                    _write(file.target, image)
                    yield None
                except (ValueError, OSError) as error:
                    if refuse:
                        raise
                    yield str(error)

    def _read(self, files: Sequence[_File], refuse: bool) -> Iterator[tuple[list[_File], list[np.ndarray], list[str]]]:
        """Yield files with their images, a bounded number of pixels at a time, and what could not be read."""
        from jaxpurify import images as _images

        chunk: list[_File] = []
        images: list[np.ndarray] = []
        failures: list[str] = []
        for file in files:
            try:
                images.append(_images.read(file.source))
                chunk.append(file)
            except ValueError as error:
                if refuse:
                    raise
                failures.append(str(error))
            if len(chunk) == IMAGES or sum(image.shape[0] * image.shape[1] for image in images) >= PIXELS:
                yield chunk, images, failures
                chunk, images, failures = [], [], []
        yield chunk, images, failures


def _attempt(apply: Any, purifier: Any, image: np.ndarray, key: Any) -> Any:
    """Return the purified image, or the error."""
    try:
        return apply(purifier, image[None], key=key)[0]
    except ValueError as error:
        return error


def _write(path: Path, image: np.ndarray) -> None:
    from jaxpurify import images as _images

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _images.write(path, image)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror or error}") from None
