"""``jaxpurify detect``."""

import re

import numpy as np

from jaxpurify import datasets, networks
from jaxpurify.detectors import FeatureSqueezing
from jaxpurify.purifiers import BitDepth

TINY = ("--limit", 8, "--batch-size", 8, "--squeezer", "bit-depth:bits=2", "--attack", "pgd:steps=2", "--no-cache")


def test_it_tells_what_is_found_and_what_is_not(cli):
    code, out, err = cli("detect", *TINY, "--false-positive-rate", 0.25)
    assert (code, err) == (0, "")
    train = datasets.load("photos", split="train", limit=8).images
    detector = FeatureSqueezing(squeezers=(BitDepth(bits=2.0),)).calibrated(
        networks.load_classifier("photos-cnn"), train, false_positive_rate=0.25
    )
    assert f"threshold {detector.threshold:.4f}, chosen on 8 legitimate images" in out
    shares = [float(share) for share in re.findall(r"(\d+\.\d) \[", out)]
    assert len(shares) == 4
    assert all(0 <= share <= 100 for share in shares)


def test_a_threshold_is_never_chosen_on_the_images_it_is_tried_on(refused, tmp_path):
    np.savez(tmp_path / "test.npz", images=np.zeros((2, 32, 32, 3), np.uint8), labels=np.zeros(2, np.int64))
    error = refused("detect", *TINY, "--data", "test.npz", "--classifier", "photos-cnn")
    assert "test.npz has no split 'train', expected a file or folder with other images" in error


def test_an_attack_without_gradients_is_refused(refused):
    assert "follows no gradient" in refused("detect", *TINY[:-2], "noise", "--no-cache")
