"""Colours of image files, by whatever they state them, converted to sRGB."""

import functools
import io
from typing import Any

import numpy as np

from jaxpurify.image_headers import Header

# Corners of sRGB: white, red, green and blue.
SRGB = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
PRIMARIES = {  # by the numbers of ITU-T H.273
    1: SRGB,
    9: (0.3127, 0.3290, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    12: (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0, 13: None}  # transfer functions by the same numbers; None: that of sRGB
UNSAID = 2  # in both
ADOBE = "R03"  # how cameras' notes mark Adobe RGB (DCF 2.0)
INTEROPERABILITY = 40965
SAME = 1.5 / 255  # how far colours may be from sRGB and still be taken for it: makers round its curve differently


def stated_profile(picture: Any, header: Header, notes: list[str]) -> bytes | None:
    """Return the ICC profile of a file's colours, made of what it states where it holds none.

    Args:
        picture: Pillow's image.
        header: what its file says besides.
        notes: a sentence is added where what is stated cannot be converted.

    Returns:
        The profile, or None for sRGB.
    """
    taken, info = "and is taken for sRGB", picture.info
    held = header.profile or info.get("icc_profile")
    if header.unknown:
        notes.append(f"states {header.unknown}, which is not read, {taken}")
        return None
    if header.codes and not (held and picture.format == "AVIF"):
        primaries, transfer = (
            {UNSAID: usual}.get(each, each) for each, usual in zip(header.codes, (1, 13), strict=True)
        )
        if primaries in PRIMARIES and transfer in GAMMAS:
            return _made(PRIMARIES[primaries], GAMMAS[transfer], grey=False)
        notes.append(f"states colours by the codes {primaries} and {transfer} (H.273), which are not read, {taken}")
        return None
    if held:
        return held
    if picture.format == "PNG":
        if "srgb" in info:
            return None
        if "icc_profile" in info:
            notes.append(f"has a colour profile that cannot be used (it is damaged), {taken}")
            return None
        return _measured(picture, notes)
    if picture.format == "TIFF" and not _plain_tiff(picture):
        notes.append(f"states a transfer function or primaries of its own, which are not read, {taken}")
        return None
    try:
        notation = picture.getexif().get_ifd(INTEROPERABILITY).get(1, "")
        adobe = str(notation).strip("\0 ") == ADOBE
    except Exception:  # damaged notes
        return None
    return _named("adobergb") if adobe else None


def _measured(picture: Any, notes: list[str]) -> bytes | None:
    """Return the profile that a PNG file's gamma and corners mean."""
    gamma, corners = picture.info.get("gamma"), picture.info.get("chromaticity")
    grey = picture.mode in ("1", "L", "LA") or picture.mode.startswith("I")
    if corners is None or grey or np.allclose(corners, SRGB, atol=0.002):
        corners = SRGB
    if gamma is None or abs(gamma - 1 / 2.2) < 0.006:
        gamma = None
    if corners == SRGB and gamma is None:
        return None
    try:
        if gamma is not None and not 0.1 <= gamma <= 10:
            raise ValueError(f"a gamma of {gamma}")
        return _made(tuple(corners), None if gamma is None else 1 / gamma, grey=grey)
    except Exception as error:
        notes.append(f"states colours that cannot be used ({error}), and is taken for sRGB")
        return None


def _plain_tiff(picture: Any) -> bool:
    """Tell whether the tags of a TIFF file leave its colours at sRGB."""
    tags = picture.tag_v2
    corners = [
        float(each) for tag in (318, 319) for each in np.ravel(tags.get(tag, SRGB[:2] if tag == 318 else SRGB[2:]))
    ]
    return 301 not in tags and len(corners) == 8 and np.allclose(corners, SRGB, atol=0.005)


@functools.lru_cache(maxsize=16)
def _named(name: str) -> bytes:
    import imagecodecs

    return bytes(imagecodecs.cms_profile(name))


@functools.lru_cache(maxsize=16)
def _made(corners: tuple[float, ...], gamma: float | None, *, grey: bool) -> bytes | None:
    """Make a profile of white, corners and gamma (None: the curve of sRGB)."""
    import imagecodecs

    if corners == SRGB and gamma is None:
        return None
    if grey:
        return bytes(imagecodecs.cms_profile("gray", gamma=gamma))
    white, primaries = [*corners[:2], 1.0], [each for i in (2, 4, 6) for each in (*corners[i : i + 2], 1.0)]
    curve: dict[str, Any] = {"gamma": gamma}
    if gamma is None:
        levels = np.linspace(0, 1, 4096)
        linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
        curve = {"transferfunction": linear.astype(np.float32)}
    return bytes(imagecodecs.cms_profile("rgb", whitepoint=white, primaries=primaries, **curve))


def to_srgb(values: np.ndarray, profile: bytes | None, notes: list[str], *, inks: bool = False) -> np.ndarray:
    """Convert colours from their profile to sRGB; opacity stays.

    Args:
        values: ``uint8`` or ``uint16`` ``(height, width, channel)``: grey, RGB, RGB and opacity, or CMYK.
        profile: the ICC profile, or None for sRGB.
        notes: a sentence is added where the profile cannot be used.
        inks: whether the four channels are CMYK.

    Returns:
        The same dtype, heights and widths: grey, RGB, or RGB and opacity.
    """
    if profile:
        try:
            return np.ascontiguousarray(_converted(values, profile, inks))
        except Exception as error:
            taken = "its inks are converted plainly" if inks else "is taken for sRGB"
            notes.append(f"has a colour profile that cannot be used ({' '.join(str(error).split())}), and {taken}")
    elif inks:
        notes.append("has inks (CMYK) without a colour profile, which are converted plainly")
    if inks:
        top = np.iinfo(values.dtype).max
        light = top - values.astype(np.uint32)
        values = ((light[..., :3] * light[..., 3:] + top // 2) // top).astype(values.dtype)
    return np.ascontiguousarray(values)


def _converted(values: np.ndarray, profile: bytes, inks: bool) -> np.ndarray:
    from PIL import ImageCms

    space = ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space.strip()
    grey, count = values.shape[-1] == 1, {"GRAY": 1, "RGB": 3, "CMYK": 4}.get(space, 0)
    if not count or inks != (space == "CMYK") or (space == "GRAY" and not grey):
        # Grey with opacity is kept as three equal channels.
        equal = space == "GRAY" and not inks and (values[..., :3] == values[..., :1]).all()
        if not equal:
            raise ValueError(f"it is for {space}")
    colour, rest = (values, values[..., :0]) if inks else (values[..., :3], values[..., 3:])
    if not inks and _is_srgb(profile, count):
        return values
    given = colour[..., 0] if count == 1 else np.repeat(colour, 3, axis=-1) if grey else colour
    colour = _transformed(given, profile, count)
    return np.concatenate([colour[..., 1:2] if grey else colour, rest], axis=-1)


def _transformed(given: np.ndarray, profile: bytes, count: int) -> np.ndarray:
    import imagecodecs

    names = {1: "gray", 3: "rgb", 4: "cmyk"}
    spaces: dict[str, Any] = {"colorspace": names[count], "outcolorspace": "rgb"}
    # What is "optimised" is interpolated between few points: 16 bits would be off by up to 17 of 255 levels.
    flags = imagecodecs.CMS.FLAGS.NOOPTIMIZE
    return imagecodecs.cms_transform(np.ascontiguousarray(given), profile, _named("srgb"), flags=flags, **spaces)


@functools.lru_cache(maxsize=16)
def _is_srgb(profile: bytes, count: int) -> bool:
    """Tell whether a profile leaves colours where they are, whatever its name: judged by what it does to a grid."""
    levels = np.linspace(0, 65535, 256 if count == 1 else 18).round().astype(np.uint16)
    grid = levels[None] if count == 1 else np.stack(np.meshgrid(*[levels] * 3), axis=-1).reshape(1, -1, 3)
    same = _transformed(grid, profile, count).astype(int) - (grid[..., None] if count == 1 else grid)
    return bool(np.abs(same).max() <= SAME * 65535)
