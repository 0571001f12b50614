"""Timing side by side, and the table with the targets beside the figures. The benchmarks import it; it runs nothing."""

import math
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax

PAUSE = 0.05  # seconds after each call, in which the threads of another library stop spinning for more work


def interleaved(functions: dict[str, Callable[[], Any]], repeats: int = 9, *, warm: bool = False) -> dict[str, float]:
    """Time functions in turn, round after round, so that whatever slows the machine slows all of them.

    Args:
        functions: name to function of no argument. Each is called once before, which compiles it, unless it is warm.
            JAX arrays in the result are waited for.
        repeats: number of rounds.
        warm: whether they have been called already.

    Returns:
        Name to the median of its seconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for function in () if warm else functions.values():
        jax.block_until_ready(function())
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function())
            seconds[name].append(time.perf_counter() - start)
            time.sleep(PAUSE)
    return {name: statistics.median(values) for name, values in seconds.items()}


def compile_seconds(jitted: Any, *arguments: Any, **options: Any) -> float:
    """Time tracing and compilation, without running.

    Args:
        jitted: what ``jax.jit`` returned.
        arguments: what it will be called with.
        options: likewise, by name.

    Returns:
        Seconds.
    """
    start = time.perf_counter()
    jitted.lower(*arguments, **options).compile()
    return time.perf_counter() - start


class Row(NamedTuple):
    """One figure of a benchmark, with its target if it has one.

    Args:
        name: what was measured.
        value: the figure.
        unit: what stands behind it, such as ``"×"``, ``"ms"`` or ``"s"``.
        at_least: the target, where more is better.
        at_most: the target, where less is better.
    """

    name: str
    value: float
    unit: str = "×"
    at_least: float | None = None
    at_most: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without a target. A figure that is NaN meets none."""
        if self.at_least is None and self.at_most is None:
            return None
        low = -math.inf if self.at_least is None else self.at_least
        high = math.inf if self.at_most is None else self.at_most
        return low <= self.value <= high


def table(rows: Iterable[Row]) -> bool:
    """Print name, figure, target and whether it is met, a line a row.

    Args:
        rows: the figures.

    Returns:
        True if no target was missed.
    """
    rows = list(rows)
    width = max(len(row.name) for row in rows)
    print(f"{'':{width}}  {'measured':>12}  {'target':>10}  met")
    for row in rows:
        bounds = (("≥", row.at_least), ("≤", row.at_most))
        target = " ".join(f"{sign} {bound:.4g}" for sign, bound in bounds if bound is not None)
        met = {True: "yes", False: "NO", None: ""}[row.met]
        print(f"{row.name:{width}}  {row.value:>9.4g} {row.unit:<2}  {target:>10}  {met}".rstrip())
    return all(row.met is not False for row in rows)
