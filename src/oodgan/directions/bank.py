"""Named edit directions in W+ and their file: names, vectors, calibration and provenance in one safetensors file."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from oodgan.errors import UserError, unknown
from oodgan.files import save_tensors
from oodgan.foreign import reading
from oodgan.paths import StageFolder

FORMAT = "oodgan-directions-1"
FILENAME = "directions.safetensors"
FFHQ_SPACE = "stylegan2-ffhq"
SHIPPED = {"ffhq": Path(__file__).parents[1] / "weights" / "shipped" / "directions_ffhq.safetensors"}

# Generators that share a latent space, by the prefix of their ids: MobileStyleGAN was distilled from StyleGAN2-FFHQ,
# and a 1024 px StyleGAN2 is assumed to be FFHQ's unless it has another attribute `latent_space`.
_SPACES = {"mobile_ffhq-": FFHQ_SPACE, "stylegan2-1024-": FFHQ_SPACE}

Edits = Mapping[str, "float | Tensor"]


class HasCodes(Protocol):
    """The part of the generator protocol that a bank uses."""

    @property
    def id(self) -> str: ...

    @property
    def num_ws(self) -> int: ...


def latent_space(generator: HasCodes) -> str:
    """Return the name of a generator's latent space: `stylegan2-ffhq`, its own attribute, or its id."""
    own = getattr(generator, "latent_space", None)
    if isinstance(own, str):
        return own
    return space_of(generator.id)


def space_of(generator_id: str) -> str:
    """`latent_space` of a generator, from its id alone."""
    return next((space for prefix, space in _SPACES.items() if generator_id.startswith(prefix)), generator_id)


@dataclass(frozen=True)
class Bank:
    """Named directions. An edit adds `strength * vector` to a code; strength 1 is calibrated.

    Args:
        names: in class order, which Diff-CAM uses for its classes.
        vectors: (K, L, 512) steps in W+; rows of zeros are layers that the direction does not change.
        generator: id of the generator that they were measured on.
        space: latent space (`latent_space`) whose generators can use them.
        calibration: per name, e.g. {"range": [-1.5, 1.5], "score": 1.5, ...}; `range` is the useful range of strengths.
        provenance: how they were made (method, labels, seeds, command).

    Raises:
        UserError: invalid shapes, names or values.
    """

    names: tuple[str, ...]
    vectors: Tensor
    generator: str
    space: str = FFHQ_SPACE
    calibration: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        shape = tuple(self.vectors.shape)
        if len(shape) != 3 or shape[2] != 512 or shape[0] != len(self.names) or shape[1] < 1:
            raise UserError(
                f"directions of shape {shape} for {len(self.names)} names: ({len(self.names)}, L, 512) expected"
            )
        if len(set(self.names)) != len(self.names) or not all(self.names):
            raise UserError(f"direction names must be different and not empty: {', '.join(self.names)}")
        if strange := [name for name in self.names if any(letter in name for letter in "/\\\0")]:
            raise UserError(f"direction names become names of files and hold no / or \\: {', '.join(strange)}")
        if not bool(torch.isfinite(self.vectors).all()):
            raise UserError("directions hold NaN or infinite values")
        still = [name for name, vector in zip(self.names, self.vectors, strict=True) if not bool(vector.any())]
        if still:
            raise UserError(f"direction {still[0]!r} is zero everywhere: it edits nothing")

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> Tensor:
        """The step (L, 512) of one name."""
        return self.vectors[self.index(name)]

    @property
    def num_ws(self) -> int:
        """W+ layers of the vectors."""
        return int(self.vectors.shape[1])

    @property
    def id(self) -> str:
        """`directions-` and 8 hex digits of the hash of names and vectors; stored in artifacts made with this bank."""
        hasher = hashlib.sha256(json.dumps(self.names).encode())
        hasher.update(self.vectors.detach().float().cpu().contiguous().numpy().tobytes())
        return f"directions-{hasher.hexdigest()[:8]}"

    def index(self, name: str) -> int:
        """Return the class number of a name. Raises UserError with the nearest known name if it is unknown."""
        if name not in self.names:
            raise unknown("direction", name, self.names)
        return self.names.index(name)

    def range(self, name: str) -> tuple[float, float]:
        """Return the useful strengths (lowest, highest) of a name; (-1, 1) if they were not measured."""
        self.index(name)
        low, high = self.calibration.get(name, {}).get("range", (-1.0, 1.0))
        return float(low), float(high)

    def subset(self, names: Iterable[str]) -> Bank:
        """A bank of some of the names, in the order given."""
        chosen = tuple(names)
        rows = [self.index(name) for name in chosen]
        kept = {name: self.calibration[name] for name in chosen if name in self.calibration}
        return Bank(chosen, self.vectors[rows], self.generator, self.space, kept, self.provenance)

    def delta(self, edits: Edits) -> Tensor:
        """Return the sum of several edits: (L, 512), or (B, L, 512) if a strength is a tensor (B,).

        Raises:
            UserError: a name is unknown (the nearest is shown) or a strength is no finite number.
        """
        total = torch.zeros_like(self.vectors[0])
        for name, strength in edits.items():
            total = total + _strength(name, strength, self.vectors) * self[name]
        return total

    def apply(self, w_plus: Tensor, edits: Edits) -> Tensor:
        """Return edited codes, (B, L, 512) like the input; `{}` and strength 0 change nothing.

        >>> bank = Bank(("smile",), torch.ones(1, 4, 512), "test", "test")
        >>> bank.apply(torch.zeros(2, 4, 512), {"smile": -0.5}).unique().tolist()
        [-0.5]
        """
        if w_plus.ndim != 3 or w_plus.shape[1:] != self.vectors.shape[1:]:
            raise UserError(
                f"codes of shape {tuple(w_plus.shape)} cannot take directions of {self.num_ws} layers: "
                f"(B, {self.num_ws}, 512) expected"
            )
        return w_plus + self.delta(edits).to(w_plus)

    def fit(self, generator: HasCodes) -> Bank:
        """The same bank with the generator's number of layers.

        W+ layers are numbered from the coarsest, so surplus last rows are dropped and missing ones are zero.

        Raises:
            UserError: the generator has another latent space.
        """
        if latent_space(generator) != self.space:
            raise UserError(
                f"directions made for {self.generator} (latent space {self.space}) do not fit generator "
                f"{generator.id} (latent space {latent_space(generator)})"
            )
        return Bank(self.names, resize_layers(self.vectors, generator.num_ws), self.generator, self.space,
                    self.calibration, self.provenance)  # fmt: skip

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file (tensor `vectors`, everything else as metadata)."""
        path = Path(path)
        metadata = {
            "format": FORMAT,
            "names": json.dumps(self.names),
            "generator": self.generator,
            "latent_space": self.space,
            "calibration": json.dumps({k: dict(v) for k, v in self.calibration.items()}, sort_keys=True),
            "provenance": json.dumps(dict(self.provenance), sort_keys=True),
        }
        save_tensors(path, {"vectors": self.vectors.detach().float().cpu().contiguous()}, metadata)
        return path

    @classmethod
    def load(cls, path: str | Path = "ffhq", generator: HasCodes | None = None) -> Bank:
        """Read a bank: a file, a folder that the `directions` stage wrote, or `ffhq` for the shipped one.

        With a generator, the bank is fitted to it (`fit`).

        Raises:
            UserError: no such file, no bank, a damaged one, or one of another latent space.
        """
        file = locate(path)
        with reading(file, "direction bank"):
            metadata, vectors = _read(file)
            calibration, provenance = (json.loads(metadata.get(key, "{}")) for key in ("calibration", "provenance"))
            bank = cls(
                tuple(map(str, json.loads(metadata["names"]))),
                vectors,
                metadata["generator"],
                metadata["latent_space"],
                {str(name): dict(entry) for name, entry in calibration.items()},
                dict(provenance),
            )
        return bank if generator is None else bank.fit(generator)


def resize_layers(vectors: Tensor, layers: int) -> Tensor:
    """(..., L, 512) -> (..., layers, 512): drop surplus last rows, or add rows of zeros at the end."""
    have = vectors.shape[-2]
    if have >= layers:
        return vectors[..., :layers, :].contiguous()
    return torch.nn.functional.pad(vectors, (0, 0, 0, layers - have))


def _strength(name: str, strength: float | Tensor, like: Tensor) -> float | Tensor:
    if isinstance(strength, Tensor):
        if strength.ndim > 1 or not bool(torch.isfinite(strength).all()):
            raise UserError(f"strength of {name!r}: one finite number for each image expected")
        return strength.to(like).reshape(-1, 1, 1) if strength.ndim else strength.to(like)
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not math.isfinite(strength):
        raise UserError(f"strength {strength!r} of {name!r} is not a finite number, for example {name}: 1")
    return float(strength)


def locate(path: str | Path) -> Path:
    """Return the file of a bank from a shipped name, a stage's folder or a file. Raises UserError if there is none."""
    file = SHIPPED.get(str(path), Path(path))
    if file.is_dir():
        own, artifact = file / FILENAME, StageFolder(file).artifact / FILENAME
        file = artifact if artifact.is_file() and not own.is_file() else own
    if not file.is_file():
        raise UserError(f"no direction bank at {path}: name a .safetensors file, a stage's folder, or one of: "
                        f"{', '.join(SHIPPED)}")  # fmt: skip
    return file


def _read(file: Path) -> tuple[dict[str, str], Tensor]:
    from safetensors import safe_open

    with safe_open(str(file), "pt") as stored:
        metadata = stored.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise UserError(f"{file} is not a direction bank (import other files with directions=import)")
        return metadata, stored.get_tensor("vectors").float()
