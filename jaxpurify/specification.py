"""Purifiers and attacks by name: ``name`` or ``name:field=value,field=value``, as the command takes them."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any


def number(text: str) -> float | int:
    """Read a number, a fraction such as ``8/255`` included.

    Args:
        text: the number.

    Returns:
        An integer where it is written as one, else a float.

    Raises:
        ValueError: if it is no number.
    """
    try:
        return int(text)
    except ValueError:
        pass
    top, slash, bottom = text.partition("/")
    try:
        return float(top) / float(bottom) if slash else float(text)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"expected a number such as 8, 0.5 or 8/255, got {text!r}") from None


def fields(cls: type) -> dict[str, Any]:
    """Return the fields of a class that can be written on a command line, with their defaults.

    Args:
        cls: a dataclass.

    Returns:
        Defaults by name: numbers, strings and booleans, and None for a number that may be left out.
    """
    found = {}
    for field in dataclasses.fields(cls):
        optional_number = field.default is None and _numbers(field)
        if optional_number or isinstance(field.default, int | float | str | bool):
            found[field.name] = field.default
    return found


def make(text: str, classes: Mapping[str, type], *, kind: str) -> Any:
    """Construct what a text such as ``gaussian-smoothing:sigma=1,iterations=10`` names.

    Args:
        text: the name, and after a colon its fields.
        classes: classes by name.
        kind: what the message calls it, such as ``purifier``.

    Returns:
        An instance. ``none`` is no value, for a field that may do without one.

    Raises:
        ValueError: if the name or a field is unknown, or a value does not fit.
    """
    name, _, rest = text.strip().partition(":")
    if name not in classes:
        raise ValueError(f"unknown {kind} {name!r}, expected one of: {', '.join(sorted(classes))}")
    known, arguments = fields(classes[name]), {}
    declared = {field.name: field for field in dataclasses.fields(classes[name])}
    for part in filter(None, rest.split(",")):
        field, equals, value = part.partition("=")
        if not equals or field not in known:
            choices = ", ".join(f"{key}={default}" for key, default in known.items()) or "no fields"
            raise ValueError(f"{name} does not understand {part!r}, expected field=value with fields among: {choices}")
        arguments[field] = _value(value, known[field], declared[field], f"{name}:{field}")
    return classes[name](**arguments)


def _numbers(field: Any) -> set[str]:
    """Return which kinds of numbers a field's annotation names."""
    return {"int", "float"} & set(re.findall(r"\w+", str(field.type)))


def _value(text: str, default: Any, field: Any, where: str) -> Any:
    if text.lower() == "none" and "None" in str(field.type):
        return None
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{where} must be true or false, got {text!r}")
        return text.lower() == "true"
    if isinstance(default, str):
        return text
    try:
        value = number(text)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    whole = isinstance(default, int) if default is not None else "float" not in _numbers(field)
    if whole and not isinstance(value, int):
        raise ValueError(f"{where} must be an integer, got {text!r}")
    return value if whole else float(value)
