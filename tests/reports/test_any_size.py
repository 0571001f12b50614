"""Images of any size: nothing grows with the square of a side, and one that is too large stops no other."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxpurify.cli import main
from jaxpurify.models import purifier
from jaxpurify.purifiers import random_crop, random_resizing, registry, resizing
from jaxpurify.purifiers.apply import purify
from jaxpurify.purifiers.random_crop import RandomCrop
from jaxpurify.purifiers.random_resizing import RandomResizing
from jaxpurify.purifiers.resizing import Resizing
from jaxpurify.purifiers.super_resolution import SuperResolution

STRIP = (2, 3000)
ON_STRIPS = {
    "resizing": Resizing(),
    "resizing down": Resizing(scale=0.3),
    "resizing, larger": Resizing(scale=2.0, back=False),
    "random resizing": RandomResizing(),
    "random resizing, bilinear": RandomResizing(smallest=0.5, method="bilinear", keep_size=True),
    "random crop": RandomCrop(),
    "bicubic control": SuperResolution.pretrained("bicubic", sigma=0),
}


@pytest.mark.parametrize("name", ON_STRIPS)
def test_a_long_strip_takes_no_memory_that_grows_with_the_square_of_its_side(name):
    stage = ON_STRIPS[name]
    key = jax.random.key(0) if stage.random else None
    image = jax.ShapeDtypeStruct((1, *STRIP, 3), jnp.float32)
    tracemalloc.start()
    try:
        compiled = jax.jit(lambda image: stage(image, key)).lower(image).compile()
        constants = tracemalloc.get_traced_memory()[1]  # NumPy's arrays too
    finally:
        tracemalloc.stop()
    assert constants + compiled.memory_analysis().temp_size_in_bytes < 2**24  # a matrix of this side is 36 MB and more


@pytest.mark.parametrize(
    ("stage", "module"),
    [
        (Resizing(scale=0.7, method="lanczos3"), resizing),
        (RandomResizing(smallest=0.6, largest=1.2, method="bilinear", fill=0.25), random_resizing),
        (RandomResizing(), random_resizing),
        (RandomCrop(share=0.6), random_crop),
    ],
)
def test_long_sides_give_what_short_ones_give(stage, module, monkeypatch):
    images = jnp.asarray(np.random.default_rng(0).random((3, 40, 150, 3), np.float32))
    key = jax.random.key(1) if stage.random else None
    short = stage(images, key)
    monkeypatch.setattr(module, "LONG", 10)
    jax.clear_caches()
    np.testing.assert_allclose(stage(images, key), short, atol=2e-6)
    jax.clear_caches()


def test_an_image_too_large_for_the_memory_is_named_and_the_others_are_purified(tmp_path, monkeypatch, capsys):
    @purifier
    class Enormous:
        changes_size = True

        def __call__(self, images, key=None):
            side = 2**23 if images.shape[1] > 40 else images.shape[1]
            return jnp.broadcast_to(images[:, :1, :1], (len(images), side, side, 3))

    monkeypatch.setitem(registry.PURIFIERS, "enormous", Enormous)
    (tmp_path / "in").mkdir()
    for name, height in (("a", 20), ("b", 50), ("c", 21)):
        Image.fromarray(np.zeros((height, 30, 3), np.uint8)).save(tmp_path / f"in/{name}.png")
    command = ["--purifier", "enormous", "--no-cache", "--quiet"]
    assert main(["purify", str(tmp_path / "in"), str(tmp_path / "out"), *command]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "b.png: Enormous finds too little memory for an image of 50×30 pixels" in error
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["a.png", "c.png"]
    assert main(["purify", str(tmp_path / "in/b.png"), str(tmp_path / "b.png"), *command]) == 2
    assert "in/b.png: Enormous finds too little memory" in capsys.readouterr().err
    assert not (tmp_path / "b.png").exists()


def test_opacity_of_a_long_image_follows_its_size_without_a_matrix_of_its_side():
    image = np.full((2, 1100, 4), 90, np.uint8)
    image[:, 550:, 3] = 200
    purified = purify(Resizing(scale=2.0, back=False), image)
    assert purified.shape == (4, 2200, 4)
    expected = np.asarray(jax.image.resize(image[..., 3].astype(np.float32), (4, 2200), "bilinear"))
    assert np.abs(purified[..., 3] - expected).max() <= 0.5 + 1e-3
    assert np.abs(purified[..., :3].astype(int) - 90).max() == 0
