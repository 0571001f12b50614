import numpy as np
import pytest

from jaxpurify.datasets import load, photos

# Of images and labels: other pixels mean that published figures on photos no longer hold.
FINGERPRINTS = {
    "test": "f5c1ca3bcb4b5f929360ece2a7c2722202988e910d9fc9eee551284e50e7ea95",
    "train": "7a9c485c98f16ee66695b39ccb97039b988b9a59b94cdac541ac80dc6ecbd3d0",
}


@pytest.fixture(scope="module")
def test_split():
    return load("photos", split="test")


@pytest.fixture(scope="module")
def train_split():
    return load("photos", split="train")


def test_it_is_the_same_everywhere(train_split, test_split):
    assert {data.split: data.fingerprint() for data in (train_split, test_split)} == FINGERPRINTS


def test_it_says_that_it_is_a_demonstration(test_split):
    assert test_split.demonstration
    assert all(name in test_split.licence for name in test_split.class_names)


def test_class_names_are_sorted_so_that_a_folder_of_them_numbers_them_alike(test_split):
    assert list(test_split.class_names) == sorted(test_split.class_names)
    assert len(test_split.class_names) == 8


@pytest.mark.parametrize("limit", [8, 64, 1024])
def test_every_beginning_is_balanced(test_split, limit):
    counts = np.bincount(load("photos", limit=limit).labels, minlength=8)
    np.testing.assert_array_equal(counts, limit // 8)


def test_classes_do_not_alternate_with_a_fixed_period(test_split):
    assert len(np.unique(test_split.labels[::8])) == 8


def test_train_and_test_patches_share_no_pixel():
    for photograph in photos.balanced_photographs():
        covered = {}
        for split in ("train", "test"):
            covered[split] = np.zeros(photograph.shape[:2], bool)
            for row, column in photos.positions(photograph, split=split):
                covered[split][row : row + photos.SIZE, column : column + photos.SIZE] = True
        assert covered["train"].any()
        assert covered["test"].any()
        assert not (covered["train"] & covered["test"]).any()


@pytest.mark.parametrize("split", ["train", "test"])
def test_no_patch_is_cut_twice(split):
    for photograph in photos.balanced_photographs():
        corners = photos.positions(photograph, split=split)
        assert len(np.unique(corners, axis=0)) == photos.PER_CLASS[split]


def test_patches_are_what_the_positions_say(test_split):
    for number, photograph in enumerate(photos.balanced_photographs()):
        row, column = photos.positions(photograph, split="test")[0]
        first = test_split.images[np.flatnonzero(test_split.labels == number)[0]]
        patch = photograph[row : row + photos.SIZE, column : column + photos.SIZE]
        np.testing.assert_allclose(first * 255, patch, atol=1e-4)


def test_every_photograph_has_the_same_distribution_of_each_channel():
    quantiles = np.array(
        [
            np.quantile(each.reshape(-1, 3), np.linspace(0.05, 0.95, 19), axis=0)
            for each in photos.balanced_photographs()
        ]
    )
    assert np.ptp(quantiles, axis=0).max() <= 10  # of 255, where a photograph has many equal values
    assert np.ptp(quantiles, axis=0).mean() <= 2


def test_every_patch_has_contrast(train_split, test_split):
    for data in (train_split, test_split):
        grey = data.images.astype(np.float64).mean(axis=3)
        assert grey.std(axis=(1, 2)).min() > photos.CONTRAST


def histograms(data, bins=8):
    """Count each channel's values in bins, an independent way: np.histogram's."""
    edges = np.linspace(0, 1, bins + 1)
    flat = data.images.reshape(len(data), -1, 3)
    counts = [[np.histogram(image[:, channel], edges)[0] for channel in range(3)] for image in flat]
    return np.array(counts, np.float64).reshape(len(data), -1) / flat.shape[1]


def nearest_neighbour(train, train_labels, test):
    return train_labels[[np.abs(train - each).sum(axis=1).argmin() for each in test]]


def logistic_regression(train, train_labels, test, *, steps=250):
    mean, deviation = train.mean(axis=0), train.std(axis=0) + 1e-9
    train, test = ((np.c_[(part - mean) / deviation, np.ones(len(part))]) for part in (train, test))
    weights = np.zeros((train.shape[1], 8))
    momentum = np.zeros_like(weights)
    for _ in range(steps):
        scores = train @ weights
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        gradient = train.T @ (shares - np.eye(8)[train_labels]) / len(train) + 1e-4 * weights
        momentum = 0.9 * momentum + gradient
        weights -= 0.2 * momentum
    return (test @ weights).argmax(axis=1)


@pytest.mark.parametrize("classify", [nearest_neighbour, logistic_regression])
def test_colour_histograms_do_not_solve_it(classify, train_split, test_split):
    part = train_split.take(slice(4096))
    guesses = classify(histograms(part), part.labels, histograms(test_split))
    assert (guesses == test_split.labels).mean() <= 0.6  # the shipped network: 89 %


def test_an_unknown_split_names_those_there_are():
    with pytest.raises(ValueError, match=r"no split 'valid', expected one of: train, test"):
        load("photos", split="valid")


def test_missing_photographs_are_one_sentence(monkeypatch):
    missing = photos.PHOTOGRAPHS[0]._replace(file="nothing.png")
    with pytest.raises(ValueError, match=r"scikit-image is damaged.*install it again"):
        photos._read(missing)
