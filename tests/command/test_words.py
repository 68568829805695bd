"""Values typed in a shell are translated to Hydra's grammar."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from oodgan import launch
from oodgan.command import words
from oodgan.errors import UserError


def value(word: str, several: bool = False):
    result = OverridesParser.create().parse_override(words.translate(word, several)).value()
    return str(result) if type(result).__name__ == "QuotedString" else result


@pytest.mark.parametrize(
    "text",
    ["1.10", "1_1_1", "007", "1e3", "true", "0x10", "inf", "a=b", "out (1)", "it's", "ünï", "写真", "a:b", "a;b",
     "[x", "a{1}", "~/x", "-x", "a$b", "a&b", "a!b", "C:\\out", "C:\\out\\", "a,b", "a/epoch=1-step=8.ckpt", "a#b"],
)  # fmt: skip
def test_names_and_paths_stay_the_typed_text(text):
    for key in ("run", "output", "resume", "data.source.root", "inverter.weights"):
        assert value(f"{key}={text}") == text


@pytest.mark.parametrize("text", ["2024", "1.10", "1e3", "true", "a=b", "写真", "tiny"])
def test_options_of_groups_stay_names(text):
    for group in ("generator", "data", "experiment", "hydra", "hydra/launcher"):
        assert value(f"{group}={text}") == text
    assert value("callbacks=[default,metrics]") == ["default", "metrics"] and value("logger=null") is None
    assert words.translate("generator=tiny,2024", several=True) == "generator=tiny,'2024'"


def test_python_values_are_written_as_overrides():
    wanted = {"smile": 1.5, "file": "it's", "kept": [True, None]}
    word = f"edits={words.spelled(wanted)}"
    assert OverridesParser.create().parse_override(word).value() == wanted


def test_null_is_none_except_as_the_name_of_a_run():
    assert value("resume=null") is None and value("diffcam.weights=null") is None and value("run=null") == "null"


def test_values_quoted_for_hydra_stay_unchanged():
    assert value("output='a b'") == "a b" and value('logger.group="my runs, first"') == "my runs, first"
    assert words.translate("root=${oc.env:HOME}/runs") == "root='${oc.env:HOME}/runs'"


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ('edits={"smile": 1.0}', {"smile": 1.0}),
        ("edits={'smile': 1, age: [-1, 0, 1]}", {"smile": 1, "age": [-1, 0, 1]}),
        ('edits={"a": {"b": [1, "2"]}}', {"a": {"b": [1, "2"]}}),
        ("methods={a: 2020, b: 1e3}", {"a": "2020", "b": "1e3"}),
        ("runs=[1,2]", ["1", "2"]),
        ("directions.files={smile: {path: 007, sign: -1}}", {"smile": {"path": "007", "sign": -1}}),
        ("labels=[a,b c.json]", ["a", "b c.json"]),
        ("my.key=ünï", "ünï"),
        ("my.key=a=b", "a=b"),
        ("seed=3", 3),
        ("diffcam.fit.lr=1e-3", 1e-3),
    ],
)
def test_mappings_lists_and_numbers_are_parsed(word, meant):
    result = value(word)
    assert result == meant or [str(item) for item in result] == meant


def test_names_in_a_mapping_may_contain_any_letters():
    assert {words.readable(k): v for k, v in value("edits={naïve: 1, 笑: 2, age+: 3}").items()} == {
        "naïve": 1, "笑": 2, "age+": 3,
    }  # fmt: skip


def test_a_new_name_in_a_mapping_needs_no_plus():
    assert words.translate("edits.smile=1") == "++edits.smile=1"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("edits={smile=1}", "edits={smile=1} cannot be read: 'smile=1' is not name: value"),
        ("edits={smile: 1,5}", "'5' is not name: value"),
        ("edits={smile:", "the shell cuts words at spaces"),
        ("+edits.naïve=1", "inside of braces"),
    ],
)
def test_the_error_for_an_unreadable_override_shows_the_correct_form(word, message):
    with pytest.raises(UserError) as error:
        words.translate(word)
    assert message in str(error.value)


def test_commas_separate_the_values_of_a_sweep():
    assert words.translate("run=1.10,007", several=True) == "run='1.10','007'"
    assert words.translate("inverter.weights='a,b',c", several=True) == "inverter.weights='a,b','c'"
    assert words.translate("diffcam.weights=choice(a,b)", several=True) == "diffcam.weights=choice(a,b)"
    assert words.translate("edits={a: 1},{é: 2}", several=True) == "++edits={a: 1},{%+e9+%: 2}"
    assert words.translate("diffcam.fit.lr=interval(1e-4,1e-1)", several=True) == "diffcam.fit.lr=interval(1e-4,1e-1)"


@settings(deadline=None)
@given(st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=12))
def test_any_text_is_passed_to_hydra_unchanged(text):
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    if text.strip() and not quoted and "${" not in text and text != "null" and text == text.strip():
        assert value(f"output={text}") == text


def test_hydras_options_are_accepted_at_any_position():
    result, rest = words.options(["seed=1", "--cfg", "job", "-m", "run=a", "--config-dir=x", "--info", "photo.png"])
    assert result == ["--cfg", "job", "-m", "--config-dir=x", "--info", "all"]
    assert rest == ["seed=1", "run=a", "photo.png"]
    assert words.options(["a", "--", "-m"]) == ([], ["a", "-m"])
    with pytest.raises(UserError, match="unknown option --cgf"):
        words.options(["--cgf", "job"])
    for option in ("--cfg", "--ask"):
        with pytest.raises(UserError, match=f"{option} needs a word after it"):
            words.options(["seed=1", option])


def test_ask_may_be_written_as_an_option():
    for requested in (["--ask", "a smile"], ["--ask=a smile"]):
        assert words.options(["photo.png", *requested, "seed=1"]) == ([], ["photo.png", "ask=a smile", "seed=1"])
    assert value("ask=a smile, no glasses = fine") == "a smile, no glasses = fine"


@pytest.mark.parametrize(
    ("stage", "word"), [("diffcam", "inverter=tiny_feature"), ("ghosts", "deghoster.ghosts.disturbance=0.1")]
)
def test_a_key_without_effect_is_refused(tmp_path: Path, stage: str, word: str) -> None:
    with pytest.raises(UserError, match=f"{word.partition('=')[0]} has no effect: "):
        launch.run(stage, ["experiment=tiny", f"root={tmp_path}", word])
    assert not list(tmp_path.rglob("artifact"))
