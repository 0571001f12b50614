"""An evaluation on disk: written as it goes, each file whole or not at all, and taken up again where it was left."""

import csv
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jaxpurify import files
from jaxpurify.environment import environment
from jaxpurify.files import write_json

COLUMNS = (
    "image",
    "label",
    "purifier",
    "threat_model",
    "attack",
    "norm",
    "epsilon",
    "scoring",
    "correct",
    "selection",
    "prediction",
    "loss",
    "margin",
    "distance",
    "forwards",
    "backwards",
    "status",
)
Record = dict[str, Any]
NOT_FINITE = 2  # the status of an image about which the search, or the defended model, met NaN or infinity
UNRELIABLE = 3  # of one that stands where the search met a gradient of zero alone


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


class RunFolder:
    """The folder of one evaluation: ``config.json``, parts, adversarial images, examples; then what is drawn from them.

    Args:
        path: the folder; made if it is not there.
        config: every argument; a folder that holds another evaluation is refused.

    Raises:
        ValueError: if the folder cannot be written, or holds another evaluation; nothing is written then.
    """

    def __init__(self, path: str | os.PathLike, config: dict[str, Any]):
        self.path = files.expanded(path)
        existing = self.path / "config.json"
        config = json.loads(json.dumps(config))
        before = read_config(self.path) if existing.exists() else None
        if before is not None:
            changed = differences(before["arguments"], config)
            if changed:
                raise ValueError(
                    f"run folder {path} holds an evaluation with other {', '.join(changed)}: "
                    "give the same arguments to take it up again, or choose another folder"
                )
        try:
            (self.path / "parts").mkdir(parents=True, exist_ok=True)
            (self.path / "parts" / ".writable").touch()
            (self.path / "parts" / ".writable").unlink()
            self._write_config(existing, config, before)
        except OSError as error:
            raise ValueError(
                f"run folder {path} cannot be written: {error.strerror}; choose another with run="
            ) from None

    @staticmethod
    def _write_config(path: Path, config: dict[str, Any], before: dict[str, Any] | None) -> None:
        here = environment()
        if before is None:
            write_json(path, {"arguments": config, "environment": here})
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
        differ if they are further apart than rounding makes them, and are named only if nothing explains them.
    """
    first, second = _without_places(before), _without_places(now)
    names = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
    if "answers" in names:
        names.remove("answers")
        if not names and not _close(first.get("answers"), second.get("answers")):
            return ["classifier or purifiers (they answer otherwise on the first image)"]
    return [name.replace("_", " ") for name in names]


def _without_places(config: dict[str, Any]) -> dict[str, Any]:
    config = {name: value for name, value in config.items() if name not in _MEASURED}
    for section, name in _PLACES:
        if isinstance(config.get(section), dict):
            config[section] = {key: value for key, value in config[section].items() if key != name}
    return config


def _close(first: Any, second: Any) -> bool:
    if not (isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys()):
        return False
    pairs = [(np.asarray(first[name], float), np.asarray(second[name], float)) for name in first]
    return all(
        one.shape == other.shape and np.allclose(one, other, rtol=1e-3, atol=1e-3, equal_nan=True)
        for one, other in pairs
    )


def format_value(value: Any) -> str:
    """Return a value as records hold it: six significant digits, nothing for NaN.

    Args:
        value: a number, string or boolean.

    Returns:
        Text.
    """
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else f"{value:.6g}"
    return str(value)


def write_csv(path: Path, records: Iterable[Record]) -> None:
    """Write records as CSV, whole or not at all.

    Args:
        path: where to.
        records: rows with the keys of ``COLUMNS``.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([format_value(record[column]) for column in COLUMNS] for record in records)
    write_whole(path, lambda file: file.write(text.getvalue().encode()))


_NUMBERS = {"image": int, "label": int, "forwards": int, "backwards": int, "status": int} | dict.fromkeys(
    ("epsilon", "correct", "selection", "loss", "margin", "distance"), float
)


def read_csv(path: Path) -> list[Record]:
    """Read records.

    Args:
        path: a file that ``write_csv`` wrote.

    Returns:
        Rows, numbers as numbers and nothing as NaN.

    Raises:
        ValueError: if the file is missing or has other columns.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
    except (OSError, ValueError):
        raise ValueError(f"{path} cannot be read: is this the folder of an evaluation that has begun?") from None
    if tuple(header) != COLUMNS or any(len(row) != len(COLUMNS) for row in rows):
        raise ValueError(f"{path} has other columns than the records of an evaluation, expected {', '.join(COLUMNS)}")
    return [{name: _read(name, value) for name, value in zip(COLUMNS, row, strict=True)} for row in rows]


def rounded(record: Record) -> Record:
    """Return a record as it comes back from disk, so that kept and unkept evaluations are alike.

    Args:
        record: one row.

    Returns:
        Numbers with six significant digits.
    """
    return {name: _read(name, format_value(record[name])) for name in COLUMNS}


def _read(name: str, value: str) -> Any:
    convert = _NUMBERS.get(name)
    return value if convert is None else float("nan") if value == "" else convert(value)


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
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        if isinstance(config["arguments"], dict) and isinstance(config["environment"], dict):
            return config
    except (OSError, ValueError, TypeError, KeyError):
        pass
    raise ValueError(f"{path} holds no readable config.json: is it the folder of an evaluation?")
