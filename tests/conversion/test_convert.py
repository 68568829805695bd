"""Checkpoints in public layouts, built here, are converted to artifacts with the same outputs."""

import argparse
import pickle
import re
import sys
import types

import pytest
import torch

from oodgan.conversion.convert import convert, load_deghoster, load_diffcam, load_discriminator
from oodgan.conversion.recognise import recognise
from oodgan.deghost.discriminator import Discriminator
from oodgan.deghost.network import Deghoster
from oodgan.diffcam.network import DiffCAM
from oodgan.errors import UserError
from oodgan.generators.ops import blur_kernel
from oodgan.generators.stylegan2 import StyleGAN2
from oodgan.inversion.e4e import E4E
from oodgan.metrics.similarity import Identity
from oodgan.nn.arcface import IRSE50, ArcFace, recogniser
from oodgan.tracking.artifacts import Manifest

RESOLUTION, WS = 16, 6


@pytest.fixture(scope="module")
def generator():
    network = StyleGAN2(RESOLUTION, channel_multiplier=1, max_channels=8, n_mlp=2, seed=7)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("noise.weight"):
                parameter.fill_(0.3)
    return network


@pytest.fixture(scope="module")
def discriminator():
    torch.manual_seed(7)
    return Discriminator(RESOLUTION, channel_multiplier=1, max_channels=8).eval()


def codes() -> torch.Tensor:
    return torch.randn(2, WS, 512, generator=torch.Generator().manual_seed(0))


def rosinality(generator) -> dict[str, torch.Tensor]:
    state = {name: t for name, t in generator.state_dict().items() if name != "mean_w"}
    for i in range(0, len(generator.convs), 2):
        state[f"convs.{i}.conv.blur.kernel"] = blur_kernel(4.0)
    return state


def mmgen_generator(generator) -> dict[str, torch.Tensor]:
    """Rosinality's tensors under mmgen's names."""
    state = {}
    for name, tensor in rosinality(generator).items():
        name = re.sub(r"^style\.(\d+)\.weight$", r"style_mapping.\1.linear.weight_orig", name)
        name = re.sub(r"^style\.(\d+)\.bias$", r"style_mapping.\1.bias", name)
        name = re.sub(r"^noises\.noise_", "injected_noise_", name)
        name = re.sub(r"^input\.", "constant_input.", name)
        name = name.replace(".modulation.weight", ".style_modulation.linear.weight_orig")
        name = name.replace(".modulation.bias", ".style_modulation.bias")
        name = re.sub(r"\.conv\.weight$", ".conv.weight_orig", name)
        name = name.replace(".noise.weight", ".noise_injector.weight")
        state[name] = tensor
    return state


def mmgen_discriminator(discriminator) -> dict[str, torch.Tensor]:
    state = {}
    for name, tensor in discriminator.state_dict().items():
        layer = "linear" if name.startswith("final_linear") else "conv"
        state[re.sub(r"\.weight$", f".{layer}.weight_orig", name)] = tensor
    state["convs.1.conv2.0.kernel"] = blur_kernel()
    return state


def nvlabs_generator(generator) -> dict[str, torch.Tensor]:
    """Names and shapes of `G_ema` in the ada and stylegan3 repositories."""
    own = generator.state_dict()
    state = {"mapping.w_avg": own["mean_w"], "synthesis.b4.const": own["input.input"][0]}
    for i in range(generator.n_mlp):
        for kind in ("weight", "bias"):
            state[f"mapping.fc{i}.{kind}"] = own[f"style.{i + 1}.{kind}"]
    layers = [("b4.conv1", "conv1", 0)]
    for level, size in enumerate(generator.resolutions[1:]):
        layers += [(f"b{size}.conv{j}", f"convs.{2 * level + j}", 2 * level + j + 1) for j in (0, 1)]
    for theirs, ours, noise in layers:
        at = f"synthesis.{theirs}"
        state[f"{at}.weight"] = own[f"{ours}.conv.weight"][0]
        state[f"{at}.bias"] = own[f"{ours}.activate.bias"]
        state[f"{at}.noise_strength"] = own[f"{ours}.noise.weight"][0]
        state[f"{at}.noise_const"] = own[f"noises.noise_{noise}"][0, 0]
        state[f"{at}.resample_filter"] = blur_kernel()
        for kind in ("weight", "bias"):
            state[f"{at}.affine.{kind}"] = own[f"{ours}.conv.modulation.{kind}"]
    for level, size in enumerate(generator.resolutions):
        at, ours = f"synthesis.b{size}.torgb", "to_rgb1" if level == 0 else f"to_rgbs.{level - 1}"
        state[f"{at}.weight"] = own[f"{ours}.conv.weight"][0]
        state[f"{at}.bias"] = own[f"{ours}.bias"].flatten()
        for kind in ("weight", "bias"):
            state[f"{at}.affine.{kind}"] = own[f"{ours}.conv.modulation.{kind}"]
    return state


def nvlabs_discriminator(discriminator) -> dict[str, torch.Tensor]:
    own, state = discriminator.state_dict(), {}
    state["b16.fromrgb.weight"], state["b16.fromrgb.bias"] = own["convs.0.0.weight"], own["convs.0.1.bias"]
    for i, size in ((1, 16), (2, 8)):
        state[f"b{size}.conv0.weight"] = own[f"convs.{i}.conv1.0.weight"]
        state[f"b{size}.conv0.bias"] = own[f"convs.{i}.conv1.1.bias"]
        state[f"b{size}.conv1.weight"] = own[f"convs.{i}.conv2.1.weight"]
        state[f"b{size}.conv1.bias"] = own[f"convs.{i}.conv2.2.bias"]
        state[f"b{size}.skip.weight"] = own[f"convs.{i}.skip.1.weight"]
        state[f"b{size}.resample_filter"] = blur_kernel()
    state["b4.conv.weight"], state["b4.conv.bias"] = own["final_conv.0.weight"], own["final_conv.1.bias"]
    for theirs, ours in (("fc", "final_linear.0"), ("out", "final_linear.1")):
        for kind in ("weight", "bias"):
            state[f"b4.{theirs}.{kind}"] = own[f"{ours}.{kind}"]
    return state


@pytest.fixture
def nvlabs(monkeypatch):
    """`nvlabs(path, **networks)`: pickle tensors as NVlabs' persistent networks, in packages that exist only here."""
    persistence, util = types.ModuleType("torch_utils.persistence"), types.ModuleType("dnnlib.util")

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("the pickle's own code must not run")

    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    persistence._reconstruct_persistent_obj = _reconstruct_persistent_obj

    class EasyDict(dict):
        pass

    EasyDict.__module__, EasyDict.__qualname__ = "dnnlib.util", "EasyDict"
    util.EasyDict = EasyDict

    class Network:
        def __init__(self, state):
            self.state = state

        def __reduce__(self):
            meta = {"type": "class", "version": 6, "module_src": "raise SystemExit", "class_name": "Net"}
            return _reconstruct_persistent_obj, (meta | {"state": self.state},)

    def network(tensors):
        groups: dict = {"_parameters": {}, "_buffers": {}, "_modules": {}, "training": False}
        children: dict = {}
        for name, tensor in tensors.items():
            head, _, rest = name.partition(".")
            if rest:
                children.setdefault(head, {})[rest] = tensor
            elif head in ("resample_filter", "noise_const", "w_avg"):
                groups["_buffers"][head] = tensor
            else:
                groups["_parameters"][head] = torch.nn.Parameter(tensor)
        groups["_modules"] = {head: network(rest) for head, rest in children.items()}
        return Network(groups)

    def dump(path, **networks):
        with monkeypatch.context() as patch:
            for name in ("torch_utils", "dnnlib"):
                patch.setitem(sys.modules, name, types.ModuleType(name))
            patch.setitem(sys.modules, "torch_utils.persistence", persistence)
            patch.setitem(sys.modules, "dnnlib.util", util)
            content = {key: network(tensors) for key, tensors in networks.items()}
            content |= {"training_set_kwargs": EasyDict(path="x"), "augment_pipe": None}
            path.write_bytes(pickle.dumps(content))

    return dump


def check_generator(folder, generator):
    actual = StyleGAN2(weights=folder)
    assert actual.id == generator.id
    torch.testing.assert_close(actual.synthesis(codes()), generator.synthesis(codes()))
    manifest = Manifest.load(folder)
    assert manifest.generator == generator.id
    assert manifest.resolution == RESOLUTION
    assert manifest.metrics["forward"]["shape"] == [1, 3, RESOLUTION, RESOLUTION]


def check_discriminator(folder, discriminator):
    images = torch.randn(2, 3, RESOLUTION, RESOLUTION, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(load_discriminator(folder).eval()(images), discriminator(images))


def test_a_rosinality_checkpoint_is_converted(tmp_path, generator, discriminator):
    content = {"g_ema": rosinality(generator), "d": discriminator.state_dict(), "latent_avg": generator.mean_w}
    torch.save(content | {"g": {}, "args": argparse.Namespace(size=16)}, tmp_path / "550000.pt")
    folder = convert(tmp_path / "550000.pt", tmp_path / "out")
    check_generator(folder, generator)
    check_discriminator(folder / "discriminator", discriminator)
    only = convert(tmp_path / "550000.pt", tmp_path / "d", to="discriminator")
    check_discriminator(only, discriminator)


def test_an_old_rosinality_checkpoint_without_noise_buffers_or_mean_is_converted(tmp_path, generator):
    state = {name: t for name, t in rosinality(generator).items() if not name.startswith("noises.")}
    torch.save({"g_ema": state}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    actual = StyleGAN2(weights=convert(tmp_path / "old.pt", tmp_path / "out"))
    torch.testing.assert_close(actual.synthesis(codes(), noise="none"), generator.synthesis(codes(), noise="none"))
    torch.testing.assert_close(actual.mean_w, generator.mean_w, rtol=1e-4, atol=1e-5)


def test_an_mmgen_checkpoint_is_converted(tmp_path, generator, discriminator):
    state = {f"generator_ema.{name}": t for name, t in mmgen_generator(generator).items()}
    state |= {f"generator.{name}": t * 0 for name, t in mmgen_generator(generator).items()}
    state |= {f"discriminator.{name}": t for name, t in mmgen_discriminator(discriminator).items()}
    torch.save({"state_dict": state, "meta": {"mmgen_version": "0.1"}}, tmp_path / "ffhq.pth")
    folder = convert(tmp_path / "ffhq.pth", tmp_path / "out")
    actual = StyleGAN2(weights=folder)
    torch.testing.assert_close(actual.synthesis(codes()), generator.synthesis(codes()))
    check_discriminator(folder / "discriminator", discriminator)


def test_an_nvlabs_pickle_is_converted(tmp_path, generator, discriminator, nvlabs):
    networks = {"G_ema": nvlabs_generator(generator), "D": nvlabs_discriminator(discriminator)}
    nvlabs(tmp_path / "ffhq.pkl", **networks, G=nvlabs_generator(generator))
    folder = convert(tmp_path / "ffhq.pkl", tmp_path / "out")
    check_generator(folder, generator)
    check_discriminator(folder / "discriminator", discriminator)


def test_nvlabs_pickles_of_other_networks_are_reported(tmp_path, generator, nvlabs):
    state = nvlabs_generator(generator)
    nvlabs(tmp_path / "sg3.pkl", G_ema={**state, "synthesis.input.freqs": torch.zeros(2)})
    with pytest.raises(UserError, match="StyleGAN3"):
        convert(tmp_path / "sg3.pkl", tmp_path / "out")
    nvlabs(tmp_path / "conditional.pkl", G_ema={**state, "mapping.embed.weight": torch.zeros(2, 2)})
    with pytest.raises(UserError, match="conditional"):
        convert(tmp_path / "conditional.pkl", tmp_path / "out")
    for channels in (1, 4):
        colours = {n: t[[0] * channels] for n, t in state.items() if n.endswith(("torgb.weight", "torgb.bias"))}
        nvlabs(tmp_path / "colours.pkl", G_ema={**state, **colours})
        with pytest.raises(UserError, match=rf"colours\.pkl.* draws images of {channels} channel"):
            convert(tmp_path / "colours.pkl", tmp_path / "out")


def encoder_checkpoint(generator, variant: str, **opts):
    torch.manual_seed(3)
    inverter = E4E(WS, variant)
    # Half precision keeps the test's files small; the converter returns float32.
    state = {f"encoder.{n}": t.half() if t.is_floating_point() else t for n, t in inverter.encoder.state_dict().items()}
    state |= {f"decoder.{name}": t for name, t in rosinality(generator).items()}
    inverter.encoder.load_state_dict({n.removeprefix("encoder."): t for n, t in state.items() if n[0] == "e"})
    latent = torch.randn(WS, 512, generator=torch.Generator().manual_seed(1))
    inverter.latent_avg.copy_(latent)
    return inverter, {"state_dict": state, "latent_avg": latent, "opts": opts}


@pytest.mark.parametrize(
    ("variant", "opts", "to"),
    [
        pytest.param(
            "e4e", {"encoder_type": "Encoder4Editing", "start_from_latent_avg": True}, None, marks=pytest.mark.slow
        ),
        pytest.param("restyle_psp", {}, None, marks=pytest.mark.slow),
        pytest.param(
            "restyle_e4e_resnet",
            {"encoder_type": "ResNetProgressiveBackboneEncoder"},
            None,
            marks=pytest.mark.slow,
        ),
        ("psp_w", {"encoder_type": "BackboneEncoderUsingLastLayerIntoW", "learn_in_w": True}, "psp_w"),
    ],
)
@torch.no_grad()
def test_encoder_checkpoints_are_converted(tmp_path, generator, variant, opts, to):
    inverter, content = encoder_checkpoint(generator, variant, **opts)
    torch.save(content, tmp_path / "encoder.pt")
    folder = convert(tmp_path / "encoder.pt", tmp_path / "out", to=to)
    (tmp_path / "encoder.pt").unlink()
    actual = E4E(weights=folder, generator=generator, iterations=1)
    assert (actual.variant, actual.num_ws) == (variant, WS)
    inverter._generator, inverter.iterations = [generator], 1
    photo = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.testing.assert_close(actual(photo), inverter(photo))
    decoder = StyleGAN2(weights=folder / "generator")
    torch.testing.assert_close(decoder.mean_w, content["latent_avg"].mean(0))
    assert Manifest.load(folder).generator == decoder.id
    (folder / "weights.safetensors").unlink()


def test_encoder_variants_are_recognised_from_settings_and_tensors(generator):
    with torch.device("meta"):
        states = {variant: E4E(WS, variant).encoder.state_dict() for variant in E4E.variants}
    decoder = {f"decoder.{name}": t for name, t in rosinality(generator).items()}

    def recognised(variant, to=None, extra=None, **opts):
        state = {f"encoder.{name}": t for name, t in states[variant].items()} | decoder
        part = recognise({"state_dict": state, "latent_avg": torch.ones(512), "opts": opts, **(extra or {})}, to)
        return part.parts[0]

    assert recognised("psp").architecture == {"num_ws": WS, "variant": "psp"}
    assert recognised("psp", to="e4e").architecture["variant"] == "e4e"
    assert recognised("psp", encoder_type="Encoder4Editing").architecture["variant"] == "e4e"
    assert recognised("psp", extra={"discriminator_state_dict": {}}).architecture["variant"] == "e4e"
    assert recognised("psp_wplus").architecture["variant"] == "psp_wplus"
    assert recognised("psp_w").architecture["variant"] == "psp_w"
    restyle = recognised("restyle_psp", encoder_type="ProgressiveBackboneEncoder")
    assert restyle.architecture["variant"] == "restyle_e4e"
    assert recognised("psp").tensors["latent_avg"].shape == (WS, 512)
    assert recognised("psp", start_from_latent_avg=False).tensors["latent_avg"].abs().max() == 0
    assert recognised("restyle_psp_resnet").architecture["variant"] == "restyle_psp_resnet"
    assert recognised("restyle_psp_resnet", to="restyle_e4e_resnet").architecture["variant"] == "restyle_e4e_resnet"
    resnet = recognised("restyle_psp_resnet", encoder_type="ResNetProgressiveBackboneEncoder")
    assert resnet.architecture["variant"] == "restyle_e4e_resnet"
    for wrong in (("psp", "ResNetBackboneEncoder"), ("restyle_psp_resnet", "BackboneEncoder")):
        with pytest.raises(UserError, match="its tensors are of another network"):
            recognised(wrong[0], encoder_type=wrong[1])
    with pytest.raises(UserError, match="SwinEncoder; supported"):
        recognised("psp", encoder_type="SwinEncoder")
    with pytest.raises(UserError, match="reads 6 channels"):
        recognised("restyle_psp", encoder_type="GradualStyleEncoder")


def test_an_encoder_with_another_number_of_codes_than_its_decoder_is_refused(generator):
    with torch.device("meta"):
        state = {f"encoder.{n}": t for n, t in E4E(WS + 2, "psp").encoder.state_dict().items()}
    state |= {f"decoder.{name}": t for name, t in rosinality(generator).items()}
    with pytest.raises(UserError, match="gives 8 codes, but its decoder takes 6"):
        recognise({"state_dict": state, "latent_avg": torch.zeros(8, 512)})


def test_a_deghosting_checkpoint_is_converted(tmp_path, generator):
    torch.manual_seed(5)
    network = Deghoster(generator, in_size=8, width=8, growth=4, blocks=2, max_channels=8, head=6).eval()
    state = {f"FCN.{name}": t for name, t in network.trained_state().items()}
    state["FCN.fusion_skip.0.weight"] = torch.zeros(3, 11, 3, 3)
    state |= {f"generator.{name}": t for name, t in mmgen_generator(generator).items()}
    torch.save(state, tmp_path / "deghosting.pt")
    folder = convert(tmp_path / "deghosting.pt", tmp_path / "out")
    coarse = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.testing.assert_close(load_deghoster(folder)(coarse), network(coarse))
    other = convert(tmp_path / "deghosting.pt", tmp_path / "g", to="generator")
    torch.testing.assert_close(StyleGAN2(weights=other).synthesis(codes()), generator.synthesis(codes()))


def test_a_diffcam_checkpoint_is_converted(tmp_path):
    torch.manual_seed(6)
    network = DiffCAM("resnet101", 17).eval()
    torch.save(network.state_dict(), tmp_path / "diff_cam_weight.pt")
    folder = convert(tmp_path / "diff_cam_weight.pt", tmp_path / "out")
    actual = load_diffcam(folder)
    x, y = torch.randn(2, 1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(actual(x, y), network(x, y))
    directions = Manifest.load(folder).directions
    assert directions is not None and len(directions) == 17
    assert (directions[7], directions[12], directions[15], directions[0]) == (
        "Eyeglasses",
        "Beard",
        "Smiling",
        "class_0",
    )


def test_backbones_and_lpips_heads_are_converted(tmp_path):
    from torchvision.models import resnet18

    from oodgan.diffcam.backbones import build
    from oodgan.nn.backbones import alexnet_layers

    torch.manual_seed(0)
    x = torch.randn(1, 3, 64, 64)
    original = resnet18(weights=None).eval()
    torch.save(original.state_dict(), tmp_path / "resnet18.pth")
    folder = convert(tmp_path / "resnet18.pth", tmp_path / "r")
    layers = build("resnet18", weights=folder / "weights.safetensors").layers
    expected = torch.nn.Sequential(*list(original.children())[:-2])(x)
    torch.testing.assert_close(torch.nn.Sequential(*layers).eval()(x), expected)

    features = alexnet_layers()
    torch.save({f"features.{n}": t for n, t in features.state_dict().items()}, tmp_path / "alexnet.pth")
    folder = convert(tmp_path / "alexnet.pth", tmp_path / "a", to="backbone")
    layers = build("alexnet", weights=folder / "weights.safetensors").layers
    torch.testing.assert_close(torch.nn.Sequential(*layers)(x), features[:12](x))

    widths = (64, 192, 384, 256, 256)
    heads = {f"lin{i}.model.1.weight": torch.rand(1, w, 1, 1) for i, w in enumerate(widths)}
    torch.save(heads, tmp_path / "alex.pth")
    folder = convert(tmp_path / "alex.pth", tmp_path / "l")
    assert Manifest.load(folder).config["architecture"] == {"net": "alex"}


def test_an_ir_se50_checkpoint_is_converted(tmp_path):
    torch.manual_seed(0)
    network = IRSE50().eval()
    state = {n: t.half() if t.is_floating_point() else t for n, t in network.state_dict().items()}
    state = {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}  # old torch did not store them
    torch.save(state, tmp_path / "model_ir_se50.pth")
    folder = convert(tmp_path / "model_ir_se50.pth", tmp_path / "arcface")
    (tmp_path / "model_ir_se50.pth").unlink()
    assert Manifest.load(folder).config["part"] == "recogniser"
    assert Manifest.load(folder).metrics["forward"]["shape"] == [1, 512]
    metric = Identity(ArcFace(folder))
    assert metric.name.startswith("identity_arcface_arcface_")
    network.load_state_dict(state)
    faces = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(recogniser(folder)(faces), network(faces))


def test_other_face_recognisers_are_reported():
    with torch.device("meta"):
        state = IRSE50().state_dict()
    assert recognise(state).what == "a face recogniser, ArcFace's IR-SE50"
    with pytest.raises(UserError, match=r"not IR-SE50 .*body\.0\.res_layer\.5\.fc1\.weight is missing"):
        recognise({n: t for n, t in state.items() if ".fc" not in n})
    with pytest.raises(UserError, match="of 49 units, not IR-SE50"):
        recognise(state | {f"body.{i}.res_layer.1.weight": torch.zeros(1) for i in range(24, 49)})


class Hostile:
    def __reduce__(self):
        import os

        return os.system, ("touch hostile-was-here",)


def hostile_torch(path):
    torch.save({"g_ema": Hostile()}, path)


def hostile_pickle(path):
    path.write_bytes(pickle.dumps({"G_ema": Hostile()}))


def truncated_torch(path):
    torch.save({"g_ema": {"a": torch.zeros(5000)}}, path)
    path.write_bytes(path.read_bytes()[:9000])


def truncated_pickle(path):
    path.write_bytes(pickle.dumps({"G_ema": list(range(5000))})[:3000])


def script(path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)


def write(data: bytes):
    return lambda path: path.write_bytes(data)


def save(content):
    return lambda path: torch.save(content, path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (hostile_torch, r"asks for \w+\.system"),
        (hostile_pickle, r"asks for \w+\.system"),
        (truncated_torch, "truncated or damaged"),
        (truncated_pickle, "truncated or damaged"),
        (script, "TorchScript"),
        (write(b""), "is empty"),
        (write(b"<!DOCTYPE html><html>Google Drive - Virus scan warning</html>"), "a web page"),
        (write(b"\x89PNG\r\n\x1a\n" + b"0" * 99), "a PNG image"),
        (write(b"version https://git-lfs.github.com/spec/v1\noid"), "git-lfs pointer"),
        (write(b"weights, soon"), "looks like text"),
        (write(bytes(range(7, 200))), "no format known"),
        (write(pickle.dumps([1, 2, 3])), "holds a list"),
        (save({"weight": torch.zeros(2), "bias": torch.zeros(2)}), r"2 entries \(weight, bias\); expected StyleGAN2"),
        (save({"g_ema": {"style.1.weight": torch.zeros(2)}}), "not a whole StyleGAN2"),
        (save({"shared.0.weight": torch.zeros(1), "fc.weight": torch.zeros(3, 2)}), "Diff-CAM of another backbone"),
        (save({"FCN.encoder.0.conv_first.weight": torch.zeros(1)}), "without its generator"),
        (lambda path: None, "does not exist"),
    ],
)
def test_unsupported_files_are_one_line_errors_and_nothing_is_written(tmp_path, monkeypatch, make, message):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "file.pt")
    with pytest.raises(UserError, match=message) as caught:
        convert(tmp_path / "file.pt", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) in ([], ["file.pt"])


def test_the_error_for_a_tensorflow_pickle_names_its_kind(tmp_path):
    (tmp_path / "tf.pkl").write_bytes(b"\x80\x03cdnnlib.tflib.network\nNetwork\n.")
    with pytest.raises(UserError, match="TensorFlow StyleGAN2 pickle"):
        convert(tmp_path / "tf.pkl", tmp_path / "out")


def test_a_checkpoint_of_another_kind_than_requested_is_refused(tmp_path, generator):
    torch.save({"g_ema": rosinality(generator)}, tmp_path / "g.pt")
    with pytest.raises(UserError, match="looks like a StyleGAN2 checkpoint in rosinality's layout; expected e4e"):
        convert(tmp_path / "g.pt", tmp_path / "out", to="e4e")
    with pytest.raises(UserError, match="did you mean 'generator'"):
        convert(tmp_path / "g.pt", tmp_path / "out", to="generater")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(UserError, match="exists already"):
        convert(tmp_path / "g.pt", tmp_path / "out")


@pytest.mark.parametrize("damage", [float("nan"), float("inf")])
def test_damaged_weights_are_detected_by_the_forward_pass(tmp_path, generator, damage):
    state = rosinality(generator)
    state["convs.1.conv.weight"] = state["convs.1.conv.weight"].clone()
    state["convs.1.conv.weight"][0, 0, 0, 0, 0] = damage
    torch.save({"g_ema": state}, tmp_path / "g.pt")
    with pytest.raises(UserError, match="not finite"):
        convert(tmp_path / "g.pt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_error_names_missing_tensors_and_unusual_widths(generator):
    state = rosinality(generator)
    with pytest.raises(UserError, match=r"misses to_rgbs\.0\.bias"):
        recognise({"g_ema": {n: t for n, t in state.items() if n != "to_rgbs.0.bias"}})
    with pytest.raises(UserError, match="unusual widths"):
        recognise({"g_ema": state | {f"convs.{i}.conv.weight": torch.zeros(1, 5, 8, 3, 3) for i in (2, 3)}})
