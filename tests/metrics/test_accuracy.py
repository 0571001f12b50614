import numpy as np
import pytest
from scipy import stats

from jaxpurify.metrics.accuracy import attack_success_rate, destruction_rate, robust_accuracy, wilson


@pytest.mark.parametrize(
    ("right", "count"), [(0, 1), (1, 1), (0, 50), (50, 50), (1, 128), (49, 50), (101, 128), (9, 10_000)]
)
def test_wilson_is_scipys(right, count):
    expected = stats.binomtest(right, count).proportion_ci(confidence_level=0.95, method="wilson")
    fraction, low, high = wilson(right / count, count)
    assert fraction == right / count
    np.testing.assert_allclose((low, high), (expected.low, expected.high), atol=1e-12)
    assert 0 <= low <= fraction + 1e-12
    assert fraction - 1e-12 <= high <= 1
    assert (low == 0) == (right == 0)
    assert (high == 1) == (right == count)


def test_wilson_takes_another_quantile():
    expected = stats.binomtest(30, 50).proportion_ci(confidence_level=0.99, method="wilson")
    np.testing.assert_allclose(wilson(0.6, 50, z=stats.norm.ppf(0.995))[1:], (expected.low, expected.high), atol=1e-12)


def test_wilson_of_no_image_is_not_a_number():
    assert np.isnan(wilson(0.0, 0)).all()


def test_what_is_wrong_clean_is_not_robust():
    clean, attacked = [True, True, False, False], [True, False, True, False]
    np.testing.assert_array_equal(robust_accuracy(clean, attacked), [1, 0, 0, 0])
    np.testing.assert_array_equal(robust_accuracy([0.9, 0.5], [0.4, 0.75]), [0.4, 0.5])


def test_a_random_model_is_scored_by_its_attacked_draws_and_not_above_clean():
    np.testing.assert_array_equal(robust_accuracy([0.9, 0.5], [0.4, 0.75], random=True), [0.4, 0.75])
    np.testing.assert_array_equal(robust_accuracy([0.9, 0.5], [0.8, 0.75], random=True), [0.9, 0.5])


def test_an_attack_that_does_nothing_to_a_random_model_costs_nothing():
    # The image-wise minimum of two shares of 20 draws is five points too low where four of five draws are right.
    clean, attacked = np.random.default_rng(0).binomial(20, 0.8, (2, 2000)) / 20
    assert robust_accuracy(clean, attacked, random=True).mean() == pytest.approx(0.8, abs=0.005)
    assert robust_accuracy(clean, attacked).mean() < 0.76


def test_success_rate_is_of_images_that_the_attacked_model_gets_right():
    # Five right clean, of which two are lost; the sixth, wrong clean, does not count either way.
    clean = [True, True, True, True, True, False]
    assert attack_success_rate(clean, [True, True, True, False, False, False]) == pytest.approx(2 / 5)
    assert attack_success_rate(clean, [True, True, True, False, False, True]) == pytest.approx(2 / 5)
    assert np.isnan(attack_success_rate([False], [True]))


def test_destruction_rate_is_of_successes_on_the_bare_classifier():
    clean = [True, True, True, True, False, True]
    attacked = [False, False, False, False, False, True]
    # Four successes, of which the defence undoes three; the image wrong clean and the one that stands do not count.
    assert destruction_rate(clean, attacked, [1, 1, 1, 0, 1, 0]) == pytest.approx(3 / 4)
    assert destruction_rate(clean, attacked, [0.5, 1, 0.25, 0, 1, 0]) == pytest.approx(1.75 / 4)
    assert np.isnan(destruction_rate([True], [True], [1]))
