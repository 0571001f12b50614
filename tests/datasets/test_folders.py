import numpy as np
import pytest
from PIL import Image

from jaxpurify.datasets import load


def picture(shade, *, size=(6, 4), mode="RGB"):
    return Image.new(mode, size, shade if mode == "L" else (shade, 0, 255 - shade))


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(["dog", "ant", "cow"]):
        (tmp_path / name).mkdir()
        for image in range(number + 1):
            picture(10 * number + image).save(tmp_path / name / f"{image}.png")
    (tmp_path / "ant" / "notes.txt").write_text("no image")
    (tmp_path / ".hidden").mkdir()
    return tmp_path


def test_sub_folders_are_classes_in_sorted_order_and_images_come_in_turn(folder):
    data = load(folder)
    assert data.class_names == ("ant", "cow", "dog")
    np.testing.assert_array_equal(data.labels, [0, 1, 2, 0, 1, 1])
    np.testing.assert_allclose(data.images[:, 0, 0, 0] * 255, [10, 20, 0, 11, 21, 22], atol=1e-4)
    assert data.images.shape == (6, 4, 6, 3)


def test_a_limit_is_a_beginning(folder):
    np.testing.assert_array_equal(load(folder, limit=4).images, load(folder).images[:4])


def test_an_empty_sub_folder_is_a_class(folder):
    (folder / "bee").mkdir()
    assert load(folder).class_names == ("ant", "bee", "cow", "dog")


def test_class_names_set_the_numbers(folder):
    data = load(folder, class_names=["dog", "cow", "bee", "ant"], limit=3)
    np.testing.assert_array_equal(data.labels, [3, 1, 0])
    with pytest.raises(ValueError, match=r"label 'cow', expected one of 2 classes: ant, dog"):
        load(folder, class_names=["ant", "dog"])


def test_a_csv_file_gives_labels_in_its_order(folder):
    (folder / "labels.csv").write_text("file,label\ncow/2.png,big\nant/0.png,small\ncow/0.png,big\n")
    data = load(folder)
    np.testing.assert_array_equal(data.labels, [0, 1, 0])
    np.testing.assert_allclose(data.images[:, 0, 0, 0] * 255, [22, 10, 20], atol=1e-4)
    assert data.class_names == ("big", "small")


def test_numbers_in_a_csv_file_are_labels(folder, tmp_path):
    (tmp_path / "mine.csv").write_text("file,label\ncow/2.png,3\nant/0.png,1\n")
    data = load(folder, labels=tmp_path / "mine.csv")
    np.testing.assert_array_equal(data.labels, [3, 1])
    assert data.class_names == ("0", "1", "2", "3")
    assert load(folder, labels=tmp_path / "mine.csv", class_names=list("abcd")).class_names == tuple("abcd")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,class\na.png,1\n", "columns file and label, got name, class"),
        ("file,label\nant/0.png,\n", "row 1 lacks one"),
        ("file,label\nnothing.png,1\n", "nothing.png does not exist"),
        ("", "got none"),
    ],
)
def test_a_wrong_csv_file_is_refused(folder, text, message):
    (folder / "labels.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        load(folder)


def test_other_sizes_need_size_and_are_resized_like_pillow_does(folder):
    large = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 8, 3), np.uint8))
    large.save(folder / "dog" / "1.png")
    with pytest.raises(ValueError, match=r"share one size.*4×6.*9×8.*size="):
        load(folder)
    data = load(folder, size=(3, 5))
    expected = np.asarray(large.resize((5, 3), Image.Resampling.BICUBIC)) / 255
    np.testing.assert_allclose(data.images[5], expected, atol=1e-6)
    assert "resized to 3×5" in data.source
    assert load(folder, size=7).images.shape[1:] == (7, 7, 3)


def test_grey_images_become_colour_beside_coloured_ones_only(tmp_path):
    (tmp_path / "a").mkdir()
    picture(77, mode="L").save(tmp_path / "a" / "grey.png")
    assert load(tmp_path).images.shape[3] == 1
    picture(1).save(tmp_path / "a" / "colour.png")
    np.testing.assert_allclose(load(tmp_path).images[1, 0, 0] * 255, [77] * 3, atol=1e-4)


def test_opacity_is_dropped(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("RGBA", (2, 2), (1, 2, 3, 4)).save(tmp_path / "a" / "0.png")
    np.testing.assert_allclose(load(tmp_path).images[0, 0, 0] * 255, [1, 2, 3], atol=1e-4)


def test_a_truncated_image_is_named_in_one_sentence(folder):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    noise.save(folder / "cow" / "broken.png")
    whole = (folder / "cow" / "broken.png").read_bytes()
    (folder / "cow" / "broken.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"broken\.png") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_a_folder_of_splits_is_refused_with_advice(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    folder.rename(outside / "train")
    with pytest.raises(ValueError, match=r"load .*train instead"):
        load(outside)


def test_a_folder_without_classes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="neither sub-folders nor a labels"):
        load(tmp_path)
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match="has no images"):
        load(tmp_path)
