"""The built-in methods on a real editor over a small random generator."""

import pytest
import torch

from oodgan.directions.bank import Bank
from oodgan.directions.probes import Probes
from oodgan.editing import Editor
from oodgan.errors import UserError
from oodgan.generators.stylegan2 import StyleGAN2
from oodgan.metrics.attributes import load_probes
from oodgan.metrics.methods import BUILT_IN, produce


class MeanCode:
    """Inverts every photo to the generator's mean code."""

    def __init__(self, generator):
        self.code = generator.mean_w.repeat(1, generator.num_ws, 1)
        self.calls = 0

    def invert(self, photo):
        self.calls += 1
        return self.code


class Darken:
    """A remover whose effect is known."""

    def __call__(self, coarse, w_plus, **_):
        assert w_plus.ndim == 3
        return coarse - 0.25


def left_half(inverted, edited, names, photo):
    mask = torch.zeros_like(photo[:, :1])
    mask[..., 2:-2, 2:16] = 0.8
    return mask


@pytest.fixture(scope="module")
def editor():
    generator = StyleGAN2(32, max_channels=16).eval()
    vectors = torch.randn(1, generator.num_ws, 512, generator=torch.Generator().manual_seed(1))
    bank = Bank(("smile",), vectors, generator.id, space=generator.id)
    return Editor(generator, MeanCode(generator), bank, left_half, Darken(), {"mode": "difference"})


@pytest.fixture(scope="module")
def photo():
    return (torch.randint(0, 256, (3, 32, 32), generator=torch.Generator().manual_seed(2)) / 127.5 - 1).float()


def test_each_method_is_its_step(editor, photo):
    edit = {"smile": 1.0}
    made = {method: produce(editor, method, photo, edit) for method in BUILT_IN}
    assert all(picture.shape == (3, 32, 32) for picture in made.values())
    assert editor.inverter.calls == 1
    inverted, plain = made["inversion"], made["plain"]
    assert (plain - inverted).abs().mean() > 1e-3
    mask = left_half(None, None, None, photo[None])[0]
    torch.testing.assert_close(made["alpha"], mask * plain + (1 - mask) * photo, atol=1e-5, rtol=0)
    assert (made["poisson"] - made["alpha"])[..., :16].abs().mean() > 1e-2
    torch.testing.assert_close(made["poisson"][..., 18:], photo[..., 18:], atol=1e-2, rtol=0)
    torch.testing.assert_close(made["paper"], (made["alpha"] - 0.25).clamp(-1, 1), atol=1e-5, rtol=0)
    # The editor's own composition is another one; right of the mask only its remover changed the photo.
    assert (made["ours"] - made["paper"]).abs().mean() > 1e-3
    torch.testing.assert_close(made["ours"][..., 20:], (photo[..., 20:] - 0.25).clamp(-1, 1), atol=1e-5, rtol=0)


def test_unknown_names(editor, photo):
    with pytest.raises(UserError, match="did you mean 'poisson'"):
        produce(editor, "poison", photo, {})
    with pytest.raises(UserError, match="did you mean 'smile'"):
        produce(editor, "plain", photo, {"smil": 1.0})


def test_probes_are_named_by_their_file_and_signed_by_the_edit(tmp_path):
    probes = Probes(("smile", "beard"), weights=torch.ones(8, 2), bias=torch.zeros(2), quality={})
    path = probes.save(tmp_path / "probes.safetensors")
    found = load_probes(path, ["smile", "beard", "unknown"], {"beard": -1.0})
    assert [(attribute, sign) for attribute, _, sign in found] == [("smile", 1.0), ("beard", -1.0)]
    versions = {version for _, version, _ in found}
    assert len(versions) == 1 and versions.pop().startswith("probe_")
