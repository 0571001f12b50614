"""``jaxpurify gallery``: draw a photograph before and after every purifier."""

import functools
from typing import Annotated, Any

from tyro import conf

from jaxpurify.cli.options import Specifications, joined, purifiers
from jaxpurify.cli.start import start
from jaxpurify.files import check_apart, expanded, printable, write_whole
from jaxpurify.specification import number


@joined
def gallery(
    *,
    output: Annotated[str, conf.arg(metavar="FOLDER")] = "gallery",
    photograph: Annotated[str | None, conf.arg(metavar="FILE", help_behavior_hint="")] = None,
    purifier: Specifications = (),
    epsilon: Annotated[str, conf.arg(metavar="SIZE")] = "8/255",
    seed: int = 0,
) -> int:
    """Draw a photograph, attacked, before and after every purifier.

    Writes FOLDER/gallery.png, with all of them and the score of a detector side by side, and FOLDER/NAME.png for each.
    The attack knows the embedded classifier and none of the purifiers. Under each picture stands its peak
    signal-to-noise ratio to the clean one.

    Args:
        output: Where to.
        photograph: An image file (default: a cat's eye, which comes with jaxpurify).
        purifier: A purifier, such as gaussian-smoothing:sigma=1,iterations=10; NAME=SPEC names it. Repeat for more
            (default: every purifier, with its defaults).
        epsilon: Size of the attack.
        seed: Number from which all randomness follows.

    Returns:
        The exit code.
    """
    start(cache=True)
    import jax

    from jaxpurify import images
    from jaxpurify.detectors import FeatureSqueezing
    from jaxpurify.evaluation import gallery as drawn
    from jaxpurify.evaluation.drawing import png
    from jaxpurify.evaluation.run_folder import slug
    from jaxpurify.models import attribute
    from jaxpurify.purifiers import names

    shown_purifiers = purifiers(purifier or [name for name in names() if name != "none"])
    if not purifier:
        shown_purifiers["feature-squeezing"] = FeatureSqueezing()
    picture = None if photograph is None else images.deep_as_float(images.read(photograph))
    if picture is not None:  # without opacity, and grey in three channels
        picture = picture[..., :3] if picture.shape[-1] > 2 else picture[..., :1].repeat(3, axis=-1)
    key = jax.random.key(seed)
    shown = drawn.subject(picture, epsilon=float(number(epsilon)), key=key)
    path = expanded(output)
    path.mkdir(parents=True, exist_ok=True)
    figures = {
        slug(name): drawn.before_and_after(shown, each, name=name, key=key)
        for name, each in shown_purifiers.items()
        if not attribute(each, "is_detector")
    }
    figures["gallery"] = drawn.gallery(shown, shown_purifiers, key=key)
    for name in figures:
        check_apart(path / f"{name}.png", [] if photograph is None else [expanded(photograph)])
    for name, figure in figures.items():
        write_whole(path / f"{name}.png", functools.partial(_put, png(figure)))
    print(f"{len(figures)} pictures: {printable(path / 'gallery.png')} shows all")
    return 0


def _put(contents: bytes, file: Any) -> None:
    file.write(contents)
