"""An evaluation on disk: written as it goes, each file whole or not at all, and taken up again where it was left."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jaxpurify import files, runs
from jaxpurify.environment import environment
from jaxpurify.evaluation.records import COLUMNS as COLUMNS
from jaxpurify.evaluation.records import NOT_FINITE as NOT_FINITE
from jaxpurify.evaluation.records import UNRELIABLE as UNRELIABLE
from jaxpurify.evaluation.records import Record as Record
from jaxpurify.evaluation.records import as_csv, parse_csv
from jaxpurify.evaluation.records import format_value as format_value
from jaxpurify.evaluation.records import read_csv as read_csv
from jaxpurify.evaluation.records import rounded as rounded
from jaxpurify.files import write_json


def write_whole(path: Path, write: Callable[[Any], Any]) -> None:
    """Write a file of the run whole or not at all, and its folder where that is not there.

    Args:
        path: where to.
        write: called with a binary file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_whole(path, write)


# What says where something was found, and not what it is.
_PLACES = (("data", "name"), ("classifier", "name"))
# What follows from the rest, and was measured in floating point.
_MEASURED = ("agreement", "stand_in", "upper_bounds")
# Of what a run folder holds. 2: parts carry the identity of their evaluation, and all of the weights is compared.
FORMAT = 2


class RunFolder:
    """The folder of one evaluation: ``config.json``, parts, adversarial images, examples; then what is drawn from them.

    It is claimed until it is closed; a context manager.

    Args:
        path: the folder; made if it is not there.
        config: every argument; a folder that holds another evaluation is refused.

    Raises:
        ValueError: if the folder cannot be written, is being written to by another process, or holds another
            evaluation; nothing is written then.
    """

    def __init__(self, path: str | os.PathLike, config: dict[str, Any]):
        self.path = files.expanded(path)
        config = json.loads(json.dumps(config))
        self.identity = runs.identity(_identifying(config))
        self._check(path, config)  # before the folder is made or claimed
        try:
            (self.path / "parts").mkdir(parents=True, exist_ok=True)
            self._lock = runs.lock_folder(self.path)
        except OSError as error:
            raise ValueError(_unwritable(path, error)) from None
        try:
            before = self._check(path, config)
            with tempfile.TemporaryFile(dir=self.path / "parts"):
                pass
            self._write_config(config, before)
        except OSError as error:
            self.close()
            raise ValueError(_unwritable(path, error)) from None
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the folder."""
        self._lock.close()

    def _check(self, path: Any, config: dict[str, Any]) -> dict[str, Any] | None:
        """Return the configuration that the folder holds, and refuse another evaluation's."""
        if not os.path.lexists(self.path / "config.json"):
            self._check_orphans(path)
            return None
        before = read_config(self.path)
        if before.get("format", 1) != FORMAT:
            raise ValueError(
                f"run folder {path} was written by another version of jaxpurify, whose parts do not say which "
                "weights they are of: its report can be drawn with `jaxpurify report`, but it cannot be taken up "
                "again; choose another folder"
            )
        changed = differences(before["arguments"], config)
        if changed:
            raise ValueError(
                f"run folder {path} holds an evaluation with other {', '.join(changed)}: "
                "give the same arguments to take it up again, or choose another folder"
            )
        self.identity = runs.identity(_identifying(before["arguments"]))
        return before

    def _check_orphans(self, path: Any) -> None:
        """Refuse a folder that has lost its configuration, unless its parts say that they are of this evaluation."""
        found = sorted((self.path / "parts").glob("*.csv"))
        known = [self._opened(part) is not None for part in found]
        if (self.path / "records.csv").exists() if not found else not all(known):
            name = "records.csv" if not found else f"parts/{found[known.index(False)].name}"
            raise ValueError(
                f"run folder {path} has no config.json, and {name} does not say that it is of this evaluation: put "
                "config.json back, or choose another folder"
            )

    def _write_config(self, config: dict[str, Any], before: dict[str, Any] | None) -> None:
        here, path = environment(), self.path / "config.json"
        if before is None:
            whole = {"format": FORMAT, "arguments": config, "sha256": runs.identity(config), "environment": here}
            write_json(path, whole)
        elif here not in (known := [before["environment"], *before.get("taken_up_in", [])]):
            # Other versions may give other bits: a reader should know.
            write_json(path, before | {"taken_up_in": [*known[1:], here]})

    def part(self, *names: Any) -> Path:
        """Return the path of a part: the records of one purifier, threat model, attack, size and batch.

        Args:
            names: what the part is, in words and numbers.

        Returns:
            A path in ``parts/``.
        """
        return self.path / "parts" / f"{unique_slug(*names)}.csv"

    def write_part(self, path: Path, records: Iterable[Record]) -> None:
        """Write a part: records, and a last line that says of which evaluation they are and how they were written.

        Args:
            path: what ``part`` returned.
            records: its rows.
        """
        text = as_csv(records)
        write_whole(path, lambda file: file.write(text + self._seal(text)))

    def read_part(self, path: Path) -> list[Record] | None:
        """Read a part.

        Args:
            path: what ``part`` returned.

        Returns:
            Its rows; None where it is not there, was cut or changed, or is of another evaluation.

        Raises:
            ValueError: if the file system does not let it be read.
        """
        text = self._opened(path)
        return None if text is None else parse_csv(text.decode(), path)

    def _seal(self, text: bytes) -> bytes:
        return f"# {self.identity} {hashlib.sha256(text).hexdigest()}\n".encode()

    def _opened(self, path: Path) -> bytes | None:
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ValueError(f"{path} cannot be read ({runs.reason(error)}): it should be a file of records") from None
        text = content[: content.rfind(b"\n", 0, -1) + 1]
        return text if content == text + self._seal(text) else None

    def write_records(self, records: Iterable[Record]) -> None:
        """Write ``records.csv``.

        Args:
            records: all rows, in order.
        """
        write_csv(self.path / "records.csv", records)

    def save_images(self, name: str, **arrays: Any) -> None:
        """Save arrays as ``name.npz``.

        Args:
            name: path in the folder, without ending.
            arrays: what to save.
        """
        write_whole(self.path / f"{name}.npz", lambda file: np.savez_compressed(file, **arrays))


def slug(text: str) -> str:
    """Return a text as a file name.

    Args:
        text: any text.

    Returns:
        Lower-case letters, digits and hyphens.
    """
    plain = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in text.lower())
    return "-".join(filter(None, plain.split("-")))[:120]


def unique_slug(*names: Any) -> str:
    """Return names as one file name that no other names have, readable at its beginning.

    Args:
        names: texts and numbers.

    Returns:
        A ``slug`` and a hash.
    """
    texts = [str(name) for name in names]
    return f"{slug('-'.join(texts))}-{hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:8]}"


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Say in what two evaluations differ.

    Args:
        before: arguments as ``config.json`` holds them.
        now: others.

    Returns:
        Names of what differs. Where data and weights were found makes no difference, what they hold does. Answers
        are named only if nothing explains them: of models that cannot be seen into any difference, of others one
        that is more than rounding makes.
    """
    first, second = _without_places(before), _without_places(now)
    names = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
    others = [name for name in names if name not in ("answers", "logits")]
    if names and not others:
        same = first.get("logits") == second.get("logits") and _close(first.get("answers"), second.get("answers"))
        return [] if same else ["classifier or purifiers (they answer otherwise on the first image)"]
    return [name.replace("_", " ") for name in others]


def _without_places(config: dict[str, Any]) -> dict[str, Any]:
    config = {name: value for name, value in config.items() if name not in _MEASURED}
    for section, name in _PLACES:
        if isinstance(config.get(section), dict):
            config[section] = {key: value for key, value in config[section].items() if key != name}
    return config


def _identifying(config: dict[str, Any]) -> dict[str, Any]:
    """Return what makes an evaluation the same on every machine: answers are rounded otherwise on another."""
    return {name: value for name, value in _without_places(config).items() if name != "answers"}


def _unwritable(path: Any, error: OSError) -> str:
    return f"run folder {path} cannot be written: {runs.reason(error)}; choose another with run="


def _close(first: Any, second: Any) -> bool:
    if not (isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys()):
        return False
    try:
        pairs = [(np.asarray(first[name], float), np.asarray(second[name], float)) for name in first]
    except (TypeError, ValueError):
        return False
    return all(
        one.shape == other.shape
        # Rounding is relative to the largest: smaller ones are differences of numbers of its size.
        and np.allclose(one, other, rtol=1e-3, atol=2e-4 * np.nanmax(np.abs(other), initial=0), equal_nan=True)
        for one, other in pairs
    )


def write_csv(path: Path, records: Iterable[Record]) -> None:
    """Write records as CSV, whole or not at all.

    Args:
        path: where to.
        records: rows with the keys of ``COLUMNS``.
    """
    text = as_csv(records)
    write_whole(path, lambda file: file.write(text))


def read_config(path: Path) -> dict[str, Any]:
    """Read a run folder's ``config.json``.

    Args:
        path: the folder.

    Returns:
        ``arguments`` and ``environment``.

    Raises:
        ValueError: if it is missing or no JSON.
    """
    try:
        return runs.read_config(path)
    except ValueError as error:
        raise ValueError(
            f"{path} holds no readable config.json ({error}): is it the folder of an evaluation? If so, put the file "
            "back, or move what is left of it away and start the same evaluation again, which writes it anew"
        ) from None
