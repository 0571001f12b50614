"""The records of an evaluation: what they are, as text, and read again."""

import csv
import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jaxpurify import runs

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
ANEW = "start the same evaluation again, which writes it anew"


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


def as_csv(records: Iterable[Record]) -> bytes:
    """Return records as CSV.

    Args:
        records: rows with the keys of ``COLUMNS``.

    Returns:
        UTF-8, with a line of names.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([format_value(record[column]) for column in COLUMNS] for record in records)
    return text.getvalue().encode()


_NUMBERS = {"image": int, "label": int, "forwards": int, "backwards": int, "status": int} | dict.fromkeys(
    ("epsilon", "correct", "selection", "loss", "margin", "distance"), float
)


def read_csv(path: Path) -> list[Record]:
    """Read records.

    Args:
        path: a file that holds records.

    Returns:
        Rows, numbers as numbers and nothing as NaN.

    Raises:
        ValueError: if the file is missing, was cut or has other columns; naming the line where there is one.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({runs.reason(error)}): is this the folder of an evaluation that has begun?"
        ) from None
    if not content.endswith(b"\n"):
        raise ValueError(f"{path} is {'empty' if not content else 'cut off at its end'}: {ANEW}")
    try:
        return parse_csv(content.decode("utf-8"), path)
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text in UTF-8: {ANEW}") from None


def parse_csv(text: str, path: Path) -> list[Record]:
    """Read records of a text.

    Args:
        text: what ``as_csv`` returned.
        path: where it was found, for messages.

    Returns:
        Rows, numbers as numbers and nothing as NaN.

    Raises:
        ValueError: naming the line that is no record.
    """
    reader, records = csv.reader(io.StringIO(text, newline="")), []
    try:
        header = next(reader, [])
        if tuple(header) != COLUMNS:
            raise ValueError(f"{path} has other columns than the records of an evaluation: {ANEW}")
        for row in reader:
            if len(row) != len(COLUMNS):
                raise ValueError(f"{len(row)} values for {len(COLUMNS)} columns")
            records.append({name: _read(name, value) for name, value in zip(COLUMNS, row, strict=True)})
    except (ValueError, csv.Error) as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path} is damaged at line {reader.line_num} ({error}): {ANEW}") from None
    return records


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


# What stands in the arguments of an evaluation and is read again: a type, [type] of a list, (types) of one of that
# length, {str: type} of a dictionary, and {name: type} of one with these names.
_REQUIRED: dict[str, Any] = {
    "data": {"name": str, "images": int},
    "classifier": {"name": str},
    "purifiers": {str: str},
    "undefended": str,
    "attacks": {str: str},
    "threat_models": [str],
    "not_evaluated": [(str, str, str)],
    "noise_draws": int,
}
_OPTIONAL: dict[str, Any] = {
    "demonstration": bool,
    "ordered_classes": bool,
    "class_names": [str],
    "not_tried": [(str, str, str, str)],
    "upper_bounds": [(str, str, str)],
    "agreement": {str: {"reliable": bool, "blind": bool}},
    "per_image_epsilon": {str: {str: float}},
} | {name: [str] for name in ("zero_gradient", "stand_in", "out_of_range", "couples_images", "minimal_norm")}


def check_arguments(arguments: dict[str, Any]) -> None:
    """Refuse arguments of an evaluation that say less, or other things, than is read of them.

    Args:
        arguments: as ``config.json`` holds them.

    Raises:
        ValueError: naming the field.
    """
    for name, wanted in (_REQUIRED | _OPTIONAL).items():
        if name not in arguments and name in _OPTIONAL:
            continue
        if not _fits(arguments.get(name), wanted):
            raise ValueError(f"{name} {'is damaged' if name in arguments else 'is missing'}")
    for name, agreement in arguments.get("agreement", {}).items():
        rho, said = agreement.get("rho"), agreement.get("sentence")
        numbers = isinstance(rho, list) and all(value is None or _fits(value, float) for value in rho)
        if not numbers or not (said is None or isinstance(said, str)):
            raise ValueError(f"agreement of {name} is damaged")
    if arguments["undefended"] not in arguments["purifiers"]:
        raise ValueError("undefended is none of the purifiers")


def _fits(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, list):
        return isinstance(value, list) and all(_fits(each, wanted[0]) for each in value)
    if isinstance(wanted, tuple):
        return isinstance(value, list) and len(value) == len(wanted) and all(map(_fits, value, wanted))
    if isinstance(wanted, dict) and str in wanted:
        return isinstance(value, dict) and all(_fits(each, wanted[str]) for each in value.values())
    if isinstance(wanted, dict):
        return isinstance(value, dict) and all(_fits(value.get(name), each) for name, each in wanted.items())
    if wanted is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool))


def check_records(records: list[Record], arguments: dict[str, Any], path: Path) -> None:
    """Refuse records that are not all those of some images in the evaluation that the arguments are of.

    Args:
        records: of one file.
        arguments: checked.
        path: the file.

    Raises:
        ValueError: saying what does not fit.
    """
    cells: dict[tuple[str, ...], list[int]] = {}
    for number, r in enumerate(records, 2):
        known = r["purifier"] in arguments["purifiers"] and r["threat_model"] in ("clean", *arguments["threat_models"])
        sound = r["image"] >= 0 and 0 <= r["correct"] <= 1 and 0 <= r["selection"] <= 1 and math.isfinite(r["epsilon"])
        if not (known and sound and r["scoring"] in ("single", "mean", "worst", "majority")):
            raise ValueError(f"{path} holds what is no record of this evaluation at line {number}: {ANEW}")
        own = r["attack"] in arguments.get("per_image_epsilon", {}).get(r["threat_model"], {})
        cell = (r["purifier"], r["threat_model"], r["attack"], r["norm"], "" if own else str(r["epsilon"]))
        cells.setdefault((*cell, r["scoring"]), []).append(r["image"])
    images = {tuple(sorted(rows)) for rows in cells.values()}
    clean = {cell[0] for cell in cells if cell[1:3] == ("clean", "none") and cell[-1] in ("single", "mean")}
    whole = all(len(set(rows)) == len(rows) for rows in images)
    if len(images) != 1 or not whole or clean != set(arguments["purifiers"]):
        raise ValueError(f"{path} lacks records of some images, or holds some twice: {ANEW}")
