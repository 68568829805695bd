"""The command line around the stages: fast help, plain words, one-line errors."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oodgan.cli import _close_output, main, positional
from oodgan.command import words
from oodgan.command.usage import stage_names, stage_usage
from oodgan.errors import UserError
from oodgan.files import replacing
from oodgan.reporting.terminal import console


def command(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "oodgan", *words], capture_output=True, text=True, cwd=cwd, timeout=120
    )


def test_help_lists_every_stage_in_under_a_second() -> None:
    # CPU time instead of wall-clock time, so that a busy machine does not fail the test.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    answer = command("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert answer.returncode == 0
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 1
    listed = [line.split()[0] for line in answer.stdout.partition("stages:\n")[2].splitlines() if line.startswith("  ")]
    assert listed[: len(stage_names())] == stage_names()
    assert {"edit", "weights", "doctor"} <= set(listed)


@pytest.mark.parametrize("words", [["--help"], ["edit", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys; from oodgan.cli import main\n"
        f"try: main({words!r})\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "heavy = {'torch', 'numpy', 'hydra', 'PIL', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize("stage", stage_names())
def test_every_stage_has_a_help_text(stage: str) -> None:
    first, *_ = stage_usage(stage).splitlines()
    assert first and len(first) <= 110


def test_stage_help_shows_keys_examples_and_choices() -> None:
    text = stage_usage("edit")
    assert "edits: ???" in text and "oodgan edit photo.jpg" in text and "generator=" in text
    assert "output_subdir" not in text


def test_positional_words_are_converted_to_overrides() -> None:
    assert positional("weights", ["fetch", "mtcnn", "facenet"]) == ["action='fetch'", "name=['mtcnn','facenet']"]
    assert positional("weights", ["list"]) == ["action='list'"]
    assert positional("weights", []) == []
    assert positional("edit", ["a b.jpg", "edits={smile: 1}"]) == ["input=['a b.jpg']", "edits={smile: 1}"]
    assert positional("doctor", ["~logger"]) == ["~logger"]


def test_the_error_for_a_surplus_argument_names_it() -> None:
    with pytest.raises(UserError, match="what is 'now'"):
        positional("doctor", ["now"])


@settings(deadline=None)
@given(st.text(st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="="), min_size=1, max_size=12))
def test_any_file_name_is_parsed_unchanged_by_the_override_grammar(name: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_override(f"input=[{words.quoted(name)}]").value()
    assert [str(getattr(item, "text", item)) for item in parsed] == [name]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["edti"], "unknown stage 'edti' (did you mean 'edit'?)"),
        (["weights", "fetch", "mtcn"], "did you mean 'mtcnn'?"),
        (["weights", "lst"], "did you mean 'list'?"),
        (["weights", "fetch"], "fetch what?"),
        (["doctor", "sed=1"], "unknown key 'sed' (did you mean 'seed'?)"),
        (
            ["doctor", "-m", "hydra/launcher=moon", "seed=1,2"],
            "launcher 'moon' is not installed; pip install 'oodgan[sweep]'",
        ),
        (["edit", "generator=mobile_fhq"], "did you mean 'mobile_ffhq'?"),
        (["edit", "edits={smile: 1}"], "which photo?"),
        (["edit", "none.jpg", "edits={smile: 1}"], "no such file or folder: none.jpg"),
        (["edit", "none.jpg"], "which edit?"),
        (["edit", "none.jpg", "edits={smile: much}"], "strength 'much' of 'smile'"),
        (["edit", "none.jpg", "edits={smile: 1}", "save=[msk]"], "did you mean 'mask'?"),
        (["edit", "none.jpg", "edits={smile: 1}", "format=gif"], "png, jpg or webp expected"),
        (["edit", "none.jpg", "edits={smile: 1}", "aligned=true", "face=larget"], "face=larget: largest, all, or a"),
        (
            ["export", "sizes=16,32"],
            "sizes=16,32: a list is written sizes=[16,32]; for a sweep over the values, add -m",
        ),
        (["pipeline", "experiment=tiny", "pipeline.photos=none.jpg"], "no such file: none.jpg"),
        (["pipeline", "pipeline.photos=[]", "pipeline.edits=[{smlie: 1}]"], "did you mean 'smile'?"),
        (["diffcam", "generator=tiny"], "do not fit generator stylegan2-32"),
    ],
)
def test_invalid_commands_are_one_line_errors_with_exit_code_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(words)
    output = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2
    assert len(output) == 1 and output[0].startswith("error: ") and message in output[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("free", "code"), [(40, 0), (2, 1)])
def test_doctor_lists_versions_weights_and_free_space(
    free: int, code: int, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=free * 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)  # the result must not depend on this machine's disk
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OODGAN_CACHE", str(tmp_path / "cache"))
    with pytest.raises(SystemExit) as stop:
        main(["doctor"])
    output = capsys.readouterr().out
    assert stop.value.code == code, output
    assert "torch 2." in output and "mobile_ffhq: not fetched yet" in output and f"here: {free}.0 GB free" in output
    assert (f"problem: only {free}.0 GB free" in output) == bool(code)
    assert list(tmp_path.iterdir()) == []


@contextmanager
def closed_output() -> Iterator[None]:
    """Standard output is a pipe whose reading end is closed."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as closed, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", closed)
        yield
        _close_output()


@pytest.mark.parametrize("words", [["doctor"], ["weights", "list"], ["edit", "--help"]])
def test_a_closed_output_ends_the_command_without_an_error_message(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with closed_output(), pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 141
    assert capsys.readouterr().err == ""


def test_a_closed_output_is_not_reported_as_a_disk_error(tmp_path: Path) -> None:
    with closed_output(), pytest.raises(BrokenPipeError), replacing(tmp_path / "file"):
        console().print("a table")


def test_weights_are_listed_and_damaged_files_are_reported(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oodgan.weights.fetch import folder_of
    from oodgan.weights.registry import entry

    monkeypatch.setenv("OODGAN_CACHE", str(tmp_path))
    folder = folder_of(entry("mtcnn"))
    folder.mkdir(parents=True)
    (folder / "files.json").write_text('{"pnet.onnx": "00"}')
    (folder / "pnet.onnx").write_bytes(b"damaged")
    with pytest.raises(SystemExit) as stop:
        main(["weights", "verify", "mtcnn", "facenet"])
    output = capsys.readouterr().out
    assert stop.value.code == 1
    assert "damaged: pnet.onnx; oodgan weights fetch mtcnn" in output and "facenet              absent" in output
    with pytest.raises(SystemExit) as stop:
        main(["weights", "list"])
    assert stop.value.code == 0
    assert "mobile_ffhq" in capsys.readouterr().out
