import base64
import html.parser
import io
import re
import types
import warnings

import jax
import numpy as np
import pytest
from PIL import Image

import jaxpurify.models
from jaxpurify.attacks import PGD
from jaxpurify.evaluation import evaluate, findings, report
from jaxpurify.evaluation.result import Evaluation
from jaxpurify.images import saturate

NASTY = '<b>bold</b> & "q" $x$ 雪'
LEFT = {"none": {"noise": 44, "blind": 1, "full": 1}, NASTY: {"noise": 43, "blind": 20, "full": 6}}
VOID = {"meta", "img", "source", "br"}


class Page(html.parser.HTMLParser):
    """Tags with their attributes, the text, and whether every tag is closed."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.text, self.open = [], "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data


@pytest.fixture
def written(make_run):
    """Return a function that writes a report with warnings as errors and reads it."""

    def write(*arguments, **options):
        evaluation = make_run(*arguments, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            report.write(evaluation)
        return Page((evaluation.run / "report.html").read_text(encoding="utf-8")), evaluation

    return write


def test_report_refers_to_nothing_outside_itself(written):
    page, evaluation = written(LEFT)
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "a")
        for name in {"src", "srcset", "href"} & attributes.keys():
            assert attributes[name].startswith("data:image/png;base64,")
        assert not any(name.startswith("on") for name in attributes)
    text = (evaluation.run / "report.html").read_text(encoding="utf-8")
    assert "http://" not in text
    assert "https://" not in text
    assert not re.search(r"url\(|@import", text)


def test_names_are_escaped_and_tags_are_closed(written):
    page, evaluation = written(LEFT)
    assert page.open == []
    assert page.text.count(NASTY) > 4
    assert "<b>bold" not in (evaluation.run / "report.html").read_text(encoding="utf-8")


def test_embedded_figures_are_pictures_with_words_for_them(written):
    page, evaluation = written(LEFT, sizes=(4 / 255,))
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 1 + 3
    for attributes in images:
        assert len(attributes["alt"]) > 20
        with Image.open(io.BytesIO(base64.b64decode(attributes["src"].split(",")[1]))) as image:
            assert np.asarray(image.convert("L")).std() > 10
    files = sorted(path.name for path in (evaluation.run / "figures").iterdir())
    assert files == ["accuracy-1-pgd-40.png", *(f"examples-1-{name}.png" for name in ("blind", "full", "noise"))]


def test_page_is_readable_on_a_phone_and_in_the_dark(written):
    page, evaluation = written(LEFT)
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags
    assert "prefers-color-scheme: dark" in (evaluation.run / "report.html").read_text(encoding="utf-8")
    tables = [place for place, (tag, _) in enumerate(page.tags) if tag == "table"]
    assert tables
    assert all(page.tags[place - 1][1].get("class") == "scroll" for place in tables)


def test_table_and_headline_hold_the_evaluations_figures(written):
    page, evaluation = written(LEFT)
    assert evaluation.worst_case(NASTY).fraction == pytest.approx(6 / 50)
    assert "12.0%" in page.text
    assert "[5.6%, 23.8%]" in page.text
    assert "12.0[5.6, 23.8]" in page.text
    assert "40.0[27.6, 53.8]" in page.text
    # Of 45 right clean, the attack that knows the purifier leaves 6.
    assert f"{100 * 39 / 45:.1f}4140" in page.text
    # 19 of the 44 images that fall to the blind attack on the classifier alone are right behind the purifier.
    assert "43.2" in page.text
    assert "jaxpurify report" in page.text
    assert str(evaluation.run) in page.text
    assert "0.0.0" in page.text


def test_report_without_examples_has_no_images(written):
    page, _ = written(LEFT, examples=False)
    assert sum(tag == "img" for tag, _ in page.tags) == 1
    assert not any(tag == "h3" for tag, _ in page.tags)


def test_report_without_attacks_is_written(written):
    page, evaluation = written({"none": {}, "gs": {}})
    assert "no attack was tried" in page.text
    assert not list(evaluation.run.rglob("*.png"))


def test_report_is_the_same_when_drawn_again_from_the_folder(written):
    _, evaluation = written(LEFT)
    first = (evaluation.run / "report.html").read_bytes()
    (evaluation.run / "report.html").unlink()
    Evaluation.load(evaluation.run).write()
    assert (evaluation.run / "report.html").read_bytes() == first
    assert not list(evaluation.run.rglob("*.partial"))


def test_only_a_demonstration_has_the_banner(written):
    banner = "Demonstration, not evidence"
    assert banner not in written(LEFT)[0].text
    assert banner in written(LEFT, demonstration=True)[0].text


def test_random_purifiers_show_secondary_scores_beside_clean_ones_scored_alike(written):
    page, _ = written({"none": {"full": 1}, "noisy": {"full": 10}}, random=("noisy",))
    rows = re.sub(r"\s+", " ", page.text)
    assert "scored in three ways" in rows
    clean = rows.index("noisyclean90.0")
    assert rows.index("80.0", clean) < rows.index("noisyfull, PGD-40 at 8/25520.0[11.2, 33.0]10.0[4.3, 21.4]", clean)
    assert "scored in three ways" not in written(LEFT)[0].text


def test_what_was_not_evaluated_is_named_with_its_reason(written):
    page, _ = written(
        {"none": {"bpda": 1, "full": 1}, "round": {"bpda": 3}},
        reasons=[("round", "full", "its exact gradient is zero and it declares no surrogate")],
    )
    assert "full: its exact gradient is zero and it declares no surrogate (round)" in page.text
    assert "not evaluated" in page.text


@pytest.mark.parametrize(
    ("left", "sentence"),
    [
        ({"none": {"full": 0}, "gs": {"full": 2}}, "No purifier here stops an attacker who knows it; see the ladder."),
        (
            {"none": {"full": 0}, "gs": {"full": 9}},
            "gs keeps 18.0% of the images, where the classifier alone keeps 0.0%",
        ),
        ({"none": {"full": 9}, "gs": {"full": 9}}, "No purifier here keeps more than the classifier alone"),
        ({"none": {"full": 9}, "gs": {"full": 10}}, "a difference within chance"),
        ({"none": {"blind": 0}, "gs": {"blind": 0}}, "No attacker here knew a purifier"),
        ({"none": {"full": 0}, "gs": {"full": 1}, "bits": {"blind": 9}}, "No attacker here knew bits."),
        ({"none": {"full": 0}}, "Nothing defends this classifier"),
        ({"none": {"blind": 1}, "gs": {"full": 9}}, "gs keeps 18.0% of the images."),
        ({"none": {"full": 0}, "gs": {"blind": 0, "full": 9, "bpda": 1}}, "No purifier here stops"),
    ],
)
def test_first_sentence_is_what_the_figures_say(make_run, left, sentence):
    evaluation = make_run(left, examples=False)
    assert sentence in findings.lede(evaluation)
    # That a purifier stops no attacker is said only of those that an informed attacker brought down.
    if not sentence.startswith("No purifier here stops"):
        assert "stops" not in findings.lede(evaluation)


def test_evaluation_is_redrawn_from_its_folder_alone(tmp_path):
    @jaxpurify.models.purifier
    class Shift:
        random = True

        def __call__(self, images, key=None):
            offset = jax.vmap(lambda one: jax.random.uniform(one, (1, 1, 1), images.dtype, -0.1, 0.1))(key)
            return saturate(images + offset)

    images = np.random.default_rng(0).uniform(size=(5, 4, 4, 1)).astype(np.float32)
    weights = np.random.default_rng(1).normal(size=(16, 3)).astype(np.float32)
    classifier = jaxpurify.models.classifier(lambda w, x: x.reshape(x.shape[0], -1) @ w, weights)
    data = types.SimpleNamespace(images=images, labels=np.arange(5) % 3, class_names=("one", "two", "three"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(
            classifier,
            {"<shift>": Shift()},
            data,
            attacks=PGD(steps=1),
            threat_models=("full",),
            run=tmp_path / "run",
        )
        for path in (tmp_path / "run").rglob("report.html"):
            path.unlink()
        Evaluation.load(tmp_path / "run").write()
    page = Page((tmp_path / "run" / "report.html").read_text(encoding="utf-8"))
    assert sum(tag == "img" for tag, _ in page.tags) == 2
    assert "<shift>" in page.text
    assert '"three"' in page.text


def test_broken_example_is_named_in_one_sentence(make_run):
    evaluation = make_run(LEFT)
    (evaluation.run / "examples" / "0-full.npz").write_bytes(b"PK cut off")
    with pytest.raises(ValueError, match=r"0-full\.npz is no example of an evaluation"):
        report.write(evaluation)
    assert not (evaluation.run / "report.html").exists()


def test_evaluation_without_a_folder_is_refused():
    with pytest.raises(ValueError, match=r"no folder, expected evaluate\(\.\.\., run='folder'\)"):
        report.write(Evaluation(records=[], config={}))
