"""The cache of latent codes on disk: hits, distinct keys, limited size, atomic writes."""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from oodgan import launch
from oodgan.errors import UserError
from oodgan.generators.stylegan2 import StyleGAN2, tiny
from oodgan.inversion import cache
from oodgan.inversion.cache import CachedInverter
from oodgan.inversion.inverter import OptimisationInverter
from oodgan.inversion.refine import Refinement
from oodgan.inversion.value import Inversion

QUICK = Refinement(steps=2, size=32, losses={"l2": 1.0, "lpips": 0.0, "identity": 0.0})


class Counting(OptimisationInverter):
    """Counts the photos that it inverts."""

    photos = 0

    def invert(self, photos: Tensor) -> Inversion:
        self.photos += len(photos)
        return super().invert(photos)


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    return tiny()


@pytest.fixture
def inverter(generator: StyleGAN2) -> Counting:
    return Counting(generator, QUICK)


@pytest.fixture
def photos() -> Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def cached(inverter: Counting, folder: Path, settings: str = "s", limit: int = 2**20) -> CachedInverter:
    return CachedInverter(inverter, settings, folder, limit)


def test_a_cached_inversion_is_bit_identical(inverter: Counting, photos: Tensor, tmp_path: Path) -> None:
    first = cached(inverter, tmp_path).invert(photos[:2]).w_plus
    assert inverter.photos == 2 and len(list(tmp_path.iterdir())) == 2
    again = cached(inverter, tmp_path).invert(photos[[1, 0]]).w_plus
    assert inverter.photos == 2 and torch.equal(again, first[[1, 0]])
    assert torch.equal(first, OptimisationInverter(inverter.generator, QUICK).invert(photos[:2]).w_plus)


def test_only_photos_missing_in_the_cache_are_inverted(inverter: Counting, photos: Tensor, tmp_path: Path) -> None:
    known = cached(inverter, tmp_path).invert(photos[1:2]).w_plus
    codes = cached(inverter, tmp_path).invert(photos).w_plus
    assert inverter.photos == 3 and torch.equal(codes[1:2], known) and not torch.equal(codes[0], codes[2])


def test_the_cache_distinguishes_pixels_and_settings(inverter: Counting, photos: Tensor, tmp_path: Path) -> None:
    cached(inverter, tmp_path).invert(photos[:1])
    nearly = photos[:1].clone()
    nearly[0, 0, 0, 0] += 1e-3
    cached(inverter, tmp_path).invert(nearly)
    cached(inverter, tmp_path, settings="other").invert(photos[:1])
    assert inverter.photos == 3 and len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("damage", ["cut", "empty", "not finite"])
def test_a_photo_with_a_damaged_cache_file_is_inverted_again(
    damage: str, inverter: Counting, photos: Tensor, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    code = cached(inverter, tmp_path).invert(photos[:1]).w_plus
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    if damage == "not finite":
        save_file({"w_plus": torch.full_like(code, float("nan"))}, file)
    else:
        file.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"")
    assert torch.equal(cached(inverter, tmp_path).invert(photos[:1]).w_plus, code)
    assert inverter.photos == 2 and file.read_bytes() == whole


def test_the_least_recently_used_entries_are_dropped_first(inverter: Counting, photos: Tensor, tmp_path: Path) -> None:
    one = cached(inverter, tmp_path)
    one.invert(photos[:1])
    (first,) = tmp_path.iterdir()
    size = first.stat().st_size
    one.invert(photos[1:2])
    (second,) = set(tmp_path.iterdir()) - {first}
    for age, file in ((50, first), (40, second)):
        os.utime(file, (time.time() - age,) * 2)
    one.invert(photos[:1])  # used again, so the second is now the oldest
    cached(inverter, tmp_path, limit=int(2.5 * size)).invert(photos[2:])
    left = set(tmp_path.iterdir())
    assert len(left) == 2 and first in left and second not in left


def test_an_unwritable_cache_folder_gives_a_warning(
    inverter: Counting, photos: Tensor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING, "oodgan"):
        codes = cached(inverter, tmp_path / "file" / "codes").invert(photos[:1]).w_plus
    assert codes.shape == (1, inverter.generator.num_ws, 512) and "not kept" in caplog.text


def test_a_killed_process_leaves_no_partial_file(inverter: Counting, tmp_path: Path) -> None:
    for delay in (0.05, 0.11, 0.17):
        child = os.fork()
        if child == 0:
            torch.set_num_threads(1)
            try:
                for i in range(100_000):
                    code = Inversion(torch.full((1, 16, 512), float(i)))
                    cached(inverter, tmp_path)._keep(tmp_path / f"{i}.safetensors", code)
            finally:
                os._exit(1)
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    files = list(tmp_path.glob("*.safetensors"))
    assert files and all(cache._read(file) is not None for file in files)


def test_cache_settings_include_all_relevant_keys(generator: StyleGAN2, tmp_path: Path) -> None:
    cfg = launch.compose("edit", ["inverter=optimisation"]).inverter
    base = cache.settings_of(cfg, generator)
    assert cache.settings_of({**cfg, "fit": {"lr": 1}}, generator) == base
    assert cache.settings_of({**cfg, "refine": {**cfg.refine, "steps": 61}}, generator) != base
    assert cache.settings_of(cfg, tiny(seed=1)) != base
    marks = []
    for content in (b"one", b"two", b"one"):
        (tmp_path / "weights.safetensors").write_bytes(content)
        marks.append(cache.settings_of({**cfg, "weights": str(tmp_path)}, generator))
    assert marks[0] == marks[2] != marks[1] != base


def test_the_cache_can_be_disabled(generator: StyleGAN2) -> None:
    words = ["generator=tiny", "inverter=optimisation"]
    assert isinstance(cache.build(launch.compose("edit", words), generator), CachedInverter)
    off = cache.build(launch.compose("edit", [*words, "code_cache=0"]), generator)
    assert isinstance(off, OptimisationInverter)
    with pytest.raises(UserError, match="code_cache=-1: megabytes"):
        cache.build(launch.compose("edit", [*words, "code_cache=-1"]), generator)
