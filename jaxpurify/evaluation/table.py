"""The table in the terminal."""

import io
import re
from typing import Any

from jaxpurify.evaluation.knowledge import at_most, masked
from jaxpurify.metrics.accuracy import Interval, wilson

MASKED = " (masked)"


def render(evaluation: Any, *, width: int = 120) -> str:
    """Return an evaluation's table as text.

    Args:
        evaluation: an ``Evaluation``.
        width: columns of the terminal.

    Returns:
        One row a purifier, one column a threat model, the per-image worst case last; then what its figures are, how far
        gradients can be trusted, and the flags.
    """
    from rich.console import Console
    from rich.text import Text

    console = Console(width=width, record=True, file=io.StringIO())
    grid = _grid(evaluation, narrow=False)
    if console.measure(grid, options=console.options.update(width=10_000)).maximum > width:
        grid = _grid(evaluation, narrow=True)
    # As Text, because names in square brackets would otherwise be taken for markup.
    console.print(Text(title(evaluation), style="italic"))
    console.print(grid)
    for line in filter(None, (caption(evaluation), agreements(evaluation))):
        console.print(Text(line, style="italic"))
    for flag in evaluation.flags:
        console.print(Text(f"! {flag}"))
    return console.export_text()


def _grid(evaluation: Any, *, narrow: bool) -> Any:
    """Return rich's table; a narrow one has intervals, in whole percent, below the shares."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False) if narrow else Table()
    for column in header(evaluation):
        table.add_column(Text(column), justify="left" if column == "purifier" else "right", overflow="fold")
    for name, *cells in rows(evaluation):
        if narrow:
            cells = [
                re.sub(r" \[(.*), (.*)\]", lambda ends: f"\n{float(ends[1]):.0f}–{float(ends[2]):.0f}", c)
                for c in cells
            ]
        table.add_row(Text(name), *map(Text, cells))
    return table


def title(evaluation: Any) -> str:
    """Return what was attacked, and whether it is evidence.

    Args:
        evaluation: an ``Evaluation``.

    Returns:
        One line.
    """
    config = evaluation.config
    words = f"{config['classifier']['name']} on {evaluation.images} images of {config['data']['name']}"
    return words + (" — demonstration, not evidence" if config.get("demonstration") else "")


def caption(evaluation: Any) -> str:
    """Return what the figures mean, with attacks and sizes.

    Args:
        evaluation: an ``Evaluation``.

    Returns:
        A sentence or two.
    """
    pairs: dict[str, float] = {}
    for name in evaluation.purifiers:
        for threat in evaluation.threat_models:
            pairs |= dict(evaluation.cells(name, threat))
    own = {name for attacks in evaluation.config.get("per_image_epsilon", {}).values() for name in attacks}
    attacks = ", ".join(
        f"{attack} at {f'one size per image, mean {size(epsilon)}' if attack in own else size(epsilon)}"
        for attack, epsilon in pairs.items()
    )
    bounds = any(at_most(evaluation, name) for name in evaluation.purifiers)
    return (
        f"robust accuracy [95 % interval, n = {evaluation.images} images] under {attacks}; "
        "worst case: images that survive every attack"
        + ("; at most: the exact gradient could not be followed, so a better attack may leave less" if bounds else "")
    )


def agreements(evaluation: Any) -> str:
    """Return how well the exact gradient of each defended model says how that changes.

    Args:
        evaluation: an ``Evaluation``.

    Returns:
        A line with ρ at 1/255 and 4/255 of each, or nothing where it was not measured.
    """
    found = []
    for name in evaluation.purifiers:
        agreement = evaluation.agreement(name)
        if agreement is None:
            continue
        rho = ["—" if value is None else f"{value:.2f}" for value in agreement["rho"]]
        found.append(f"{name} {'zero gradient' if agreement['blind'] else ' '.join(rho)}")
    if not found:
        return ""
    return f"ρ of the exact gradient with the model's changes at 1/255 and 4/255 (1: it tells all): {', '.join(found)}"


def size(epsilon: float) -> str:
    """Return a perturbation's size as the field writes it.

    Args:
        epsilon: in units of [0, 1].

    Returns:
        Such as ``8/255``, or the number itself.
    """
    levels = epsilon * 255
    return f"{round(levels)}/255" if abs(levels - round(levels)) < 1e-3 and epsilon < 1 / 3 else f"{epsilon:g}"


def header(evaluation: Any) -> list[str]:
    """Return the table's columns.

    Args:
        evaluation: an ``Evaluation``.

    Returns:
        Names.
    """
    return ["purifier", "clean", *evaluation.threat_models, "worst case"]


def rows(evaluation: Any) -> list[list[str]]:
    """Return the table's rows as text.

    Args:
        evaluation: an ``Evaluation``.

    Returns:
        A list of cells a purifier, in the order of ``header``.
    """
    found = []
    for name in evaluation.purifiers:
        cells = [name + (MASKED if masked(evaluation, name) else ""), percent(evaluation.clean(name))]
        for threat in [*evaluation.threat_models, None]:
            shares = evaluation.worst(name, None if threat is None else [threat])
            if shares is None:
                cells.append("not evaluated" if threat is None or (name, threat) in evaluation.reasons else "—")
            else:
                bound = "at most " if threat is None and at_most(evaluation, name) else ""
                cells.append(bound + percent(wilson(shares.mean(), len(shares))))
        found.append(cells)
    return found


def percent(interval: Interval) -> str:
    """Return a share with its interval.

    Args:
        interval: the share.

    Returns:
        Such as ``78.9 [73.5, 83.5]``, in percent.
    """
    return f"{100 * interval.fraction:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
