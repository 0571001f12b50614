import jax
import numpy as np
import pytest
from flax import nnx

from jaxpurify.networks import weights
from jaxpurify.networks.imagenet_resnet import ImageNetResNet, imagenet_resnet_table

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'jaxpurify[torch]'")


@pytest.fixture(scope="module")
def pair(torchvision):
    """Return a function that makes torchvision's network, of random weights and averages, and ours of the same."""

    def make(depth, classes=10):
        peer = getattr(torchvision.models, f"resnet{depth}")(num_classes=classes).eval()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, tensor in peer.state_dict().items():
                if name.endswith("num_batches_tracked"):
                    continue
                tensor.uniform_(0.5, 1.5, generator=generator)
                if name.endswith(("running_mean", "bias")):
                    tensor.sub_(1)
                elif tensor.ndim > 1:
                    tensor.sub_(1).mul_((3 / tensor[0].numel()) ** 0.5)
        model = nnx.eval_shape(lambda: ImageNetResNet(depth, classes=classes, rngs=nnx.Rngs(0)))
        state = {name: tensor.numpy() for name, tensor in peer.state_dict().items()}
        weights.load(model, state, table=imagenet_resnet_table(depth))
        model.eval()
        return model, peer

    return make


def logits_and_gradients(model, peer, images):
    """Return ours and torchvision's: the logits, and the gradient of half their squares to the images."""
    graph, state = nnx.split(model)

    def half_squares(images, state):
        logits = nnx.merge(graph, state)(images)
        return (logits**2).sum() / 2, logits

    gradient, logits = jax.jit(jax.grad(half_squares, has_aux=True))(images, state)
    theirs = torch.from_numpy(images).requires_grad_()
    mean, deviation = (torch.tensor(values) for values in (ImageNetResNet.mean, ImageNetResNet.deviation))
    expected = peer(((theirs - mean) / deviation).permute(0, 3, 1, 2))
    (expected**2).sum().div(2).backward()
    return (np.asarray(logits), np.asarray(gradient)), (expected.detach().numpy(), theirs.grad.numpy())


@pytest.mark.parametrize(
    "depth", [18, pytest.param(34, marks=pytest.mark.slow), pytest.param(50, marks=pytest.mark.slow)]
)
def test_logits_and_gradients_are_those_of_torchvision(pair, depth):
    images = np.random.default_rng(0).uniform(size=(2, 49, 64, 3)).astype(np.float32)
    (logits, gradient), (expected, expected_gradient) = logits_and_gradients(*pair(depth), images)
    assert np.ptp(expected) > 0.1
    scale = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(logits / scale, expected / scale, atol=1e-4)
    # A rectifier whose input is zero but for rounding may open in one and not in the other.
    error = np.linalg.norm(gradient - expected_gradient) / np.linalg.norm(expected_gradient)
    assert error < 1e-2


@pytest.mark.parametrize("depth", [pytest.param(34, marks=pytest.mark.slow), 50])
def test_names_and_shapes_are_those_of_torchvision(torchvision, depth):
    with torch.device("meta"):
        theirs = getattr(torchvision.models, f"resnet{depth}")().state_dict()
    model = nnx.eval_shape(lambda: ImageNetResNet(depth, rngs=nnx.Rngs(0)))
    shapes = {name: tuple(tensor.shape) for name, tensor in theirs.items()}
    assert weights.mismatch(model, shapes, table=imagenet_resnet_table(depth)) == ""
