import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify import attacks, keys
from jaxpurify.attacks import drivers
from jaxpurify.attacks.batches import in_buckets, pieces
from jaxpurify.attacks.result import Problem
from jaxpurify.images import saturate
from jaxpurify.models import Defended, classifier, purifier
from jaxpurify.pytrees import pytree_dataclass
from jaxpurify.testing import count_compilations

KEY = jax.random.key(0)
PGD = attacks.PGD(epsilon=16 / 255, steps=8, trace=True)


def upwards(outputs, reference):
    return outputs - reference


def above(outputs, reference):
    return outputs > reference


@pytest.mark.parametrize("count", [0, 1, 4, 5, 31, 34, 63, 64, 162, 300])
def test_batches_of_bucket_sizes_hold_all_images_with_little_padding(count):
    sizes = (64, 48, 24, 8)
    chosen = pieces(count, sizes)
    assert set(chosen) <= set(sizes)
    assert 0 <= sum(chosen) - count < 8
    problem = Problem(np.arange(count, dtype=np.float32).reshape(-1, 1, 1, 1), np.arange(count), None, None)
    rows = []
    for numbers, part in in_buckets(problem, sizes):
        np.testing.assert_array_equal(part.labels[: len(numbers)], numbers)
        np.testing.assert_array_equal(part.images[: len(numbers), 0, 0, 0], numbers)
        assert len(part.images) in sizes
        rows += list(numbers)
    assert rows == list(range(count))


@pytest.mark.parametrize("devices", [1, 2, 3, 8])
def test_bucket_sizes_are_at_most_four_multiples_of_the_devices(devices):
    for batch in range(devices, 40 * devices, devices):
        sizes = attacks.bucket_sizes(batch, devices)
        assert 1 <= len(sizes) <= 4
        assert sizes[0] == batch
        assert list(sizes) == sorted(set(sizes), reverse=True)
        assert all(size % devices == 0 for size in sizes)


def test_run_gives_the_same_bits_on_any_number_of_devices_in_any_order_and_padded(toy):
    """Every device runs the same program of eight images: 16 images on one device, on two, and 11 of them shuffled."""
    own = keys.per_image(KEY, 16)

    def run(rows, **options):
        return attacks.run(PGD, toy.target, toy.images[rows], toy.labels[rows], own[rows], batch_size=8, **options)

    whole, some = np.arange(16), np.random.default_rng(0).permutation(16)[:11]
    one = run(whole)
    for result, rows in [(run(whole, devices=2), whole), (run(some), some), (run(some, devices="all"), some)]:
        for name in one._fields:
            np.testing.assert_array_equal(getattr(result, name), getattr(one, name)[rows], err_msg=name)


def test_run_takes_no_more_than_three_times_the_images_on_the_host():
    images = np.random.default_rng(0).random((1800, 32, 32, 3), np.float32)
    labels, weights = np.zeros(len(images), np.int32), jnp.linspace(-1, 1, 32 * 3 * 4).reshape(-1, 4)
    target = classifier(lambda images: images.mean(axis=1).reshape(len(images), -1) @ weights)
    attacks.run(attacks.FGSM(epsilon=0.1), target, images[:64], labels[:64], batch_size=64)
    tracemalloc.start()
    try:
        attacks.run(attacks.FGSM(epsilon=0.1), target, images, labels, batch_size=64)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * images.nbytes  # beside the images themselves


def test_run_is_the_attack_itself(toy):
    result, expected = (
        attacks.run(PGD, toy.target, toy.images, toy.labels, KEY, batch_size=8),
        PGD(toy.target, toy.images, toy.labels, KEY),
    )
    np.testing.assert_array_equal(result.success, expected.success)
    np.testing.assert_allclose(result.images, expected.images, atol=1e-5)
    assert isinstance(result.images, np.ndarray)
    assert result.trace.shape == (16, 9)


def test_a_smaller_last_batch_compiles_nothing_new(toy):
    def call(function, count):
        function(PGD, toy.target, toy.images[:count], toy.labels[:count], KEY, batch_size=8)

    call(attacks.run, 8)
    call(attacks.verdict, 8)
    with count_compilations() as compilations:
        for count in (11, 5, 16):
            call(attacks.run, count)
            call(attacks.verdict, count)
    assert compilations.count("advance") == 0


def test_progress_is_told_of_every_compiled_call(toy):
    calls = []
    attacks.run(PGD, toy.target, toy.images, toy.labels, KEY, batch_size=8, progress=lambda: calls.append(1))
    assert len(calls) == 2 * 9


@pytree_dataclass
class Far(attacks.PGD):
    """Leaves the ball, and says otherwise."""

    def advance(self, target, problem, state, restart, step):
        state = super().advance(target, problem, state, restart, step)
        return state._replace(best=state.best._replace(images=jnp.clip(problem.images + 0.1, 0, 1)))


@pytree_dataclass
class Bright(attacks.PGD):
    """Leaves the range of images."""

    def advance(self, target, problem, state, restart, step):
        state = super().advance(target, problem, state, restart, step)
        return state._replace(best=state.best._replace(images=problem.images * 0 + 1.01))


@pytest.mark.parametrize(
    ("bad", "message"), [(Far, r"image 0 is 0\.1\d* away in linf.*at fault"), (Bright, r"leaves \[0, 1\].*at fault")]
)
def test_images_out_of_ball_or_range_are_caught_by_other_code(ramp, bad, message):
    attack = bad(epsilon=0.01, steps=1, loss=upwards, success=above)
    with pytest.raises(ValueError, match=message):
        attacks.run(attack, ramp.target, ramp.images, ramp.labels, KEY, batch_size=16)


@pytest.mark.parametrize("key", [0, 1, 2])
def test_verdict_agrees_with_the_full_budget(toy, key):
    key = jax.random.key(key)
    full = PGD(toy.target, toy.images, toy.labels, key)
    early = attacks.verdict(PGD, toy.target, toy.images, toy.labels, key)
    wrong = np.asarray(toy.target(jnp.asarray(toy.images))).argmax(axis=1) != toy.labels
    assert wrong[0]
    np.testing.assert_array_equal(early.fooled, np.asarray(full.success) | wrong)
    np.testing.assert_array_equal(early.status, np.where(early.fooled, 1, 0))
    assert early.robust_accuracy == pytest.approx(1 - early.fooled.mean())
    assert (early.forwards <= 10).all()
    assert early.forwards.sum() < full.forwards.sum()


def test_compaction_changes_nothing_but_the_cost(toy, monkeypatch):
    compacted = attacks.verdict(PGD, toy.target, toy.images, toy.labels, KEY)
    monkeypatch.setattr(drivers, "bucket_sizes", lambda batch, devices=1: (batch,))
    plain = attacks.verdict(PGD, toy.target, toy.images, toy.labels, KEY)
    np.testing.assert_array_equal(compacted.fooled, plain.fooled)
    np.testing.assert_array_equal(compacted.forwards, plain.forwards)  # passes up to the first success


def test_verdict_is_the_same_on_two_devices(toy):
    one = attacks.verdict(PGD, toy.target, toy.images, toy.labels, KEY)
    two = attacks.verdict(PGD, toy.target, toy.images, toy.labels, KEY, devices="all")
    np.testing.assert_array_equal(one.fooled, two.fooled)


def test_verdict_compiles_at_most_four_programs(toy):
    attack = attacks.PGD(epsilon=16 / 255, steps=5)
    with count_compilations() as compilations:
        attacks.verdict(attack, toy.target, toy.images, toy.labels, KEY)
        attacks.verdict(attack, toy.target, 1 - toy.images, toy.labels, jax.random.key(1))
        attacks.verdict(attacks.PGD(epsilon=0.1, steps=5), toy.target, toy.images, toy.labels, KEY)
    assert 1 < compilations.count("advance") <= 4


@pytest.mark.parametrize("seed", [0, 1])
def test_verdict_counts_the_passes_of_every_image(ramp, seed):
    """Planted: the mean of an image rises by a tenth of epsilon a step, and each image falls at a step of its own."""
    steps = {0: 4, 2: 3, 3: 5, 5: 2, 50: 2}  # evaluation at which they fall: how many
    spent = {0: 1, 2: 3, 3: 4, 5: 6, 50: 11}
    falls = np.random.default_rng(seed).permutation(np.repeat(list(steps), list(steps.values())))
    reference = ramp.labels + np.float32(0.01) * (falls - 0.5).astype(np.float32)
    attack = attacks.IFGSM(epsilon=0.1, steps=10, loss=upwards, success=above)
    verdict = attacks.verdict(attack, ramp.target, ramp.images, reference, batch_size=16)
    np.testing.assert_array_equal(verdict.fooled, falls < 11)
    np.testing.assert_array_equal(verdict.forwards, [spent[step] for step in falls])
    np.testing.assert_array_equal(verdict.backwards, verdict.forwards)
    assert verdict.robust_accuracy == 2 / 16


def test_verdict_ends_when_no_image_stands(ramp):
    calls = []
    attack = attacks.IFGSM(epsilon=0.1, steps=10, restarts=3, loss=upwards, success=above)
    reference = ramp.labels + np.float32(0.015)
    verdict = attacks.verdict(
        attack, ramp.target, ramp.images, reference, batch_size=16, progress=lambda: calls.append(1)
    )
    assert verdict.fooled.all()
    assert len(calls) == 3


def test_verdict_returns_no_images(toy):
    verdict = attacks.verdict(PGD, toy.target, toy.images, toy.labels, KEY)
    assert "images" not in verdict._fields
    assert {leaf.shape for leaf in verdict if hasattr(leaf, "shape")} == {(16,)}


def only_clean(outputs, reference):
    return jnp.abs(outputs - reference) < 1e-6


def test_images_wrong_clean_alone_count_as_fooled(ramp):
    """A random start and ascent never come back to the clean image, whose success is looked for at the end."""
    attack = attacks.PGD(epsilon=0.1, steps=3, loss=upwards, success=only_clean)
    assert not attacks.run(attack, ramp.target, ramp.images, ramp.labels, KEY, batch_size=16).success.any()
    verdict = attacks.verdict(attack, ramp.target, ramp.images, ramp.labels, KEY)
    assert verdict.fooled.all()
    np.testing.assert_array_equal(verdict.forwards, 5)


def lucky(weights, images, key):
    """Give the class of the first pixel four times in five, whatever the perturbation, and the other class else."""
    right = jax.vmap(lambda key: jax.random.bernoulli(key, 0.8))(key)
    second = (images[:, 0, 0, 0] > 0.5) == right
    return jnp.where(second[:, None], jnp.array([[0.0, 1.0]]), jnp.array([[1.0, 0.0]])) * weights


def test_a_random_target_is_not_called_broken_by_luck(ramp):
    images = ramp.images.copy()
    images[:, 0, 0, 0] = np.arange(16) % 2
    target = classifier(lucky, np.float32(2), random=True)
    attack = attacks.PGD(epsilon=0.1, steps=10, restarts=2)
    full = attacks.run(attack, target, images, np.arange(16) % 2, KEY, batch_size=16)
    assert full.success.any()  # some have met an unlucky draw, which proves nothing
    verdict = attacks.verdict(attack, target, images, np.arange(16) % 2, KEY)
    assert not verdict.fooled.any()
    np.testing.assert_array_equal(verdict.forwards, 22)


def test_a_last_batch_of_another_size_compiles_nothing_by_default(toy):
    attack = attacks.PGD(epsilon=16 / 255, steps=2)
    many = [np.concatenate([array] * 5) for array in (toy.images, toy.labels)]
    with count_compilations() as compilations:
        for count in (64, 64, 57, 40, 64):
            attacks.verdict(attack, toy.target, many[0][:count], many[1][:count], KEY)
    assert compilations.count("advance") <= 4


def easier_when_moved(weights, images, key):
    """Give class one to the image 0.5 and class zero to every other; the key changes the sureness alone."""
    moved = jnp.abs(images - 0.5).max(axis=(1, 2, 3)) > 1e-6
    sure = jax.vmap(lambda key: 1 + jax.random.uniform(key))(key) * jnp.where(moved, 1.0, -1.0)
    return jnp.stack([sure, -sure], axis=1) * weights


def test_images_wrong_clean_count_as_fooled_with_a_random_target_too():
    images = np.full((4, 4, 5, 3), 0.5, np.float32)
    target = classifier(easier_when_moved, np.float32(1), random=True)
    for labels, fooled in ((np.zeros(4, int), True), (np.ones(4, int), True)):
        verdict = attacks.verdict(attacks.PGD(steps=2), target, images, labels, KEY)
        np.testing.assert_array_equal(verdict.fooled, fooled)


def test_a_random_target_that_does_fall_is_said_to_fall(noisy):
    attack = attacks.PGD(epsilon=32 / 255, steps=10, eot=attacks.Expectation(samples=8))
    verdict = attacks.verdict(attack, noisy.target, noisy.images, noisy.labels, KEY)
    noise = attacks.RandomNoise(epsilon=32 / 255, draws=88, chunk=88)
    floor = attacks.verdict(noise, noisy.target, noisy.images, noisy.labels, KEY)
    assert verdict.fooled.mean() > floor.fooled.mean() + 0.3


@purifier
class Centred:
    """Grey on average over the batch."""

    couples_images = True

    def __call__(self, images, key=None):
        return saturate(images - images.mean(axis=0, keepdims=True) + 0.5)


def test_a_target_that_couples_images_is_never_compacted(toy):
    verdict = attacks.verdict(PGD, Defended(toy.target, Centred()), toy.images, toy.labels, KEY)
    assert 0 < verdict.fooled.mean() < 1
    np.testing.assert_array_equal(verdict.forwards, 9)


@pytest.mark.parametrize("function", [attacks.run, attacks.verdict])
def test_unknown_devices_are_refused(toy, function):
    with pytest.raises(ValueError, match="devices must be"):
        function(PGD, toy.target, toy.images, toy.labels, KEY, devices=99)
