"""AutoAttack beside torchattacks' four attacks: ``python -m benchmarks.autoattack [ROUNDS]``, one round by default.

The same budgets on both sides: APGD on cross entropy with 100 steps, targeted APGD and targeted FAB with 9 classes and
100 steps each, Square with 5,000 queries. torchattacks' own ``AutoAttack("standard")`` runs its APGD with 10 steps, so
its four attacks are put together here by its ``MultiAttack``. A round takes ten minutes on two cores. Needs the real
weights and images that ``JAXPURIFY_REAL_DATA`` names: against random weights the cascade ends at once.
"""

import functools
import itertools
import os
import sys
import time

import jax
import numpy as np
import torch

from benchmarks.pgd import import_torchattacks, planar, setting
from benchmarks.timing import Row, interleaved, table
from jaxpurify import attacks
from jaxpurify.testing import count_compilations
from tests.oracles import torch_networks

STEPS, QUERIES, CLASSES = 100, 5000, 10


def peer(torchattacks, model, epsilon):
    """Return torchattacks' four attacks in cascade, at the budgets of the paper."""
    about = {"norm": "Linf", "eps": epsilon, "seed": 0, "n_restarts": 1}
    return torchattacks.MultiAttack(
        [
            torchattacks.APGD(model, **about, steps=STEPS, loss="ce"),
            torchattacks.APGDT(model, **about, steps=STEPS, n_classes=CLASSES),
            torchattacks.FAB(model, **about, steps=STEPS, multi_targeted=True, n_classes=CLASSES),
            torchattacks.Square(model, **about, n_queries=QUERIES),
        ]
    )


def rows(at, rounds):
    """Yield the figures, with their targets."""
    torchattacks = import_torchattacks()
    cascade = peer(torchattacks, at.theirs, at.epsilon)
    attack = attacks.AutoAttack(epsilon=at.epsilon, version="standard", steps=STEPS, queries=QUERIES)
    pixels, classes = planar(at.images), torch.from_numpy(at.labels).long()
    keys = (jax.random.key(number) for number in itertools.count())
    results, first, programs = {}, {}, {}

    def ours(name, devices, images):
        with count_compilations() as compilations:
            start = time.perf_counter()
            results[name] = attacks.verdict(attack, at.ours, images, at.labels, next(keys), devices=devices)
            first.setdefault(name, time.perf_counter() - start)
        programs[name] = programs.get(name, 0) + compilations.count("advance")

    def theirs():
        results["torchattacks"] = cascade(pixels, classes)

    functions = {
        "ours, one device": functools.partial(ours, "ours, one device", None, at.images),
        "ours, all devices": functools.partial(ours, "ours, all devices", "all", at.images),
    }
    for function in functions.values():
        function()
    functions["torchattacks"] = theirs  # has nothing to compile, and takes minutes
    seconds = interleaved(functions, rounds, warm=True)
    for name, value in seconds.items():
        yield Row(f"seconds: {name}", value, "s")
    yield Row("torchattacks / ours, one device", seconds["torchattacks"] / seconds["ours, one device"], at_least=1)
    yield Row("torchattacks / ours, all devices", seconds["torchattacks"] / seconds["ours, all devices"], at_least=1.3)
    with torch.no_grad():
        left = int((at.theirs(results["torchattacks"]).argmax(dim=1).numpy() == at.labels).sum())
    count = len(at.images)
    yield Row("robust accuracy: torchattacks", 100 * left / count, "%")
    for name in ("ours, one device", "ours, all devices"):
        standing = int((~results[name].fooled).sum())
        yield Row(f"robust accuracy: {name}", 100 * standing / count, "%", at_most=100 * (left + 1) / count)
        yield Row(f"first call less a warm one: {name}", first[name] - seconds[name], "s")
        yield Row(f"step programs: {name}", programs[name], "", at_most=16)
    for name, felled in results["ours, all devices"].tallies.items():
        yield Row(f"images felled: {name}", felled, "")
    yield Row("forward passes an image: ours, mean", float(np.mean(results["ours, all devices"].forwards)), "")


def main():
    """Print the table."""
    jax.config.update("jax_num_cpu_devices", os.cpu_count())
    torch.set_num_threads(os.cpu_count())
    torch.manual_seed(0)
    if not os.environ.get("JAXPURIFY_REAL_DATA"):
        raise SystemExit("JAXPURIFY_REAL_DATA must name a folder of real data and weights")
    at = setting("cifar-resnet4b", "robust_resnet4b.pth", torch_networks.CifarResNet4b(), 256, 2 / 255)
    print(f"devices: {jax.devices()}")
    print("\nThe robust network of four blocks, 256 images, 2/255")
    table(rows(at, int(sys.argv[1]) if len(sys.argv) > 1 else 1))


if __name__ == "__main__":
    main()
