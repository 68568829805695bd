"""Reads weight files of other projects in any container, without executing code from them."""

from __future__ import annotations

import argparse
import io
import pathlib
import pickle
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oodgan.errors import UserError
from oodgan.foreign import reading
from oodgan.weights.unpickle import NUMPY, load_restricted

State = dict[str, Tensor]

EXPECTED = "expected a checkpoint: .pt/.pth of PyTorch, .safetensors, or an NVlabs .pkl"
MAX_NUMPY = 4 << 30  # bytes that a numpy archive may unpack to
TORCH_LEGACY = b"\x80\x02\x8a\nl\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
LOOKS = (
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"BZh", "a bzip2 archive; unpack it first"),
    (b"version https://git-lfs", "a git-lfs pointer instead of the file it points to"),
    (b"\x89HDF", "an HDF5 file"),
    (b"%PDF", "a PDF"),
)
# Settings that public checkpoints contain besides weights: plain containers of values.
HARMLESS: list[Any] = [
    argparse.Namespace,
    set,
    (pathlib.PurePosixPath, "pathlib.PosixPath"),
    (pathlib.PurePosixPath, "pathlib._local.PosixPath"),
    (pathlib.PureWindowsPath, "pathlib.WindowsPath"),
    (pathlib.PureWindowsPath, "pathlib._local.WindowsPath"),
]


@dataclass
class Persistent:
    """A network of an NVlabs pickle: class name and attributes. Its source code is never executed."""

    class_name: str
    state: dict[str, Any]

    def tensors(self, prefix: str = "") -> State:
        """Return parameters and buffers of this network and its children, by dotted name."""
        tensors: State = {}
        for group in ("_parameters", "_buffers"):
            entries = self.state.get(group) or {}
            tensors |= {prefix + str(name): t.detach() for name, t in entries.items() if isinstance(t, Tensor)}
        for name, child in (self.state.get("_modules") or {}).items():
            if isinstance(child, Persistent):
                tensors |= child.tensors(f"{prefix}{name}.")
        return tensors


class Record(dict):
    """Stands for `dnnlib.EasyDict`."""


def read(path: str | Path, expected: str = EXPECTED) -> Any:
    """Read a file: dictionaries, tensors, numpy arrays, numbers, and `Persistent` networks.

    The content determines how it is read, not the ending. `expected` is the end of messages about other kinds of files.

    Raises:
        UserError: the file is missing, of another kind, truncated, or would execute code.
    """
    with reading(path, "checkpoint"):
        return _read(Path(path), expected)


def _read(path: Path, expected: str) -> Any:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"{path} {what}; {expected}")
    with open(path, "rb") as file:
        head = file.read(512)
    if not head:
        raise UserError(f"{path} is empty; {expected}")
    if head[:2] == b"PK":
        return _read_zip(path, expected)
    if head.startswith(b"\x93NUMPY"):
        return _read_npy(path)
    if head.startswith(TORCH_LEGACY):
        return _read_torch(path, zipped=False)
    if head[:1] == b"\x80":
        return _read_pickle(path)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
        return _read_safetensors(path)
    raise UserError(f"{path} looks like {_looks_like(head)}; {expected}")


def _looks_like(head: bytes) -> str:
    for magic, name in LOOKS:
        if head.startswith(magic):
            return name
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page (a download that asked for a confirmation?)"
    return "text" if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head) else "no format known here"


def _read_zip(path: Path, expected: str) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except Exception as error:  # zipfile's errors on damaged files are of every kind
        raise _damaged(path, error) from error
    names = [member.filename for member in members]
    if any(name.endswith("data.pkl") for name in names):
        if any(name.endswith("constants.pkl") for name in names):
            raise UserError(f"{path} is a TorchScript program, not weights; {expected}")
        return _read_torch(path, zipped=True)
    if not any(name.endswith(".npy") for name in names):
        raise UserError(f"{path} is a zip archive without a checkpoint in it; {expected}")
    if sum(member.file_size for member in members) > MAX_NUMPY:
        raise UserError(f"{path} unpacks to more than {MAX_NUMPY >> 30} GiB")
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays.items())


def _read_npy(path: Path) -> Any:
    raw = path.read_bytes()
    try:
        return np.load(io.BytesIO(raw), allow_pickle=False)
    except ValueError:
        # An array of objects (a list of style vectors) is a pickle behind the header.
        stream = io.BytesIO(raw)
        version = np.lib.format.read_magic(stream)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        _, _, kind = reader(stream)
        if not kind.hasobject:
            raise
        array = load_restricted(stream.read(), name=str(path))
        return array.item() if array.ndim == 0 else list(array)


def _read_torch(path: Path, zipped: bool) -> Any:
    try:
        with torch.serialization.safe_globals([*HARMLESS, *_numpy_globals()]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped or None)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        if asked:
            raise _refusal(path, asked.group(1)) from error
        raise _damaged(path, error) from error
    except Exception as error:  # torch.load's errors on damaged files are of every kind
        raise _damaged(path, error) from error


def _numpy_globals() -> list[Any]:
    from numpy._core.multiarray import _reconstruct, scalar

    kinds = [type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "?")]
    both = [(f, f"numpy.{core}.multiarray.{f.__name__}") for f in (_reconstruct, scalar) for core in ("core", "_core")]
    return [np.ndarray, np.dtype, *kinds, *both]


def _read_pickle(path: Path) -> Any:
    allow = NUMPY | {
        ("builtins", "set"),
        ("__builtin__", "set"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch._utils", "_rebuild_parameter"),
        ("torch", "Size"),
        ("torch", "float32"),
        ("torch", "float16"),
        ("torch", "device"),
    }
    replace = {
        ("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent,
        ("torch.storage", "_load_from_bytes"): _storage,
        ("dnnlib.util", "EasyDict"): Record,
        ("dnnlib", "EasyDict"): Record,
        ("_codecs", "encode"): _encode,
    }
    try:
        return load_restricted(path, allow, replace)
    except UserError as error:
        asked = re.search(r"asks for ([\w.]+)", str(error))
        if asked and asked.group(1).startswith("dnnlib.tflib"):
            hint = "convert it with `legacy.py` of NVlabs/stylegan2-ada-pytorch first"
            raise UserError(f"{path} is a TensorFlow StyleGAN2 pickle; {hint}") from error
        if asked:
            raise _refusal(path, asked.group(1)) from error
        raise _damaged(path, error) from error
    except Exception as error:  # allowed names called with invalid arguments can raise any error
        raise _damaged(path, error) from error


def _persistent(meta: dict[str, Any]) -> Persistent:
    return Persistent(str(meta["class_name"]), dict(meta["state"]))


def _storage(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _encode(text: str, encoding: str = "latin1") -> bytes:
    # Python 2 style pickles spell bytes like this.
    if encoding not in ("latin1", "utf-8", "ascii"):
        raise pickle.UnpicklingError(f"unexpected encoding {encoding}")
    return text.encode(encoding)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def _refusal(path: Path, name: str) -> UserError:
    return UserError(f"{path} refused: it is a pickle that asks for {name}, which weights do not need")


def _damaged(path: Path, error: Exception) -> UserError:
    detail = " ".join(str(error).split())[:120]
    return UserError(f"{path} is truncated or damaged ({detail})")
