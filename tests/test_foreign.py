"""Damaged or malicious files of others: each reader returns a value or raises a one-line error, and runs no code."""

from __future__ import annotations

import ast
import gzip
import io
import json
import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from oodgan.conversion.recognise import recognise
from oodgan.data.files import Zip, read_parsing
from oodgan.data.labels import read_labels
from oodgan.data.shards import WebDataset
from oodgan.data.splits import CelebAHQSplit
from oodgan.directions.bank import Bank
from oodgan.directions.formats import read_direction
from oodgan.directions.probes import Probes
from oodgan.editing.settings import _load as read_settings
from oodgan.errors import UserError
from oodgan.foreign import reading
from oodgan.tracking.artifacts import Manifest
from oodgan.tracking.runs import read as read_run
from oodgan.training import checkpoints
from oodgan.weights import trained
from oodgan.weights.checkpoint import read

SOURCES = Path(__file__).resolve().parents[1] / "src" / "oodgan"
HAIR = [{"color": "blond", "confidence": 0.9}, {"color": "black", "confidence": 0}]
FACE = {"smile": 0.9, "glasses": "ReadingGlasses", "beard": 0.1, "moustache": 0.2, "hair": {"hairColor": HAIR}}


def _saved(write: Callable[[Path], object], tmp: Path) -> bytes:
    path = tmp / "whole"
    write(path)
    return path.read_bytes()


def _zip(path: Path) -> None:
    data = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(data, "PNG")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", data.getvalue())
        archive.writestr("b.png", data.getvalue())


def _tar(path: Path) -> None:
    import tarfile

    data = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(data, "PNG")
    with tarfile.open(path, "w") as archive:
        for name, content in (("a.png", data.getvalue()), ("a.json", b'{"smile": 1}'), ("b.png", data.getvalue())):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def _npy(value: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, value, allow_pickle=True)

    return write


def _styles() -> np.ndarray:
    styles = np.empty(2, dtype=object)
    styles[:] = [np.ones(4, np.float32), np.ones(3, np.float32)]
    return styles


def _probes() -> Probes:
    return Probes(("a",), torch.ones(4, 1), torch.ones(1), {"a": 1.0})


def _manifest(path: Path) -> None:
    Manifest("edit").save(path.parent).rename(path)


VECTOR = torch.arange(512.0)
# name: (ending, function that writes a valid file, function that reads it)
FILE_KINDS: dict[str, tuple[str, Callable[[Path], Any], Callable[[Path], Any]]] = {
    "checkpoint": (".pt", lambda p: torch.save({"g_ema": {"w": VECTOR}, "args": {"size": 8}}, p), read),
    "old checkpoint": (".pt", lambda p: torch.save([VECTOR], p, _use_new_zipfile_serialization=False), read),
    "training": (".ckpt", lambda p: torch.save({"state_dict": {"w": VECTOR}, "global_step": 3}, p), checkpoints.load),
    "pickle": (".pkl", lambda p: p.write_bytes(pickle.dumps(OrderedDict(w=np.ones(4)))), read),
    "safetensors": (".safetensors", lambda p: save_file({"w": VECTOR}, p, {"a": "b"}), read),
    "direction": (".pt", lambda p: torch.save({"face": {"latent": VECTOR.requires_grad_(False)}}, p), read_direction),
    "direction npy": (".npy", _npy(np.ones((2, 512))), read_direction),
    "direction styles": (".npy", _npy(_styles()), read_direction),
    "direction npz": (".npz", lambda p: np.savez(p.open("wb"), d=np.ones(512)), read_direction),
    "labels csv": (".csv", lambda p: p.write_text("file,attribute,value\na.png,smile,1\nb.png,smile,0\n"), read_labels),
    "labels json": (".json", lambda p: p.write_text(json.dumps({"a.png": FACE})), read_labels),
    "labels celeba": (".txt", lambda p: p.write_text("2\nSmiling Young\na.jpg 1 -1\nb.jpg -1 1\n"), read_labels),
    "labels packed": (".txt.gz", lambda p: p.write_bytes(gzip.compress(b"1\nSmile\na.jpg 1\nb.jpg -1\n")), read_labels),
    "bank": (".safetensors", lambda p: Bank(("a",), VECTOR.expand(1, 2, -1), "g", "g").save(p), Bank.load),
    "probes": (".safetensors", lambda p: _probes().save(p), Probes.load),
    "weights": (".safetensors", lambda p: trained.save(p, {"w": VECTOR}, part="x"), lambda p: trained.load(p, "x")),
    "manifest": ("", _manifest, lambda p: _in_folder(p, "manifest.json", Manifest.load)),
    "run": ("", lambda p: p.write_text("a: {b: 1}\nc: [1, 2]\n"), lambda p: _in_folder(p, "config.yaml", read_run)),
    "settings": (".yaml", lambda p: p.write_text("edits: {smile: 1}\nface: largest\n"), read_settings),
    "table": (".txt", lambda p: p.write_text("0 1 a.jpg\n1 2 b.jpg\n"), lambda p: CelebAHQSplit(p, p)),
    "zip": (".zip", _zip, lambda p: [Zip(p, 8)[i] for i in range(len(Zip(p, 8)))]),
    "shards": (".tar", _tar, lambda p: [WebDataset(p, 8)[i] for i in range(len(WebDataset(p, 8)))]),
    "mask": (".png", lambda p: Image.new("L", (8, 8), 5).save(p, "PNG"), read_parsing),
}  # fmt: skip


def _in_folder(path: Path, name: str, load: Callable[[Path], Any]) -> Any:
    folder = path.parent / "folder"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(path.read_bytes())
    return load(folder)


@pytest.mark.parametrize("name", FILE_KINDS)
def test_a_valid_file_is_read(name: str, tmp_path: Path) -> None:
    ending, write, load = FILE_KINDS[name]
    (tmp_path / f"file{ending}").write_bytes(_saved(write, tmp_path))
    if name == "table":  # one file cannot be both the mapping and the partition
        with pytest.raises(UserError):
            load(tmp_path / f"file{ending}")
        return
    load(tmp_path / f"file{ending}")


@pytest.mark.parametrize("name", FILE_KINDS)
def test_a_damaged_file_is_read_or_a_one_line_error(name: str, tmp_path: Path) -> None:
    ending, write, load = FILE_KINDS[name]
    whole, path = _saved(write, tmp_path), tmp_path / f"file{ending}"

    @settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=3)), min_size=1, max_size=4), st.floats(0, 1))
    def fuzz(changes: list[tuple[float, bytes]], cut: float) -> None:
        data = bytearray(whole)
        for share, new in changes:
            at = int(share * len(data))
            data[at : at + len(new)] = new
        if cut < 0.3:
            del data[int(cut / 0.3 * len(data)) :]
        path.write_bytes(bytes(data))
        _loads_or_raises_user_error(lambda: load(path))

    fuzz()
    for other in (b"", b"\0" * 64, b"<!doctype html><p>Quota exceeded", b"version https://git-lfs", b"[" * 100_000):
        path.write_bytes(other)
        _loads_or_raises_user_error(lambda: load(path))
    path.unlink()
    if name not in ("manifest", "run"):
        with pytest.raises(UserError):
            load(path)


def _loads_or_raises_user_error(load: Callable[[], Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            load()
        except UserError as error:
            assert str(error) and len(str(error)) < 2000


TREES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(10**30), 10**30), st.floats(), st.text(max_size=8),
        st.sampled_from([torch.ones(2, 2), torch.ones(()), torch.ones(512, 512), torch.zeros(1, 3, 4, 1, 1)]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["g_ema", "d", "state_dict", "opts", "encoder_type", "latent_avg", "style.1.weight", "style.9.weight",
         "conv1.conv.weight", "convs.0.conv.weight", "convs.1.conv.weight", "input.input", "to_rgb1.conv.weight",
         "encoder.input_layer.0.weight", "encoder.conv1.weight", "decoder.x", "FCN.encoder.0.conv_first.weight",
         "FCN.decoder.7.0.weight", "generator.a", "generator_ema.x", "shared.0.weight", "fc.weight",
         "input_layer.0.weight", "output_layer.3.weight", "conv1.weight", "layer3.0.conv1.weight",
         "features.0.weight", "lin0.model.1.weight", "lin4.model.1.weight", "G_ema"]), inner, max_size=6),
    max_leaves=12,
)  # fmt: skip


@settings(deadline=None, max_examples=200)
@given(TREES)
def test_any_checkpoint_content_is_recognised_or_a_one_line_error(content: Any) -> None:
    _loads_or_raises_user_error(lambda: recognise(content))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["a.png", "faceAttributes", "hair", "hairColor", "color", "confidence", "beard", "moustache", "glasses",
         "blond", "black", "file", "attribute", "value", "headPose", "makeup"]), inner, max_size=5),
    max_leaves=15,
)  # fmt: skip


@settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=VALUES, cells=st.lists(st.lists(st.text(max_size=5), max_size=4), max_size=4))
def test_labels_of_any_shape_are_read_or_a_one_line_error(value: Any, cells: list[list[str]], tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(value))
    (tmp_path / "a.csv").write_text("\n".join(",".join(row) for row in cells), encoding="utf-8", errors="replace")
    (tmp_path / "a.txt").write_text("\n".join(" ".join(row) for row in cells), encoding="utf-8", errors="replace")
    for name in ("a.json", "a.csv", "a.txt"):
        _loads_or_raises_user_error(lambda name=name: read_labels(tmp_path / name))


def test_a_file_that_is_not_a_training_checkpoint_is_reported(tmp_path: Path) -> None:
    (tmp_path / "page.ckpt").write_text("<!doctype html><p>Quota exceeded")
    with pytest.raises(UserError, match=r"looks like a web page .*; a checkpoint of a training is expected"):
        checkpoints.load(tmp_path / "page.ckpt")
    torch.save({"w": VECTOR}, tmp_path / "weights.ckpt")
    with pytest.raises(UserError, match="is no checkpoint of a training: it holds no state_dict"):
        checkpoints.load(tmp_path / "weights.ckpt")


def test_an_error_names_the_file_exactly_once() -> None:
    with pytest.raises(UserError, match=r"^label file a\.csv: no rows$"), reading("a.csv", "label file"):
        raise UserError("no rows")
    with pytest.raises(UserError, match=r"^a\.csv has no rows$"), reading("a.csv", "label file"):
        raise UserError("a.csv has no rows")
    message = r"^label file a\.csv is damaged or has another format \(KeyError: 'x'\)$"
    with pytest.raises(UserError, match=message), reading("a.csv", "label file"):
        {}["x"]
    with pytest.raises(KeyboardInterrupt), reading("a.csv"):
        raise KeyboardInterrupt


READERS = {"torch.load", "np.load", "numpy.load", "pickle.loads", "pickle.load", "zipfile.ZipFile", "tarfile.open",
           "gzip.decompress", "json.loads", "OmegaConf.load", "safe_open", "Image.open"}  # fmt: skip
OURS = {
    "what this package wrote and hashed itself": {
        "training/spread.py", "training/study.py", "training/sweep.py", "training/fit.py", "ranks.py",
        "files.py",
        "weights/fetch.py", "generators/preview.py", "stages/evaluate.py", "stages/masks.py", "stages/pipeline.py",
        "stages/weights.py", "tracking/loggers.py", "stages/_common.py", "evaluation/merged.py", "editing/report.py",
    },
    "damage counts as not there, or is caught beside": {
        "remote.py",
        "evaluation/store.py", "tracking/runs.py", "data/known.py", "stages/_ledger.py", "app/brush.py",
    },
    "of an installed package": {"metrics/lpips.py"},
    "guarded by data/images.py's own rule": {"data/images.py", "data/metadata.py", "tracking/page.py"},
    "written, not read": {"data/conversion.py", "app/batch.py"},
}  # fmt: skip


def test_modules_read_untrusted_files_only_within_reading() -> None:
    """A module that calls a file reader must use `reading(...)`, or be listed above with a reason."""
    allowed = set().union(*OURS.values())
    for path in sorted(SOURCES.rglob("*.py")):
        name = path.relative_to(SOURCES).as_posix()
        text = path.read_text(encoding="utf-8")
        called = {ast.unparse(node.func) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)}
        if called & READERS and name not in allowed:
            assert "reading(" in text, f"{name} calls {sorted(called & READERS)} without oodgan.foreign.reading"
