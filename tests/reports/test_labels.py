"""Labels mean the class that they name: however data are stored, and whatever the classifier's order is."""

import itertools
import re

import numpy as np
import pytest
from PIL import Image

import jaxpurify as jp
from jaxpurify import attacks, datasets
from jaxpurify.datasets.classes import as_names, check_class_count, check_same_classes, class_number, matched_labels

NAMES = ("cat", "dog", "ship", "truck")


def shade(path, number):
    """Write an image whose first value is its number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(path)


def pairs(data):
    return [
        (round(float(image[0, 0, 0]) * 255), int(label)) for image, label in zip(data.images, data.labels, strict=True)
    ]


def sentence(caught):
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("form", ["{}", "{:03d}", "+{}", "{}.0"])
def test_folders_named_by_whole_numbers_are_those_classes(tmp_path, form):
    for number in range(12):
        shade(tmp_path / form.format(number) / "a.png", number)
    data = datasets.load(tmp_path)
    assert pairs(data) == [(number, number) for number in range(12)]
    assert data.class_names == tuple(map(str, range(12)))
    named = datasets.load(tmp_path, class_names=[f"class {number}" for number in range(12)])
    assert pairs(named) == pairs(data)


def test_absent_numbers_shift_no_class_and_empty_folders_are_classes(tmp_path):
    for number in (7, 10, 3):
        shade(tmp_path / str(number) / "a.png", number)
    (tmp_path / "11").mkdir()
    data = datasets.load(tmp_path)
    assert pairs(data) == [(3, 3), (7, 7), (10, 10)]
    assert data.class_names == tuple(map(str, range(12)))
    named = datasets.load(tmp_path, class_names=[f"class {number}" for number in range(12)])
    assert sorted(pairs(named)) == pairs(data)
    assert pairs(datasets.load(tmp_path, class_names=["10", "11", "3", "7"], limit=1)) == [(3, 2)]


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["7", "07"], "07 and 7 are both class 7"),
        (["3", "3.0"], "are both class 3"),
        (["0", "1", "-1"], r"-1: a label must be a whole number from 0 .*'-1'"),
        (["0", "1", "cat"], r"cat: .* where any is a number, got 'cat'"),
        (["0", "20240101"], "got '20240101'"),
        (["0", "1e300"], "got '1e300'"),
        (["0.5", "1.5"], "got '0.5'"),
        (["nan", "1"], "got 'nan'"),
    ],
)
def test_folders_that_cannot_be_classes_are_refused_in_a_sentence(tmp_path, folders, message):
    for number, folder in enumerate(folders):
        shade(tmp_path / folder / "a.png", number)
    with pytest.raises(ValueError, match=message) as caught:
        datasets.load(tmp_path)
    assert str(tmp_path) in sentence(caught)


@pytest.mark.parametrize(
    "leftover", ["__MACOSX", "@eaDir", ".ipynb_checkpoints", ".git", "__pycache__", "$RECYCLE.BIN"]
)
def test_leftovers_are_neither_classes_nor_images(tmp_path, leftover):
    for number, name in enumerate(NAMES):
        shade(tmp_path / name / "a.png", number)
    (tmp_path / leftover).mkdir()
    shade(tmp_path / leftover / "a.png", 99)
    shade(tmp_path / "cat" / leftover / "a.png", 99)
    (tmp_path / "cat" / "._a.png").write_bytes(b"\0\5\x16\7")
    (tmp_path / "dog" / "Thumbs.db").write_bytes(b"x")
    data = datasets.load(tmp_path)
    assert (data.class_names, pairs(data)) == (NAMES, list(enumerate(range(4))))


def test_a_class_without_a_readable_image_is_refused_and_an_empty_one_is_not(tmp_path):
    for name in NAMES[:2]:
        shade(tmp_path / name / "a.png", 1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".gitkeep").touch()
    assert datasets.load(tmp_path).class_names == ("cat", "dog", "empty")
    (tmp_path / "ship").mkdir()
    (tmp_path / "ship" / "a.heic").write_bytes(b"of a kind that is not read")
    with pytest.raises(ValueError, match=r"ship must hold images that end in .*, got a\.heic: convert"):
        datasets.load(tmp_path)


def table(tmp_path, labels):
    rows = []
    for number, label in enumerate(labels):
        shade(tmp_path / "images" / f"{number}.png", number)
        rows.append(f"images/{number}.png,{label}")
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *rows]) + "\n")
    return tmp_path


@pytest.mark.parametrize("form", ["{}", "{}.0", "{}.", "+{}", " {} ", "{:02d}", "{:.18e}", "{}e0"])
def test_whole_numbers_of_a_table_are_class_numbers_however_they_are_written(tmp_path, form):
    data = datasets.load(table(tmp_path, [form.format(number) for number in range(12)]))
    assert pairs(data) == [(number, number) for number in range(12)]
    assert data.class_names == tuple(map(str, range(12)))


@pytest.mark.parametrize(
    ("labels", "row"),
    [
        (["0", "1", "-1"], 3),
        (["0.0", "-1.0", "2.0"], 2),
        (["0", "2.5"], 2),
        (["0", "nan"], 2),
        (["inf", "1"], 1),
        (["0", "1", "1000000000000"], 3),
        (["1e300", "1"], 1),
        (["1000000"], 1),
        (["0", "cat"], 2),
        (["cat", "0"], 1),
        (["cat", "-1"], 2),
        (["0", ""], 2),
        (["0", "  "], 2),
        (["1_0", "1"], 1),
    ],
)
def test_labels_that_cannot_be_classes_are_refused_with_file_and_row(tmp_path, labels, row):
    with pytest.raises(ValueError, match=rf"\brow {row}\b") as caught:
        datasets.load(table(tmp_path, labels))
    assert "labels.csv" in sentence(caught)


def test_labels_beside_class_names_are_names_or_numbers_of_names(tmp_path):
    data = datasets.load(table(tmp_path, ["ship", "0", "3.0", "cat"]), class_names=NAMES)
    assert pairs(data) == [(0, 2), (1, 0), (2, 3), (3, 0)]
    # Names that are numbers are looked up by their value, never by their place.
    data = datasets.load(table(tmp_path, ["10", "2.0", "02"]), class_names=("1", "10", "2"))
    assert pairs(data) == [(0, 1), (1, 2), (2, 2)]
    for label in ("4", "-1", "2.5", "bird", "nan"):
        with pytest.raises(ValueError, match=rf"row 2 of .*labels.csv has the label '{label}', expected one of 4"):
            datasets.load(table(tmp_path, ["ship", label]), class_names=NAMES)
    with pytest.raises(ValueError, match="expected one of 3 classes"):
        datasets.load(table(tmp_path, ["0"]), class_names=("1", "10", "2"))
    with pytest.raises(ValueError, match=r"'cat' is the name of classes \[0, 1\]"):
        datasets.load(table(tmp_path, ["cat"]), class_names=("cat", "cat", "dog"))


@pytest.mark.parametrize("class_names", ["catdog", 3, {"cat", "dog"}, {"cat": 0}, [None], b"cat"])
def test_class_names_that_are_none_are_refused(tmp_path, class_names):
    with pytest.raises(TypeError, match=r"class_names must be a sequence of names such as \('cat', 'dog'\)"):
        datasets.load(table(tmp_path, ["0"]), class_names=class_names)


@pytest.mark.parametrize("size", [2.5, "32", (4,), (4, 4, 4), (4, 2.5), True, 0, -3, ("4", "4"), {4: 4}])
def test_a_size_is_one_or_two_positive_whole_numbers(tmp_path, size):
    with pytest.raises(ValueError, match="size must be a positive whole number of pixels, or rows and columns, got"):
        datasets.load(table(tmp_path, ["0"]), size=size)
    assert datasets.load(tmp_path, size=np.array([3, 2])).images.shape == (1, 3, 2, 3)


IMAGES = np.random.default_rng(0).integers(0, 256, (4, 4, 4, 3), np.uint8)


def archive(tmp_path, labels, **arrays):
    np.savez(tmp_path / "data.npz", images=IMAGES, labels=np.asarray(labels), **arrays)
    return datasets.load(tmp_path / "data.npz")


def test_names_in_bytes_are_text(tmp_path):
    data = archive(tmp_path, [0, 1, 2, 1], class_names=np.array([b"cat", b"dog", "caf\u00e9".encode()]))
    assert data.class_names == ("cat", "dog", "caf\u00e9")
    with pytest.raises(ValueError, match=r"class_names of data\.npz must be text in UTF-8"):
        archive(tmp_path, [0, 1, 1, 1], class_names=np.array([b"cat", b"caf\xe9"]))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 1, -1, 2]), "from 0 to 999999, got -1: leave unlabelled images out"),
        (np.array([-1, -1, -1, -1]), "got -1"),
        (np.array([0, 1, 10**12, 2]), "got 1000000000000"),
        (np.array([0, 1, 2**64 - 1, 2], np.uint64), "got 18446744073709551615"),
        (np.array([0.0, 1.0, 2.0, 3.0]), "must be an array of integers"),
        (np.array([True, False, True, True]), "must be an array of integers"),
        (np.eye(4, dtype=np.int64), r"expected shape \(4,\), got \(4, 4\)"),
        (np.eye(4), "class numbers, not one-hot"),
        (np.array(["0", "1", "2", "3"]), "must be an array of integers"),
    ],
)
def test_labels_of_an_archive_that_are_no_class_numbers_are_refused(tmp_path, labels, message):
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        archive(tmp_path, labels)
    assert "data" in sentence(caught)


def test_every_integer_dtype_is_read_right(tmp_path):
    for dtype in (np.uint8, np.int8, np.uint64, ">i8", np.int16):
        np.testing.assert_array_equal(archive(tmp_path, np.array([3, 0, 2, 1], dtype)).labels, [3, 0, 2, 1])


def test_the_remedy_fits_the_fault():
    images = np.zeros((4, 4, 4, 3), np.float32)
    remedies = {(1, 2, 3, 4): "1-based", (-1, 0, 1, 2): "images without a class", (0, 1, 2, 9): "another data set"}
    for labels, remedy in remedies.items():
        with pytest.raises(ValueError, match=remedy):
            datasets.Dataset(images, np.array(labels), NAMES)
    with pytest.raises(ValueError, match=r"images\[\.\.\., None\]"):
        datasets.Dataset(np.zeros((4, 28, 28), np.float32), np.zeros(4, int), NAMES)
    with pytest.raises(ValueError, match=r"images\[None\]"):
        datasets.Dataset(np.zeros((28, 28, 3), np.float32), np.zeros(4, int), NAMES)


def test_classes_are_matched_by_name_whatever_their_order():
    labels = np.array([0, 1, 2, 1], np.uint8)
    for names in itertools.permutations(NAMES, 3):
        found, known = matched_labels(labels, names, NAMES)
        assert [known[label] for label in found] == [names[label] for label in labels]
    many = tuple(f"c{number}" for number in range(1000))
    found, _ = matched_labels(labels, ("c999", "c300", "c2"), many)
    np.testing.assert_array_equal(found, [999, 300, 2, 300])


def test_capitals_and_separators_do_not_matter_unless_names_differ_by_them_alone():
    found, known = matched_labels(
        np.array([0, 1, 2]), ("Polar_Bear ", "CAT", "fire-truck"), ("cat", "fire truck", "polar bear")
    )
    np.testing.assert_array_equal(found, [2, 0, 1])
    assert known == ("cat", "fire truck", "polar bear")
    found, _ = matched_labels(np.array([0, 1]), ("A", "a"), ("a", "A"))
    np.testing.assert_array_equal(found, [1, 0])
    for names, theirs in (
        (("Cat",), ("cat", "CAT")),
        (("Cat", "cat"), ("cat", "dog")),
        (("crane",), ("crane", "crane")),
    ):
        with pytest.raises(ValueError, match="without one class of their own"):
            matched_labels(np.zeros(1, int), names, theirs)


def test_labels_stand_where_names_are_numbers_or_there_are_none():
    labels = np.array([0, 2, 1])
    for names, theirs in (
        (None, NAMES),
        (("0", "1", "2"), NAMES),
        (NAMES, None),
        (NAMES, NAMES),
        (("00", "01", "02"), NAMES),
    ):
        assert matched_labels(labels, names, theirs)[0] is labels
    assert matched_labels(labels, ("0", "1", "2"), NAMES)[1] == NAMES
    assert matched_labels(labels, NAMES, ("0", "1", "2", "3"))[0] is labels
    # Numbers in the order of text, as some tools sort folders.
    found, _ = matched_labels(np.array([0, 1, 2, 3]), ("0", "1", "10", "2"), tuple(map(str, range(11))))
    np.testing.assert_array_equal(found, [0, 1, 10, 2])
    found, _ = matched_labels(np.array([0, 1]), ("3", "1"), NAMES)
    np.testing.assert_array_equal(found, [3, 1])


TWELVE = tuple(map(str, range(12)))


@pytest.mark.parametrize(
    ("names", "theirs", "labels", "wanted"),
    [
        (("0", "1", "2", "3", "4"), ("1", "2", "3", "4", "5"), [1, 2, 3, 4], [0, 1, 2, 3]),
        (TWELVE, tuple(sorted(TWELVE)), [2, 10, 0, 11], [4, 2, 0, 3]),
        (("00", "01", "02"), ("2", "1", "0"), [0, 1, 2], [2, 1, 0]),
        (TWELVE, ("07", "3"), [7, 3], [0, 1]),
        (("3", "7", "9"), ("7", "3"), [1, 0], [0, 1]),
        (("0", "1", "2"), ("2", "one", "0"), [0, 2], [2, 0]),
        (("0", "1", "2"), ("2", "one", "0"), [0, 1], None),
        (("0", "1", "2"), ("0_cat", "2_ship", "1_dog"), [1, 2, 0], [2, 1, 0]),
        (("0_cat", "2_ship", "1_dog"), ("0", "1", "2"), [1, 2, 0], [2, 1, 0]),
        (("0_cat", "2_ship", "1_dog"), ("2", "1", "0"), [1, 2, 0], [0, 1, 2]),
        (("0", "1"), ("1", "2"), [0, 1], None),
        (("0", "1", "2"), ("1", "01", "2"), [1], None),
        (("1", "0", "cat"), ("0", "1", "2"), [0], None),
        (("0_cat", "1_dog"), ("0_dog", "1_cat"), [0], None),
    ],
)
def test_names_that_are_numbers_are_matched_by_their_value(names, theirs, labels, wanted):
    if wanted is None:
        with pytest.raises(ValueError, match=r"not among them|one class of their own") as caught:
            matched_labels(np.array(labels), names, theirs)
        assert "give their numbers there" in sentence(caught)
    else:
        found, known = matched_labels(np.array(labels), names, theirs)
        assert (found.tolist(), known) == (wanted, theirs)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("0", "1", "2"), ("0", "2", "1"), False),
        (("0", "1", "2"), ("1", "2", "3"), False),
        (("0", "1", "2"), ("0", "1"), False),
        (("0", "1", "2"), ("00", "1.0", "2"), True),
        (("3", "1"), ("3", "1"), True),
        (("0", "1", "2"), NAMES[:3], True),
        (NAMES[:3], ("0", "1", "2"), True),
        (NAMES[:3], ("1", "2", "3"), False),
        (("0", "1", "2"), ("0_cat", "2_ship", "1_dog"), False),
        (("0", "1", "2"), ("0_cat", "1_ship", "2_dog"), True),
        (("0_cat", "1_dog"), ("0_dog", "1_cat"), False),
    ],
)
def test_models_have_the_same_classes_where_numbers_are_the_same(one, other, same):
    models = [jp.classifier(brightest, class_names=names) for names in (one, other)]
    if same:
        check_same_classes(*models, names=("one", "the other"))
    else:
        with pytest.raises(
            ValueError, match="one and the other must have the same classes in the same order"
        ) as caught:
            check_same_classes(*models, names=("one", "the other"))
        sentence(caught)


@pytest.mark.parametrize(
    "label", ["tensor(3)", "[0]", "array([3])", "np.int64(3)", "(0,)", "tensor(2, device='cuda:0')", "[0. 1. 0.]"]
)
def test_printed_arrays_are_no_labels(tmp_path, label):
    with pytest.raises(
        ValueError, match=r"row 2 of .*which looks like a printed array: write the number alone"
    ) as caught:
        datasets.load(table(tmp_path, ["1", f'"{label}"']))
    sentence(caught)
    with pytest.raises(ValueError, match="printed array"):
        datasets.load(table(tmp_path, [f'"{label}"', "cat"]))
    assert datasets.load(table(tmp_path, ["cat (big)", "boeing(737)"])).class_names == ("boeing(737)", "cat (big)")


def test_names_that_begin_with_their_numbers_are_counted_by_those(tmp_path):
    for number in range(11):
        shade(tmp_path / "all" / f"{number} - class {10 - number}" / "a.png", number)
    data = datasets.load(tmp_path / "all")
    assert sorted(pairs(data)) == [(number, number) for number in range(11)]
    assert data.class_names == tuple(f"{number} - class {10 - number}" for number in range(11))
    for number, folder in enumerate(["10_a", "9_b", "3d printer"]):
        shade(tmp_path / "some" / folder / "a.png", number)
    assert datasets.load(tmp_path / "some").class_names == ("10_a", "3d printer", "9_b")
    named = datasets.load(table(tmp_path / "table", ["1", "2"]), class_names=("0_cat", "2_ship", "1_dog"))
    assert pairs(named) == [(0, 2), (1, 1)]


@pytest.mark.parametrize(
    ("names", "theirs", "message"),
    [
        (
            ("cat", "bird"),
            NAMES,
            r"net tells apart 4 classes \(cat, dog, ship, …\), got mine with 2 classes .* bird not",
        ),
        (("0", "1", "2", "3", "4"), NAMES, "4 not among them"),
        (tuple(map(str, range(1, 5))), NAMES, "4 not among them"),
        (("cat", "3"), NAMES, "3 not among them"),
        (("cat", "dog", "ship"), ("0", "1", "2", "3"), "4 classes without names, got mine with 3 classes"),
    ],
)
def test_classes_that_cannot_be_matched_are_refused_in_a_sentence(names, theirs, message):
    with pytest.raises(ValueError, match=message) as caught:
        matched_labels(np.zeros(2, int), names, theirs, data="mine", classifier="net")
    assert "numbers there" in sentence(caught)
    with pytest.raises(ValueError, match=r"labels of data must be in \[0, 2\)"):
        matched_labels(np.array([0, 2]), ("dog", "cat"), NAMES)


def test_a_classifier_without_names_needs_data_with_all_of_its_classes():
    check_class_count(NAMES, 4)
    check_class_count(("0", "1"), 4)
    check_class_count(None, 4)
    with pytest.raises(ValueError, match="give the classifier its class_names"):
        check_class_count(NAMES[:3], 4)


def test_numbers_are_read_as_numbers():
    texts = {"3": 3, "+3": 3, "003": 3, "3.0": 3, "3e0": 3, "-0": 0}
    assert {text: class_number(text) for text in texts} == texts
    assert {class_number(text) for text in ("-1", "2.5", "nan", "inf", "1e300", "1_0", "three", "", "0x3")} == {None}
    assert as_names(np.array([1, 2])) == ("1", "2")


def brightest(images):
    """Classify images by which of four columns is the brightest: the classes are NAMES."""
    return images.mean(axis=(1, 3))


@pytest.fixture(scope="module")
def images():
    """Three images of each of dog, ship and truck, far from any boundary."""
    columns = np.full((9, 4, 4, 3), 0.2, np.float32)
    for row in range(9):
        columns[row, :, 1 + row % 3] = 0.8
    return columns


def share_right(classifier, data):
    found = jp.evaluate(
        classifier,
        {"none": jp.purifiers.Identity()},
        data,
        attacks=attacks.FGSM(epsilon=1 / 255),
        threat_models="blind",
        progress=False,
    )
    return found.clean("none").fraction, found.config["class_names"]


@pytest.mark.parametrize("names", [("truck", "dog", "ship"), ("Dog", "Ship", "Truck"), ("ship", "truck", "dog")])
def test_an_evaluation_scores_classes_by_name(images, names):
    numbers = [[name.lower() for name in names].index(name) for name in NAMES[1:]]
    data = datasets.Dataset(images, np.tile(numbers, 3), names)
    classifier = jp.classifier(brightest, class_names=NAMES)
    assert share_right(classifier, data) == (1.0, list(NAMES))
    assert share_right(jp.Defended(classifier, jp.purifiers.Identity()), data) == (1.0, list(NAMES))
    with pytest.raises(ValueError, match="4 classes without names"):
        share_right(jp.classifier(brightest), data)
    with pytest.raises(ValueError, match="not among them"):
        share_right(classifier, datasets.Dataset(images, data.labels, ("dog", "ship", "lorry")))
    assert share_right(classifier, (images, np.arange(9) % 3 + 1)) == (1.0, list(NAMES))


def test_folders_named_by_numbers_are_scored_by_number(tmp_path, images):
    for row, image in enumerate(images):
        path = tmp_path / str(2 + row % 3) / f"{row}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.rint(image * 255).astype(np.uint8)).save(path)
    data = datasets.load(tmp_path)
    assert share_right(jp.classifier(brightest, class_names=("1", "2", "3", "4")), data) == (1.0, ["1", "2", "3", "4"])
    with pytest.raises(ValueError, match="4 not among them"):
        share_right(jp.classifier(brightest, class_names=("0", "1", "2", "3")), data)


def test_an_evaluation_says_where_labels_are_matched_by_their_order_alone(images):
    data = datasets.Dataset(images, np.arange(9, dtype=np.int32) % 3 + 1, NAMES)
    for names, said in ((None, True), (("0", "1", "2", "3"), True), (NAMES, False)):
        found = jp.evaluate(
            jp.classifier(brightest, class_names=names),
            {"none": jp.purifiers.Identity()},
            data,
            attacks=attacks.FGSM(epsilon=1 / 255),
            threat_models="blind",
            progress=False,
        )
        flag = "the classifier does not name its classes: labels are taken in the order of the data's names (cat, dog,"
        assert any(each.startswith(flag) for each in found.flags) == said


def test_the_commands_match_classes_as_python_does(tmp_path, monkeypatch, lenient, capsys):
    from jaxpurify.cli import main
    from jaxpurify.images import write

    monkeypatch.chdir(tmp_path)
    photos = datasets.load("photos", limit=8)
    three = [row for row in range(8) if photos.labels[row] in (2, 5, 7)]
    for row in three:
        name = photos.class_names[photos.labels[row]].upper()
        (tmp_path / "three" / name).mkdir(parents=True, exist_ok=True)
        write(tmp_path / "three" / name / f"{row}.png", photos.images[row])
    options = ["--data", "three", "--classifier", "photos-cnn", "--quiet", "--no-cache"]
    assert main(["attack", "out", *options, "--attack", "fgsm:epsilon=1/255", "--devices", "1"]) == 0
    out, err = capsys.readouterr()
    assert float(re.search(r"clean +([\d.]+)%", out)[1]) == 100  # the network knows all photographs of these
    assert err == ""
    np.testing.assert_array_equal(np.sort(datasets.load(tmp_path / "out").labels), np.sort(photos.labels[three]))
    (tmp_path / "three" / "COFFEE").rename(tmp_path / "three" / "TEA")
    for command in (["attack", "again"], ["evaluate", "--run", "run"], ["detect", "--calibrate", "three"]):
        assert main([*command, *options]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert re.fullmatch(r"jaxpurify: .*photos-cnn tells apart 8 classes .* got three with 3 classes .*TEA.*\n", err)
    assert {path.name for path in tmp_path.iterdir()} == {"three", "out"}


def test_training_matches_classes_by_name():
    data = datasets.Dataset(np.zeros((2, 32, 32, 3), np.float32), np.array([0, 1]), ("Ship", "cat"))
    found = jp.training.Classifier(network_name="cifar-resnet20").prepare(data)
    np.testing.assert_array_equal(found.labels, [8, 3])


@pytest.mark.slow
def test_three_folders_of_real_classes_are_scored_as_they_are(tmp_path, real_data):
    from jaxpurify.images import write
    from jaxpurify.networks import convert, load_classifier

    convert(real_data / "cifar10" / "resnet20.th", tmp_path / "r20.safetensors")
    classifier = load_classifier("cifar-resnet20", weights=tmp_path / "r20.safetensors")
    test = datasets.load(real_data / "cifar10" / "test.npz", limit=200)
    for row, label in enumerate(test.labels):
        if classifier.class_names[label] in ("cat", "dog", "ship"):
            folder = tmp_path / "three" / classifier.class_names[label]
            folder.mkdir(parents=True, exist_ok=True)
            write(folder / f"{row}.png", test.images[row])
    assert share_right(classifier, datasets.load(tmp_path / "three"))[0] > 0.85
