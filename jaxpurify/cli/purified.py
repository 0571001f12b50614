"""What purified the images of a folder, so that those of two purifiers never mix in one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxpurify.files import write_json
from jaxpurify.listing import list_images, some
from jaxpurify.runs import parse

NAME = ".jaxpurify.json"


class Record:
    """A folder's record of the purifier whose images it holds.

    Args:
        folder: the folder, which need not exist.
        purifier: the purifier at work.
        seed: its seed.
    """

    def __init__(self, folder: Path, purifier: Any, seed: int):
        from jaxpurify.evaluation.identity import describe, fingerprint
        from jaxpurify.models import attribute

        self.path = folder / NAME
        self.now: dict[str, Any] = {"purifier": describe(purifier), "numbers": fingerprint(purifier)}
        self.now |= {"seed": seed} if attribute(purifier, "random") else {}
        self.before = _read(self.path)
        self.begun = False

    @classmethod
    def around(cls, file: Path, purifier: Any, seed: int) -> None:
        """Refuse to write a file into a folder with images of another purifier.

        Args:
            file: what is to be written.
            purifier: the purifier at work.
            seed: its seed.

        Raises:
            ValueError: if the folder, or one that it lies in, is recorded as another purifier's.
        """
        folder = next((each for each in file.absolute().parents if (each / NAME).exists()), None)
        if folder is not None:
            record = cls(folder, purifier, seed)
            if record.before != record.now:
                raise ValueError(f"{folder} holds images of {record._other()}: choose another place")

    def check(self, targets: Sequence[Path], *, overwrite: bool) -> None:
        """Refuse to mix.

        Args:
            targets: what is to be written.
            overwrite: whether what is there of these is to be replaced.

        Raises:
            ValueError: if images of another purifier, or of nobody knows which, would stay beside those to be written.
        """
        if self.before == self.now or not self.path.parent.is_dir():
            return
        there = [path for path in targets if path.is_file()]
        if not overwrite and (there or self.before is not None):
            raise ValueError(
                f"{self.path.parent} holds images of {self._other()}: choose another folder, or pass --overwrite to "
                "replace them"
            )
        left = sorted(set(list_images(self.path.parent).images) - set(targets)) if self.before is not None else []
        if left:
            raise ValueError(
                f"{self.path.parent} holds images of {self._other()} that would stay ({some(left)}): choose another "
                "folder"
            )

    def begin(self) -> None:
        """Write, before the first image, whose images these are.

        Raises:
            ValueError: if it cannot be written.
        """
        if not self.begun and self.before != self.now:
            self._write({"overwriting": self._other()} if self.before is not None else {})
        self.begun = True

    def end(self, *, whole: bool) -> None:
        """Write, where all was replaced, that nothing else is left.

        Args:
            whole: whether every image was written.

        Raises:
            ValueError: if it cannot be written.
        """
        if self.begun and whole and self.before is not None and self.before != self.now:
            self._write({})

    def _write(self, further: dict[str, Any]) -> None:
        try:
            write_json(self.path, self.now | further)
        except OSError as error:
            raise ValueError(f"{self.path} cannot be written: {error.strerror or error}") from None

    def _other(self) -> str:
        """Name the purifier of the record."""
        if self.before is None:
            return "which no record says what made them"
        if "overwriting" in self.before:
            return f"two purifiers, since a command that replaced those of {self.before['overwriting']} was stopped"
        seed = f" with seed {self.before['seed']}" if "seed" in self.before else ""
        return f"{self.before.get('purifier', 'an unknown purifier')}{seed}"


def _read(path: Path) -> dict[str, Any] | None:
    """Return what a record says; one that is damaged says nothing that fits."""
    try:
        found = parse(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
