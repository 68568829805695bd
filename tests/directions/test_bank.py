"""The bank of directions: arithmetic of edits, its file, and one-line errors."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from oodgan.directions.bank import FFHQ_SPACE, Bank, latent_space, resize_layers
from oodgan.errors import UserError


@pytest.fixture
def bank() -> Bank:
    vectors = torch.randn(3, 16, 512, generator=torch.Generator().manual_seed(0))
    return Bank(("smile", "eyeglasses", "beard"), vectors, "mobile_ffhq-00000000", FFHQ_SPACE)


def _generator(identity: str, num_ws: int, **more: str) -> SimpleNamespace:
    return SimpleNamespace(id=identity, num_ws=num_ws, **more)


def test_edits_are_additive_commutative_and_invertible(bank: Bank):
    codes = torch.randn(4, 16, 512)
    both = bank.apply(codes, {"smile": 0.7, "beard": -1.0})
    one_by_one = bank.apply(bank.apply(codes, {"beard": -1.0}), {"smile": 0.7})
    torch.testing.assert_close(both, one_by_one)
    torch.testing.assert_close(bank.apply(both, {"smile": -0.7, "beard": 1.0}), codes)
    torch.testing.assert_close(both - codes, (0.7 * bank["smile"] - bank["beard"]).expand(4, -1, -1))


@pytest.mark.parametrize("edits", [{}, {"smile": 0.0}, {"smile": 0, "beard": 0.0}])
def test_an_empty_edit_changes_nothing(bank: Bank, edits: dict):
    codes = torch.randn(2, 16, 512)
    assert torch.equal(bank.apply(codes, edits), codes)


def test_strengths_can_differ_for_each_image(bank: Bank):
    codes = torch.zeros(3, 16, 512)
    edited = bank.apply(codes, {"smile": torch.tensor([0.0, 1.0, -2.0])})
    for image, strength in enumerate((0.0, 1.0, -2.0)):
        torch.testing.assert_close(edited[image], strength * bank["smile"])


def test_codes_are_not_modified_and_keep_their_dtype(bank: Bank):
    codes = torch.zeros(1, 16, 512, dtype=torch.float64)
    assert bank.apply(codes, {"smile": 1.0}).dtype == torch.float64
    assert not codes.any()


def test_a_saved_bank_is_loaded_unchanged(bank: Bank, tmp_path: Path):
    calibrated = Bank(
        bank.names, bank.vectors, bank.generator, bank.space, {"smile": {"range": [-2, 1.5]}}, {"seed": 3}
    )
    result = Bank.load(calibrated.save(tmp_path / "sub" / "directions.safetensors"))
    assert result.names == calibrated.names and result.id == calibrated.id == bank.id
    assert torch.equal(result.vectors, calibrated.vectors)
    assert result.range("smile") == (-2.0, 1.5) and result.range("beard") == (-1.0, 1.0)
    assert result.provenance == {"seed": 3}
    assert Bank.load(tmp_path / "sub").id == bank.id


def test_the_id_depends_on_names_their_order_and_vectors(bank: Bank):
    ids = {bank.id, bank.subset(["smile"]).id, bank.subset(["beard", "eyeglasses", "smile"]).id}
    ids.add(Bank(bank.names, bank.vectors * 1.001, bank.generator).id)
    assert len(ids) == 4


def test_subset_keeps_the_requested_order(bank: Bank):
    part = bank.subset(["beard", "smile"])
    assert part.names == ("beard", "smile") and part.index("smile") == 1
    assert torch.equal(part["smile"], bank["smile"])


def test_fitting_to_a_generator_drops_layers_or_fills_them_with_zeros(bank: Bank):
    wide = bank.fit(_generator("stylegan2-1024-12345678", 18))
    assert wide.num_ws == 18 and not wide.vectors[:, 16:].any()
    assert torch.equal(wide.vectors[:, :16], bank.vectors)
    assert torch.equal(wide.fit(_generator("mobile_ffhq-00000000", 16)).vectors, bank.vectors)
    assert resize_layers(torch.ones(18, 512), 16).shape == (16, 512)


def test_generators_trained_on_ffhq_share_a_latent_space():
    assert (
        latent_space(_generator("mobile_ffhq-1", 16)) == latent_space(_generator("stylegan2-1024-1", 18)) == FFHQ_SPACE
    )
    assert latent_space(_generator("stylegan2-32-abc", 8)) == "stylegan2-32-abc"
    assert latent_space(_generator("stylegan2-1024-1", 18, latent_space="metfaces")) == "metfaces"


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ({"smlie": 1.0}, "unknown direction 'smlie' (did you mean 'smile'?)"),
        ({"smile": float("nan")}, "not a finite number"),
        ({"smile": "much"}, "strength 'much' of 'smile'"),
        ({"smile": True}, "strength True of 'smile'"),
    ],
)
def test_invalid_edits_are_errors(bank: Bank, edits: dict, message: str):
    with pytest.raises(UserError) as error:
        bank.apply(torch.zeros(1, 16, 512), edits)
    assert message in str(error.value)


@pytest.mark.parametrize("shape", [(1, 18, 512), (16, 512), (1, 16, 256)])
def test_codes_of_another_shape_are_refused(bank: Bank, shape: tuple[int, ...]):
    with pytest.raises(UserError, match=r"\(B, 16, 512\) expected"):
        bank.apply(torch.zeros(shape), {"smile": 1.0})


def test_the_error_for_another_latent_space_names_both(bank: Bank):
    with pytest.raises(UserError, match=r"mobile_ffhq-00000000.*stylegan2-32-abc"):
        bank.fit(_generator("stylegan2-32-abc", 8))


@pytest.mark.parametrize(
    ("names", "vectors", "message"),
    [
        (("a",), torch.ones(2, 16, 512), "for 1 names"),
        (("a", "a"), torch.ones(2, 16, 512), "must be different"),
        (("a/b",), torch.ones(1, 16, 512), "names of files"),
        (("a",), torch.ones(1, 16, 256), "512"),
        (("a",), torch.full((1, 16, 512), torch.nan), "NaN"),
        (("a", "b"), torch.stack([torch.ones(16, 512), torch.zeros(16, 512)]), "'b' is zero"),
    ],
)
def test_invalid_banks_are_refused(names: tuple[str, ...], vectors: torch.Tensor, message: str):
    with pytest.raises(UserError, match=message):
        Bank(names, vectors, "g")


def test_files_that_are_not_banks_are_refused(tmp_path: Path):
    from safetensors.torch import save_file

    with pytest.raises(UserError, match="no direction bank at"):
        Bank.load(tmp_path / "missing.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(UserError, match="is damaged or has another format"):
        Bank.load(tmp_path / "text.safetensors")
    save_file({"vectors": torch.ones(1, 16, 512)}, str(tmp_path / "other.safetensors"))
    with pytest.raises(UserError, match="directions=import"):
        Bank.load(tmp_path / "other.safetensors")


def test_the_shipped_bank_is_complete():
    bank = Bank.load("ffhq", _generator("mobile_ffhq-00000000", 16))
    wanted = [
        "smile",
        "eyeglasses",
        "beard",
        "age",
        "gender",
        "mouth_open",
        "narrow_eyes",
        "bushy_eyebrows",
        "blond",
        "bangs",
        "bald",
        "yaw",
    ]
    assert list(bank.names) == wanted and bank.space == FFHQ_SPACE
    lengths = bank.vectors.norm(dim=2).amax(1)
    assert bool(((lengths > 1) & (lengths < 15)).all())
    for name in wanted:
        low, high = bank.range(name)
        assert low < 0 < high
