"""What the fit stages log is the same for 1, 2 and 3 processes, on odd numbers of validation images."""

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

import oodgan  # noqa: F401
from oodgan import launch
from oodgan.tracking.loggers import read_csv

# fp64: in fp32 the sign of Adam's first step is random for a weight whose gradient is only rounding error.
SAME = ["trainer.precision=64-true", "accelerator=cpu", "trainer.log_every_n_steps=1"]
STAGES = {
    "codes": ["inversion", "inverter.fit.images.max_steps=0", "inverter.encoder.dropout=0"],
    "images": ["inversion", "inverter.fit.codes.max_steps=0", "inverter.encoder.dropout=0"],
    "diffcam": ["diffcam", "diffcam.fit.held_out=7"],
    "deghost": ["deghost", "deghoster.fit.held_out=0.3"],
}
FITS = {"codes": "inverter.fit.codes", "images": "inverter.fit.images", "diffcam": "diffcam.fit"}
FITS["deghost"] = "deghoster.fit"
MORE = {
    "codes": ["inverter.fit.held_out=0.11"],
    "images": ["inverter.fit.images.module.occlusion=0", "data.split.val=0.35", "inverter.fit.images.limit_val=null"],
}
MORE["images"] += ["data.eval_batch_size=5"]  # not a multiple of any number of processes
# The tiny recipe omits FID, whose network would be fetched; here it uses a small seeded network.
SEEDED = "extractor: {_target_: small.seeded_features, _partial_: true}, extractor_name: seeded, dim: 8"
FID = f"callbacks.metrics.metrics.fid={{_target_: oodgan.metrics.distribution.FID, {SEEDED}}}"
MEASURED = {"val/fid_seeded", "val/ssim_gauss11", "val/psnr"}
EXPECTED = {
    "codes": {"train/code", "train/loss", "val/code", "val/loss"},
    "images": {"train/l2", "train/delta", "val/l2", "val/delta", "val/loss", *MEASURED},
    "diffcam": {"train/loss", "train/accuracy", "val/loss", "val/accuracy"},
    "deghost": {"train/l2", "train/gan", "train/discriminator", "val/l2", "val/l2_coarse", "val/loss", *MEASURED},
}

PROCESSES = (2, 3)
# Started by torchrun, so that each process imports everything once for all stages.
MANY = """
import sys

sys.path[:0] = {path!r}
import oodgan
from oodgan.ranks import joined
from test_logged import STAGES, train

with joined() as follow:
    if follow:
        sys.exit(follow())
    for name in STAGES:
        train({chain!r}, {folder!r}, name, {processes})
"""


def run(stage, root, *words):
    bank = ["directions=bank", f"directions.path={root}/tiny/directions/artifact", "~directions.count"]
    return launch.run(stage, ["experiment=tiny", f"root={root}", *(bank if stage == "diffcam" else []), *words])


def train(chain, folder, name, processes, *words):
    stage, *own = STAGES[name]
    fit = [f"{FITS[name]}.max_steps=2", f"{FITS[name]}.batch_size=12", f"{FITS[name]}.val_every=1"]
    many = ["trainer=ddp", f"devices={processes}"] if processes > 1 else []
    place = f"folder={folder}/{processes}/{name}"
    run(stage, chain, *own, *fit, *MORE.get(name, []), *many, *SAME, FID, place, *words)


def logged(folder, name, processes):
    (path,) = (folder / str(processes) / name).glob("training/*/metrics.csv")
    return {(step, key): value for step, key, value in read_csv(path)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_chain):
    """A folder with the training runs of all stages, for each number of processes."""
    folder, path = tmp_path_factory.mktemp("logged"), [str(Path(__file__).parent), *sys.path[:2]]
    for name in STAGES:
        train(tiny_chain, folder, name, 1)
    for processes in PROCESSES:
        script = folder / f"{processes}.py"
        script.write_text(MANY.format(path=path, chain=str(tiny_chain), folder=str(folder), processes=processes))
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), str(script)]
        done = subprocess.run([sys.executable, *torchrun], capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", list(STAGES))
def test_every_logged_number_is_the_same_for_any_number_of_processes(trained, name):
    one = logged(trained, name, 1)
    assert {key for _, key in one} >= EXPECTED[name]
    for processes in PROCESSES:
        many = logged(trained, name, processes)
        assert many.keys() == one.keys()
        for key, value in one.items():
            assert many[key] == pytest.approx(value, abs=1e-6, rel=1e-6), (processes, key)


@pytest.mark.slow
@pytest.mark.network
def test_two_processes_log_the_same_fid_lpips_ssim_and_identity_as_one(tmp_path, tiny_chain):
    """The default metrics with their real networks (a small one for FID), on 7 ghosts split 4 and 3."""
    place = (
        f"lpips: {{_target_: oodgan.metrics.lpips.LPIPS}}, fid: {{_target_: oodgan.metrics.distribution.FID, {SEEDED}}}"
    )
    identity = "identity: {_target_: oodgan.metrics.similarity.Identity}"
    words = [*STAGES["deghost"][1:], "deghoster.fit.max_steps=1", "accelerator=cpu", "trainer.precision=64-true"]
    words.append(f"callbacks.metrics.metrics={{{place}, {identity}}}")
    result = []
    for processes in (1, 2):
        many = ["trainer=ddp", f"devices={processes}"] if processes > 1 else []
        assert run("deghost", tiny_chain, *words, *many, f"folder={tmp_path}/{processes}/deghost") == 0
        values = logged(tmp_path, "deghost", processes)
        result.append({key: value for (_, key), value in values.items() if key.startswith("val/")})
    one, two = result
    assert {"val/fid_seeded", "val/lpips_alex_v0.1", "val/ssim_gauss11", "val/identity_facenet_20180408"} <= set(one)
    assert one["val/fid_seeded"] > 1e-3 and 0 < one["val/lpips_alex_v0.1"] < 1
    assert two == pytest.approx(one, abs=1e-6, rel=1e-6)


@pytest.mark.slow
def test_a_limited_validation_uses_the_same_images_for_any_number_of_processes(tmp_path, tiny_chain):
    """Two batches of five images are ten images, also for three processes with batches of two each."""
    for processes in (1, 3):
        train(tiny_chain, tmp_path, "images", processes, "inverter.fit.images.limit_val=1")
    one, three = (logged(tmp_path, "images", processes) for processes in (1, 3))
    assert three == pytest.approx(one, abs=1e-6, rel=1e-6)


@pytest.mark.slow
def test_more_processes_than_validation_images_are_refused(tmp_path, tiny_chain):
    from oodgan.errors import UserError

    with pytest.raises(UserError, match=r"1 image\(s\) of validation cannot be shared by 2 processes"):
        train(tiny_chain, tmp_path, "diffcam", 2, "diffcam.fit.held_out=1")
