"""The library's convolution beside XLA's, bare and in loops, and whole networks beside PyTorch's.

``python -m benchmarks.convolution``. The layer takes 16 channels to 16, at 128 images of 32×32; a step is one value and
gradient. The networks get random weights, which cost what trained ones do; every core is a device of its own.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.timing import Row, interleaved, table
from jaxpurify import models
from jaxpurify.networks import registry, weights
from jaxpurify.networks.convolution import convolve

BATCH, SIZE, FEATURES = 128, 32, 16
STEPS = 5
CLASSES = 10


def plain(images, kernel):
    """Convolve with the gradients that JAX generates."""
    return lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def ascent(convolution, of, steps):
    """Return a function that takes gradient steps on images, kernel or both, in a loop on the device or bare."""
    arguments = {"images": (0,), "kernel": (1,), "both": (0, 1)}[of]

    def step(carry, _):
        def energy(images, kernel):
            return jnp.sum(convolution(images, kernel) ** 2)

        value, gradients = jax.value_and_grad(energy, arguments)(*carry)
        moved = dict(zip(arguments, gradients, strict=True))
        return tuple(array - 1e-6 * moved[i] if i in moved else array for i, array in enumerate(carry)), value

    if steps == 1:
        return jax.jit(lambda *carry: step(carry, None))
    return jax.jit(lambda *carry: lax.scan(step, carry, None, length=steps))


def layer_rows(of, *, within=None, faster=None):
    """Time one layer's steps, differentiated to its images, its kernel or both, against targets if given."""
    random = np.random.default_rng(0)
    images = jnp.asarray(random.normal(size=(BATCH, SIZE, SIZE, FEATURES)), jnp.float32)
    kernel = jnp.asarray(random.normal(size=(3, 3, FEATURES, FEATURES)) / 12, jnp.float32)
    functions = {
        ("plain", 1): ascent(plain, of, 1),
        ("ours", 1): ascent(convolve, of, 1),
        ("plain", STEPS): ascent(plain, of, STEPS),
        ("ours", STEPS): ascent(convolve, of, STEPS),
    }
    seconds = interleaved({name: lambda f=function: f(images, kernel) for name, function in functions.items()}, 5)
    step = {name: value / name[1] for name, value in seconds.items()}
    yield Row("XLA's, bare step", 1e3 * step["plain", 1], "ms")
    yield Row("ours, bare step", 1e3 * step["ours", 1], "ms")
    yield Row("XLA's, step in a scan", 1e3 * step["plain", STEPS], "ms")
    yield Row("ours, step in a scan", 1e3 * step["ours", STEPS], "ms")
    yield Row("ours in a scan / XLA's bare", step["ours", STEPS] / step["plain", 1], at_most=within)
    yield Row("XLA's in a scan / ours in a scan", step["plain", STEPS] / step["ours", STEPS], at_least=faster)


def divided(tree, *, batch):
    """Place arrays on all devices: divided by images, or whole on each."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("images",))
    spec = jax.sharding.PartitionSpec("images") if batch else jax.sharding.PartitionSpec()
    return jax.device_put(tree, jax.sharding.NamedSharding(mesh, spec))


def network_rows(name, peer, *, target):
    """Time value and gradient of cross entropy to the images, ours beside PyTorch's of the same weights."""
    import torch

    peer = peer.eval().requires_grad_(False)
    random = np.random.default_rng(0)
    images = random.uniform(size=(BATCH, SIZE, SIZE, 3)).astype(np.float32)
    labels = random.integers(CLASSES, size=BATCH)
    architecture = registry.architecture(name)
    module = architecture.abstract()
    weights.load(module, {key: tensor.numpy() for key, tensor in peer.state_dict().items()}, table=architecture.table())

    @jax.jit
    def ours(classifier, images, labels):
        def loss(images):
            logits = jax.nn.log_softmax(classifier(images))
            return -jnp.take_along_axis(logits, labels[:, None], axis=1).sum()

        return jax.value_and_grad(loss)(images)

    placed = divided(models.classifier(module), batch=False), *divided((images, labels), batch=True)
    planar, classes = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(labels)

    def theirs():
        leaf = planar.clone().requires_grad_()
        loss = torch.nn.functional.cross_entropy(peer(leaf), classes, reduction="sum")
        return torch.autograd.grad(loss, leaf)[0]

    difference = np.abs(np.asarray(ours(*placed)[1]).transpose(0, 3, 1, 2) - theirs().numpy())
    seconds = interleaved({"ours": lambda: ours(*placed), "PyTorch": theirs}, 15)
    yield Row(f"{name}, ours", 1e3 * seconds["ours"], "ms")
    yield Row(f"{name}, PyTorch", 1e3 * seconds["PyTorch"], "ms")
    yield Row(f"{name}, largest difference of the gradients", float(difference.max()), "")
    yield Row(f"{name}, PyTorch / ours", seconds["PyTorch"] / seconds["ours"], at_least=target)


def main():
    """Print the tables."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jax.config.update("jax_num_cpu_devices", cores)
    print(f"devices: {jax.devices()}")
    for of, within, faster in (("images", 1.3, 5), ("kernel", 2, 5), ("both", 2, 5)):
        print(f"\nOne layer, gradient to {of}")
        table(layer_rows(of, within=within, faster=faster))

    import torch

    from tests.oracles import torch_networks

    torch.set_num_threads(cores)
    print(f"\nValue and gradient to {BATCH} images, {cores} devices, PyTorch with {cores} threads")
    table(network_rows("cifar-resnet20", torch_networks.CifarResNet(20), target=0.9))
    table(network_rows("cifar-resnet4b", torch_networks.CifarResNet4b(), target=1.0))


if __name__ == "__main__":
    main()
