"""``jaxpurify detect``: how well a detector tells attacked images from legitimate ones."""

from typing import Annotated

from tyro import conf

from jaxpurify.cli.options import Input, Machine, Specifications, joined, purifiers
from jaxpurify.files import printable


@joined
def detect(
    *,
    input: conf.OmitArgPrefixes[Input],
    squeezer: Specifications = (),
    attack: Annotated[str, conf.arg(metavar="SPEC")] = "pgd:steps=40,epsilon=8/255",
    calibrate: Annotated[str, conf.arg(metavar="NAME|PATH")] = "train",
    false_positive_rate: float = 0.05,
    seed: int = 0,
    machine: conf.OmitArgPrefixes[Machine],
) -> int:
    """Measure how well feature squeezing tells attacked images from legitimate ones.

    The threshold is chosen on training images. Then the detector is tried on legitimate test images, on images of an
    attack that does not know it, and on images of one that does.

    Args:
        input: Which images, and which classifier sees them.
        squeezer: A purifier that squeezes, such as median:size=2. Repeat for more (default: five bits, a 2×2 median
            and non-local means).
        attack: The attack; it must follow gradients.
        calibrate: Legitimate images on which the threshold is chosen: a split of the same data, or another file or
            folder.
        false_positive_rate: Largest share of these that may be called adversarial.
        seed: Number from which all randomness follows.
        machine: How it is computed.

    Returns:
        The exit code.
    """
    machine.start()
    import jax

    from jaxpurify import attacks
    from jaxpurify.detectors import FeatureSqueezing
    from jaxpurify.evaluation.detection import detection
    from jaxpurify.evaluation.table import percent
    from jaxpurify.progress import Progress

    search = attacks.make(attack)
    if not hasattr(search, "loss") or not hasattr(search, "eot"):
        raise ValueError(f"--attack {attack} follows no gradient, expected one such as pgd")
    detector = FeatureSqueezing(squeezers=tuple(purifiers(squeezer).values())) if squeezer else FeatureSqueezing()
    data, classifier = input.load()
    legitimate = input.other(calibrate)
    detector = detector.calibrated(
        classifier,
        legitimate.images,
        jax.random.key(seed + 1),
        false_positive_rate=false_positive_rate,
        batch_size=machine.batch_size,
    )
    calls = 2 * -(-len(data) // machine.batch_size) * search.calls(classifier, len(classifier.class_names))
    with Progress("attacking", calls, enabled=machine.progress) as bar:
        found = detection(
            detector,
            classifier,
            data.images,
            data.labels,
            jax.random.key(seed),
            attack=search,
            batch_size=machine.batch_size,
            progress=bar.advance,
        )
    print(f"threshold {found.threshold:.4f}, chosen on {len(legitimate)} legitimate images")
    print(f"share of {len(data)} images of {printable(data.name)}, in percent [95 % interval]:")
    print(f"  legitimate, called adversarial                     {percent(found.false_positives)}")
    print(f"  an attack on the classifier alone: misclassified   {percent(found.blind_success)}")
    print(f"                     of these, called adversarial    {percent(found.blind)}")
    print("  an attack that knows the detector: misclassified")
    print(f"                     and not called adversarial      {percent(found.evaded)}")
    return 0
