"""The built-in methods on a real editor with a small random generator."""

import pytest
import torch

from oodgan.directions.bank import Bank
from oodgan.directions.probes import Probes, load_probes
from oodgan.editing import Editor
from oodgan.errors import UserError
from oodgan.evaluation.altered import altered_config, check, spelled
from oodgan.evaluation.methods import BUILT_IN, MASKED, Maker, Variant, variants
from oodgan.evaluation.paper import differences, paper_changes, paper_config
from oodgan.generators.stylegan2 import StyleGAN2
from oodgan.inversion.value import Inversion


class MeanCode:
    """Inverts every photo to the generator's mean code."""

    def __init__(self, generator):
        self.code = generator.mean_w.repeat(1, generator.num_ws, 1)
        self.calls = 0

    def invert(self, photo):
        self.calls += 1
        return Inversion(self.code)


class Darken:
    """A remover with a known effect."""

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


def upper_half(inverted, edited, names, photo):
    mask = torch.zeros_like(photo[:, :1])
    mask[..., 2:16, 2:-2] = 0.6
    return mask


@pytest.fixture(scope="module")
def maker(editor):
    def alter(own, changes):
        masker, remover = (upper_half if "diffcam" in changes else left_half), changes.get("deghoster", Darken())
        mode = changes.get("compose", {"mode": "difference"})
        synthesis = own.synthesis
        other = Editor(own.generator, own.inverter, own.bank, masker, remover, mode, synthesis=synthesis)
        other.subjects = own.subjects
        return other

    return Maker(editor, alter, {"diffcam": {"mask": {"kind": "paper"}}, "compose": {"mode": "paper"}})


@pytest.fixture(scope="module")
def photo():
    return (torch.randint(0, 256, (3, 32, 32), generator=torch.Generator().manual_seed(2)) / 127.5 - 1).float()


def test_each_method_returns_the_image_of_its_step(maker, photo):
    edit = {"smile": 1.0}
    both = {method: maker.produce(method, photo, edit) for method in BUILT_IN}
    made, masks = ({method: pair[i] for method, pair in both.items()} for i in (0, 1))
    assert all(picture.shape == (3, 32, 32) for picture in made.values())
    assert maker.editor.inverter.calls == 1
    inverted, plain = made["inversion"], made["plain"]
    assert (plain - inverted).abs().mean() > 1e-3
    mask = left_half(None, None, None, photo[None])[0]
    torch.testing.assert_close(made["alpha"], mask * plain + (1 - mask) * photo, atol=1e-5, rtol=0)
    assert (made["poisson"] - made["alpha"])[..., :16].abs().mean() > 1e-2
    torch.testing.assert_close(made["poisson"][..., 18:], photo[..., 18:], atol=1e-2, rtol=0)
    # The paper method uses another mask, and its remover darkens all pixels.
    upper = upper_half(None, None, None, photo[None])[0]
    coarse = upper * plain + (1 - upper) * photo
    torch.testing.assert_close(made["paper"], (coarse - 0.25).clamp(-1, 1), atol=1e-5, rtol=0)
    # The editor uses another composition; right of the mask only its remover changes the photo.
    assert (made["ours"] - made["paper"]).abs().mean() > 1e-3
    torch.testing.assert_close(made["ours"][..., 20:], (photo[..., 20:] - 0.25).clamp(-1, 1), atol=1e-5, rtol=0)
    assert {method for method, result in masks.items() if result is not None} == set(MASKED)
    assert torch.equal(masks["paper"], upper) and torch.equal(masks["poisson"], mask)


def test_methods_of_one_photo_and_strength_share_the_edit(maker, photo, monkeypatch):
    synthesis, decoded = maker.editor.synthesis.synthesis, []
    monkeypatch.setattr(maker.editor.synthesis, "synthesis", lambda code: (decoded.append(1), synthesis(code))[1])
    edit = {"smile": 0.5}
    made = [maker.produce(method, photo, edit)[0] for method in ("plain", "alpha", "poisson", "paper", "ours")]
    changed = maker.produce("ours", photo, edit, {"deghoster": None})[0]
    torch.testing.assert_close((changed - 0.25).clamp(-1, 1), made[-1], atol=1e-5, rtol=0)
    again = maker.produce("plain", photo.clone(), edit)[0]
    assert len(decoded) == 1 and torch.equal(made[0], again)
    assert not torch.equal(maker.produce("plain", photo, {"smile": 0.7})[0], again) and len(decoded) == 2
    assert not torch.equal(maker.produce("ours", -photo, edit)[0], made[-1])


def test_every_method_except_the_inversion_has_one_row_per_strength():
    methods = {"inversion": "inversion", "mine": "ours", "theirs": {1: "b", 0.5: "a"}, "one": "folder"}
    rows = variants(methods, [1.5, 0.5])
    assert list(rows) == ["inversion", "mine@0.5", "mine@1.5", "theirs@0.5", "theirs@1", "one"]
    assert rows["mine@1.5"] == Variant("mine", "ours", 1.5) and rows["theirs@0.5"] == Variant("theirs", "a", 0.5)
    assert list(variants(methods, None)) == ["inversion", "mine", "theirs@0.5", "theirs@1", "one"]
    changes = {"deghoster": None}
    result = variants({"bare": changes, "code": {"method": "inversion", "inverter": {"residual": None}}}, [1, 2])
    assert list(result) == ["bare@1", "bare@2", "code"] and result["bare@2"] == Variant("bare", "ours", 2.0, changes)
    assert result["code"] == Variant("code", "inversion", 1.0, {"inverter": {"residual": None}})
    typed = {"diffcam": {"mask": {"threshold": "0.15", "kind": "guided"}}, "deghoster": {"paste": "false"}}
    changes = variants({"typed": typed}, None)["typed"].changes
    assert changes == {"diffcam": {"mask": {"threshold": 0.15, "kind": "guided"}}, "deghoster": {"paste": False}}
    with pytest.raises(UserError, match="did you mean 'deghoster'"):
        variants({"bare": {"deghost": None}}, None)
    with pytest.raises(UserError, match="did you mean 'inversion'"):
        variants({"code": {"method": "invert"}}, None)
    with pytest.raises(UserError, match=r"methods.bare.compose=poisson: .* {compose: {mode: poisson}}"):
        variants({"bare": {"compose": "poisson"}}, None)
    for wrong in ([0], [-1], [1, 1], [], ["x"], [float("nan")]):
        with pytest.raises(UserError, match="strengths="):
            variants(methods, wrong)


def test_errors_for_unknown_methods_and_attributes_suggest_the_nearest(maker, photo):
    with pytest.raises(UserError, match="did you mean 'poisson'"):
        maker.produce("poison", photo, {})
    with pytest.raises(UserError, match="did you mean 'smile'"):
        maker.produce("plain", photo, {"smil": 1.0})


def test_the_paper_method_replaces_mask_composition_and_pasting_and_lists_other_differences():
    network = {"_target_": "oodgan.deghost.light.LightDeghoster", "sees": "all"}
    config = {
        "diffcam": {"weights": "mine", "mask": {"kind": "guided", "feather": 0.1}, "network": {"backbone": "vgg16"}},
        "compose": {"mode": "difference"},
        "deghoster": {"weights": "mine", "paste": True, "network": network},
        "paper": {"deghoster": {"weights": "theirs", "network": {"sees": "coarse"}}},
    }
    result = paper_config(config)
    assert result["diffcam"]["mask"] == {"kind": "paper", "feather": 0.1} and result["compose"] == {"mode": "paper"}
    assert result["deghoster"]["weights"] == "theirs" and result["deghoster"]["paste"] is False
    assert config["diffcam"]["mask"]["kind"] == "guided"
    listed = differences(config)
    assert "vgg16 (weights mine)" in listed and "the coarse image alone" in listed
    assert spelled(paper_changes(config)).endswith("deghoster.network.sees=coarse parser=null")
    with pytest.raises(UserError, match=r"methods.mine: diffcam has no key mask.treshold"):
        check(config, [Variant("mine", "ours", changes={"diffcam": {"mask": {"treshold": 0.1}}})])
    del config["paper"]
    assert "not the coarse one alone" in differences(config)
    assert "no deghosting" in differences({**config, "deghoster": None})


def test_a_method_may_add_settings_of_an_attribute_but_no_other_keys():
    config = {"diffcam": {"mask": {"thresholds": {}}}, "parser": {"size": 256, "reach": {"smile": {"parts": ["skin"]}}}}
    added = {
        "diffcam": {"mask": {"thresholds": {"smile": 0.2}}},
        "parser": {"reach": {"smile": {"near": ["mouth"]}, "beard": {"removes": ["skin"]}}},
    }
    check(config, [Variant("mine", "ours", changes=added)])
    changed = altered_config(config, added)
    assert changed["diffcam"]["mask"]["thresholds"] == {"smile": 0.2}
    assert changed["parser"]["reach"] == {
        "smile": {"parts": ["skin"], "near": ["mouth"]}, "beard": {"removes": ["skin"]}
    }  # fmt: skip
    for changes, message in (
        ({"reach": {"smile": {"neer": ["mouth"]}}}, "unknown key of parser.reach.smile 'neer'.*near"),
        ({"reach": {"smile": {"near": ["moth"]}}}, "parser.reach.smile: .*moth.*mouth"),
        ({"sise": 128}, "parser has no key sise"),
    ):
        with pytest.raises(UserError, match=message):
            check(config, [Variant("mine", "ours", changes={"parser": changes})])


def test_probes_have_the_name_of_their_file_and_the_sign_of_the_edit(tmp_path):
    probes = Probes(("smile", "beard"), weights=torch.ones(8, 2), bias=torch.zeros(2), quality={})
    path = probes.save(tmp_path / "probes.safetensors")
    result = load_probes(path, ["smile", "beard", "unknown"], {"beard": -1.0})
    assert [(attribute, sign) for attribute, _, sign in result] == [("smile", 1.0), ("beard", -1.0)]
    versions = {version for _, version, _ in result}
    assert len(versions) == 1 and versions.pop().startswith("probe_")
