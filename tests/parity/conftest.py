"""Outputs of the authors' networks for weights that are rebuilt from a rule.

`published_networks_seedS.npz` holds outputs, `..._layouts.json[.gz]` the tensors' names, shapes and scales: a
tensor is a constant (`fixed`), zeros (int64), or `offset + scale * randn` seeded by crc32 of its full name.
Further seeds are taken from the folder named by the environment variable OODGAN_REFERENCE.
"""

import gzip
import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

PREFIX = "published_networks_seed"


class Reference:
    """Outputs of the published networks for one seed, and the rule that rebuilds weights and inputs."""

    def __init__(self, file: Path):
        self.seed = int(file.stem.removeprefix(PREFIX))
        self.outputs = dict(np.load(file))
        layouts = file.with_name(f"{file.stem}_layouts.json")
        packed = file.with_name(f"{layouts.name}.gz")
        text = gzip.decompress(packed.read_bytes()) if packed.exists() else layouts.read_bytes()
        self.layouts = json.loads(text)

    def _randn(self, key: str, shape) -> torch.Tensor:
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed}/{key}".encode()))
        return torch.randn(shape, generator=generator)

    def rnd(self, name: str, *shape: int) -> torch.Tensor:
        return self._randn(name, shape)

    def weights(self, network: str, prefix: str = "") -> dict[str, torch.Tensor]:
        """Returns the tensors of `network` whose name starts with `prefix`, without the prefix."""
        state = {}
        for name, entry in self.layouts[network].items():
            if not name.startswith(prefix):
                continue
            if "fixed" in entry:
                tensor = torch.tensor(entry["fixed"])
            elif entry["dtype"] == "int64":
                tensor = torch.zeros(entry["shape"], dtype=torch.int64)
            else:
                tensor = entry["offset"] + entry["scale"] * self._randn(f"{network}/{name}", entry["shape"])
            state[name.removeprefix(prefix)] = tensor
        return state

    def check(self, name: str, actual: torch.Tensor, tolerance: float = 1e-4) -> None:
        """Assert that the largest difference is below `tolerance` times the largest expected magnitude."""
        expected = torch.from_numpy(np.asarray(self.outputs[name])).double()
        assert actual.shape == expected.shape
        error = float((actual.detach().double() - expected).abs().max() / expected.abs().max())
        print(f"seed {self.seed} {name}: relative error {error:.1e}")
        assert error < tolerance, f"{name}: relative error {error:.2e}"


def _files() -> list[Path]:
    folders = [Path(__file__).parent / "data"]
    if os.environ.get("OODGAN_REFERENCE"):
        folders.append(Path(os.environ["OODGAN_REFERENCE"]))
    result = {file.name: file for folder in folders for file in sorted(folder.glob(f"{PREFIX}*.npz"))}
    return list(result.values())


@pytest.fixture(scope="module", params=_files(), ids=lambda file: file.stem)
def reference(request) -> Reference:
    return Reference(request.param)
