"""The Python of the README and of each page runs from top to bottom; links lead to files.

It runs on eight images at most; slow tests run it as it stands.
"""

import functools
import re
from pathlib import Path

import pytest

from jaxpurify import datasets, purifiers

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))


def python(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def run(page):
    names: dict = {}
    for block in python(page):
        exec(compile(block, str(page), "exec"), names)
    return names


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.stem)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), target


def test_every_purifier_has_a_page_and_a_picture():
    pages = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name in set(purifiers.names()) - {"none"}:
        assert f"images/{name}.png" in pages


@pytest.fixture(params=["on few images", pytest.param("as it stands", marks=pytest.mark.slow)])
def count(request, monkeypatch):
    """How it runs: on few images, or as it stands."""
    if request.param == "on few images":
        load = datasets.load

        @functools.wraps(load)
        def few(*arguments, limit=8, **options):
            return load(*arguments, limit=min(limit, 8), **options)

        monkeypatch.setattr(datasets, "load", few)


@pytest.mark.usefixtures("count")
@pytest.mark.parametrize("page", [page for page in PAGES if python(page)], ids=lambda page: page.stem)
def test_a_page_runs(page, lenient, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(page)


@pytest.mark.usefixtures("count")
def test_the_readme_runs(lenient, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(python(README)) >= 3
    names = run(README)
    assert names["stack"].shape == (3, *names["data"].images.shape)
    assert names["evaluation"].worst_case("gs").fraction <= names["evaluation"].clean("gs").fraction
