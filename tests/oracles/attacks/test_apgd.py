"""Our Auto-PGD beside torchattacks', and in the l1 norm that it lacks beside Foolbox's PGD, on the same models."""

import jax
import numpy as np
import pytest

from jaxpurify import attacks
from jaxpurify.attacks.apgd import APGD
from jaxpurify.metrics.norms import check_perturbations

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'jaxpurify[torch]'")
from pairs import planar, predictions  # noqa: E402  (it needs PyTorch)

KEY = jax.random.key(0)
PEERS = {"linf": "Linf", "l2": "L2"}
LOSSES = {"cross-entropy": "ce", "dlr": "dlr"}


def ours(pair, **options):
    """Return the share that our full-budget images leave, judged by the model in PyTorch."""
    attack = APGD(**options)
    found = attacks.run(attack, pair.ours, pair.images, pair.labels, KEY, batch_size=len(pair.images))
    check_perturbations(pair.images, found.images, norm=attack.norm, epsilon=attack.epsilon)
    return (predictions(pair.theirs, found.images) == pair.labels).mean()


def right(pair, images):
    with torch.no_grad():
        return (pair.theirs(images).argmax(dim=1).numpy() == pair.labels).mean()


def theirs(torchattacks, pair, *, norm, epsilon, loss, target_classes):
    about = {"norm": PEERS[norm], "eps": epsilon, "steps": 100}
    if target_classes:
        attack = torchattacks.APGDT(pair.theirs, **about, n_classes=target_classes + 1)
    else:
        attack = torchattacks.APGD(pair.theirs, **about, loss=LOSSES[loss])
    return right(pair, attack(planar(pair.images), torch.from_numpy(pair.labels).long()))


SEARCHES = [("cross-entropy", 0), ("dlr", 0), ("dlr", 3)]
QUICK = {("linf", "cross-entropy", 0), ("linf", "dlr", 3), ("l2", "dlr", 0)}  # each norm, loss and aim


@pytest.mark.parametrize(
    ("norm", "epsilon", "loss", "target_classes"),
    [
        pytest.param(norm, epsilon, *search, marks=[] if (norm, *search) in QUICK else pytest.mark.slow)
        for norm, epsilon in [("linf", 4 / 255), ("l2", 0.12)]
        for search in SEARCHES
    ],
)
def test_search_is_no_weaker_than_torchattacks_on_a_perceptron(
    torchattacks, perceptron, norm, epsilon, loss, target_classes
):
    about = {"norm": norm, "epsilon": epsilon, "loss": loss, "target_classes": target_classes}
    other = theirs(torchattacks, perceptron, **about)
    assert 0.05 < other < 0.95
    assert ours(perceptron, **about) <= other + 2 / 256


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "target_classes"), SEARCHES)
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 2 / 255), ("l2", 0.3)])
def test_search_is_no_weaker_than_torchattacks_on_cifar(torchattacks, robust, norm, epsilon, loss, target_classes):
    about = {"norm": norm, "epsilon": epsilon, "loss": loss, "target_classes": target_classes}
    other = theirs(torchattacks, robust, **about)
    assert 0.4 < other < 0.7
    assert ours(robust, **about) <= other + 2 / 256


@pytest.mark.slow
@pytest.mark.parametrize(("epsilon", "most"), [(2 / 255, 0.637), (4 / 255, 0.403)])
def test_robust_network_has_the_robust_accuracy_measured_elsewhere(robust, epsilon, most):
    found = attacks.verdict(APGD(epsilon=epsilon), robust.ours, robust.images, robust.labels, KEY)
    assert found.robust_accuracy <= most
    assert found.robust_accuracy >= most - 0.04


def foolbox_l1(pair, epsilon):
    foolbox = pytest.importorskip("foolbox", reason="Foolbox is not installed")
    model = foolbox.PyTorchModel(pair.theirs.eval(), bounds=(0, 1), device="cpu")
    torch.manual_seed(0)
    attack, labels = foolbox.attacks.L1PGD(steps=200), torch.from_numpy(pair.labels).long()
    return right(pair, attack(model, planar(pair.images), labels, epsilons=epsilon)[1])


@pytest.fixture(scope="module")
def left_by_foolbox(perceptron):
    return foolbox_l1(perceptron, 1.0)


@pytest.mark.parametrize("large_epsilons", [False, True])
def test_l1_search_is_no_weaker_than_foolboxs_on_a_perceptron(perceptron, left_by_foolbox, large_epsilons):
    other = left_by_foolbox
    assert 0.05 < other < 0.95
    assert ours(perceptron, norm="l1", epsilon=1.0, large_epsilons=large_epsilons) <= other


@pytest.mark.slow
def test_l1_search_is_no_weaker_than_foolboxs_on_cifar(robust):
    part = robust._replace(images=robust.images[:32], labels=robust.labels[:32])
    other = foolbox_l1(part, 4.0)
    assert ours(part, norm="l1", epsilon=4.0, large_epsilons=True) <= other
    assert np.isfinite(other)
