"""Purifiers and attacks by name: ``name`` or ``name:field=value,field=value``, as the command takes them."""

import dataclasses
import inspect
import re
from collections.abc import Mapping
from typing import Any, NamedTuple


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


class _Option(NamedTuple):
    """What can be written on a command line: the annotation and the default of a field or argument."""

    kind: Any
    default: Any

    def may_be(self, *names: str) -> bool:
        """Say whether the annotation names one of some types."""
        return not {*names}.isdisjoint(re.findall(r"\w+", str(self.kind)))


def fields(cls: type) -> dict[str, Any]:
    """Return what can be written on a command line to construct a class, with the defaults.

    Args:
        cls: a dataclass. One with a class method ``pretrained`` is constructed by it: its arguments come first, and
            the fields of the class that are not among them follow.

    Returns:
        Defaults by name: numbers, strings and booleans, and None for a number or string that may be left out.
    """
    return {name: option.default for name, option in _options(cls).items()}


def _options(cls: type) -> dict[str, _Option]:
    found = {}
    if hasattr(cls, "pretrained"):
        arguments = inspect.signature(cls.pretrained).parameters.values()
        found = {p.name: _Option(p.annotation, p.default) for p in arguments if p.kind is not p.VAR_KEYWORD}
    for field in dataclasses.fields(cls):
        found.setdefault(field.name, _Option(field.type, field.default))
    return {name: option for name, option in found.items() if _writable(option)}


def _writable(option: _Option) -> bool:
    if option.default is None:
        return option.may_be("int", "float", "str")
    return isinstance(option.default, int | float | str | bool)


def make(text: str, classes: Mapping[str, type], *, kind: str) -> Any:
    """Construct what a text such as ``gaussian-smoothing:sigma=1,iterations=10`` names.

    Args:
        text: the name, and after a colon its fields.
        classes: classes by name.
        kind: what the message calls it, such as ``purifier``.

    Returns:
        An instance. ``none`` is no value, for a field that may do without one.

    Raises:
        ValueError: if the name or a field is unknown, a field is given twice, or a value does not fit.
    """
    name, _, rest = text.strip().partition(":")
    if name not in classes:
        raise ValueError(f"unknown {kind} {name!r}, expected one of: {', '.join(sorted(classes))}")
    known, arguments = _options(classes[name]), {}
    for part in filter(None, rest.split(",")):
        field, equals, value = part.partition("=")
        if not equals or field not in known:
            choices = ", ".join(f"{key}={option.default}" for key, option in known.items()) or "no fields"
            raise ValueError(f"{name} does not understand {part!r}, expected field=value with fields among: {choices}")
        if field in arguments:
            raise ValueError(f"{name} was given {field} twice, in {text.strip()!r}: give it once")
        arguments[field] = _value(value, known[field], f"{name}:{field}")
    return getattr(classes[name], "pretrained", classes[name])(**arguments)


def _value(text: str, option: _Option, where: str) -> Any:
    default = option.default
    if text.lower() == "none" and option.may_be("None"):
        return None
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{where} must be true or false, got {text!r}")
        return text.lower() == "true"
    if isinstance(default, str) or (default is None and option.may_be("str")):
        return text
    try:
        value = number(text)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    whole = isinstance(default, int) if default is not None else not option.may_be("float")
    if whole and not isinstance(value, int):
        raise ValueError(f"{where} must be an integer, got {text!r}")
    return value if whole else float(value)
