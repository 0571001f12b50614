"""Folders of photographs of many sizes against folders of one size, and one photograph of 24 megapixels.

    python -m benchmarks.mixed_sizes
    python -m benchmarks.mixed_sizes --count 60 --purifiers jpeg median

Every figure is of a process of its own without a cache of compiled programs: CPU seconds, which a busy machine changes
little, and the largest resident memory. Reading and writing of files is in the figures of the photograph alone.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import numpy as np

from benchmarks.timing import Row, table

FOLDER = {  # largest ratio of CPU seconds, many sizes to one
    "jpeg": 2.0,
    "gaussian-smoothing": 2.0,
    "median": 2.0,
    "non-local-means": 3.0,
    "super-resolution": 3.0,
    "ncis": 3.0,
    "wavelet": None,
}
PHOTOGRAPH = {  # largest memory in GiB
    "none": 2.0,
    "gaussian-smoothing": 2.0,
    "jpeg": 2.0,
    "median": 2.0,
    "ncis": 2.0,
    "super-resolution:sigma=0": 3.0,
}
CHUNK = 2**22  # pixels that the command hands over at a time


def photographs(count: int, *, mixed: bool) -> Iterator[np.ndarray]:
    """Yield photographs of 0.1 to 0.3 megapixels, of as many sizes or of one, with as many pixels in all."""
    random = np.random.default_rng(0)
    areas = random.uniform(1e5, 3e5, count) if mixed else np.full(count, 2e5)
    ratios = np.exp(random.uniform(-0.4, 0.4, count)) if mixed else np.full(count, 4 / 3)
    sizes: set[tuple[int, int]] = set()
    for area, ratio in zip(areas, ratios, strict=True):
        height, width = round((area / ratio) ** 0.5), round((area * ratio) ** 0.5)
        while mixed and (height, width) in sizes:
            width += 1
        sizes.add((height, width))
        rows, columns = np.mgrid[0:height, 0:width] / 40
        waves = np.sin(rows)[..., None] * np.cos(columns[..., None] * np.arange(1, 4))
        yield (255 * (0.5 + 0.3 * waves + random.normal(0, 0.03, waves.shape))).clip(0, 255).astype(np.uint8)


def folder(purifier: str, count: int, mixed: bool) -> None:
    """Purify a folder's photographs, handed over as the command does, and print what it cost."""
    import resource
    import time

    from jaxpurify.purifiers.apply import purify
    from jaxpurify.purifiers.registry import make

    stage, spent = make(purifier), 0.0
    chunk: list[np.ndarray] = []
    for number, image in enumerate(photographs(count, mixed=mixed)):
        chunk.append(image)
        if number == count - 1 or len(chunk) == 64 or sum(image[..., 0].size for image in chunk) >= CHUNK:
            start = time.process_time()
            purify(stage, chunk)
            spent += time.process_time() - start
            chunk = []
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps([spent, peak]))


def measured(*arguments: str) -> tuple[float, float]:
    """Return CPU seconds and the peak in GiB of a process."""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    command = [sys.executable, "-m", "benchmarks.mixed_sizes", *arguments]
    text = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    seconds, peak = json.loads(text.splitlines()[-1])
    return seconds, peak


def write_photograph(file: str) -> None:
    """Write 24 megapixels."""
    from PIL import Image

    rows, columns = np.mgrid[0:4000, 0:6000]
    levels = (128 + 60 * np.sin(rows / 50) + 60 * np.cos(columns / 70)).astype(np.uint8)
    levels += np.random.default_rng(0).integers(0, 8, levels.shape, np.uint8)
    Image.fromarray(np.stack([levels, levels[::-1], 255 - levels], axis=-1)).save(file, quality=95)


def photograph(purifier: str) -> tuple[float, float]:
    """Return CPU seconds and the peak in GiB of the whole command on 24 megapixels."""
    with tempfile.TemporaryDirectory() as place:
        # Not in this process: Linux counts what a parent holds when it starts a child to the child's peak.
        subprocess.run([sys.executable, "-m", "benchmarks.mixed_sizes", "--write", f"{place}/in.jpg"], check=True)
        program = (
            "import json, resource, sys\n"
            "from jaxpurify.cli import main\n"
            "code = main(sys.argv[1:])\n"
            "used = resource.getrusage(resource.RUSAGE_SELF)\n"
            "print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20]))\n"
        )
        options = ["--purifier", purifier, "--no-cache", "--quiet"]
        command = [sys.executable, "-c", program, "purify", f"{place}/in.jpg", f"{place}/out.png", *options]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        seconds, peak = json.loads(text.splitlines()[-1])
    return seconds, peak


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--purifiers", nargs="*", default=list(FOLDER))
    parser.add_argument("--photograph", nargs="*", default=list(PHOTOGRAPH))
    parser.add_argument("--one", nargs=2, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--write", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        write_photograph(options.write)
        return
    if options.one:
        folder(options.one[0], options.count, options.one[1] == "mixed")
        return
    rows = []
    for name in options.purifiers:
        (many, peak), (one, _) = (
            measured("--count", str(options.count), "--one", name, kind) for kind in ("mixed", "equal")
        )
        rows.append(Row(f"{name}, {options.count} sizes", many, "CPU s"))
        rows.append(Row(f"{name}, {options.count} sizes / one size", many / one, "×", at_most=FOLDER.get(name)))
        rows.append(Row(f"{name}, {options.count} sizes, peak", peak, "GiB", at_most=1.0))
        table(rows[-3:])
    for name in options.photograph:
        seconds, peak = photograph(name)
        rows.append(Row(f"{name}, 24 megapixels", seconds, "CPU s"))
        rows.append(Row(f"{name}, 24 megapixels, peak", peak, "GiB", at_most=PHOTOGRAPH.get(name)))
        table(rows[-2:])


if __name__ == "__main__":
    main()
