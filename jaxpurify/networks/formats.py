"""What a file of weights is, by its bytes and never by its ending."""

import contextlib
import json
import re
import zipfile
from io import BufferedIOBase
from typing import Any

SAFETENSORS, TORCH, INDEX, UNKNOWN = "safetensors", "torch", "index", "unknown"
HEAD = 4096
# A safetensors file begins with the length of its header, which its reader bounds, and the header with "{".
LONGEST_HEADER = 10**8
TORCH_BEFORE_ZIP = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
PICKLES = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
FIRST_OF_OLD_PICKLES = b"c(}]lIFSVN"
SAVE_ARRAYS = "save its arrays in Python with safetensors.numpy.save_file"
UNPACK = "unpack it first"
BEGINNINGS = {
    b"version https://git-lfs": ("a Git-LFS pointer, not the file", "fetch the file itself with `git lfs pull`"),
    b"\x89HDF\r\n\x1a\n": ("an HDF5 file, as Keras writes them", SAVE_ARRAYS),
    b"\x93NUMPY": ("one NumPy array (.npy), without the names of weights", SAVE_ARRAYS),
    b"GGUF": ("a GGUF file of a language model", "pass the weights of an image network"),
    b"\x1f\x8b": ("compressed by gzip", UNPACK),
    b"BZh": ("compressed by bzip2", UNPACK),
    b"\xfd7zXZ\x00": ("compressed by xz", UNPACK),
    b"\x28\xb5\x2f\xfd": ("compressed by Zstandard", UNPACK),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", UNPACK),
    b"Rar!\x1a\x07": ("a RAR archive", UNPACK),
    b"\x89PNG\r\n": ("an image", "pass the weights"),
    b"\xff\xd8\xff": ("an image", "pass the weights"),
    b"%PDF": ("a PDF document", "pass the weights"),
}
HTML = re.compile(rb"\s*(<!doctype html|<html|<head|<\?xml|<!--)", re.IGNORECASE)
# The fields that begin a model of ONNX: its version, then its producer, domain, or graph.
ONNX = re.compile(rb"\x08[\x03-\x1f][\x12\x1a\x22\x28\x32\x3a\x42]")
# A mapping whose first name is text: what Flax' own serialisation begins with.
MSGPACK = re.compile(rb"([\x81-\x8f]|\xde..|\xdf....)([\xa1-\xbf]|\xd9.)\w", re.DOTALL)


def recognise(file: BufferedIOBase, name: str) -> str:
    """Tell what a file is.

    Args:
        file: its content, from the beginning; where it is read to afterwards is not defined.
        name: what an error message calls it.

    Returns:
        SAFETENSORS, TORCH (a checkpoint or another pickle), INDEX (of shards), or UNKNOWN.

    Raises:
        ValueError: if it is known to be something else: the message says what, and what to do.
    """
    head = file.read(HEAD)
    if not head:
        raise ValueError(f"{name} is empty: was it truncated while it was copied or downloaded?")
    if not head.strip(b"\x00"):
        raise ValueError(f"{name} begins with zeros only: its download did not end, so download it again")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= LONGEST_HEADER:
        return SAFETENSORS
    if head.startswith(b"PK"):
        return _zipped(file, head, name)
    if head.startswith(PICKLES):
        return TORCH
    for beginning, (what, remedy) in BEGINNINGS.items():
        if head.startswith(beginning):
            raise ValueError(f"{name} is {what}: {remedy}")
    if HTML.match(head):
        raise ValueError(f"{name} is an HTML or XML page, not weights: download the file that the page links to")
    if head[257:262] == b"ustar":
        raise ValueError(f"{name} is a tar archive: {UNPACK}")
    if ONNX.match(head):
        raise ValueError(f"{name} is an ONNX model: save the weights of the PyTorch module that it was made from")
    if MSGPACK.match(head):
        raise ValueError(f"{name} is a msgpack file, as Flax writes them: {SAVE_ARRAYS}")
    content = head + file.read() if _is_text(head) else b""
    if content and _is_text(content):
        return _textual(content, name)
    return UNKNOWN


def metadata(file: BufferedIOBase) -> dict[str, str]:
    """Return what a safetensors file says about itself.

    Args:
        file: its content, from the beginning.

    Returns:
        Name → text; empty where it says nothing or is no safetensors file.
    """
    head = file.read(9)
    length = int.from_bytes(head[:8], "little")
    if head[8:] != b"{" or length > LONGEST_HEADER:
        return {}
    try:
        said = json.loads(b"{" + file.read(length - 1)).get("__metadata__", {})
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def index(content: bytes, name: str) -> dict[str, str]:
    """Read the index of weights that lie in several files.

    Args:
        content: the file, `*.safetensors.index.json` or `pytorch_model.bin.index.json`.
        name: what an error message calls it.

    Returns:
        Name of a weight → name of the file beside the index that holds it.

    Raises:
        ValueError: if it is no whole index.
    """
    try:
        entries = json.loads(content, object_pairs_hook=_without_duplicates)["weight_map"]
        if not entries or not all(isinstance(file, str) for file in entries.values()):
            raise ValueError("its weight_map must name a file for each weight")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{name} is not a whole index of shards ({' '.join(str(error).split())[:200]}): was it truncated?"
        ) from None
    outside = [file for file in entries.values() if file in ("", ".", "..") or re.search(r"[/\\\0]", file)]
    if outside:
        raise ValueError(f"{name} must name files that lie beside it, got {outside[0]!r}")
    return entries


def _zipped(file: BufferedIOBase, head: bytes, name: str) -> str:
    first = head[30 : 30 + int.from_bytes(head[26:28], "little")].decode("latin1")
    entries = []
    with contextlib.suppress(Exception):  # zipfile raises BadZipFile, and much else on damaged bytes
        file.seek(0)
        entries = zipfile.ZipFile(file).namelist()
    of_module = "save the weights alone, as torch.save(module.state_dict(), ...)"
    if any(entry.endswith("constants.pkl") or "/code/" in entry for entry in entries):
        raise ValueError(f"{name} is a TorchScript archive, a program: load it with torch.jit.load and {of_module}")
    if any(entry.endswith(("models/model.json", "archive_format")) for entry in entries):
        raise ValueError(f"{name} is a program of torch.export: load it with torch.export.load and {of_module}")
    if any(entry.endswith("data.pkl") for entry in entries or [first or "data.pkl"]):
        return TORCH
    if any(entry.endswith("model.weights.h5") for entry in entries):
        raise ValueError(f"{name} is a model of Keras: {SAVE_ARRAYS}")
    if all(entry.endswith(".npy") for entry in entries or [first]):
        raise ValueError(f"{name} is a NumPy archive (.npz): {SAVE_ARRAYS}")
    if not entries:
        raise ValueError(
            f"{name} is a zip archive without its end: was it truncated while it was copied or downloaded?"
        )
    raise ValueError(f"{name} is a zip archive that holds {_short(entries[0])}, not weights: {UNPACK}")


def _is_text(content: bytes) -> bool:
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        if error.end < len(content):  # else a character may be cut at the end of what was read
            return False
        text = content[: error.start].decode()
    return not re.search(r"[\x00-\x08\x0e-\x1f]", text)


def _textual(content: bytes, name: str) -> str:
    if content[:1] in (b"{", b"["):
        if b'"weight_map"' in content:
            return INDEX
        raise ValueError(f"{name} is a JSON file, not weights: pass the file of weights that lies beside it")
    # Protocols 0 and 1 of pickle are text that ends with a full stop.
    if content[0] in FIRST_OF_OLD_PICKLES and content.endswith(b".") and b"\n" in content:
        return TORCH
    raise ValueError(f"{name} is a text file, not weights: it begins with {_short(content.decode(errors='replace'))}")


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}…")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice")
    return found
