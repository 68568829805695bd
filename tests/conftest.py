"""Fixtures that several test folders share."""

from __future__ import annotations

import ctypes
import fcntl
import gc
import logging
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import oodgan  # noqa: F401  cures torchvision before any test imports Lightning

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run files with slow tests first: workers take whole files, and a long file at the end would delay the run."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def pytest_collection_finish() -> None:
    """Search for garbage less often, and not among the imported objects: it took a twelfth of the tests' CPU time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 5, 3)


@pytest.fixture(scope="session", autouse=True)
def keep_stderr_open() -> Iterator[None]:
    """Keep absl from closing pytest's stderr. OpenVINO's converter and TensorBoard import absl, whose handler holds the
    stderr of that moment and closes it when logging is configured again, as a command run inside a test does."""
    with pytest.MonkeyPatch.context() as patch:
        with suppress(ImportError):
            from absl.logging import PythonHandler

            patch.setattr(PythonHandler, "close", logging.StreamHandler.close)
        yield


def shared_folder(tmp_path_factory: pytest.TempPathFactory, name: str) -> Path:
    """Returns the path of a folder that all test processes of this session share."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name


@pytest.fixture(scope="session", autouse=True)
def separate_code_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests neither read nor write the user's cache of latent codes. They share one, as a user's processes do."""
    os.environ["OODGAN_CODES"] = str(shared_folder(tmp_path_factory, "codes"))


@pytest.fixture(autouse=True)
def no_global_state_is_left() -> Iterator[None]:
    """A process group, or Lightning's patches of torch's data loaders, would change the results of later tests.

    Hydra's configuration of a sweep that ran in this process is removed: later tests run outside of Hydra.
    """
    yield
    if (hydra := sys.modules.get("hydra.core.hydra_config")) is not None:
        hydra.HydraConfig.instance().cfg = None
    if (torch := sys.modules.get("torch")) is not None:
        left = ["a process group"] if torch.distributed.is_initialized() else []
        loaders = (torch.utils.data.DataLoader, torch.utils.data.BatchSampler)
        left += [f"patches of {cls.__name__}" for cls in loaders if "__old__init__" in cls.__dict__]
        assert not left, f"this test did not remove {', '.join(left)}"


def _end_with_parent_and_on_ctrl_c() -> None:
    # Linux ends the child when this process ends in any way; elsewhere only the fixture ends it.
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    # `make test &` ignores Ctrl-C, and child processes would inherit that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(scope="session")
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`start(command, **options)`: a `Popen` that Ctrl-C ends, and that is killed when the tests end."""
    started: list[subprocess.Popen[str]] = []

    def run(command: list[str], **options: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(command, text=True, preexec_fn=_end_with_parent_and_on_ctrl_c, **options)
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real photos and reference numbers: `OODGAN_SHARED`, or `../shared` beside the repository."""
    folder = Path(os.environ.get("OODGAN_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip("real photos are not here: set OODGAN_SHARED to the folder that holds them")
    return folder


@pytest.fixture(scope="session")
def astronaut() -> Image.Image:
    """The public-domain astronaut photo in scikit-image, 512 x 512 RGB."""
    data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    return Image.fromarray(data.astronaut())


@pytest.fixture(scope="session")
def tiny_chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root folder with the run `tiny` of `experiment=tiny`, from directions to deghoster. Tests only read it.

    It is made once for all test processes. Stages that run with this root and a `folder` of their own find the earlier
    artifacts there, and the rendered pairs in its cache.
    """
    from oodgan import launch

    root = shared_folder(tmp_path_factory, "tiny_chain")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # as the command does: errors are raised unchanged
    with root.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for stage in ("directions", "inversion", "diffcam", "ghosts", "deghost"):
            if not (root / "tiny" / stage / "artifact").is_dir():
                launch.run(stage, ["experiment=tiny", f"root={root}"])
    return root


def _draw_face(seed: int, size: int = 48) -> Image.Image:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size - 0.5
    canvas = np.ones((size, size, 3)) * rng.uniform(0.2, 0.9, 3)
    canvas[(x / 0.32) ** 2 + (y / 0.42) ** 2 < 1] = rng.uniform(0.4, 0.95, 3)
    for side in (-1, 1):
        canvas[(x - side * 0.14) ** 2 + (y + 0.1) ** 2 < 0.05**2] = rng.uniform(0, 0.3, 3)
    canvas[(np.abs(x) < 0.13) & (np.abs(y - 0.2) < 0.03)] = rng.uniform(0.3, 0.7, 3)
    canvas += rng.normal(0, 0.01, canvas.shape)
    return Image.fromarray((canvas.clip(0, 1) * 255).astype(np.uint8))


@pytest.fixture(scope="session")
def draw_face() -> Callable[..., Image.Image]:
    """`draw_face(seed, size=48)`: a small smooth cartoon face, different for each seed."""
    return _draw_face


@pytest.fixture
def tiny_faces(tmp_path: Path) -> Path:
    """A folder of 12 small generated PNGs `00000.png` to `00011.png`, 48 px, in a sub-folder as FFHQ's are."""
    folder = tmp_path / "tiny_faces"
    (folder / "00000").mkdir(parents=True)
    for i in range(12):
        _draw_face(i).save(folder / "00000" / f"{i:05d}.png")
    return folder
