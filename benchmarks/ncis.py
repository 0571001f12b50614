"""The gradient through passes of NCIS: its memory and time beside those of the passes written out.

``python -m benchmarks.ncis``. The network is the registered one with random weights, which cost what trained ones do.
Memory is XLA's own analysis of the compiled program: what it needs beside arguments and results.
"""

import dataclasses
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.timing import Row, interleaved, table
from jaxpurify.networks.registry import architecture
from jaxpurify.purifiers import NCIS

BATCH, SIZE = 4, 64
PASSES = (1, 2, 16)


def network():
    """Return the blind-spot network with random weights."""
    return architecture("blind-spot").construct(nnx.Rngs(0))


def unrolled(purifier, images):
    """Purify with the passes written out one after another."""
    for _ in range(purifier.passes):
        images = purifier.one_pass(images)
    return images


def compiled(purify, purifier, images):
    """Compile value and gradient of a sum of what is purified."""

    def run(purifier, images):
        return jax.value_and_grad(lambda x: (purify(purifier, x) ** 2).sum())(images)

    return jax.jit(run).lower(purifier, images).compile()


def rows(repeats):
    """Time and weigh the gradients, and compare them."""
    images = jnp.asarray(np.random.default_rng(0).random((BATCH, SIZE, SIZE, 3), np.float32))
    purifiers = {passes: NCIS(network=network(), passes=passes) for passes in PASSES}
    programs, seconds, memory = {}, {}, {}
    for passes, purifier in purifiers.items():
        for name, purify in (("looped", lambda p, x: p(x)), ("unrolled", unrolled)):
            programs[name, passes] = compiled(purify, purifier, images)
    calls = {name: lambda name=name: programs[name](purifiers[name[1]], images) for name in programs}
    seconds = interleaved(calls, repeats)
    memory = {name: program.memory_analysis().temp_size_in_bytes for name, program in programs.items()}
    for passes in PASSES:
        yield Row(f"{passes} passes: gradient", 1e3 * seconds["looped", passes], "ms")
        yield Row(f"{passes} passes: its temporary memory", memory["looped", passes] / 2**20, "MiB")
        yield Row(f"{passes} passes: … written out", memory["unrolled", passes] / 2**20, "MiB")
    yield Row("memory: 16 passes / 2", memory["looped", 16] / memory["looped", 2], at_most=1.5)
    yield Row("memory: 16 passes / 2, written out", memory["unrolled", 16] / memory["unrolled", 2])
    slower = seconds["looped", 16] / seconds["unrolled", 16]
    yield Row("time: 16 passes / 16 written out", slower, at_most=1.5)
    looped, written = (np.asarray(calls[name, 16]()[1]) for name in ("looped", "unrolled"))
    yield Row("difference of the gradients, relative", np.abs(looped - written).max() / np.abs(written).max(), "")
    yield from smoothing_rows(purifiers[1], images, repeats)


def smoothing_rows(purifier, images, repeats):
    """Time a pass with many Gaussians beside one with a single Gaussian."""
    calls = {
        count: lambda count=count: dataclasses.replace(purifier, iterations=float(count))(images) for count in (1, 100)
    }
    seconds = interleaved(calls, repeats)
    yield Row("a pass with 100 Gaussians / with 1", seconds[100] / seconds[1], at_most=1.1)


def main():
    """Print the table; a number of rounds may be given."""
    print(f"devices: {jax.devices()}, {os.cpu_count()} cores; {BATCH} × {SIZE} × {SIZE} × 3")
    table(rows(int(sys.argv[1]) if len(sys.argv) > 1 else 7))


if __name__ == "__main__":
    main()
