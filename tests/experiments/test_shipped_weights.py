"""The recipes of the shipped weights, and their cards."""

import hashlib

import jax
import numpy as np
import pytest
from flax import nnx

from jaxpurify import datasets, images, networks
from jaxpurify.networks import registry, weights
from jaxpurify.training import BlindSpot, Recipe, SuperResolution

SHIPPED = registry.__file__.replace("registry.py", "shipped/")


@pytest.fixture(scope="module")
def study(load_study):
    return load_study("shipped_weights")


def test_every_recipe_is_of_a_registered_network(study):
    assert set(study.RECIPES) == set(study.MEASURES) <= set(networks.names(kind="images"))


@pytest.mark.parametrize("name", [name for name, known in registry.ARCHITECTURES.items() if known.shipped])
def test_card_and_registry_name_the_file_that_is_there(name):
    shipped = registry.architecture(name).shipped
    with open(SHIPPED + shipped.file, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    with open(SHIPPED + shipped.file.replace(".safetensors", ".md"), encoding="utf-8") as file:
        card = file.read()
    assert digest == shipped.sha256
    assert digest in card


@pytest.mark.slow
@pytest.mark.usefixtures("lenient")
def test_a_small_recipe_is_trained_measured_and_described(study, tmp_path, monkeypatch):
    task, recipe = SuperResolution(patch=8), Recipe(batch_size=2)
    monkeypatch.setitem(study.RECIPES, "sesr-x2", ((task, 2, recipe),))
    monkeypatch.setattr(study, "SETS", ("Set",))
    (tmp_path / "sets/Set/image_SRF_2").mkdir(parents=True)
    (tmp_path / "photographs").mkdir()
    high = np.rint(datasets.load("photos", limit=1).images[0] * 255).astype(np.uint8)
    images.write(tmp_path / "sets/Set/image_SRF_2/img_001_SRF_2_HR.png", high)
    images.write(tmp_path / "sets/Set/image_SRF_2/img_001_SRF_2_LR.png", high[::2, ::2])
    for number in range(3):
        images.write(tmp_path / f"photographs/{number}.png", high)
    config = study.Config("sesr-x2", tmp_path / "photographs", tmp_path / "run", benchmarks=tmp_path / "sets")
    study.main(config)
    card = (tmp_path / "run/sesr-x2.md").read_text()
    assert "Set (1 images), luma PSNR" in card
    assert hashlib.sha256((tmp_path / "run/sesr-x2.safetensors").read_bytes()).hexdigest() in card


def test_a_refinement_goes_on_from_weights_with_patches_of_one_colour(study, tmp_path):
    sizes = {"layers": 2, "width": 2, "patch": 8}
    task = study.RefinedBlindSpot(**sizes, start=str(tmp_path / "a"), flat=0.5)
    first = BlindSpot(**sizes).network(nnx.Rngs(3))
    weights.save(first, tmp_path / "a")
    found, expected = (jax.tree.leaves(nnx.state(each)) for each in (task.network(nnx.Rngs(0)), first))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    noise = list(np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8))
    images = task.batch(noise, np.arange(64) % 2, np.random.default_rng(1))["images"]
    flat = np.ptp(images, axis=(1, 2)).max(-1) == 0
    assert 16 < flat.sum() < 48
    assert np.isin(images[3::4][flat[3::4]], (0, 255)).all()
    assert np.ptp(task.scored_batch(noise, np.arange(2), np.random.default_rng(1))["images"], axis=(1, 2)).min() > 0
