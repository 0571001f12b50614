import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify import keys
from jaxpurify.attacks import Adaptive, drivers, losses
from jaxpurify.attacks.deepfool import DeepFool
from jaxpurify.attacks.features import Features, feature_distance, misled, reached
from jaxpurify.attacks.gradient import FGSM, IFGSM, PGD
from jaxpurify.attacks.transfer import AVERAGES, SurrogateEnsemble, transfer
from jaxpurify.models import Function, classifier

EPSILON = 0.15
KEY = jax.random.key(0)


def stopped(weights, images):
    return jax.lax.stop_gradient(jnp.tanh(images.reshape(images.shape[0], -1) @ weights[0]) @ weights[1])


@pytest.fixture(scope="module")
def surrogates(toy):
    """Perceptrons whose weights lie around those of the first, on whose labels they mostly agree."""
    random = np.random.default_rng(5)

    def near(weight):
        return np.float32(weight + 0.3 * weight.std() * random.normal(size=weight.shape))

    return [classifier(toy.apply, tuple(near(weight) for weight in toy.weights)) for _ in range(3)]


@pytest.fixture(scope="module")
def victim(toy):
    """A model that hides its gradient."""
    return classifier(stopped, toy.weights)


def mean_loss(average, logits, labels):
    """Return each image's mean cross entropy, by hand, of logits of shape (models, batch, classes)."""
    rows, chances = np.arange(len(labels)), np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    if average == "losses":
        return -np.log(chances[:, rows, labels]).mean(axis=0)
    if average == "probabilities":
        return -np.log(chances.mean(axis=0)[rows, labels])
    mean = np.exp(logits.mean(axis=0))
    return -np.log(mean[rows, labels] / mean.sum(axis=1))


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.usefixtures("x64")
def test_each_average_is_its_formula_and_its_gradient_that_of_finite_differences(toy, surrogates, average):
    models = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), surrogates)
    ensemble = SurrogateEnsemble(models, average)
    images, labels = jnp.asarray(toy.images[:4], jnp.float64), toy.labels[:4]
    judge = losses.resolve(ensemble.adapted(IFGSM()).loss)

    def ours(images):
        return judge(ensemble(images), jnp.asarray(labels), None)

    def by_hand(images):
        return mean_loss(average, np.stack([np.asarray(model(images)) for model in models]), labels)

    np.testing.assert_allclose(ours(images), by_hand(images), rtol=1e-10)
    direction = np.random.default_rng(0).normal(size=images.shape)
    slope = (jax.grad(lambda images: ours(images).sum())(images) * direction).sum()
    numerical = (by_hand(images + 1e-6 * direction) - by_hand(images - 1e-6 * direction)).sum() / 2e-6
    np.testing.assert_allclose(slope, numerical, rtol=1e-6)


def test_the_averages_differ(toy, surrogates):
    logits = np.stack([np.asarray(model(jnp.asarray(toy.images)), np.float64) for model in surrogates])
    found = [mean_loss(average, logits, toy.labels) for average in AVERAGES]
    assert min(np.abs(found[0] - found[1]).max(), np.abs(found[1] - found[2]).max()) > 0.01


@pytest.fixture(scope="module", params=AVERAGES)
def shown(request, toy, surrogates, victim):
    attack = PGD(epsilon=EPSILON, steps=10)
    return transfer(attack, surrogates, victim, toy.images, toy.labels, KEY, average=request.param, batch_size=16)


def test_a_model_that_hides_its_gradient_falls_to_its_neighbours(toy, victim, shown):
    clean = (np.asarray(victim(jnp.asarray(toy.images))).argmax(axis=1) != toy.labels).mean()
    direct = FGSM(epsilon=EPSILON)(victim, toy.images, toy.labels)
    assert direct.success.mean() == clean < 0.1
    assert shown.success.mean() > 0.7


def test_the_victim_judges(toy, shown):
    logits = np.asarray(toy.target(jnp.asarray(shown.images)))
    np.testing.assert_array_equal(shown.success, logits.argmax(axis=1) != toy.labels)
    np.testing.assert_array_equal(shown.status, shown.success)
    margins = losses.label_margin(jnp.asarray(logits), jnp.asarray(toy.labels))
    np.testing.assert_allclose(shown.margin, margins, atol=1e-4)
    assert shown.norm.max() <= EPSILON + 1e-6


def test_one_surrogate_is_the_plain_attack(toy, surrogates, victim):
    attack, (model, *_) = PGD(epsilon=EPSILON, steps=3), surrogates
    plain = drivers.run(attack, model, toy.images, toy.labels, KEY, batch_size=16)
    found = transfer(attack, model, victim, toy.images, toy.labels, KEY, batch_size=16)
    np.testing.assert_array_equal(found.images, plain.images)
    for average in AVERAGES:
        found = transfer(attack, [model], victim, toy.images, toy.labels, KEY, average=average, batch_size=16)
        np.testing.assert_allclose(found.images, plain.images, atol=1e-5)


def test_an_image_succeeds_on_averaged_losses_where_it_fools_every_model(toy, surrogates):
    ensemble = SurrogateEnsemble(surrogates, "losses")
    targets = (toy.labels + 1) % 5
    attack = ensemble.adapted(PGD(epsilon=0.2, steps=10), targeted=True)
    found = attack(ensemble, toy.images, toy.labels, KEY, targets=targets)
    each = [np.asarray(model(jnp.asarray(found.images))).argmax(axis=1) == targets for model in surrogates]
    np.testing.assert_array_equal(found.success, np.all(each, axis=0))
    assert 0 < found.success.mean() < np.mean(each)


def test_random_models_draw_on_their_own_and_a_random_victim_on_fresh_keys(noisy):
    ensemble = SurrogateEnsemble([noisy.target, noisy.target], "losses")
    assert ensemble.random
    first, second = ensemble(jnp.asarray(noisy.images), KEY)
    assert np.abs(first - second).max() > 0.1
    attack = FGSM(epsilon=0.05)
    found = transfer(attack, [noisy.target] * 2, noisy.target, noisy.images, noisy.labels, KEY, batch_size=8)
    own = keys.per_image(KEY, 8)
    logits = [
        np.asarray(noisy.target(jnp.asarray(found.images), keys.stream(own, "score", draw=draw))) for draw in range(20)
    ]
    fooled = np.mean([draw.argmax(axis=1) != noisy.labels for draw in logits], axis=0)
    np.testing.assert_array_equal(found.success, fooled > 0.5)
    rows = np.arange(8)
    margins = [draw[rows, noisy.labels] - draw[rows, 1 - noisy.labels] for draw in logits]
    np.testing.assert_allclose(found.margin, np.mean(margins, axis=0), rtol=1e-4, atol=1e-4)


def test_an_ensemble_is_what_its_models_are(toy, noisy):
    class Coupling(Function):
        couples_images = True
        calls_back = True

    plain = SurrogateEnsemble((toy.target, toy.target))
    assert not any((plain.random, plain.couples_images, plain.calls_back))
    assert len(jax.tree.leaves(plain)) == 4
    mixed = SurrogateEnsemble(models=(toy.target, noisy.target), average="probabilities")
    assert mixed.random
    object.__setattr__(mixed, "models", (toy.target, Coupling(apply=stopped)))
    assert mixed.couples_images
    assert mixed.calls_back


def test_arguments_that_cannot_be_meant_are_refused(toy):
    with pytest.raises(ValueError, match="average must be one of logits, probabilities, losses, got 'votes'"):
        SurrogateEnsemble([toy.target], "votes")
    with pytest.raises(ValueError, match="models must be a list or tuple of at least one model"):
        SurrogateEnsemble([])
    with pytest.raises(ValueError, match="DeepFool stops at the surrogates' decision boundary"):
        transfer(DeepFool(), toy.target, toy.target, toy.images, toy.labels, KEY)


def inner(weights, images):
    return jnp.tanh(images.reshape(images.shape[0], -1) @ weights)


@pytest.mark.parametrize("guided", [False, True])
def test_features_are_driven_away_or_to_those_of_a_guide(toy, guided):
    target = Features(
        Function(variables=toy.weights[0], apply=inner),
        Function(variables=toy.weights[1], apply=lambda weights, features: features @ weights),
    )
    images, labels = jnp.asarray(toy.images), jnp.asarray(toy.labels)
    clean = target.reference(images, labels)
    guides = target.reference(images[::-1], labels[::-1]) if guided else None
    attack = PGD(epsilon=0.3, steps=30, step_size=0.02, loss=feature_distance, success=reached if guided else misled)
    found = attack(target, images, clean, KEY, targets=guides)
    features, logits = np.asarray(inner(toy.weights[0], found.images)), toy.target(found.images)
    wanted = np.asarray((guides if guided else clean)[0])
    distance = ((features - wanted) ** 2).mean(axis=1)
    np.testing.assert_allclose(found.loss, -distance if guided else distance, rtol=1e-3, atol=1e-5)
    if guided:
        assert (distance < ((np.asarray(clean[0]) - wanted) ** 2).mean(axis=1) / 2).all()
        np.testing.assert_array_equal(found.success, np.asarray(logits).argmax(axis=1) == toy.labels[::-1])
    else:
        assert distance.min() > 0.1
        np.testing.assert_array_equal(found.success, np.asarray(logits).argmax(axis=1) != toy.labels)
    assert found.success.mean() > 0.4  # one in sixteen on the clean images


def test_surrogates_of_other_classes_are_refused(toy):
    def named(*names):
        return classifier(toy.apply, toy.weights, class_names=names)

    count = toy.target(jnp.asarray(toy.images)).shape[1]
    names = tuple(f"class {chr(97 + number)}" for number in range(count))
    target, same, other = named(*names), named(*(name.upper() for name in names)), named(*names[::-1])
    attack = FGSM(epsilon=0.02)
    transfer(attack, same, target, toy.images, toy.labels, KEY)
    for surrogates in (other, [same, other]):
        with pytest.raises(ValueError, match=r"must have the same classes in the same order, got .* as class 0"):
            transfer(attack, surrogates, target, toy.images, toy.labels, KEY)
    with pytest.raises(ValueError, match="surrogate 0 and the target must have the same classes"):
        Adaptive(epsilon=0.02, surrogates=(other,)).parts(target, count)
