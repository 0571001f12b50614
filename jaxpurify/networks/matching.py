"""Which registered network weights belong to, and what to say where it is none."""

from collections.abc import Iterable
from typing import NamedTuple

from jaxpurify.networks import weights
from jaxpurify.networks.registry import ARCHITECTURES, Shapes, architecture, expected, identify, known_names, trained


class Fit(NamedTuple):
    """The registered network that weights fit, and what has to be taken off the beginning of all their names."""

    architecture: str
    prefix: str


def fit(shapes: Shapes) -> Fit | None:
    """Find the registered network that weights belong to, whatever all their names begin with.

    Args:
        shapes: name → shape, as in a state dict.

    Returns:
        The network and the beginning, or None.
    """
    for prefix in weights.prefixes(shapes):
        found = identify(weights.without(shapes, prefix))
        if found:
            return Fit(found, prefix)
    return None


def advice(shapes: Shapes) -> str:
    """Say of weights that fit no registered network what may be the matter with them.

    Args:
        shapes: name → shape, as in a state dict.

    Returns:
        Parts of a sentence; empty where there is nothing to say.
    """
    shared = _shared(shapes)
    said = [f"all names begin with {weights.shown(shared)}"] if shared else []
    for prefix, found in parts(shapes).items():
        begin, key = weights.shown(prefix), weights.shown(prefix[:-1])
        said.append(f"those that begin with {begin} fit {found}, and key {key} takes them alone")
    close = _nearest(shapes) if len(said) == bool(shared) else None
    if close:
        said.append(f"the nearest network is {close.architecture}, with {_mismatch(*close, shapes)}")
    return "; ".join(said)


def parts(shapes: Shapes) -> dict[str, str]:
    """Find the registered networks that a part of some weights fits.

    Args:
        shapes: name → shape, as in a state dict.

    Returns:
        Beginning of the names of the part, up to a dot → name of the network.
    """
    beginnings = {name[: place + 1] for name in shapes for place, mark in enumerate(name) if mark == "."}
    found = {}
    for prefix in sorted(beginnings):
        part = {name[len(prefix) :]: shape for name, shape in shapes.items() if name.startswith(prefix)}
        known = identify(part) if len(part) < len(shapes) else None
        if known:
            found[prefix] = known
    return found


def _shared(shapes: Shapes) -> str:
    """Return the longest beginning of all names that ends with a dot."""
    return max((prefix for prefix in weights.prefixes(shapes) if prefix.endswith((".", "/"))), key=len, default="")


def _nearest(shapes: Shapes, among: Iterable[str] = ()) -> Fit | None:
    """Return the network that has the most names in common, then the most shapes; None where that is too few."""
    cuts = [prefix for prefix in weights.prefixes(shapes) if not prefix or prefix.endswith((".", "/"))]
    left = {prefix: weights.without(shapes, prefix) for prefix in cuts}

    def common(fit: Fit) -> float:
        mine = trained(fit.architecture, left[fit.prefix]).keys()
        return max(len(mine & theirs) / max(len(mine | theirs), 1) for theirs in known_names(fit.architecture))

    def alike(fit: Fit) -> int:
        mine = trained(fit.architecture, left[fit.prefix]).items()
        return max(len(mine & table.items()) for table in expected(fit.architecture))

    shares = {fit: common(fit) for fit in (Fit(name, prefix) for name in among or ARCHITECTURES for prefix in cuts)}
    most = max(shares.values())
    best = [fit for fit, share in shares.items() if share == most]
    return max(best, key=alike) if most > (0 if among else 1 / 3) else None


def _mismatch(name: str, prefix: str, shapes: Shapes) -> str:
    known = architecture(name)
    module = known.abstract()
    mine = trained(name, weights.without(shapes, prefix))
    return weights.mismatch(module, mine, table=known.names_of(module, mine))


def misfit(name: str, shapes: Shapes) -> str:
    """Say how weights differ from those of a network that they do not fit.

    Args:
        name: the network.
        shapes: name → shape, as in a state dict.

    Returns:
        What is missing, surplus and of another shape, and what they fit instead.
    """
    close = _nearest(shapes, [name]) or Fit(name, "")
    said = _mismatch(*close, shapes)
    shared = _shared(shapes)
    other = fit(shapes)
    said += f"; all names begin with {weights.shown(shared)}" if shared else ""
    if other:
        return f"{said}; they fit {other.architecture}"
    for prefix, found in parts(shapes).items():
        begin, key = weights.shown(prefix), weights.shown(prefix[:-1])
        said += f"; those that begin with {begin} fit {found}, and `jaxpurify convert --key {key}` takes them"
    near = _nearest(shapes)
    return said + (f"; the nearest network is {near.architecture}" if near and near.architecture != name else "")
