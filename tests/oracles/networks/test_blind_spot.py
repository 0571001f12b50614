import jax
import numpy as np
import pytest
from flax import nnx

from jaxpurify.networks import weights
from jaxpurify.networks.blind_spot import BlindSpotNetwork, blind_spot_table

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'jaxpurify[torch]'")

MASKS = (
    ((1, 1, 1), (1, 0, 1), (1, 1, 1)),
    ((0, 1, 0, 1, 0), (1, 0, 0, 0, 1), (0, 0, 1, 0, 0), (1, 0, 0, 0, 1), (0, 1, 0, 1, 0)),
    ((1, 0, 1), (0, 1, 0), (1, 0, 1)),
)


class Network:
    """The network over a state dict, from its formulas, with dense kernels that are masked at every call."""

    def __init__(self, channels, width, layers):
        module = nnx.eval_shape(lambda: BlindSpotNetwork(channels, width=width, layers=layers, rngs=nnx.Rngs(0)))
        random = torch.Generator().manual_seed(0)
        shapes = weights.expected_shapes(module, blind_spot_table(layers))
        self.layers, self.state = layers, {}
        for name, shape in shapes.items():
            scale = (3 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.3
            self.state[name] = scale * torch.randn(shape, generator=random)

    def prelu(self, name, features):
        return torch.nn.functional.prelu(features, self.state[f"{name}.weight"])

    def conv(self, name, features, **options):
        return torch.nn.functional.conv2d(features, self.state[f"{name}.weight"], self.state[f"{name}.bias"], **options)

    def residual(self, name, features):
        inner = self.prelu(f"{name}.activation1", self.conv(f"{name}.conv1_1by1", features))
        outer = self.conv(f"{name}.conv2_1by1", inner)
        return self.prelu(f"{name}.activation2", (features + outer) / 2)

    def __call__(self, images):
        looking, gathered, outputs = images, None, []
        for number in range(self.layers):
            name = f"new{number + 1}" if number < 2 else f"new_{number - 2}"
            kind = min(number, 2)
            mask = torch.tensor(MASKS[kind], dtype=torch.float32)
            conv, dilation = f"{name}.new{kind + 1}.conv1", 3 if number > 1 else 1
            looking = torch.nn.functional.conv2d(
                looking,
                self.state[f"{conv}.weight"] * mask,
                self.state[f"{conv}.bias"],
                padding=dilation * (len(mask) // 2),
                dilation=dilation,
            )
            looking = self.prelu(f"{name}.activation_new1", looking)
            mixed = looking if number == 0 else self.prelu(f"{name}.activation_new2", (looking + gathered) / 2)
            gathered = self.residual(f"{name}.residual_module", mixed)
            outputs.append(gathered)
        mean = self.prelu("activation", sum(outputs) / self.layers)
        return self.conv("output_layer", self.residual("residual_module", mean))


@pytest.mark.parametrize(("channels", "width", "layers"), [(3, 64, 8), (1, 4, 17), (1, 4, 1), (3, 4, 2)])
def test_outputs_are_those_of_pytorch_with_random_weights(channels, width, layers):
    peer = Network(channels, width, layers)
    module = nnx.eval_shape(lambda: BlindSpotNetwork(channels, width=width, layers=layers, rngs=nnx.Rngs(0)))
    weights.load(module, {name: array.numpy() for name, array in peer.state.items()}, table=blind_spot_table(layers))
    images = np.random.default_rng(0).uniform(size=(2, 24, 21, channels)).astype(np.float32)
    graph, state = nnx.split(module)
    outputs = jax.jit(lambda state, images: nnx.merge(graph, state)(images))(state, images)
    with torch.no_grad():
        expected = peer(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()).permute(0, 2, 3, 1).numpy()
    assert np.std(expected) > 0.01
    np.testing.assert_allclose(outputs, expected, atol=1e-4)
