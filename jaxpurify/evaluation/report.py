"""The report of an evaluation: one file that needs nothing else, drawn from the run folder alone."""

import base64
import json
import shlex
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from jaxpurify.attacks.scoring import DRAWS
from jaxpurify.evaluation import figures, run_folder, table
from jaxpurify.evaluation.drawing import png, styles
from jaxpurify.evaluation.findings import lede, meaning
from jaxpurify.evaluation.grid import read_example
from jaxpurify.evaluation.knowledge import at_most
from jaxpurify.metrics.accuracy import wilson


def write(evaluation: Any) -> None:
    """Draw the figures into ``figures/`` of the run folder and write ``report.html``.

    Args:
        evaluation: an ``Evaluation`` that has a run folder.

    Raises:
        ValueError: if it has none.
    """
    if evaluation.run is None:
        raise ValueError("this evaluation has no folder, expected evaluate(..., run='folder')")
    folder = evaluation.run / "figures"
    curves = []
    for number, attack in enumerate(figures.attacks(evaluation), 1):
        name = f"accuracy-{number}-{run_folder.slug(attack)}"
        wide = _save(folder / f"{name}.png", figures.accuracy_against_epsilon(evaluation, attack=attack))
        narrow = wide
        if len(figures.defended(evaluation)) > 1:
            drawn = figures.accuracy_against_epsilon(evaluation, attack=attack, columns=1)
            narrow = _save(folder / f"{name}-narrow.png", drawn)
        curves.append((attack, wide, narrow))
    examples = {}
    for cell, path in _examples(evaluation).items():
        drawn = figures.grid(path, class_names=evaluation.config.get("class_names", ()))
        examples[cell] = _save(folder / f"examples-{path.stem}.png", drawn)
    text = document(evaluation, curves=curves, examples=examples)
    run_folder.write_whole(
        evaluation.run / "report.html", lambda file: file.write(text.encode(errors="backslashreplace"))
    )


def _save(path: Path, figure: Any) -> bytes:
    picture = png(figure)
    run_folder.write_whole(path, lambda file: file.write(picture))
    return picture


def _examples(evaluation: Any) -> dict[tuple[str, str, str], Path]:
    """Return the examples to show: of each purifier and threat model those of its strongest attack."""
    found = {}
    for path in sorted((evaluation.run / "examples").glob("*.npz")):
        name, threat, attack = map(str, read_example(path, "names")["names"])
        found[name, threat, attack] = path
    shown: dict[tuple[str, str, str], Path] = {}
    for name in figures.defended(evaluation):
        for threat in evaluation.threat_models:
            ranked = sorted(
                evaluation.cells(name, threat), key=lambda cell: evaluation.robust(name, threat, *cell).fraction
            )
            cells = [(name, threat, attack) for attack, _ in ranked]
            shown |= {cell: found[cell] for cell in [cell for cell in cells if cell in found][:1]}
    return shown


def document(
    evaluation: Any,
    *,
    curves: Sequence[tuple[str, bytes, bytes]] = (),
    examples: dict[tuple[str, str, str], bytes] | None = None,
) -> str:
    """Return the report as HTML.

    Args:
        evaluation: an ``Evaluation``.
        curves: attack, figure for wide screens and figure for narrow ones, as PNG files.
        examples: grids of images, as PNG files, by (purifier, threat model, attack).

    Returns:
        A document without scripts and without references to anything outside it.
    """
    templates = resources.files("jaxpurify.evaluation")
    sections = [
        _headline(evaluation),
        _flags(evaluation),
        _ladder(evaluation),
        _curves(evaluation, curves),
        _random(evaluation),
        _destruction(evaluation),
        _pictures(evaluation, examples or {}),
        _attacks(evaluation),
        _arguments(evaluation),
    ]
    return Template(templates.joinpath("report.html").read_text(encoding="utf-8")).substitute(
        title=escape(table.title(evaluation)),
        style=templates.joinpath("report.css").read_text(encoding="utf-8"),
        lede=escape(lede(evaluation)),
        banner='<p class="banner">Demonstration, not evidence: the data set is a handful of photographs.</p>'
        if evaluation.config.get("demonstration")
        else "",
        body="\n".join(filter(None, sections)),
    )


def _headline(evaluation: Any) -> str:
    items = []
    for name in evaluation.purifiers:
        shares = evaluation.worst(name)
        if shares is None:
            items.append(f"<li>{escape(name)}: no attack was tried</li>")
            continue
        low, high = wilson(shares.mean(), len(shares))[1:]
        bound = "at most " if at_most(evaluation, name) else ""
        items.append(
            f'<li>{escape(name)} <span class="share"><b>{bound}{shares.mean():.1%}</b> <small>[{low:.1%}, {high:.1%}], '
            f"clean {evaluation.clean(name).fraction:.1%}</small></span>"
            f'<span class="bar" aria-hidden="true"><span style="width:{shares.mean():.2%}"></span>'
            f'<i style="left:{low:.2%};width:{high - low:.2%}"></i></span></li>'
        )
    explanation = (
        "Share of the images that are right clean and survive every attack tried, each image under the attack that is "
        f"worst for it; in brackets the Wilson 95 % interval over {evaluation.images} images."
    )
    return _section("Worst case", f'<p class="soft">{explanation}</p>\n<ul class="headline">{"".join(items)}</ul>')


def _flags(evaluation: Any) -> str:
    # The banner above has said this one.
    flags = [flag for flag in evaluation.flags if not flag.startswith("demonstration")]
    items = "".join(f"<li>{escape(flag)}</li>" for flag in flags)
    return f'<section class="flags" aria-label="Flags"><b>Read with care</b><ul>{items}</ul></section>' if flags else ""


def _ladder(evaluation: Any) -> str:
    colours = {name: colour for name, (colour, _) in styles(evaluation.threat_models).items()}

    def chip(name: str) -> str:
        return f'<span class="chip" style="background:{colours[name]}"></span>' if name in colours else ""

    header = table.header(evaluation)
    heads = [f"{chip(name)}{escape(name)}" for name in header]
    caption = f"In %: {table.caption(evaluation)}."
    grid = _table(heads, [[_interval(cell) for cell in row] for row in table.rows(evaluation)], caption, last="worst")
    meanings = "".join(
        f"<dt>{chip(name)}{escape(name)}</dt><dd>{escape(meaning(evaluation, name))}</dd>" for name in header[1:]
    )
    missing: dict[tuple[str, str], list[str]] = {}
    for (name, threat), reason in evaluation.reasons.items():
        missing.setdefault((threat, reason), []).append(name)
    for (name, threat, attack), reason in evaluation.skipped.items():
        missing.setdefault((f"{threat} with {attack}", reason), []).append(name)
    reasons = "".join(
        f"<li>{escape(threat)}: {escape(reason)} ({escape(', '.join(names))})</li>"
        for (threat, reason), names in missing.items()
    )
    reasons = f'<p class="soft">Not evaluated:</p><ul class="soft">{reasons}</ul>' if reasons else ""
    agreements = table.agreements(evaluation)
    agreements = f'<p class="soft">{escape(agreements)}.</p>' if agreements else ""
    body = f'{grid}\n{agreements}\n<dl class="meanings">{meanings}</dl>\n{reasons}'
    return _section("The ladder: what the attacker knows", body)


def _curves(evaluation: Any, curves: Sequence[tuple[str, bytes, bytes]]) -> str:
    parts = []
    for attack, wide, narrow in curves:
        alternative = (
            f"Robust accuracy against epsilon under {attack}, a line for each threat model; the table has the values."
        )
        parts.append(
            f'<figure><picture><source media="(min-width: 44rem), print" srcset="{_data(wide)}">'
            f'<img src="{_data(narrow)}" alt="{escape(alternative)}"></picture>'
            f"<figcaption>{escape(attack)}: robust accuracy against ε. The undefended classifier is dashed grey. "
            "Only sizes with a mark were evaluated; lines that coincide are drawn inside one another.</figcaption>"
            "</figure>"
        )
    return _section("Robust accuracy against the size of the attack", "\n".join(parts)) if parts else ""


def _random(evaluation: Any) -> str:
    scored = {(r["purifier"], r["scoring"]) for r in evaluation.records}
    rows = []
    for name in evaluation.purifiers:
        if (name, "worst") not in scored:
            continue
        ways = ("mean", "worst", "majority")
        rows.append(
            [escape(name), "clean", *(_interval(table.percent(evaluation.clean(name, scoring=way))) for way in ways)]
        )
        for threat in evaluation.threat_models:
            for attack, epsilon in evaluation.cells(name, threat):
                shares = [evaluation.robust(name, threat, attack, epsilon, scoring=way) for way in ways]
                what = escape(f"{threat}, {attack} at {table.size(epsilon)}")
                rows.append([escape(name), what, *(_interval(table.percent(share)) for share in shares)])
    caption = (
        f"In %: an image counts by its share of {DRAWS} fresh draws that are right (the primary score), only if all "
        "are, or if most are. Compare each column with the clean images in it."
    )
    heads = ["purifier", "attack", "mean", f"worst of {DRAWS}", f"majority of {DRAWS}"]
    return _section("Random purifiers, scored in three ways", _table(heads, rows, caption, words=1)) if rows else ""


def _destruction(evaluation: Any) -> str:
    bare = evaluation.undefended
    names = [name for name in evaluation.purifiers if name != bare]
    cells = evaluation.cells(bare, "blind")
    if not cells or not names:
        return ""
    rows = []
    for name in names:
        rates = [evaluation.destruction(name, attack, epsilon) for attack, epsilon in cells]
        rows.append([escape(name), *("—" if np.isnan(rate) else f"{100 * rate:.1f}" for rate in rates)])
    caption = (
        "In %: of the blind attack's successes on the classifier alone, the share that the purifier undoes. The "
        "attacker did not know the purifier: this is no robustness."
    )
    heads = ["purifier", *(escape(f"{attack} at {table.size(epsilon)}") for attack, epsilon in cells)]
    return _section("Destruction rate", _table(heads, rows, caption))


def _pictures(evaluation: Any, examples: dict[tuple[str, str, str], bytes]) -> str:
    parts = []
    for name in figures.defended(evaluation):
        mine = {cell: picture for cell, picture in examples.items() if cell[0] == name}
        if not mine:
            continue
        parts.append(f"<h3>{escape(name)}</h3>")
        # What stands last on the ladder knows most: that one is open.
        for cell, picture in mine.items():
            _, threat, attack = cell
            words = (
                f"{name}, {threat}, {attack}: up to six images clean, attacked, perturbation × 10, purified, difference"
            )
            unfolded = " open" if cell == list(mine)[-1] else ""
            parts.append(
                f"<details{unfolded}><summary>{escape(threat)}, {escape(attack)}</summary>"
                f'<figure><img src="{_data(picture)}" alt="{escape(words)}"></figure></details>'
            )
    return _section("Images", "\n".join(parts)) if parts else ""


def _attacks(evaluation: Any) -> str:
    spent: dict[tuple[str, str, str, float], list[tuple[int, int, float, str]]] = {}
    for r in evaluation.records:
        if r["threat_model"] != "clean" and r["scoring"] in ("single", "mean"):
            cell = (r["purifier"], r["threat_model"], r["attack"], evaluation.size(r))
            spent.setdefault(cell, []).append((r["forwards"], r["backwards"], r["distance"], r["norm"]))
    rows = []
    for (name, threat, attack, epsilon), values in spent.items():
        share = evaluation.robust(name, threat, attack, epsilon)
        forwards, backwards = (np.mean([value[place] for value in values]) for place in (0, 1))
        rate = evaluation.success_rate(name, threat, attack, epsilon)
        distance, norm = max(value[2] for value in values), values[0][3]
        rows.append(
            [
                escape(name),
                escape(f"{threat}, {attack}"),
                f"{figures.NORMS.get(norm, escape(norm))} {table.size(epsilon)}",
                _interval(table.percent(share)),
                "—" if np.isnan(rate) else f"{100 * rate:.1f}",
                f"{forwards:,.6g}",
                f"{backwards:,.6g}",
                f"{255 * distance:.2f}/255" if norm == "linf" else f"{distance:.4f}",
            ]
        )
    caption = (
        "Success: of the images that the attacked model gets right clean, the share that it gets wrong attacked. "
        "Forward and backward passes of the attacked model an image; blind images are computed once for all purifiers. "
        "Largest distance of an attacked image from its clean one, measured apart from the attack."
    )
    heads = ["purifier", "attack", "ε", "robust accuracy, %", "success, %", "forward", "backward", "largest distance"]
    body = _table(heads, rows, caption, words=1)
    return _section(
        "Every attack", f"<details><summary>{len(rows)} attacks, their sizes and their cost</summary>{body}</details>"
    )


def _arguments(evaluation: Any) -> str:
    config = {"arguments": evaluation.config}
    parts = []
    if evaluation.run is not None:
        config = run_folder.read_config(evaluation.run)
        command = escape(f"jaxpurify report {shlex.quote(str(evaluation.run))}")
        parts.append(
            f"<p>Draw this page again from its records: <code>{command}</code>. The same evaluation with the arguments "
            "below, on the same kind of machine, gives the same records; with this folder as its run it takes up what "
            "is there.</p>"
        )
    text = json.dumps(config, indent=2, ensure_ascii=False)
    parts.append(
        "<details><summary>Arguments and environment (config.json)</summary>"
        f'<pre tabindex="0">{escape(text)}</pre></details>'
    )
    return _section("How to reproduce this", "\n".join(parts))


def _section(title: str, body: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}\n</section>"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], caption: str, *, words: int = 0, last: str = "") -> str:
    """Return a table in a box of its own that scrolls; heads and cells are HTML, ``1 + words`` columns are text."""

    def kind(place: int) -> str:
        names = "words" if 0 < place <= words else last if place == len(heads) - 1 else ""
        return f' class="{names}"' if names else ""

    head = "".join(f'<th scope="col"{kind(place)}>{cell}</th>' for place, cell in enumerate(heads))
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>'
        + "".join(f"<td{kind(place)}>{cell}</td>" for place, cell in enumerate(row[1:], 1))
        + "</tr>\n"
        for row in rows
    )
    words_above = escape(caption)
    return (
        f'<p class="soft">{words_above}</p>\n'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{words_above}">'
        f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>"
    )


def _interval(text: str) -> str:
    """Return a cell such as ``78.9 [73.5, 83.5]`` as HTML, the interval below the share."""
    share, bracket, interval = text.partition(" [")
    return f"{escape(share)}<small>[{escape(interval)}</small>" if bracket else escape(text)


def _data(picture: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"
