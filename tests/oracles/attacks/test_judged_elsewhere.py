"""Our adversarial images judged by PyTorch and Foolbox, and Foolbox's by our models."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify import attacks, interop

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'jaxpurify[torch]'")
foolbox = pytest.importorskip("foolbox", reason="Foolbox is not installed")
from pairs import planar, predictions  # noqa: E402  (it needs PyTorch)

KEY = jax.random.key(0)
# Every attack here is judged; the size of the ball is the model's.
ATTACKS = {
    "pgd-linf": attacks.PGD(steps=10),
    "pgd-l2": attacks.PGD(norm="l2", epsilon=0.5, steps=10),
    "apgd-linf": attacks.APGD(steps=10),
    "apgd-l2": attacks.APGD(norm="l2", steps=10, loss="dlr"),
    "fab-linf": attacks.FAB(steps=10),
    "deepfool-l2": attacks.DeepFool(steps=10),
    "square-linf": attacks.Square(queries=200),
    "ddn-l2": attacks.DDN(steps=20),
    "autoattack-linf": attacks.AutoAttack(steps=5, queries=50),
}
QUICK = ("pgd-linf", "pgd-l2", "fab-linf")
SIZES = {("resnet20", "linf"): 1 / 255, ("robust", "linf"): 4 / 255, ("resnet20", "l2"): 0.08, ("robust", "l2"): 0.5}
PEERS = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}
MODELS = ("robust", pytest.param("resnet20", marks=pytest.mark.slow))


def lengths(images, clean, norm):
    """Return the perturbations' norms, in float64 and without anything of the package."""
    moved = (np.asarray(images, np.float64) - np.asarray(clean, np.float64)).reshape(len(clean), -1)
    return np.abs(moved).max(axis=1) if norm == "linf" else np.sqrt((moved * moved).sum(axis=1))


def agreement(first, second):
    return (np.asarray(first) == np.asarray(second)).mean()


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return request.param


@pytest.fixture(
    scope="module",
    params=[name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ATTACKS],
)
def attacked(request, model):
    """One attack on one model: the pair, the attack of that size, and its result."""
    pair, attack = request.getfixturevalue(model), ATTACKS[request.param]
    attack = dataclasses.replace(attack, epsilon=SIZES[model, attack.norm])
    result = attacks.run(attack, pair.ours, pair.images, pair.labels, KEY, batch_size=64)
    assert 0.1 < result.success.mean() < 0.99
    return pair, attack, result


def test_the_original_falls_for_the_images_that_our_model_falls_for(attacked):
    pair, _, result = attacked
    assert agreement(predictions(pair.theirs, result.images) != pair.labels, result.success) >= 0.995


def test_the_images_are_in_the_ball_and_in_range(attacked):
    pair, attack, result = attacked
    assert lengths(result.images, pair.images, attack.norm).max() <= attack.epsilon + 1e-6
    assert result.images.min() >= 0
    assert result.images.max() <= 1
    distance = {"linf": foolbox.distances.linf, "l2": foolbox.distances.l2}[attack.norm]
    assert distance(planar(pair.images), planar(result.images)).max() <= attack.epsilon + 1e-6


def test_foolbox_judges_the_images_alike(attacked):
    pair, _, result = attacked
    peer = foolbox.PyTorchModel(pair.theirs.eval(), bounds=(0, 1), device="cpu")
    images, labels = planar(result.images), torch.from_numpy(pair.labels).long()
    with torch.no_grad():
        outputs = peer(images)
    fooled = foolbox.criteria.Misclassification(labels)(images, outputs)
    assert agreement(fooled.numpy(), result.success) >= 0.995
    with torch.no_grad():
        right = foolbox.utils.accuracy(peer, images, labels)
    assert right == pytest.approx(1 - result.success.mean(), abs=0.005)


@pytest.mark.parametrize("attacked", ["pgd-linf", "pgd-l2"], indirect=True)
def test_our_model_falls_for_the_images_that_foolbox_finds(attacked):
    pair, attack, result = attacked
    peer = foolbox.PyTorchModel(pair.theirs.eval(), bounds=(0, 1), device="cpu")
    torch.manual_seed(0)
    labels = torch.from_numpy(pair.labels).long()
    theirs = PEERS[attack.norm](steps=10, rel_stepsize=0.25)
    _, found, fooled = theirs(peer, planar(pair.images), labels, epsilons=attack.epsilon)
    images = found.permute(0, 2, 3, 1).contiguous().numpy()
    ours = np.asarray(jax.jit(pair.ours)(images)).argmax(axis=1) != pair.labels
    assert 0.1 < ours.mean() < 0.99
    assert agreement(ours, fooled.numpy()) >= 0.995
    assert result.success.mean() >= fooled.numpy().mean() - 2 / len(pair.labels)


def test_foolbox_attacks_our_model_in_jax(robust):
    images, labels, epsilon = robust.images[:64], robust.labels[:64], SIZES["robust", "linf"]
    peer = foolbox.JAXModel(jax.jit(robust.ours), bounds=(0, 1))
    attack = foolbox.attacks.LinfPGD(steps=5, random_start=False)
    _, found, fooled = attack(peer, jnp.asarray(images), jnp.asarray(labels), epsilons=epsilon)
    assert 0.1 < np.asarray(fooled).mean() < 0.99
    assert agreement(predictions(robust.theirs, found) != labels, fooled) >= 0.98
    assert lengths(found, images, "linf").max() <= epsilon + 1e-6


def test_an_attack_through_pytorch_finds_what_it_finds_in_jax(robust):
    images, labels = robust.images[:64], robust.labels[:64]
    attack = attacks.PGD(epsilon=SIZES["robust", "linf"], steps=10)
    target = interop.torch_classifier(robust.theirs)
    through, ours = (attacks.run(attack, m, images, labels, KEY, batch_size=64) for m in (target, robust.ours))
    np.testing.assert_array_equal(predictions(robust.theirs, through.images) != labels, through.success)
    assert agreement(through.success, ours.success) >= 0.96
    assert abs(through.success.mean() - ours.success.mean()) <= 1 / 64
