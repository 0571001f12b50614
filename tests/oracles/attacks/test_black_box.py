"""Our black-box attacks beside torchattacks' and Foolbox's, on the same models and images at the same budgets."""

import jax
import numpy as np
import pytest

from jaxpurify import attacks
from jaxpurify.attacks.hop_skip_jump import HopSkipJump
from jaxpurify.attacks.score_based import SPSA
from jaxpurify.attacks.square import Square

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'jaxpurify[torch]'")
from pairs import planar, predictions  # noqa: E402  (it needs PyTorch)

KEY = jax.random.key(0)
NORMS = {"linf": "Linf", "l2": "L2"}


def remaining(pair, attack, count=256):
    """Return the robust accuracy of our attack's images, judged by the model in PyTorch."""
    images, labels = pair.images[:count], pair.labels[:count]
    result = attacks.run(attack, pair.ours, images, labels, KEY, batch_size=64)
    return (predictions(pair.theirs, result.images) == labels).mean()


def remaining_of_theirs(pair, attack, count=256):
    torch.manual_seed(0)
    others = attack(planar(pair.images[:count]), torch.from_numpy(pair.labels[:count]).long())
    with torch.no_grad():
        return (pair.theirs(others).argmax(dim=1).numpy() == pair.labels[:count]).mean()


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 4 / 255), ("l2", 0.15)])
def test_square_is_no_weaker_than_torchattacks_on_a_perceptron(torchattacks, perceptron, norm, epsilon):
    theirs = torchattacks.Square(perceptron.theirs, norm=NORMS[norm], eps=epsilon, n_queries=299)
    theirs = remaining_of_theirs(perceptron, theirs)
    assert 0.05 < theirs < 0.95
    assert remaining(perceptron, Square(norm=norm, epsilon=epsilon, queries=300)) <= theirs + 2 / 256


@pytest.mark.slow
@pytest.mark.parametrize(("epsilon", "theirs"), [(2 / 255, 0.695), (4 / 255, 0.551)])
def test_square_is_no_weaker_than_torchattacks_on_a_robust_network(robust, epsilon, theirs):
    """torchattacks 3.5.1 with 1000 queries leaves the shares given, in many minutes."""
    assert remaining(robust, Square(epsilon=epsilon, queries=1000)) <= theirs + 2.5 / 256


@pytest.mark.usefixtures("lenient")  # Adam mixes dtypes
def test_spsa_is_no_weaker_than_torchattacks(torchattacks, perceptron):
    """Both ask of 8 pairs of points a step, 20 steps."""
    theirs = torchattacks.SPSA(
        perceptron.theirs, eps=4 / 255, delta=0.01, lr=0.1 * 4 / 255, nb_iter=20, nb_sample=8, max_batch_size=8
    )
    theirs = remaining_of_theirs(perceptron, theirs)
    assert 0.05 < theirs < 0.95
    assert remaining(perceptron, SPSA(epsilon=4 / 255, samples=8, queries=20 * 17 + 1)) <= theirs + 2 / 256


class Counting(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model, self.calls = model, 0

    def forward(self, images):
        self.calls += 1
        return self.model(images)


@pytest.mark.parametrize("norm", ["l2", pytest.param("linf", marks=pytest.mark.slow)])
def test_hop_skip_jump_comes_as_near_as_foolbox(perceptron, norm):
    """One image at a time: Foolbox divides the direction of each image by the length of those of the whole batch."""
    foolbox = pytest.importorskip("foolbox", reason="Foolbox is not installed")
    count, norms, calls = 24, [], []
    np.random.seed(0)  # noqa: NPY002  (Foolbox draws from it)
    torch.manual_seed(0)
    attack = foolbox.attacks.HopSkipJumpAttack(steps=3, constraint=norm)
    for image, label in zip(planar(perceptron.images[:count]), perceptron.labels[:count], strict=True):
        counting = Counting(perceptron.theirs).eval()
        model = foolbox.PyTorchModel(counting, bounds=(0, 1), device="cpu")
        moved = attack.run(model, image[None], torch.tensor([label]).long()) - image[None]
        norms.append(float(moved.norm() if norm == "l2" else moved.abs().max()))
        calls.append(counting.calls)
    ours = HopSkipJump(norm=norm, queries=min(calls))
    images, labels = perceptron.images[:count], perceptron.labels[:count]
    result = attacks.run(ours, perceptron.ours, images, labels, KEY, batch_size=count)
    assert result.success.all()
    assert np.median(result.norm) <= 1.02 * np.median(norms)
