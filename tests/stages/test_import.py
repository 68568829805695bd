"""Public checkpoints end to end: files in their own layouts are converted and used by every stage."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from oodgan import launch
from oodgan.cli import main
from oodgan.command.checks import groups
from oodgan.command.usage import constant
from oodgan.compose import compose
from oodgan.data.images import from_pil
from oodgan.deghost.network import Deghoster
from oodgan.diffcam.masks import Masker
from oodgan.diffcam.network import DiffCAM
from oodgan.directions.bank import Bank
from oodgan.editing import Editor
from oodgan.errors import UserError
from oodgan.generators.ops import blur_kernel
from oodgan.generators.stylegan2 import StyleGAN2
from oodgan.inversion import inverter
from oodgan.inversion.psp import PSP
from oodgan.stages.ghosts import _known_to
from oodgan.tracking.artifacts import Manifest, plain
from oodgan.weights import trained

RESOLUTION, WS = 64, 10  # at 32 px the maps of ResNet-101 are a single pixel without any location
CONF = launch.config_folder()
PUBLISHED = [
    "generator=stylegan2",
    "inverter=psp",
    "directions=import",
    "diffcam=paper",
    "compose=paper",
    "parser=none",
]


def small_generator(seed: int) -> StyleGAN2:
    return StyleGAN2(RESOLUTION, channel_multiplier=1, max_channels=8, n_mlp=2, seed=seed)


def rosinality(generator: StyleGAN2) -> dict[str, torch.Tensor]:
    state = {name: t for name, t in generator.state_dict().items() if name != "mean_w"}
    return state | {f"convs.{i}.conv.blur.kernel": blur_kernel(4.0) for i in range(0, len(generator.convs), 2)}


def mmgen(generator: StyleGAN2) -> dict[str, torch.Tensor]:
    def spelled(name: str) -> str:
        if name.startswith("style."):
            _, number, kind = name.split(".")
            return f"style_mapping.{number}." + ("linear.weight_orig" if kind == "weight" else kind)
        for theirs, ours in (
            ("noises.noise_", "injected_noise_"),
            ("input.input", "constant_input.input"),
            (".modulation.weight", ".style_modulation.linear.weight_orig"),
            (".modulation.bias", ".style_modulation.bias"),
            (".noise.weight", ".noise_injector.weight"),
        ):
            name = name.replace(theirs, ours)
        return name + "_orig" if name.endswith("conv.weight") else name

    return {spelled(name): t for name, t in rosinality(generator).items()}


class Public:
    """The networks, and the folders that `oodgan weights convert` writes for their checkpoints."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.generator, own = small_generator(1), small_generator(2)
        torch.manual_seed(3)
        self.encoder = PSP(WS, "psp_w")
        self.encoder.half().float()  # rounded like the weights in the half-precision file
        self.encoder.latent_avg.copy_(self.generator.mean_w.expand(WS, -1))
        self.diffcam = DiffCAM("resnet101", 17).eval()
        self.deghoster = Deghoster(own, in_size=8, width=8, growth=4, blocks=1, max_channels=8, head=6).eval()
        encoder = {f"encoder.{n}": t.half() for n, t in self.encoder.encoder.state_dict().items()}
        decoder = {f"decoder.{n}": t for n, t in rosinality(self.generator).items()}
        opts = {"encoder_type": "BackboneEncoderUsingLastLayerIntoW", "start_from_latent_avg": True}
        content = {"state_dict": encoder | decoder, "latent_avg": self.encoder.latent_avg, "opts": opts}
        self.convert("psp_ffhq_encode", content)
        self.convert("diff_cam_weight", self.diffcam.state_dict())
        fused = {f"FCN.{n}": t for n, t in self.deghoster.trained_state().items()}
        self.convert("deghosting", fused | {f"generator.{n}": t for n, t in mmgen(own).items()})
        rng = np.random.default_rng(0)
        (root / "directions").mkdir()
        for name in ("Smiling", "Beard"):
            np.save(root / "directions" / f"{name}.npy", rng.normal(size=(WS, 512)).astype(np.float32))
        self.words = [
            f"generator.weights={root}/psp_ffhq_encode",
            f"inverter.weights={root}/psp_ffhq_encode",
            f"diffcam.weights={root}/diff_cam_weight",
            f"directions.files={root}/directions",
        ]

    def convert(self, name: str, content: object) -> None:
        file = self.root / f"{name}.pt"
        torch.save(content, file)
        command("weights", "convert", str(file), f"output={self.root / name}")
        file.unlink()


def command(*words: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    assert not stop.value.code


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Public:
    return Public(tmp_path_factory.mktemp("public"))


@pytest.fixture
def photo(tmp_path: Path, draw_face) -> Path:
    draw_face(1, size=RESOLUTION).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@torch.no_grad()
def test_editing_with_converted_checkpoints_equals_the_original_networks(public: Public, photo: Path) -> None:
    out, deghoster = photo.parent / "out", f"deghoster.weights={public.root}/deghosting"
    words = [*PUBLISHED, *public.words, "deghoster=paper", deghoster, "directions.scale=4", "aligned=true"]
    saved = "save=[inverted,edited,mask,coarse]"
    command("edit", str(photo), "edits={smiling: 1.0}", f"output={out}", saved, *words)

    direction = torch.from_numpy(np.load(public.root / "directions" / "Smiling.npy"))
    picture = from_pil(Image.open(photo))[None]
    codes = public.encoder(picture)
    inverted = public.generator.synthesis(codes).clamp(-1, 1)
    edited = public.generator.synthesis(codes + 4 * direction / direction.norm()).clamp(-1, 1)
    mask = public.diffcam.cam(inverted, edited, [15])[:, None]
    coarse = compose(picture, inverted, edited, mask, "paper")
    small = torch.nn.functional.interpolate(coarse, (8, 8), mode="area")
    result = {"inverted": inverted, "edited": edited, "mask": mask, "coarse": coarse}
    result["result"] = public.deghoster(small).clamp(-1, 1)
    for name, expected in result.items():
        image = torch.from_numpy(np.array(Image.open(out / name / "photo.png"))).float()
        wanted = expected[0].permute(1, 2, 0).squeeze()
        wanted = wanted * 255 if name == "mask" else (wanted + 1) * 127.5
        # Rounding errors of encoder and Diff-CAM add up, so a pixel may be rounded to the neighbouring value.
        torch.testing.assert_close(image, wanted, rtol=0, atol=1.5, msg=lambda text, name=name: f"{name}: {text}")
    assert float(result["mask"].std()) > 0.01


def words_read_by(stage: str, words: list[str]) -> list[str]:
    """Returns the words without those of groups that the stage does not read and would refuse."""
    others = set(groups(CONF)) - set(constant(stage, "READS"))
    return [word for word in words if word.lstrip("+").partition("=")[0].partition(".")[0] not in others]


@pytest.mark.slow
def test_a_published_deghoster_is_trained_on_ghosts_and_continued(public: Public, tmp_path: Path) -> None:
    own = ["deghoster=paper", f"root={tmp_path}", f"deghoster.ghosts.size={RESOLUTION}", "data.source.length=8"]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    small = {"in_size": 8, "width": 8, "growth": 4, "blocks": 1, "+max_channels": 8, "+head": 6}
    network = [("+" if k[0] == "+" else "") + f"deghoster.network.{k.lstrip('+')}={v}" for k, v in small.items()]
    sizes = [f"deghoster.discriminator.resolution={RESOLUTION}", "deghoster.discriminator.max_channels=8"]
    fit = [
        "fit.max_steps=2",
        "fit.batch_size=2",
        "fit.held_out=0.25",
        "fit.val_every=2",
        "fit.module.losses.perceptual.weight=0",
    ]
    assert launch.run("ghosts", words_read_by("ghosts", [*PUBLISHED, *public.words, *own])) == 0
    words = [*network, *sizes, *(f"deghoster.{word}" for word in fit)]
    assert launch.run("deghost", words_read_by("deghost", [*PUBLISHED, *public.words, *own, *words])) == 0
    folder = tmp_path / "default" / "deghost" / "artifact"
    assert Manifest.load(folder).generator == public.generator.id
    cfg = launch.compose("edit", [*PUBLISHED, *public.words, *own, *words, f"deghoster.weights={folder}"])
    editor = Editor.from_config(cfg)
    assert editor.remover is not None
    # The prior is the editor's own generator and not a copy.
    assert editor.remover.network.generator.network is editor.generator
    again = [
        *PUBLISHED,
        *public.words,
        *own,
        *words,
        "deghoster.fit.continue_from_weights=true",
        f"folder={tmp_path}/2",
    ]
    again = words_read_by("deghost", again)
    assert launch.run("deghost", [*again, f"deghoster.weights={folder}", "deghoster.fit.lr=0"]) == 0
    before, after = (trained.load(path, "deghoster")[0] for path in (folder, tmp_path / "2" / "artifact"))
    assert all(torch.equal(before[name], after[name]) for name in before)
    with pytest.raises(
        UserError, match=r"to go on training it, give generator=stylegan2 generator.weights=.*deghosting"
    ):
        launch.run("deghost", [*again, f"deghoster.weights={public.root}/deghosting", "replace=true"])


def test_a_diffcam_is_trained_with_published_weights_and_other_classes_are_refused(
    public: Public, tmp_path: Path
) -> None:
    os.environ["HYDRA_FULL_ERROR"] = "1"
    fit = ["pairs=4", "held_out=2", "region_codes=1", "max_steps=1", "batch_size=2", "val_every=1"]
    own = [f"folder={tmp_path}", "diffcam.network.backbone=resnet18", "diffcam.size=32", "diffcam.fit.render_size=32"]
    words = [*public.words[:2], *public.words[3:], *own, *(f"diffcam.fit.{word}" for word in fit)]
    words = words_read_by("diffcam", [*PUBLISHED, *words])
    with pytest.raises(UserError, match=r"inverter has no effect: only diffcam[.]fit[.]inverted above 0 uses it"):
        launch.run("diffcam", words)
    words = [word for word in words if not word.startswith("inverter")]
    assert launch.run("diffcam", words) == 0
    assert Manifest.load(tmp_path / "artifact").directions == ["beard", "smiling"]
    continued = ["diffcam.fit.continue_from_weights=true", f"diffcam.weights={public.root}/diff_cam_weight"]
    with pytest.raises(UserError, match=r"names class_0, .* in this order, not beard, smiling"):
        launch.run("diffcam", [*words, *continued, "replace=true"])


def test_a_published_encoder_can_be_trained(public: Public) -> None:
    from oodgan.inversion.module import InversionModule

    cfg = launch.compose("inversion", [*PUBLISHED[:2], *public.words[:2]]).inverter
    encoder = inverter.load_encoder(cfg, public.generator).train()
    module = InversionModule(encoder, public.generator, {"l2": torch.nn.MSELoss()}, size=RESOLUTION)
    images = torch.rand(2, 3, RESOLUTION, RESOLUTION, generator=torch.Generator().manual_seed(0)) * 2 - 1
    module.training_step({"image": images}, 0).backward()
    assert all(p.grad is not None for p in encoder.parameters())
    assert all(p.grad is None for p in public.generator.parameters())
    # The averaged copy shares the generator, which is not in the state dict.
    assert module.ema.module.frozen is encoder.frozen
    assert encoder.state_dict().keys() == public.encoder.state_dict().keys()


def test_a_converted_encoder_is_refused_for_another_generator_or_class(public: Public) -> None:
    words = [*PUBLISHED, *public.words]
    cfg = launch.compose("edit", words).inverter
    with pytest.raises(UserError, match=r"made for generator stylegan2-64-\w+, the generator is stylegan2-64-"):
        inverter.build(cfg, small_generator(5))
    cfg.encoder = {"_target_": "oodgan.inversion.light.LightEncoder"}
    with pytest.raises(UserError, match=r"are not of oodgan\.inversion\.light\.LightEncoder"):
        inverter.build(cfg, public.generator)


@pytest.mark.parametrize(
    ("group", "option", "file"),
    [
        ("generator", "stylegan2", "stylegan2-ffhq-config-f.pt"),
        ("inverter", "psp", "psp_ffhq_encode.pt"),
        ("inverter", "e4e", "e4e_ffhq_encode.pt"),
        ("inverter", "restyle", "restyle_psp_ffhq_encode.pt"),
        ("diffcam", "paper", "diff_cam_weight.pt"),
        ("deghoster", "paper", "deghosting.pt"),
    ],
)
def test_the_error_for_missing_weights_names_the_download(group: str, option: str, file: str) -> None:
    from oodgan import generators
    from oodgan.deghost import remover
    from oodgan.diffcam import masks

    generator, bank = small_generator(1), SimpleNamespace(names=("smile",))
    build = {
        "generator": generators.build,
        "inverter": lambda cfg: inverter.build(cfg, generator),
        "diffcam": lambda cfg: masks.build(cfg, generator, bank),
        "deghoster": lambda cfg: remover.build(cfg, generator),
    }[group]
    with pytest.raises(UserError, match=f"{group}={option} has no weights: download .*{file}.*convert FILE") as raised:
        build(launch.compose("edit", [f"{group}={option}"])[group])
    assert "\n" not in str(raised.value)


def test_the_error_for_an_unconverted_checkpoint_names_the_convert_command(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "psp.pt")
    with pytest.raises(UserError, match=r"oodgan weights convert .*psp\.pt output=FOLDER"):
        trained.load(tmp_path / "psp.pt", "psp")


def test_experiment_paper_has_the_papers_settings() -> None:
    cfg = launch.compose("deghost", ["experiment=paper"])
    assert cfg.directions.scale == 20
    assert cfg.compose.mode == "paper" and cfg.diffcam.mask.kind == "paper"
    assert (cfg.diffcam.fit.batch_size, cfg.diffcam.fit.max_steps, cfg.diffcam.fit.lr) == (6, 1000, 1e-4)
    fit = cfg.deghoster.fit
    assert (fit.batch_size, fit.max_steps, fit.lr) == (4, 200_000, 1e-4)
    weights = {name: loss.weight for name, loss in fit.module.losses.items()}
    assert weights == {"l2": 1.0, "l1": 0.0, "perceptual": 0.01, "gan": 0.01}


def millions(network: torch.nn.Module) -> float:
    return sum(p.numel() for p in network.parameters()) / 1e6


def test_experiment_paper_builds_the_published_networks() -> None:
    from hydra.utils import instantiate

    from oodgan.stages.deghost import _discriminator

    cfg = launch.compose("deghost", ["experiment=paper"])
    widths = {size: min(512, 32768 // size) for size in (2**i for i in range(2, 11))}
    prior: Any = torch.nn.Module()
    for name, value in {"resolution": 1024, "num_ws": 18, "style_dim": 512, "feature_channels": widths}.items():
        setattr(prior, name, value)
    with torch.device("meta"):
        encoder = trained.network(cfg.inverter.encoder, {}, "", num_ws=18)
        deghoster = trained.network(cfg.deghoster.network, {}, "", generator=prior)
        diffcam = trained.network(cfg.diffcam.network, {}, "", num_classes=17)
        discriminator = instantiate(_discriminator(plain(cfg.deghoster.discriminator)))
    assert (deghoster.in_size, deghoster.out_size) == (128, 1024)
    assert millions(encoder) == pytest.approx(267, abs=1)
    assert millions(diffcam) == pytest.approx(42.5, abs=0.1)
    assert millions(discriminator) == pytest.approx(29, abs=0.2)
    # 174 M including the generator's 30 M and the branch whose output the published network never uses.
    assert 140 < millions(deghoster) < 145


def test_directions_are_matched_to_the_papers_classes_and_ghosts_use_only_these() -> None:
    from oodgan.conversion.paper import PAPER_CLASSES

    classes = [next((n for n, i in PAPER_CLASSES.items() if i == k), f"class_{k}") for k in range(17)]
    aliases = dict(launch.compose("edit", ["diffcam=paper"]).diffcam.aliases)
    masker = Masker(torch.nn.Identity(), classes, kind="paper", aliases=aliases)  # type: ignore[arg-type]
    for name, index in {"smile": 15, "Smiling": 15, "age": 16, "beard": 12, "mouth_open": 10, "eyeglasses": 7}.items():
        assert masker.classes[name] == index
    bank = Bank(("bald", "smile", "beard"), torch.ones(3, WS, 512), "test", "test")
    assert _known_to(bank, masker).names == ("smile", "beard")
    with pytest.raises(UserError, match="the directions are bald"):
        _known_to(bank.subset(["bald"]), masker)


def test_the_shipped_directions_fit_a_stylegan2_of_1024_pixels() -> None:
    bank = Bank.load("ffhq", SimpleNamespace(id="stylegan2-1024-0a1b2c3d", num_ws=18))  # type: ignore[arg-type]
    assert bank.num_ws == 18
    assert not bank.vectors[:, 16:].any()
