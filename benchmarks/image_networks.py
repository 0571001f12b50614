"""Networks from images to images beside the sum of their bare convolutions, and beside PyTorch's.

``python -m benchmarks.image_networks [images] [size]``. A bare convolution is XLA's, at the shape that it has in the
network, in the faster of two layouts; a bare kernel of the blind-spot network is the whole square under its mask, as
PyTorch computes it, and another row has the taps that are left. The networks get random weights.
"""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.extend.core import jaxprs_in_params

from benchmarks.timing import Row, interleaved, table
from jaxpurify import parallel, training
from jaxpurify.networks.blind_spot import AROUND, KNIGHT_RECTANGLES, BlindSpotNetwork
from jaxpurify.networks.convolution import own_gradients
from jaxpurify.networks.edsr import EDSR
from jaxpurify.networks.sesr import SESR
from jaxpurify.training.programs import Programs

LAYOUTS = {"NHWC": ("NHWC", "HWIO", "NHWC"), "NCHW": ("NCHW", "OIHW", "NCHW")}
REPEATS = 7


class Bare(NamedTuple):
    """One convolution, of stride 1 and with the size of the image kept: what XLA takes of it."""

    batch: int
    height: int
    width: int
    features: int
    outputs: int
    size: int
    dilation: int = 1

    def run(self, layout):
        """Return a function of no argument that computes it on numbers of its own."""
        kernel = (self.size, self.size, self.features, self.outputs)
        images = (self.batch, self.height, self.width, self.features)
        if layout == "NCHW":
            kernel, images = (kernel[3], kernel[2], *kernel[:2]), (images[0], images[3], *images[1:3])
        arguments = jnp.full(images, 0.5), jnp.full(kernel, 0.01)
        convolve = jax.jit(
            lambda images, kernel: lax.conv_general_dilated(
                images, kernel, (1, 1), "SAME", rhs_dilation=(self.dilation,) * 2, dimension_numbers=LAYOUTS[layout]
            )
        )
        return lambda: convolve(*arguments)


def convolutions(function, *arguments) -> Counter:
    """Count the convolutions that a function computes, those inside its calls included."""
    return Counter(_within(jax.make_jaxpr(function)(*arguments).jaxpr))


def _within(jaxpr) -> Iterator[Bare]:
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            (batch, height, width, features), kernel = equation.invars[0].aval.shape, equation.invars[1].aval.shape
            yield Bare(batch, height, width, features, kernel[-1], kernel[0], equation.params["rhs_dilation"][0])
            continue
        for inner in jaxprs_in_params(equation.params):
            yield from _within(inner)


def masked_convolutions(module, images) -> Counter:
    """Count the dense convolutions that the masks of a blind-spot network cover, and its 1×1 convolutions."""
    of, width = images.shape[:3], module.width
    return Counter(
        {
            Bare(*of, module.channels, width, 3): 1,
            Bare(*of, width, width, 5): 1,
            Bare(*of, width, width, 3, 3): module.layers - 2,
            Bare(*of, width, width, 1): 2 * module.layers + 2,
            Bare(*of, width, module.channels, 1): 1,
        }
    )


def computed_convolutions(module, images) -> Counter:
    """Count the convolutions of a blind-spot network that are left without the taps under its masks."""
    of, width = images.shape[:3], module.width
    return Counter(
        {
            Bare(*of, len(AROUND) * module.channels, width, 1): 1,
            Bare(*of, width, width, 2, 4): len(KNIGHT_RECTANGLES),  # of (4, 2) and (2, 4), which cost the same
            Bare(*of, width, width, 2, 6): module.layers - 2,
            Bare(*of, width, width, 1): 3 * module.layers + 1,
            Bare(*of, width, module.channels, 1): 1,
        }
    )


def network_rows(name, module, bare, images, *, peer=None, computed=None, target=1.1):
    """Time a network's forward pass, its bare convolutions and, where there is one, PyTorch's forward pass."""
    graph, state = nnx.split(module)
    forward = jax.jit(lambda state, images: nnx.merge(graph, state)(images))
    functions = {"network": lambda: forward(state, images)}
    functions |= {(conv, layout): conv.run(layout) for conv in bare | (computed or bare) for layout in LAYOUTS}
    if peer is not None:
        functions["PyTorch"] = peer
    seconds = interleaved(functions, REPEATS)

    def sum_of(counted):
        return sum(count * min(seconds[conv, layout] for layout in LAYOUTS) for conv, count in counted.items())

    total = sum_of(bare)
    yield Row(f"{name}, forward", 1e3 * seconds["network"], "ms")
    yield Row(f"{name}, its bare convolutions", 1e3 * total, "ms")
    yield Row(f"{name}, forward / bare convolutions", seconds["network"] / total, at_most=target)
    if computed is not None:
        yield Row(f"{name}, forward / convolutions without masked taps", seconds["network"] / sum_of(computed))
    if peer is not None:
        yield Row(f"{name}, PyTorch", 1e3 * seconds["PyTorch"], "ms")
        yield Row(f"{name}, PyTorch / ours", seconds["PyTorch"] / seconds["network"])


def pytorch(module, images):
    """Return a function of no argument that runs PyTorch's network of the same shape, channels last; None for SESR."""
    import torch

    from tests.oracles.networks.test_blind_spot import Network
    from tests.oracles.torch_super_resolution import EDSR as PyTorchEDSR

    torch.set_num_threads(os.cpu_count() or 1)
    if isinstance(module, BlindSpotNetwork):
        peer: Callable = Network(module.channels, module.width, module.layers)
    elif isinstance(module, EDSR):
        peer = PyTorchEDSR(module.scale).eval().to(memory_format=torch.channels_last)
    else:
        return None
    planar = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)  # a view, which is PyTorch's channels_last

    def forward():
        with torch.no_grad():
            return peer(planar)

    return forward


def training_rows(name, task, batch_size, target=1.15):
    """Time a training step, with its optimiser and moving average, and the loss and gradient alone."""
    recipe = training.Recipe(batch_size=batch_size)
    programs = Programs(task, recipe, steps=1000, rngs=nnx.Rngs(0), placement=parallel.placement(None))
    source = task.prepare("photos")
    chosen = np.arange(batch_size) % len(source)
    batch = jax.device_put(task.batch(source, chosen, np.random.default_rng(0)))
    key, states = jax.random.key(0), [programs.start]

    @jax.jit
    def gradient(parameters, others):
        def loss(parameters):
            return task.loss(nnx.merge(programs.graph, parameters, others), batch, key)[0].mean()

        with own_gradients(False):
            return jax.value_and_grad(loss)(parameters)

    def step():
        state, measures = programs.advance(states.pop(), [batch], [key])
        states.append(state)
        return state.parameters, measures

    start = jax.tree.map(jnp.copy, (programs.start.parameters, programs.start.others))
    seconds = interleaved({"step": step, "gradient": lambda: gradient(*start)}, REPEATS)
    yield Row(f"{name}, training step of {batch_size}", 1e3 * seconds["step"], "ms")
    yield Row(f"{name}, loss and gradient alone", 1e3 * seconds["gradient"], "ms")
    yield Row(f"{name}, step / loss and gradient", seconds["step"] / seconds["gradient"], at_most=target)


TASKS = {
    "EDSR baseline ×2": training.SuperResolution(network_name="edsr-baseline", patch=24),
    "SESR ×2": training.SuperResolution(network_name="sesr", patch=32),
    "blind spot, 8 × 32": training.BlindSpot(width=32, patch=48),
}


def networks(images):
    """Return name → module and its bare convolutions."""
    found = {}
    collapsed = SESR(2, rngs=nnx.Rngs(0)).collapse()
    for name, module in (("EDSR baseline ×2", EDSR(2, rngs=nnx.Rngs(0))), ("SESR ×2", collapsed)):
        found[name] = module, convolutions(module, images)
    for width in (64, 32):
        module = BlindSpotNetwork(width=width, rngs=nnx.Rngs(0))
        found[f"blind spot, 8 × {width}"] = module, masked_convolutions(module, images)
    return found


def main():
    """Print the table."""
    batch, size = (int(text) for text in (*sys.argv[1:3], *("8", "64")[len(sys.argv) - 1 :]))
    images = jnp.asarray(np.random.default_rng(0).uniform(size=(batch, size, size, 3)), jnp.float32)
    print(f"{batch} images of {size}×{size}; devices: {jax.devices()}; {os.cpu_count()} cores")
    for name, (module, bare) in networks(images).items():
        computed = computed_convolutions(module, images) if isinstance(module, BlindSpotNetwork) else None
        table(network_rows(name, module, bare, images, peer=pytorch(module, images), computed=computed))
    for name, task in TASKS.items():
        table(training_rows(name, task, batch))


if __name__ == "__main__":
    main()
