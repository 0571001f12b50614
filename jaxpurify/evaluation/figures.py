"""Figures of an evaluation: robust accuracy against the size of the attack, and what attacked images look like."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxpurify.evaluation.drawing import GREY, drawable, short, styles
from jaxpurify.evaluation.grid import grid as grid
from jaxpurify.metrics.accuracy import Interval, wilson

NORMS = {"linf": "ℓ∞", "l2": "ℓ2"}
_DASHES = (0, (4, 2))


class Series(NamedTuple):
    """One attack of one threat model, as a line of the figure.

    Attributes:
        threat: name of the threat model.
        attack: name of the attack.
        points: (epsilon, robust accuracy) in the order of epsilon.
    """

    threat: str
    attack: str
    points: list[tuple[float, Interval]]


def defended(evaluation: Any) -> list[str]:
    """Return the names of the purifiers without the undefended classifier, unless there is nothing else.

    Args:
        evaluation: an ``Evaluation``.

    Returns:
        Names in order.
    """
    return [name for name in evaluation.purifiers if name != evaluation.undefended] or list(evaluation.purifiers)


def attacks(evaluation: Any) -> list[str]:
    """Return the attacks that have a figure of their own: the evaluation's, or else the threat models' own.

    Args:
        evaluation: an ``Evaluation``.

    Returns:
        Names in order.
    """
    used = dict.fromkeys(
        attack
        for name in evaluation.purifiers
        for threat in evaluation.threat_models
        for attack, _ in evaluation.cells(name, threat)
    )
    return [attack for attack in evaluation.config["attacks"] if attack in used] or list(used)


def norms(evaluation: Any) -> dict[str, str]:
    """Return the norm in which each attack is bounded.

    Args:
        evaluation: an ``Evaluation``.

    Returns:
        Such as ``linf``, by attack.
    """
    return {record["attack"]: record["norm"] for record in evaluation.records if record["norm"]}


def series(evaluation: Any, purifier: str, attack: str) -> list[Series]:
    """Return what the figure of one attack shows of one purifier.

    Args:
        evaluation: an ``Evaluation``.
        purifier: its name.
        attack: its name; a threat model that has attacks of its own, such as ``noise``, shows those of the same norm.

    Returns:
        The lines, in the order of the threat models.
    """
    norm = norms(evaluation)
    found = []
    for threat in evaluation.threat_models:
        cells = evaluation.cells(purifier, threat, curve=True)
        names = dict.fromkeys(name for name, _ in cells)
        for name in [attack] if attack in names else [name for name in names if norm[name] == norm[attack]]:
            sizes = sorted(epsilon for other, epsilon in cells if other == name)
            points = [(epsilon, evaluation.robust(purifier, threat, name, epsilon)) for epsilon in sizes]
            found.append(Series(threat, name, points))
    return found


def accuracy_against_epsilon(evaluation: Any, *, attack: str | None = None, columns: int = 3) -> Any:
    """Draw robust accuracy against the size of one attack: a panel a purifier, a line a threat model.

    Args:
        evaluation: an ``Evaluation``.
        attack: name of the attack; the first by default.
        columns: panels side by side, at most; 1 for narrow screens.

    Returns:
        A ``matplotlib.figure.Figure``. Every line starts at the clean accuracy; bands and bars are Wilson 95 %
        intervals; the per-image worst case over all attacks tried stands at the attack's own size.

    Raises:
        ValueError: if nothing was evaluated or the attack is unknown.
    """
    from matplotlib.figure import Figure

    known = attacks(evaluation)
    if not known:
        raise ValueError("the evaluation holds no attack, expected at least one threat model that was evaluated")
    attack = known[0] if attack is None else attack
    if attack not in known:
        raise ValueError(f"unknown attack {attack!r}, expected one of {', '.join(known)}")
    names = defended(evaluation)
    rows = -(-len(names) // columns)
    columns = -(-len(names) // rows)
    narrow = columns == 1
    figure = Figure(figsize=(4.4 if narrow else 3.2 * columns, 2.6 * rows + 1.4), layout="constrained")
    figure.set_facecolor("white")
    norm = norms(evaluation)[attack]
    shown: dict[str, Any] = {}
    for number, name in enumerate(names):
        panel = figure.add_subplot(rows, columns, number + 1)
        shown |= _draw_panel(panel, evaluation, name, attack)
        if number % columns == 0:
            panel.set_ylabel("robust accuracy, %", fontsize=9)
        if number + columns >= len(names):
            panel.set_xlabel("ε in 1/255" if norm == "linf" else f"ε, {NORMS.get(norm, norm)} length", fontsize=9)
    title = f"{attack.removesuffix(f' {norm}')} ({NORMS.get(norm, norm)}), n = {evaluation.images} images"
    title = f"{drawable(title)}{chr(10) if narrow else ', '}with Wilson 95 % intervals"
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    order = ["clean", *evaluation.threat_models]
    labels = sorted(shown, key=lambda label: order.index(label) if label in order else len(order))
    figure.legend(
        [shown[label] for label in labels],
        [drawable(label) for label in labels],
        loc="outside lower center",
        ncols=2 if narrow else min(len(labels), 2 * columns),
        fontsize=8.5,
        frameon=False,
        columnspacing=1.4,
        handlelength=2.2,
    )
    return figure


def _draw_panel(panel: Any, evaluation: Any, name: str, attack: str) -> dict[str, Any]:
    """Draw one purifier's panel and return the legend's handles by label."""
    from matplotlib.lines import Line2D

    unit = 255 if norms(evaluation)[attack] == "linf" else 1
    style = styles(evaluation.threat_models)
    clean, worst = evaluation.clean(name), evaluation.worst(name)
    lines = series(evaluation, name, attack)
    shown = _draw_reference(panel, evaluation, name, attack, unit)
    ticks = {0.0} | {float(f"{epsilon * unit:.4g}") for line in lines for epsilon, _ in line.points}
    for number, line in enumerate(lines):
        colour, marker = style[line.threat]
        x = np.array([epsilon * unit for epsilon, _ in line.points])
        shares = [share for _, share in line.points]
        if line.threat == "noise":
            _draw_intervals(panel, x, shares, color=colour, marker=marker, ms=7, zorder=4)
            shown[line.threat] = Line2D([], [], color=colour, marker=marker, ms=7, ls="none")
            continue
        # Lines that coincide stay visible: those drawn later are thinner.
        width = 1.4 + 2.6 * (len(lines) - 1 - number) / max(len(lines) - 1, 1)
        marks: dict[str, Any] = {
            "color": colour,
            "lw": width,
            "marker": marker,
            "ms": 3.6 + width,
            "mec": "white",
            "mew": 0.5,
        }
        x, shares = np.concatenate([[0.0], x]), [clean, *shares]
        y, low, high = 100 * np.array(shares).T
        panel.fill_between(x, low, high, color=colour, alpha=0.1, lw=0, zorder=1)
        panel.plot(x, y, markevery=range(1, len(x)), zorder=5 + number / 100, clip_on=False, **marks)
        shown[line.threat] = Line2D([], [], **marks)
    _draw_intervals(panel, np.zeros(1), [clean], color="black", marker="o", ms=5, zorder=6)
    shown["clean"] = Line2D([], [], color="black", marker="o", ms=5, ls="none")
    own = [e * unit for threat in evaluation.threat_models for a, e in evaluation.cells(name, threat) if a == attack]
    if worst is not None and own:
        marks = {"color": "black", "marker": "_", "ms": 15, "mew": 2.4}
        _draw_intervals(panel, np.array(own[:1]), [wilson(worst.mean(), len(worst))], zorder=7, **marks)
        shown["worst case, all attacks"] = Line2D([], [], ls="none", **marks)
    _dress(panel, name, sorted(ticks))
    return shown


def _draw_reference(panel: Any, evaluation: Any, name: str, attack: str, unit: int) -> dict[str, Any]:
    """Draw the undefended classifier under the attacker who knows most, in grey."""
    from matplotlib.lines import Line2D

    bare = evaluation.undefended
    if bare == name:
        return {}
    lines = [line for line in series(evaluation, bare, attack) if line.attack == attack]
    if not lines:
        return {}
    points = [(0.0, evaluation.clean(bare)), *lines[-1].points]
    x, y = [epsilon * unit for epsilon, _ in points], [100 * share.fraction for _, share in points]
    panel.plot(x, y, color=GREY, lw=1.3, ls=_DASHES, zorder=2)
    return {f"undefended, {lines[-1].threat}": Line2D([], [], color=GREY, lw=1.3, ls=_DASHES)}


def _draw_intervals(panel: Any, x: np.ndarray, shares: Sequence[Interval], **marks: Any) -> None:
    y, low, high = 100 * np.array(shares).T
    # Rounding may put an end of Wilson's interval on the wrong side of a share of 0 or 1.
    lengths = np.maximum([y - low, high - y], 0)
    panel.errorbar(x, y, yerr=lengths, ls="none", elinewidth=1.2, clip_on=False, **marks)


def _dress(panel: Any, name: str, ticks: list[float]) -> None:
    panel.set_title(drawable(short(name, 34)), fontsize=10, loc="left")
    panel.set_ylim(0, 100)
    largest = ticks[-1] or 1.0
    panel.set_xlim(-0.05 * largest, 1.06 * largest)
    panel.set_yticks(range(0, 101, 20))
    ticks = _thinned(ticks)
    panel.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
    panel.tick_params(labelsize=8.5, color="#999999", length=3)
    panel.grid(axis="y", color="#e4e4e4", lw=0.7)
    panel.set_axisbelow(True)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        panel.spines[side].set_color("#999999")


def _thinned(ticks: list[float]) -> list[float]:
    """Return the ticks whose labels do not run into one another, both ends kept."""
    if len(ticks) < 2:
        return ticks
    kept = [ticks[-1]]
    for tick in ticks[-2:0:-1]:
        room = ticks[-1] * (0.02 + 0.015 * (len(f"{tick:.3g}") + 3))
        if kept[-1] - tick >= room and tick - ticks[0] >= room:
            kept.append(tick)
    return [ticks[0], *kept[::-1]]
