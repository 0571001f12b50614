"""PGD beside torchattacks: ``python -m benchmarks.pgd [ROUNDS]``, seven rounds by default.

With the real weights and images that ``JAXPURIFY_REAL_DATA`` names, or with random ones, whose figures mean less. One
process holds all of it: every core is a device of its own, as in the command, and what is said to run on one device
runs on the first of them, which computes with the same two-thread pool as the only device of a process does.
"""

import functools
import itertools
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks.timing import Row, interleaved, table
from jaxpurify import attacks, networks
from jaxpurify.attacks.losses import cross_entropy
from jaxpurify.testing import count_compilations
from tests.oracles import torch_networks
from tests.oracles.torchvision_stub import import_torchvision

STEPS = 40


class Setting(NamedTuple):
    """A network in both frameworks, the images that are timed, and others on which everything is compiled."""

    ours: Any
    theirs: torch.nn.Module
    images: np.ndarray
    labels: np.ndarray
    others: np.ndarray
    epsilon: float


def setting(name, checkpoint, peer, count, epsilon):
    """Load a published network, or make a random one, and its first images."""
    folder = os.environ.get("JAXPURIFY_REAL_DATA")
    with tempfile.TemporaryDirectory() as temporary:
        weights = Path(temporary) / "weights.safetensors"
        if folder:
            source = Path(folder) / "cifar10" / checkpoint
            torch_networks.load_checkpoint(peer, source)
            content = np.load(Path(folder) / "cifar10" / "test.npz")
            images, labels = content["images"].astype(np.float32) / np.float32(255), content["labels"]
        else:
            source = Path(temporary) / "weights.pt"
            torch.save(peer.eval().state_dict(), source)
            images = np.random.default_rng(0).random((512, 32, 32, 3), np.float32)
            with torch.no_grad():
                labels = peer(planar(images)).argmax(dim=1).numpy()
        networks.convert(source, weights, architecture=name)
        ours = networks.load_classifier(name, weights=weights)
    for parameter in peer.parameters():
        parameter.requires_grad_(False)  # as torchattacks' users are told: the gradient to weights would cost time
    return Setting(ours, peer, images[:count], labels[:count].astype(np.int32), images[-count:], epsilon)


def planar(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def early_exit(model, images, labels, epsilon):
    """Run PGD in PyTorch, dropping fooled images at every step; return how many are left."""
    start = images + torch.empty_like(images).uniform_(-epsilon, epsilon)
    moved = start.clamp(0, 1)
    for _ in range(STEPS + 1):
        moved.requires_grad_(True)
        outputs = model(moved)
        (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(outputs, labels), moved)
        standing = outputs.argmax(dim=1) == labels
        if not standing.any():
            break
        moved, gradient, images, labels = (tensor[standing] for tensor in (moved.detach(), gradient, images, labels))
        moved = (images + (moved + epsilon / 4 * gradient.sign() - images).clamp(-epsilon, epsilon)).clamp(0, 1)
    return len(labels) if standing.any() else 0


def import_torchattacks():
    """Import torchattacks; torchvision, which it imports, need not be of this build of PyTorch."""
    import_torchvision()
    import torchattacks

    return torchattacks


def value_and_gradient():
    """Return the bare program that a step contains: the loss of every image and the gradient of their sum."""

    def objective(images, classifier, labels):
        logits = classifier(images)
        losses = cross_entropy(logits, labels)
        return losses.sum(), (logits, losses)

    return jax.jit(jax.value_and_grad(objective, has_aux=True))


class Measured(NamedTuple):
    """What was measured in one setting, by name of what was run.

    Attributes:
        seconds: medians of interleaved rounds, warm.
        results: what the last round returned.
        first: seconds of the first call, compilation included, on other images.
        programs: number of step programs compiled in all calls together, each with a new key.
    """

    seconds: dict[str, float]
    results: dict[str, Any]
    first: dict[str, float]
    programs: dict[str, int]


def measure(at, repeats):
    """Time everything in one setting."""
    torchattacks = import_torchattacks()
    attack = attacks.PGD(epsilon=at.epsilon, steps=STEPS)
    keys = (jax.random.key(number) for number in itertools.count())
    count, devices = len(at.images), jax.local_device_count()
    images, labels, bare = jnp.asarray(at.images), jnp.asarray(at.labels), value_and_gradient()
    pixels, classes = planar(at.images), torch.from_numpy(at.labels).long()
    peer = torchattacks.PGD(at.theirs, eps=at.epsilon, alpha=at.epsilon / 4, steps=STEPS)

    ways = {
        "verdict, one device": (attacks.verdict, None),
        "verdict, all devices": (attacks.verdict, "all"),
        "full budget, one device": (attacks.run, None),
        "full budget, all devices": (attacks.run, "all"),
    }
    results, first, programs = {}, {}, dict.fromkeys(ways, 0)

    def ours(name, which):
        function, where = ways[name]
        size = count if where is None else count // devices
        with count_compilations() as compilations:
            result = function(attack, at.ours, which, at.labels, next(keys), batch_size=size, devices=where)
        programs[name] += compilations.count("advance")
        return result

    def gradients():
        for _ in range(STEPS):
            jax.block_until_ready(bare(images, at.ours, labels))

    for name in ways:
        start = time.perf_counter()
        ours(name, at.others)
        first[name] = time.perf_counter() - start
    functions = {
        "torchattacks": lambda: peer(pixels, classes),
        "early exit in PyTorch": lambda: early_exit(at.theirs, pixels, classes, at.epsilon),
        "gradients": gradients,
        **{name: functools.partial(ours, name, at.images) for name in ways},
    }

    def keep(name):
        results[name] = functions[name]()

    seconds = interleaved({name: functools.partial(keep, name) for name in functions}, repeats)
    return Measured(seconds, results, first, programs)


def rows(at, repeats, *, faster=None, bare=None, sharded=None):
    """Yield the figures of one setting, with their targets where there are any."""
    measured = measure(at, repeats)
    seconds, results, count = measured.seconds, measured.results, len(at.images)
    for name, value in seconds.items():
        label = f"{STEPS} bare values and gradients, one device" if name == "gradients" else name
        yield Row(f"seconds: {label}", value, "s")
    peer, verdict = seconds["torchattacks"], "verdict, all devices"
    yield Row("torchattacks / verdict, all devices", peer / seconds[verdict], at_least=faster)
    yield Row("torchattacks / verdict, one device", peer / seconds["verdict, one device"])
    yield Row("torchattacks / early exit in PyTorch", peer / seconds["early exit in PyTorch"])
    yield Row(
        "full budget / bare gradients, one device",
        seconds["full budget, one device"] / seconds["gradients"],
        at_most=bare,
    )
    yield Row("torchattacks / full budget, all devices", peer / seconds["full budget, all devices"], at_least=sharded)
    yield Row("torchattacks / full budget, one device", peer / seconds["full budget, one device"])

    with torch.no_grad():
        right = at.theirs(results["torchattacks"]).argmax(dim=1).numpy() == at.labels
    yield Row("robust accuracy: torchattacks", 100 * right.mean(), "%")
    yield Row("robust accuracy: early exit in PyTorch", 100 * results["early exit in PyTorch"] / count, "%")
    # New keys at every round: not the very same search, hence two images of tolerance.
    most = 100 * right.mean() + 200 / count
    yield Row("robust accuracy: verdict", 100 * results[verdict].robust_accuracy, "%", at_most=most)
    full = results["full budget, all devices"]
    yield Row("robust accuracy: full budget", 100 * (1 - full.success.mean()), "%", at_most=most)
    yield Row("evaluations an image: torchattacks", STEPS, "")
    yield Row("evaluations an image: verdict, mean", results[verdict].forwards.mean(), "")
    yield Row("evaluations an image: verdict, most", results[verdict].forwards.max(), "")
    for name in ("verdict, one device", "verdict, all devices"):  # the full budget needs the largest of their programs
        yield Row(f"compiling: {name}", measured.first[name] - seconds[name], "s")
        yield Row(f"step programs: {name}", measured.programs[name], "", at_most=4)


def main():
    """Print the tables."""
    jax.config.update("jax_num_cpu_devices", os.cpu_count())
    torch.set_num_threads(os.cpu_count())
    torch.manual_seed(0)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    real = bool(os.environ.get("JAXPURIFY_REAL_DATA"))
    if not real:
        print("JAXPURIFY_REAL_DATA is not set: random weights and images, so verdicts have no target and mean little")
    print(f"devices: {jax.devices()}")
    print("\nResNet-20, 128 images, 8/255")
    at = setting("cifar-resnet20", "resnet20.th", torch_networks.CifarResNet(20), 128, 8 / 255)
    table(rows(at, rounds, faster=7 if real else None, bare=1.10, sharded=0.9))
    print("\nThe robust network of four blocks, 256 images, 2/255")
    at = setting("cifar-resnet4b", "robust_resnet4b.pth", torch_networks.CifarResNet4b(), 256, 2 / 255)
    table(rows(at, rounds, faster=1 if real else None))


if __name__ == "__main__":
    main()
