import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify import images as ji


def batch(*shape, value=0.5, dtype=np.float32):
    return np.full(shape or (2, 4, 5, 3), value, dtype)


# checks


@pytest.mark.parametrize(
    ("wrong", "error", "cause"),
    [
        (batch(dtype=np.uint8), TypeError, "got uint8: divide by 255"),
        (batch(dtype=np.float16), TypeError, "got float16: convert to float32"),
        (batch(dtype=np.int32), TypeError, "got int32"),
        ([[0.5]], TypeError, "got list: pass an array"),
        (batch(4, 5, 3), ValueError, r"got shape \(4, 5, 3\): one image\? add a batch axis"),
        (batch(4, 5), ValueError, r"got shape \(4, 5\)"),
        (batch(0, 4, 5, 3), ValueError, r"empty batch of shape \(0, 4, 5, 3\)"),
        (batch(2, 0, 5, 3), ValueError, "which has no pixels"),
        (batch(2, 3, 32, 32), ValueError, "channels first"),
        (batch(2, 1, 28, 28), ValueError, "channels first"),
    ],
)
def test_images_out_of_convention_are_refused_with_the_usual_cause(wrong, error, cause):
    with pytest.raises(error, match=rf"photos must be float32 of shape .*{cause}"):
        ji.check_images(wrong, name="photos")


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_images_in_convention_pass(channels):
    ji.check_images(batch(1, 1, 3, channels))
    ji.check_images(jnp.asarray(batch(2, 7, 5, channels)))
    ji.check_images(batch(dtype=np.float64))


def test_shapes_are_checked_under_jit_where_values_are_unknown():
    @jax.jit
    def check(images):
        ji.check_images(images)
        return images

    check(batch(1, 2, 2, 3, value=np.nan))
    with pytest.raises(ValueError, match="channels first"):
        check(batch(1, 3, 32, 32))


def with_pixel(value):
    images = batch()
    images[1, 0, 0, 0] = value
    return images


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_naming_the_image(value):
    with pytest.raises(ValueError, match=r"must be finite, got NaN or infinity in image 1 \(1 in all\)"):
        ji.check_values(with_pixel(value))


@pytest.mark.parametrize(("value", "cause"), [(200.0, "divide by 255"), (1.1, "inside the network"), (-1, "inside")])
def test_values_out_of_range_are_refused_with_the_usual_cause(value, cause):
    with pytest.raises(ValueError, match=rf"must be in \[0, 1\], got values from .*{cause}"):
        ji.check_values(with_pixel(value))


@pytest.mark.parametrize("value", [-1e-7, 0.0, 1.0, 1 + 5e-7])
def test_rounding_errors_pass(value):
    ji.check_values(with_pixel(value))


def test_labels_in_range_pass():
    ji.check_labels(np.array([0, 9]), 2, classes=10)
    ji.check_labels(jnp.array([0, 9], jnp.uint8), 2, classes=10)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (np.array([0, 10]), ValueError, r"in \[0, 10\), got values from 0 to 10: 1-based"),
        (np.array([-1, 3]), ValueError, "got values from -1 to 3"),
        (np.array([0, 1, 2]), ValueError, r"one entry an image, expected shape \(2,\), got \(3,\)"),
        (np.eye(2), TypeError, "array of integers .* got float64: class numbers, not one-hot"),
        (np.eye(2, dtype=int), ValueError, r"got \(2, 2\)"),
        ([0, 1], TypeError, "got list"),
        (np.array([True, False]), TypeError, "got bool"),
    ],
)
def test_wrong_labels_are_refused(labels, error, message):
    with pytest.raises(error, match=message):
        ji.check_labels(labels, 2, classes=10)


def test_traced_labels_are_checked_by_shape_alone():
    @jax.jit
    def check(labels):
        ji.check_labels(labels, 2, classes=3)
        return labels

    check(np.array([0, 99]))
    with pytest.raises(ValueError, match="one entry an image"):
        check(np.array([0, 1, 2]))


# saturation


def test_saturate_clips_forward():
    np.testing.assert_array_equal(ji.saturate(jnp.array([-0.5, 0.0, 0.3, 1.0, 1.5])), np.float32([0, 0, 0.3, 1, 1]))


def test_saturate_passes_the_gradient_inside_and_inward_and_no_other():
    values = jnp.array([-0.5, -0.5, 0.0, 0.0, 0.3, 0.3, 1.0, 1.0, 1.5, 1.5])
    gradient = jnp.array([2.0, -2, 2, -2, 2, -2, 2, -2, 2, -2])
    expected = [2.0, 0, 2, -2, 2, -2, 2, -2, 0, -2]
    _, pull = jax.vjp(ji.saturate, values)
    np.testing.assert_array_equal(pull(gradient)[0], np.float32(expected))


@pytest.mark.usefixtures("x64")
def test_saturate_keeps_float64():
    value, gradient = jax.value_and_grad(lambda x: ji.saturate(x).sum())(jnp.array([0.25, 1.0]))
    assert value.dtype == gradient.dtype == np.float64


# resizing and colour


@pytest.mark.parametrize("method", ["bilinear", "bicubic", "lanczos3"])
@pytest.mark.parametrize("size", [(9, 13), (40, 62)])
def test_resizing_agrees_with_pillow(method, size):
    from PIL import Image

    image = np.random.default_rng(0).uniform(0, 1, (20, 31)).astype(np.float32)
    filters = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC, "lanczos3": Image.LANCZOS}
    expected = np.asarray(Image.fromarray(image).resize(size[::-1], filters[method]))
    resized = ji.resize(jnp.asarray(image)[None, :, :, None], height=size[0], width=size[1], method=method)
    np.testing.assert_allclose(resized[0, :, :, 0], expected, atol=2e-6)


def test_resizing_with_nearest_takes_the_nearest_pixels_centre():
    image = jnp.arange(6, dtype=jnp.float32).reshape(1, 2, 3, 1)
    resized = ji.resize(image, height=4, width=9, method="nearest")
    np.testing.assert_array_equal(resized, np.repeat(np.repeat(image, 2, axis=1), 3, axis=2))


def test_luma_and_colour_differences_agree_with_scikit_image():
    from skimage import color

    images = np.random.default_rng(0).uniform(0, 1, (2, 4, 5, 3))
    # scikit-image has the studio range: luma from 16 to 235, differences from 16 to 240.
    expected = (color.rgb2ycbcr(images) - [16, 16, 16]) / [219, 224, 224]
    np.testing.assert_allclose(ji.rgb_to_ycbcr(jnp.asarray(images, jnp.float32)), expected, atol=3e-6)


def test_colour_conversion_inverts():
    images = jnp.asarray(np.random.default_rng(0).uniform(0, 1, (2, 4, 5, 3)), jnp.float32)
    np.testing.assert_allclose(ji.ycbcr_to_rgb(ji.rgb_to_ycbcr(images)), images, atol=1e-6)
    grey = ji.rgb_to_ycbcr(jnp.full((1, 1, 1, 3), 0.25))
    np.testing.assert_allclose(grey[0, 0, 0], [0.25, 0.5, 0.5], atol=1e-7)


# files


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_png_comes_back_pixel_by_pixel(tmp_path, channels):
    image = np.random.default_rng(0).integers(0, 256, (7, 9, channels), dtype=np.uint8)
    ji.write(tmp_path / "image.png", image)
    np.testing.assert_array_equal(ji.read(tmp_path / "image.png"), image)
    assert [path.name for path in tmp_path.iterdir()] == ["image.png"]


def test_float_images_are_rounded_to_eight_bits(tmp_path):
    ji.write(tmp_path / "image.png", np.array([[[0.0, 0.5, 1 + 1e-7]], [[100.4 / 255, 100.6 / 255, -1e-7]]]))
    np.testing.assert_array_equal(ji.read(tmp_path / "image.png"), [[[0, 128, 255]], [[100, 101, 0]]])


def test_a_photograph_is_turned_upright(tmp_path):
    from PIL import Image

    image = np.zeros((4, 8, 3), np.uint8)
    image[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    Image.fromarray(image).save(tmp_path / "turned.png", exif=exif)
    upright = ji.read(tmp_path / "turned.png")
    assert upright.shape == (8, 4, 3)
    assert upright[0, 3].tolist() == [255, 255, 255]


def test_palettes_and_grey_with_opacity_become_colour(tmp_path):
    from PIL import Image

    Image.new("P", (3, 2)).save(tmp_path / "palette.png")
    assert ji.read(tmp_path / "palette.png").shape == (2, 3, 3)
    Image.new("LA", (3, 2), (9, 255)).save(tmp_path / "grey.png")
    assert ji.read(tmp_path / "grey.png").shape == (2, 3, 4)
    Image.new("1", (3, 2)).save(tmp_path / "bits.png")
    assert ji.read(tmp_path / "bits.png").shape == (2, 3, 1)


@pytest.mark.parametrize("kind", ["png", "jpg"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.95])
def test_a_truncated_file_is_refused(tmp_path, kind, share):
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    path = tmp_path / f"image.{kind}"
    ji.write(path, image)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ValueError, match=r"image\..* (truncated|not an image)"):
        ji.read(path)


def test_what_cannot_be_read_is_named(tmp_path):
    from PIL import Image

    with pytest.raises(ValueError, match=r"absent\.png does not exist"):
        ji.read(tmp_path / "absent.png")
    with pytest.raises(ValueError, match="is a folder"):
        ji.read(tmp_path)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match="is not an image that Pillow can read"):
        ji.read(tmp_path / "text.png")
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "deep.tif")
    with pytest.raises(ValueError, match="convert it"):
        ji.read(tmp_path / "deep.tif")


@pytest.mark.parametrize("name", ["image", "image.txt", "image.psd"])
def test_an_ending_that_cannot_be_written_is_refused_and_nothing_is_left(tmp_path, name):
    with pytest.raises(ValueError, match="has no ending of an image format"):
        ji.write(tmp_path / name, np.zeros((2, 2, 3), np.uint8))
    assert not list(tmp_path.iterdir())


def test_opacity_that_the_format_cannot_hold_is_refused_and_nothing_is_left(tmp_path):
    with pytest.raises(ValueError, match=r"image.jpg cannot hold"):
        ji.write(tmp_path / "image.jpg", np.zeros((2, 2, 4), np.uint8))
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    from PIL import Image

    def stop_half_way(self, path, **options):
        path.write(b"half")
        raise OSError("disk full")

    ji.write(tmp_path / "image.png", np.zeros((2, 2, 3), np.uint8))
    before = (tmp_path / "image.png").read_bytes()
    monkeypatch.setattr(Image.Image, "save", stop_half_way)
    with pytest.raises(ValueError, match=r"image\.png cannot be written as PNG \(disk full\)"):
        ji.write(tmp_path / "image.png", np.ones((2, 2, 3), np.uint8))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]
