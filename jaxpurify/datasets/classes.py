"""Names and numbers of classes: how labels are read, and how those of a data set and of a classifier are matched."""

import re
from collections.abc import Iterable, Mapping, Set
from typing import Any

import numpy as np

from jaxpurify import images as _images

MOST = 1_000_000  # classes; what counts further is a date, an identifier or a value that stands for "unknown"
SHOWN = 3
_LEADING = re.compile(r"(\d+)[\s_.:()-]+[^\W\d_]")  # "0_cat", "07 - dog"
_PRINTED = re.compile(r"((np|numpy|torch|jnp|<?tf)\.)?(array|tensor|u?int\d*|float\d*)?[\[(]+\s*[-+.\d].*[\])>]", re.I)


def as_names(names: Any, *, name: str = "class_names") -> tuple[str, ...]:
    """Read the names of classes.

    Args:
        names: a sequence of texts, of bytes in UTF-8, or of numbers.
        name: what an error message calls them.

    Returns:
        Their texts.

    Raises:
        TypeError: if it is not a sequence of those.
        ValueError: if bytes are not UTF-8.
    """
    unordered = isinstance(names, str | bytes | Mapping | Set) or getattr(names, "ndim", 1) != 1
    several = isinstance(names, Iterable) and not unordered
    if not several or not all(isinstance(each, str | bytes | int | float | np.number) for each in names):
        raise TypeError(f"{name} must be a sequence of names such as ('cat', 'dog'), got {names!r}")
    try:
        return tuple(each.decode() if isinstance(each, bytes) else str(each) for each in names)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name} must be text in UTF-8, got bytes that are not ({error}): write them as text"
        ) from None


def class_number(text: str) -> int | None:
    """Read a class number from 0, as a folder is called or a table holds it.

    Args:
        text: such as "3", "+3", "003", "3.0" or "3e0", which are all 3.

    Returns:
        The number, or None where the text is a name, or a number that no class can have: -1, 2.5, NaN, a million.
    """
    value = _float(text)
    return int(value) if value is not None and value.is_integer() and 0 <= value < MOST else None


def _float(text: str) -> float | None:
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def numbered(labels: Mapping[str, str], *, class_names: tuple[str, ...] | None = None) -> tuple[dict[str, int], tuple]:
    """Number labels that are texts.

    Without ``class_names``, labels that are whole numbers are class numbers, and names count in their sorted order, or
    in that of the numbers 0, 1, … with which all of them begin ("0_cat", "1_dog"). With ``class_names``, a label is one
    of the names or, where the names are words, the number of one.

    Args:
        labels: each label that occurs, and where, for messages.
        class_names: all classes in order, or None.

    Returns:
        The number of each label, and the names of all classes.

    Raises:
        ValueError: if a label is not one of the classes, is a number that no class can have or a printed array, or some
            labels are numbers and others names.
    """
    if class_names is not None:
        return {label: _looked_up(label, where, class_names) for label, where in labels.items()}, class_names
    for label, where in labels.items():
        if _PRINTED.fullmatch(label.strip()):
            raise ValueError(
                f"{where}: a label must be a class's name or number, got {label!r}, which looks like a printed array: "
                "write the number alone, such as int(label)"
            )
    numbers = {label: class_number(label) for label in labels if _float(label) is not None}
    if not numbers:
        names = tuple(sorted(labels))
        order = _leading_numbers(names)
        names = names if order is None else tuple(sorted(names, key=dict(zip(names, order, strict=True)).__getitem__))
        return {label: number for number, label in enumerate(names)}, names
    for label, where in sorted(labels.items(), key=lambda entry: entry[0] not in numbers):  # impossible numbers first
        if numbers.get(label) is None:
            raise ValueError(
                f"{where}: a label must be a whole number from 0 to {MOST - 1} where any is a number, got {label!r}: "
                "leave unlabelled images out, or pass class_names= with all classes"
            )
    found = {label: number for label, number in numbers.items() if number is not None}
    return found, tuple(map(str, range(max(found.values()) + 1)))


def _looked_up(label: str, where: str, class_names: tuple[str, ...]) -> int:
    """Return the number of a label: by name, else by the number that it is."""
    places = [number for number, name in enumerate(class_names) if name == label]
    number = class_number(label)
    if not places and number is not None:
        places = [place for place, known in enumerate(_called(class_names)) if known == number]
    if len(places) == 1:
        return places[0]
    if places:
        raise ValueError(f"{where}: the label {label!r} is the name of classes {places}: make class_names unique")
    raise ValueError(
        f"{where} has the label {label!r}, expected one of {len(class_names)} classes: "
        f"{_some(class_names, 10)}; rename it, or give the number of its class"
    )


def counted(labels: np.ndarray, *, name: str = "labels") -> tuple[str, ...]:
    """Name classes that have numbers alone: "0", "1", … up to the largest label.

    Args:
        labels: integers; others are left for ``Dataset`` to judge.
        name: what an error message calls them.

    Returns:
        The names.

    Raises:
        ValueError: if a label is negative or too large to be a class number.
    """
    if not np.issubdtype(labels.dtype, np.integer) or not labels.size:
        return ()
    for worst in (labels.min(), labels.max()):
        if not 0 <= worst < MOST:
            raise ValueError(
                f"{name} must be class numbers from 0 to {MOST - 1}, got {worst}: leave unlabelled images out"
            )
    return tuple(map(str, range(int(labels.max()) + 1)))


def are_numbers(names: tuple[str, ...]) -> bool:
    """Say whether classes have no names but their own numbers, in order.

    Args:
        names: of the classes.

    Returns:
        Whether they are "0", "1", and so on.
    """
    return all(class_number(name) == number for number, name in enumerate(names))


def matched_labels(
    labels: np.ndarray,
    names: tuple[str, ...] | None,
    known: tuple[str, ...] | None,
    *,
    data: str = "data",
    classifier: str = "the classifier",
) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Number labels as a classifier numbers its classes.

    Where both have names, classes are matched by name; capitals, spaces, ``_`` and ``-`` do not matter where that
    leaves one choice. Names that are numbers are compared as numbers ("07" is "7"), and then only classes that occur
    need be there; against words, they are the numbers of the classifier's outputs. Labels stand as they are where one
    side has no names, or the classifier's are 0, 1, … and the data's words.

    Args:
        labels: integers, shape ``(images,)``, counted as ``names`` are.
        names: the data's classes, or None.
        known: the classifier's classes, or None.
        data: what an error message calls the data.
        classifier: what an error message calls the classifier.

    Returns:
        The labels (the same array where nothing changes) and the names that go with them.

    Raises:
        ValueError: if a class of the data is not one of the classifier's, or could be several.
    """
    if not names or not known or names == known:
        return labels, known or names
    ours, theirs = _numbers(names), _called(known)
    by_number = ours is not None and (_has_number(names) or _has_number(known))
    if ours is not None and by_number:
        places = [[place for place, number in enumerate(theirs) if number == own] for own in ours]
    elif are_numbers(known) and not _has_number(names):
        check_class_count(names, len(known), data=data, classifier=classifier)
        return labels, names
    else:
        alike = [_plain(name) for name in known]
        places = [_where(name, known) or _where(_plain(name), alike) for name in names]
    met = set(labels.tolist()) if by_number and isinstance(theirs, list) else range(len(names))
    sought = [(name, found) for number, (name, found) in enumerate(zip(names, places, strict=True)) if number in met]
    unknown = tuple(name for name, found in sought if not found)
    first = [found[0] for _, found in sought if found]
    unsure = tuple(name for name, found in sought if len(found) > 1 or (found and first.count(found[0]) > 1))
    if unknown or unsure:
        at_fault = f"{_some(unknown)} not among them" if unknown else f"{_some(unsure)} without one class of their own"
        raise ValueError(
            f"{classifier} tells apart {_listed(known)}, got {data} with {_listed(names)}, {at_fault}: rename the "
            "classes as the classifier has them, or give their numbers there as labels, without names"
        )
    if are_numbers(names) and not isinstance(theirs, list):
        return labels, known
    _images.check_labels(labels, len(labels), classes=len(names), name=f"labels of {data}")
    return np.array([found[0] if found else -1 for found in places], np.int32)[labels], known


def are_ordered(names: tuple[str, ...] | None, known: tuple[str, ...] | None) -> bool:
    """Say whether labels are taken in the order of the data's names, since the classifier does not name its classes.

    Args:
        names: the data's classes, or None.
        known: the classifier's classes, or None.

    Returns:
        Whether the data's names are words, and the classifier has none, or the numbers 0, 1, ….
    """
    return bool(names) and not _has_number(names or ()) and (not known or are_numbers(known))


def check_class_count(
    names: tuple[str, ...] | None, classes: int, *, data: str = "data", classifier: str = "the classifier"
) -> None:
    """Check that names in an order of their own are those of all classes that a classifier tells apart.

    A classifier without names cannot be matched by name. Where it tells apart more classes than the data have, the
    labels, which count the data's classes, would mean others.

    Args:
        names: of the classes that labels count, or None.
        classes: number of the classifier's outputs.
        data: what an error message calls the data.
        classifier: what an error message calls the classifier.

    Raises:
        ValueError: if their numbers differ.
    """
    if names and not are_numbers(names) and len(names) != classes:
        raise ValueError(
            f"{classifier} tells apart {classes} classes without names, got {data} with {_listed(names)}, so labels "
            "cannot be matched: give the classifier its class_names, or labels their numbers there, without names"
        )


def check_same_classes(one: Any, other: Any, *, names: tuple[str, str]) -> None:
    """Refuse two models whose classes have other names, or the same in another order, where both say them.

    Args:
        one: a model, perhaps with ``class_names``.
        other: another.
        names: what messages call them.

    Raises:
        TypeError: if what a model has for names is not a sequence of names.
        ValueError: naming the first class that differs.
    """
    known = [getattr(model, "class_names", None) for model in (one, other)]
    if any(each is None for each in known):
        return
    first, second = (as_names(each, name=f"class_names of {name}") for each, name in zip(known, names, strict=True))
    numbers = _numbers(first), _numbers(second)
    if None not in numbers and (_has_number(first) or _has_number(second)):
        plain: tuple[list, ...] = (numbers[0] or [], numbers[1] or [])
    elif are_numbers(first) or are_numbers(second):
        return
    else:
        plain = [*map(_plain, first)], [*map(_plain, second)]
    if plain[0] == plain[1]:
        return
    place = next((i for i, (a, b) in enumerate(zip(*plain, strict=False)) if a != b), None)
    what = (
        f"{len(first)} and {len(second)} of them"
        if place is None
        else f"{first[place]!r} and {second[place]!r} as class {place}"
    )
    raise ValueError(
        f"{names[0]} and {names[1]} must have the same classes in the same order, got {what}: reorder the logits of one"
    )


def _has_number(names: tuple[str, ...]) -> bool:
    return any(class_number(name) is not None for name in names)


def _numbers(names: tuple[str, ...]) -> list[int] | None:
    """Return the numbers that names are or, where those are 0, 1, …, begin with; None where they are words."""
    wholes = [number for name in names if (number := class_number(name)) is not None]
    return wholes if len(wholes) == len(names) else _leading_numbers(names)


def _called(names: tuple[str, ...]) -> list[int | None] | range:
    """Return by what number each class is called: its name's where any name is a number, else its place."""
    if _has_number(names):
        return [class_number(name) for name in names]
    numbers = _leading_numbers(names)
    return range(len(names)) if numbers is None else [*numbers]


def _leading_numbers(names: tuple[str, ...]) -> list[int] | None:
    """Return the numbers 0, 1, … with which all names begin, each with one of its own, or None."""
    numbers = [int(found[1]) for name in names if (found := _LEADING.match(name.strip()))]
    return numbers if sorted(numbers) == list(range(len(names))) else None


def _plain(name: str) -> str:
    return " ".join(re.split(r"[\s_-]+", name.casefold().strip()))


def _where(name: str, names: Any) -> list[int]:
    return [place for place, each in enumerate(names) if each == name]


def _some(names: tuple[str, ...], count: int = SHOWN) -> str:
    return ", ".join(names[:count]) + (", …" if len(names) > count else "")


def _listed(names: tuple[str, ...]) -> str:
    return f"{len(names)} class{'es' if len(names) != 1 else ''} ({_some(names)})"
