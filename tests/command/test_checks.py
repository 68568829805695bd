"""Every key of a configuration is used or refused, and every value has the type that its key needs."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from oodgan.command import checks, words
from oodgan.command.usage import stage_names
from oodgan.errors import UserError
from oodgan.launch import compose, config_folder


def checked(stage, *given):
    return checks.checked(compose(stage, [words.translate(word) for word in given]), config_folder())


@pytest.mark.parametrize("stage", stage_names())
@pytest.mark.parametrize("recipe", [None, "tiny", "demo", "paper"])
def test_shipped_configs_pass_the_checks(stage, recipe):
    assert checked(stage, *([f"experiment={recipe}"] if recipe else [])).stage == stage


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("seed=abc", "seed=abc: a whole number is expected, such as 0"),
        ("seed=null", "a value is needed"),
        ("diffcam.fit.lr=fast", "diffcam.fit.lr=fast: a number is expected, such as"),
        ("diffcam.fit.max_steps=ten", "a whole number is expected"),
        ("diffcam.fit.max_steps=1.5", "a whole number is expected"),
        ("diffcam.fit.both_senses=maybe", "true or false is expected"),
        ("diffcam.network=x", "a mapping {name: value} is expected"),
        ("+diffcam.fit.optimizer=x", "unknown key diffcam.fit.optimizer"),
        ("+trainer.nonsense=x", "unknown key trainer.nonsense"),
        ("+logger.notes=x", "unknown key logger.notes"),
        ("+diffcam.network.nonsense=1", "unknown key diffcam.network.nonsense"),
        ("+nonsense=1", "unknown key nonsense"),
        ("+callbacks.mine={a: 1}", "unknown key callbacks.mine"),
        ("root=s3://bucket/runs", "results are written to folders of this machine"),
        ("run=", "run= is empty"),
        ("root=caf\udce9", "is not UTF-8"),
        ("inverter.weights=caf\udce9/artifact", "is not UTF-8"),
        ("seed=-1", "seed=-1: at least 0 is expected"),
        ("diffcam.fit.pairs=0", "at least 1 is expected"),
        ("diffcam.fit.val_every=0", "at least 1 is expected"),
        ("diffcam.fit.max_steps=-1", "at least 0 is expected"),
        ("nodes=0", "nodes=0: at least 1 is expected"),
        ("diffcam.fit.held_out=-1", "at least 0 is expected"),
        ("callbacks.pictures.count=0", "at least 1 is expected"),
        ("compose.mode=layerd", "did you mean 'layered'?"),
        ("diffcam.fit.module.scheduler.interval=stp", "did you mean 'step'?"),
        ("trainer.precision=bf16-mixd", "did you mean 'bf16-mixed'?"),
        ("deghoster.network.sees=corse", "did you mean 'coarse'?"),
    ],
)
def test_the_error_for_a_wrong_value_or_key_names_it(word, message):
    with pytest.raises(UserError) as error:
        checked("diffcam", word)
    assert message in str(error.value)


def test_a_list_given_as_text_is_split_at_commas():
    cfg = checked("evaluate", "photos=2020", "methods={a: 7}", "attributes=smile,age", "metrics.metrics=psnr")
    assert list(cfg.attributes) == ["smile", "age"] and list(cfg.metrics.metrics) == ["psnr"]
    assert cfg.photos == "2020" and cfg.methods == {"a": "7"}
    more = checked("evaluate", "photos=1", "methods={a: 7}", "set=2024", "strengths=0.5", "judges=a,b")
    assert more.judges == ["a", "b"] and more.set == "2024" and list(more.strengths) == [0.5]
    assert checked("inversion", "data=folder", "data.source.root=1", "data.source.labels=07").data.source.labels == "07"
    assert list(checked("export", "sizes=16").sizes) == [16]
    assert list(checked("compare", "runs=5", "columns=val/loss").runs) == ["5"]
    assert list(checked("pipeline", "pipeline.stages=diffcam").pipeline.stages) == ["diffcam"]
    for stage, word in [
        ("evaluate", "methods=psp"),
        ("export", "sizes=big"),
    ]:
        with pytest.raises(UserError, match=word.partition("=")[0]):
            checked(stage, word)


@pytest.mark.parametrize("name", ["psp/e4e", ".hidden", "a\\\\b"])
def test_names_that_cannot_be_file_names_are_refused(name):
    with pytest.raises(UserError, match="names files: it must not contain"):
        checks.checked(OmegaConf.merge(compose("evaluate"), {"methods": {name: "plain"}}), config_folder())
    with pytest.raises(UserError, match=r"directions\.files: .* names files"):
        own = {"directions": {"files": {name: "a.pt"}}}
        checks.checked(OmegaConf.merge(compose("directions", ["directions=import"]), own), config_folder())


def test_names_may_contain_letters_outside_ascii():
    assert checked("edit", "input=a", "edits={naïve: 1}").edits == {"naïve": 1}


def test_numbers_are_converted_to_text_where_text_is_expected():
    cfg = compose("diffcam")
    cfg.run, cfg.root = 2024, 7
    made = checks.checked(cfg, config_folder())
    assert made.run == "2024" and made.root == "7"


def test_user_defined_keys_and_targets_are_accepted():
    cfg = compose("diffcam")
    OmegaConf.set_struct(cfg, False)
    own = OmegaConf.merge(cfg, {"mine": 0.5, "diffcam": {"fit": {"lr": "${mine}"}}})
    assert checks.checked(own, config_folder()).diffcam.fit.lr == 0.5
    counted = {"callbacks": {"mine": {"_target_": "collections.Counter", "anything": 1}}}
    assert checks.checked(OmegaConf.merge(cfg, counted), config_folder()).callbacks.mine.anything == 1
    taken = {"diffcam": {"network": {"_target_": "fractions.Fraction", "numerator": 1}}}
    assert checks.checked(OmegaConf.merge(cfg, taken), config_folder()).diffcam.network.numerator == 1


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"strategy": "dpp"}, r"unknown value of trainer.strategy: 'dpp' \(did you mean 'ddp'\?\)"),
        (
            {"strategy": {"_target_": "pytorch_lightning.strategies.DDPStrategy", "gradient_as_bucket_vieww": True}},
            r"unknown key trainer.strategy.gradient_as_bucket_vieww \(did you mean '.*gradient_as_bucket_view'\?\)",
        ),
        (
            {"strategy": {"_target_": "pytorch_lightning.strategies.DDPStrateg"}},
            "trainer.strategy._target_=.*DDPStrateg is not found: module .* has no attribute 'DDPStrateg'",
        ),
        ({"profiler": "simpel"}, r"unknown value of trainer.profiler: 'simpel' \(did you mean 'simple'\?\)"),
    ],
)
def test_invalid_trainer_values_are_refused_before_rendering(node, message):
    with pytest.raises(UserError, match=message):
        checks.checked(OmegaConf.merge(compose("diffcam"), {"trainer": node}), config_folder())


def test_keywords_that_a_class_passes_to_its_base_are_accepted():
    handed_on = {"_target_": "pytorch_lightning.strategies.DDPStrategy", "gradient_as_bucket_view": True}
    profiler = {"_target_": "pytorch_lightning.profilers.SimpleProfiler", "filename": "x"}
    for node in ({"strategy": handed_on, "profiler": profiler}, {"strategy": "ddp_spawn"}):
        made = checks.checked(OmegaConf.merge(compose("diffcam"), {"trainer": node}), config_folder())
        assert made.trainer.strategy == node["strategy"]


def test_keys_common_to_all_fits_are_accepted():
    cfg = checked("diffcam", "++diffcam.fit.accumulate=2", "++diffcam.fit.clip=1.0")
    assert cfg.diffcam.fit.accumulate == 2


@pytest.mark.parametrize(
    "key", ["deghoster.fit.module.losses", "inverter.fit.images.module.losses", "callbacks.metrics.metrics", "logger"]
)
def test_a_user_defined_entry_is_checked_against_its_target(key: str) -> None:
    """A loss, a metric or a logger may be added under any name; an entry without a class is an error."""
    stage = "inversion" if key.startswith("inverter") else "deghost"
    added = f"+{key}.mine={{_target_: torch.nn.SmoothL1Loss, beta: 0.5}}"
    assert checked(stage, added)
    with pytest.raises(UserError, match=rf"unknown key {key}\.mine\.bet\b"):
        checked(stage, added.replace("beta", "bet"))
    with pytest.raises(UserError, match=rf"unknown key {key}\.mine"):
        checked(stage, f"+{key}.mine={{weight: 0.5}}")


def test_a_user_defined_loss_accepts_a_weight_and_inputs():
    added = "+diffcam.fit.module.losses.mine={_target_: torch.nn.MSELoss, weight: 0.5, inputs: [result, target]}"
    assert checked("diffcam", added).diffcam.fit.module.losses.mine.weight == 0.5
    with pytest.raises(UserError, match=r"losses.mine.wieght \(did you mean 'diffcam.fit.module.losses.mine.weight'"):
        checked("diffcam", added.replace("weight", "wieght"))
