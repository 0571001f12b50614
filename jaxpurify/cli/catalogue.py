"""``jaxpurify list``: everything that the other commands know by name."""

import dataclasses
import shutil
import textwrap
from collections.abc import Mapping
from typing import Any

THREAT_MODELS = {
    "noise": "knows nothing: random perturbations, the floor",
    "blind": "knows the classifier, not the purifier",
    "bpda": "knows both, takes the purifier for the identity going backward",
    "substitute": "knows both, puts the purifier's own surrogate in its place going backward",
    "full": "knows both, exact gradients",
    "blackbox": "queries the defended model: Square",
    "adaptive": "tries all of it: AutoAttack, BPDA, surrogates, transfer, noise, attacks at the boundary",
}
DATA = {
    "photos": "32×32 patches of eight photographs, inside the package: for demonstrations, no evidence",
    "FILE.npz": "arrays `images` and `labels`",
    "FOLDER": "images, a folder a class, or with their labels in a .csv file",
    "NAME": "a data set of TensorFlow Datasets, such as cifar10",
}
DETECTORS = {"feature-squeezing": "Call images adversarial whose probabilities change much when they are squeezed."}
TRAITS = {"random": "random", "changes_size": "changes the size", "couples_images": "couples the images of a batch"}


def catalogue() -> int:
    """Show the purifiers, attacks, threat models, classifiers and data known by name.

    Returns:
        The exit code.
    """
    from jaxpurify import attacks, networks, purifiers
    from jaxpurify.networks.registry import architecture

    _show("Purifiers: --purifier NAME:option=value,option=value; in turn: NAME+NAME", entries(purifiers.names()))
    _show("Detectors: jaxpurify detect --squeezer NAME:option=value", DETECTORS)
    _show("Attacks: --attack NAME:option=value,option=value", entries(attacks.names()))
    _show("Threat models: --threat-model NAME", THREAT_MODELS)
    shipped = {name: "with weights" if architecture(name).shipped else "needs --weights" for name in networks.names()}
    _show("Classifiers: --classifier NAME", shipped)
    _show("Data: --data", DATA)
    return 0


def _show(title: str, entries: Mapping[str, str]) -> None:
    """Print entries: a name and its text in a line, or, where names are long, the text below."""
    width = min(shutil.get_terminal_size().columns, 120)
    longest = max(len(name) for name in entries)
    print(f"{title}\n")
    for name, text in entries.items():
        if longest <= 20:
            lead = f"  {name:<{longest}}  "
            print(textwrap.fill(text, width, initial_indent=lead, subsequent_indent=" " * len(lead)))
            continue
        # Broken after commas only: it shows what is typed.
        wrapped = textwrap.wrap(name.replace(",", ", "), width - 4, break_on_hyphens=False)
        print("\n      ".join(["  " + wrapped[0], *wrapped[1:]]).replace(", ", ","))
        print(textwrap.fill(text, width, initial_indent="      ", subsequent_indent="      "))
    print()


def entries(classes: Mapping[str, type]) -> dict[str, str]:
    """Return what there is to choose from.

    Args:
        classes: classes by name.

    Returns:
        By what to type to get a class with its defaults, what its docstring says first.
    """
    from jaxpurify.specification import fields

    found = {}
    for name, cls in classes.items():
        options = [f"{field}={_value(field, default)}" for field, default in fields(cls).items()]
        made = _with_defaults(cls)
        traits = [words for trait, words in TRAITS.items() if getattr(made, trait, False)]
        summary = (cls.__doc__ or "").strip().splitlines()[0]
        typed = f"{name}:{','.join(options)}" if options else name
        found[typed] = summary + (f" ({', '.join(traits)})" if traits else "")
    return found


def _with_defaults(cls: type) -> Any:
    """Return an instance with its defaults, unchecked, so that nothing is read from files."""
    made: Any = object.__new__(cls)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        object.__setattr__(made, field.name, None if field.default is dataclasses.MISSING else field.default)
    return made


def _value(field: str, default: object) -> str:
    if default is None or isinstance(default, bool):
        return str(default).lower()
    if field == "epsilon" and isinstance(default, float):
        return f"{round(default * 255)}/255"
    return f"{default:g}" if isinstance(default, float) else str(default)
