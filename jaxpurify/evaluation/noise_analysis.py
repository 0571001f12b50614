"""What adversarial noise is like: its mean, symmetry, spatial correlation and spectrum, with a figure."""

import dataclasses
import os
from typing import Any

import numpy as np

from jaxpurify.evaluation.drawing import GREY, RIGHT, WRONG, png
from jaxpurify.files import write_whole
from jaxpurify.images import as_array, check_images

# Noise is counted in 256ths of a step of 8 bits: differences of float32 scatter around the bound of an attack, and a
# distance between distributions would take that for a difference. Whole steps of 8 bits lie in the middle of a bin.
BINS = 255 * 256
LARGEST_LAG = 8
BANDS = ((0.0, 1 / 8), (1 / 8, 1 / 4), (1 / 4, 1 / 2))
CHANNELS = {1: ("grey",), 3: ("red", "green", "blue")}
CHANNEL_COLOURS = {1: ("#333333",), 3: ("#d55e00", "#009e73", "#0072b2")}
SHOWN_BARS = 65


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class NoiseAnalysis:
    """Holds what was found of the noise ``adversarial - original``, in the units of the images.

    Args:
        shape: ``(images, height, width, channel)`` of what was analysed.
        mean: of each channel, shape ``(channel,)``.
        standard_error: of each mean, shape ``(channel,)``: the deviation of the images' means over the root of their
            number, since pixels of an image are not independent; NaN for one image.
        image_means: the mean of each image and channel, shape ``(images, channel)``.
        deviation: standard deviation of each channel, shape ``(channel,)``.
        skewness: third central moment over the cubed deviation of each channel, shape ``(channel,)``; NaN for a
            channel that does not vary.
        counts: how many values there are of each size, of all channels, in 256ths of a step of 8 bits: an odd number
            of integers whose middle one counts zeros.
        autocorrelation: shape ``(rows, columns)``, both odd: correlation of the noise with itself shifted by up to 8
            pixels; 1 in the middle.
        frequencies: cycles per pixel, shape ``(frequencies,)``, above 0 and up to 0.5.
        spectrum: power at those frequencies, averaged over all directions, images and channels; white noise has its
            variance everywhere.
    """

    shape: tuple[int, int, int, int]
    mean: np.ndarray
    standard_error: np.ndarray
    image_means: np.ndarray
    deviation: np.ndarray
    skewness: np.ndarray
    counts: np.ndarray
    autocorrelation: np.ndarray
    frequencies: np.ndarray
    spectrum: np.ndarray

    def __repr__(self) -> str:
        return f"<NoiseAnalysis of {self.shape[0]} images, n and −n {self.distance:.2g} apart>"

    @property
    def positive(self) -> float:
        """Share of values above zero, by more than half a 256th of a step of 8 bits."""
        return float(self.counts[len(self.counts) // 2 + 1 :].sum() / self.counts.sum())

    @property
    def negative(self) -> float:
        """Share of values below zero, by more than half a 256th of a step of 8 bits."""
        return float(self.counts[: len(self.counts) // 2].sum() / self.counts.sum())

    @property
    def distance(self) -> float:
        """Kolmogorov and Smirnov's distance between the distributions of n and −n: 0 for symmetry, at most 1."""
        difference = np.cumsum(self.counts - self.counts[::-1])
        return float(np.abs(difference).max() / self.counts.sum())

    @property
    def variance(self) -> float:
        """Variance around the channels' means, averaged over channels: the power of white noise as strong."""
        return float((self.deviation**2).mean())

    def band(self, low: float, high: float) -> float:
        """Average the spectrum over a band of frequencies.

        Args:
            low: cycles per pixel, left out itself.
            high: cycles per pixel, at most 0.5.

        Returns:
            Power as a multiple of that of white noise of the same variance; NaN where the band holds no frequency.
        """
        chosen = (self.frequencies > low) & (self.frequencies <= high)
        return float(self.spectrum[chosen].mean() / self.variance) if chosen.any() else float("nan")

    def summary(self) -> str:
        """Describe the noise.

        Returns:
            A table of the channels in steps of 8 bits, then a line a property.
        """
        images, height, width, channels = self.shape
        lines = [
            f"adversarial − original, {images} images of {height}×{width}, in 1/255",
            f"{'channel':<10}{'mean':>9}{'± error':>10}{'deviation':>11}{'skewness':>10}",
        ]
        for number, name in enumerate(_channel_names(channels)):
            mean, error, deviation = (255 * each[number] for each in (self.mean, self.standard_error, self.deviation))
            lines.append(f"{name:<10}{mean:>9.3f}{error:>10.3f}{deviation:>11.3f}{self.skewness[number]:>10.3f}")
        row, column = (size // 2 for size in self.autocorrelation.shape)
        below = self.autocorrelation[min(row + 1, 2 * row), column]
        beside = self.autocorrelation[row, min(column + 1, 2 * column)]
        bands = ", ".join(f"{low:g}–{high:g}: {self.band(low, high):.2f}" for low, high in BANDS)
        zero = max(0.0, 1 - self.positive - self.negative)
        return "\n".join(
            [
                *lines,
                f"positive {self.positive:.1%}, negative {self.negative:.1%}, unchanged {zero:.1%}",
                f"distance of n from −n (Kolmogorov–Smirnov) {self.distance:.4f}",
                f"correlation with the pixel below {below:.3f}, beside {beside:.3f}",
                f"power relative to white noise, by cycles/pixel: {bands}",
            ]
        )

    def figure(self) -> Any:
        """Draw the noise: distribution of values, of the images' means, autocorrelation and spectrum.

        Returns:
            A ``matplotlib.figure.Figure`` of four panels, in steps of 8 bits.
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8.4, 6.4), layout="constrained")
        figure.set_facecolor("white")
        panels = figure.subplots(2, 2)
        for panel, draw in zip(
            panels.flat, (_draw_values, _draw_means, _draw_correlation, _draw_spectrum), strict=True
        ):
            draw(self, panel)
        figure.suptitle(
            f"adversarial − original, {self.shape[0]} images of {self.shape[1]}×{self.shape[2]}",
            fontsize=10,
            x=0.01,
            ha="left",
        )
        return figure

    def save_figure(self, path: str | os.PathLike) -> None:
        """Save the figure as a PNG file, whole or not at all.

        Args:
            path: the file; its folder must exist.
        """
        write_whole(path, lambda file: file.write(png(self.figure())))


def analyse_noise(originals: Any, adversarial: Any) -> NoiseAnalysis:
    """Analyse adversarial noise: the adversarial images less the originals, in float64 on the host.

    Args:
        originals: shape ``(images, height, width, channel)``, float32 or float64.
        adversarial: same shape.

    Returns:
        Mean, symmetry, autocorrelation and spectrum, with a table and a figure.

    Raises:
        TypeError: if the dtype is not float32 or float64.
        ValueError: if shapes differ, the noise is not finite, or there is none.

    Source:
        Cha, Ko, Yoo and Moon 2021 (arXiv 2106.11644) state that adversarial noise has an almost zero-mean, symmetric
        distribution. How to measure that, and to look at correlation and spectrum too, is our choice: the
        autocorrelation is averaged over the pairs of pixels that overlap, and the spectrum is a periodogram without
        a window, averaged over rings one cycle per shorter side wide, up to 0.5 cycles per pixel.

    Example:
        >>> import numpy as np
        >>> originals = np.full((8, 16, 16, 3), 0.5, np.float32)
        >>> noise = np.random.default_rng(0).choice([-8 / 255, 8 / 255], originals.shape)
        >>> found = analyse_noise(originals, (originals + noise).astype(np.float32))
        >>> round(float(255 * found.deviation[0]), 2), found.distance < 0.05
        (8.0, True)
    """
    originals, adversarial = as_array(originals, name="originals"), as_array(adversarial, name="adversarial")
    check_images(originals, name="originals")
    check_images(adversarial, name="adversarial")
    if np.shape(originals) != np.shape(adversarial):
        raise ValueError(
            f"adversarial images must have the shape of the originals, {np.shape(originals)}, got "
            f"{np.shape(adversarial)}"
        )
    noise = np.asarray(adversarial, np.float64) - np.asarray(originals, np.float64)
    if not np.isfinite(noise).all():
        raise ValueError("originals and adversarial images must be finite, got NaN or infinity")
    if np.ptp(noise) == 0:
        raise ValueError(f"there is no noise to analyse: every value changes by {noise.flat[0]:g}")
    image_means = noise.mean(axis=(1, 2))
    centred = noise - image_means.mean(axis=0)
    deviation = np.sqrt((centred**2).mean(axis=(0, 1, 2)))
    with np.errstate(invalid="ignore"):
        skewness = (centred**3).mean(axis=(0, 1, 2)) / deviation**3
    frequencies, spectrum = _radial(_spectrum(centred))
    return NoiseAnalysis(
        shape=noise.shape,
        mean=image_means.mean(axis=0),
        standard_error=_standard_error(image_means),
        image_means=image_means,
        deviation=deviation,
        skewness=skewness,
        counts=_counts(noise),
        autocorrelation=_autocorrelation(centred),
        frequencies=frequencies,
        spectrum=spectrum,
    )


def _standard_error(image_means: np.ndarray) -> np.ndarray:
    if len(image_means) == 1:
        return np.full(image_means.shape[1:], np.nan)
    return image_means.std(axis=0, ddof=1) / np.sqrt(len(image_means))


def _counts(noise: np.ndarray) -> np.ndarray:
    sizes = np.rint(noise * BINS).astype(np.int64)
    largest = int(np.abs(sizes).max())
    return np.bincount((sizes + largest).ravel(), minlength=2 * largest + 1)


def _autocorrelation(centred: np.ndarray) -> np.ndarray:
    """Correlate the noise with itself, shifted: sums of products by Fourier's transform of padded images."""
    height, width = centred.shape[1:3]
    lags = [min(LARGEST_LAG, size - 1) for size in (height, width)]
    # Padded by the largest lag, the shifted image meets zeros instead of its own other end.
    products = _power(centred, [size + lag for size, lag in zip((height, width), lags, strict=True)])
    sums = np.fft.fftshift(np.fft.ifft2(products).real)
    row, column = (size // 2 for size in sums.shape)
    sums = sums[row - lags[0] : row + lags[0] + 1, column - lags[1] : column + lags[1] + 1]
    rows, columns = (size - np.abs(np.arange(-lag, lag + 1)) for size, lag in zip((height, width), lags, strict=True))
    return sums / np.outer(rows, columns) / (centred**2).mean()


def _spectrum(centred: np.ndarray) -> np.ndarray:
    height, width = centred.shape[1:3]
    return _power(centred, [height, width]) / (height * width)


def _power(centred: np.ndarray, sizes: list[int]) -> np.ndarray:
    """Average the squared transform over images, one at a time for the memory's sake, and channels."""
    total = np.zeros(sizes)
    for image in centred:
        total += (np.abs(np.fft.fft2(image, sizes, axes=(0, 1))) ** 2).mean(axis=-1)
    return total / len(centred)


def _radial(spectrum: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average over rings around frequency 0, which is left out: it holds the images' means."""
    rows, columns = (np.fft.fftfreq(size) for size in spectrum.shape)
    side = min(spectrum.shape)
    ring = np.rint(np.hypot(rows[:, None], columns[None, :]) * side).astype(int).ravel()
    count, total = np.bincount(ring), np.bincount(ring, spectrum.ravel())
    kept = np.flatnonzero(count[: side // 2 + 1])[1:]
    return kept / side, total[kept] / count[kept]


def _channel_names(channels: int) -> tuple[str, ...]:
    return CHANNELS.get(channels, tuple(f"channel {number}" for number in range(channels)))


def _draw_values(analysis: NoiseAnalysis, panel: Any) -> None:
    """Draw how often each value occurs, and −n over it: where both agree the noise is symmetric."""
    counts = analysis.counts
    # An odd number of values a bar, so that bars lie as symmetrically as the values.
    each = -(-len(counts) // SHOWN_BARS) | 1
    bars = -(-len(counts) // each) | 1
    beside = (bars * each - len(counts)) // 2
    shares = np.pad(counts, beside).reshape(bars, each).sum(axis=1) / counts.sum()
    edges = (np.arange(bars + 1) - bars / 2) * each / BINS * 255
    panel.stairs(100 * shares, edges, fill=True, color=RIGHT, alpha=0.45, label="n")
    panel.stairs(100 * shares[::-1], edges, color=WRONG, lw=1.3, label="−n")
    panel.set_yscale("log")
    panel.locator_params(axis="x", integer=True, nbins=9)
    _dress(panel, f"values: n and −n are {analysis.distance:.3f} apart", "noise, 1/255", "share of values, %")


def _draw_means(analysis: NoiseAnalysis, panel: Any) -> None:
    """Draw the distribution of the images' means, and what it were for white noise of the same variance."""
    means = 255 * analysis.image_means
    expected = 255 * np.sqrt(analysis.variance / (analysis.shape[1] * analysis.shape[2]))
    reach = max(np.abs(means).max(), 4 * expected) * 1.05
    channels = means.shape[1]
    colours = CHANNEL_COLOURS.get(channels, (None,) * channels)
    for name, colour, column in zip(_channel_names(channels), colours, means.T, strict=True):
        shares, edges = np.histogram(column, bins=15, range=(-reach, reach), density=True)
        panel.stairs(shares, edges, color=colour, lw=1.3, label=name)
    x = np.linspace(-reach, reach, 201)
    normal = np.exp(-0.5 * (x / expected) ** 2) / (expected * np.sqrt(2 * np.pi))
    panel.plot(x, normal, color=GREY, lw=1.3, ls=(0, (4, 2)), label="white noise")
    panel.set_ylim(bottom=0)
    _dress(panel, "means of single images", "mean of the noise, 1/255", "density")


def _draw_correlation(analysis: NoiseAnalysis, panel: Any) -> None:
    rows, columns = (size // 2 + 0.5 for size in analysis.autocorrelation.shape)
    drawn = panel.imshow(
        analysis.autocorrelation, cmap="RdBu_r", vmin=-1, vmax=1, extent=(-columns, columns, rows, -rows)
    )
    panel.figure.colorbar(drawn, ax=panel, shrink=0.9, ticks=(-1, -0.5, 0, 0.5, 1)).ax.tick_params(labelsize=8.5)
    panel.locator_params(integer=True, nbins=5)
    _dress(panel, "autocorrelation", "columns, pixels", "rows, pixels", legend=False)


def _draw_spectrum(analysis: NoiseAnalysis, panel: Any) -> None:
    panel.plot(analysis.frequencies, 255**2 * analysis.spectrum, color=RIGHT, lw=1.6, label="noise")
    panel.axhline(255**2 * analysis.variance, color=GREY, lw=1.3, ls=(0, (4, 2)), label="white noise of its variance")
    panel.set_yscale("log")
    panel.set_xlim(0, 0.5)
    _dress(panel, "spectrum", "cycles per pixel", "power, (1/255)²")


def _dress(panel: Any, title: str, x: str, y: str, *, legend: bool = True) -> None:
    panel.set_title(title, fontsize=10, loc="left")
    panel.set_xlabel(x, fontsize=9)
    panel.set_ylabel(y, fontsize=9)
    panel.tick_params(labelsize=8.5, color="#999999", length=3)
    for side in ("top", "right"):
        panel.spines[side].set_visible(not legend)
    for spine in panel.spines.values():
        spine.set_color("#999999")
    if legend:
        panel.grid(axis="y", color="#e4e4e4", lw=0.7)
        panel.set_axisbelow(True)
        panel.legend(fontsize=8.5, frameon=False)
