"""DeepFool beside torchattacks: ``python -m benchmarks.deepfool [ROUNDS]``, two rounds by default.

With the real weights and images that ``JAXPURIFY_REAL_DATA`` names, or with random ones, whose figures mean less. One
process holds all of it: every core is a device of its own, as in the command.
"""

import functools
import os
import sys
import time

import jax
import numpy as np
import torch

from benchmarks.pgd import import_torchattacks, planar, setting
from benchmarks.timing import Row, interleaved, table
from jaxpurify import attacks
from jaxpurify.attacks.deepfool import DeepFool
from jaxpurify.metrics.norms import perturbation_norms
from jaxpurify.testing import count_compilations
from tests.oracles import torch_networks

IMAGES = 128


def rows(at, repeats, *, faster=None):
    """Yield the figures, with their targets where there are any."""
    peer = import_torchattacks().DeepFool(at.theirs, steps=50, overshoot=0.02)
    pixels, classes = planar(at.images), torch.from_numpy(at.labels).long()
    attack, devices = DeepFool(steps=50, overshoot=0.02), jax.local_device_count()
    ways = {"one device": (IMAGES, None), "all devices": (IMAGES // devices, "all")}
    results, first, programs = {}, {}, dict.fromkeys(ways, 0)

    def ours(name, images):
        size, where = ways[name]
        with count_compilations() as compilations:
            result = attacks.run(attack, at.ours, images, at.labels, batch_size=size, devices=where)
        programs[name] += compilations.count("advance")
        return result

    for name in ways:
        start = time.perf_counter()
        ours(name, at.others)
        first[name] = time.perf_counter() - start
    functions = {
        "torchattacks": lambda: peer(pixels, classes),
        **{name: functools.partial(ours, name, at.images) for name in ways},
    }

    def keep(name):
        results[name] = functions[name]()

    seconds = interleaved({name: functools.partial(keep, name) for name in functions}, repeats)
    others = results["torchattacks"].permute(0, 2, 3, 1).numpy()
    with torch.no_grad():
        fooled = at.theirs(results["torchattacks"]).argmax(dim=1).numpy() != at.labels
    result = results["all devices"]
    both = fooled & result.success
    norms = [perturbation_norms(at.images, images, norm="l2")[both] for images in (result.images, others)]
    for name, value in seconds.items():
        yield Row(f"seconds: {name}", value, "s")
    yield Row("torchattacks / all devices", seconds["torchattacks"] / seconds["all devices"], at_least=faster)
    yield Row("torchattacks / one device", seconds["torchattacks"] / seconds["one device"])
    standing = 100 * (1 - fooled.mean())
    yield Row("left standing: torchattacks", standing, "%")
    yield Row("left standing: ours", 100 * (1 - result.success.mean()), "%", at_most=standing)
    yield Row("median distance, ours / torchattacks", np.median(norms[0]) / np.median(norms[1]), at_most=1.02)
    yield Row("evaluations an image: ours, mean", result.forwards.mean(), "")
    yield Row("evaluations an image: ours, most", result.forwards.max(), "")
    for name in ways:
        yield Row(f"compiling: {name}", first[name] - seconds[name], "s")
        yield Row(f"step programs: {name}", programs[name], "", at_most=4)


def main():
    """Print the table."""
    jax.config.update("jax_num_cpu_devices", os.cpu_count())
    torch.set_num_threads(os.cpu_count())
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    real = bool(os.environ.get("JAXPURIFY_REAL_DATA"))
    if not real:
        print("JAXPURIFY_REAL_DATA is not set: random weights and images, so the figures mean little")
    print(f"devices: {jax.devices()}\n\nResNet-20, {IMAGES} images, 50 steps")
    at = setting("cifar-resnet20", "resnet20.th", torch_networks.CifarResNet(20), IMAGES, 8 / 255)
    table(rows(at, rounds, faster=5 if real else None))


if __name__ == "__main__":
    main()
