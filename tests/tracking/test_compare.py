import csv
import json
import re

import pytest
from omegaconf import OmegaConf
from PIL import Image

import oodgan  # noqa: F401
from oodgan.errors import UserError
from oodgan.stages import compare as stage
from oodgan.tracking import compare, page, runs


def make(folder, lr, seed, values, psnr, picture=None):
    training = folder / "training" / "abc"
    training.mkdir(parents=True)
    OmegaConf.save(
        {"part": {"lr": lr, "fit": {"steps": 3}}, "seed": seed, "folder": str(folder)}, folder / "config.yaml"
    )
    rows = "".join(f"{step},val/loss,{value}\n" for step, value in enumerate(values))
    (training / "metrics.csv").write_text("step,name,value\n" + rows)
    (training / "metrics.json").write_text(json.dumps({"val/loss": values[-1], "val/psnr": psnr}))
    if picture:
        Image.new("RGB", (64, 64), picture).save(folder / "sheet.png")


@pytest.fixture
def sweep(tmp_path):
    place = tmp_path / "sweeps" / "lr"
    make(place / "0", 0.1, 1, [3.0, 1.0], 20.0, "red")
    make(place / "1", 0.1, 2, [3.0, 2.0], 22.0)
    make(place / "2", 0.2, 1, [3.0, 1.2], 30.0, "blue")
    return place


def test_seeds_are_averaged_and_the_best_is_bold(sweep):
    result = compare.compare(runs.collect([sweep]))
    assert result.keys == ["part.lr"]
    assert [len(row.runs) for row in result.rows] == [2, 1]
    mean, deviation, count = result.rows[0].metrics["val/loss"]
    assert (mean, count) == (1.5, 2) and deviation == pytest.approx(0.70711, abs=1e-4)
    assert result.best == {"val/loss": 1, "val/psnr": 1}
    text = result.table().markdown()
    assert "1.5 ± 0.71" in text and "**1.2**" in text and "**30**" in text and "**1.5" not in text


def test_maximize_makes_a_higher_value_better(sweep):
    result = compare.compare(runs.collect([sweep]), ["val/loss"], maximize=["val/loss"])
    assert result.metrics == ["val/loss"] and result.best == {"val/loss": 0}


def test_tensorboard_files_of_another_project_are_read_as_runs(sweep, tmp_path):
    board = pytest.importorskip("torch.utils.tensorboard")
    for version, lr in enumerate((0.1, 0.2)):
        folder = tmp_path / "lightning_logs" / f"version_{version}"
        with board.SummaryWriter(str(folder)) as writer:
            for step in range(3):
                writer.add_scalar("val/loss", 1 + lr - step / 4, step)
                writer.add_scalar("epoch", step, step)
        (folder / "hparams.yaml").write_text(f"part:\n  lr: {lr}\n")
    result = runs.collect([tmp_path / "lightning_logs", sweep / "2"])
    assert [run.name for run in result] == ["lightning_logs/version_0", "lightning_logs/version_1", "lr/2"]
    assert result[0].curves == {
        "val/loss": [(0, pytest.approx(1.1)), (1, pytest.approx(0.85)), (2, pytest.approx(0.6))]
    }
    compared = compare.compare(result)
    assert "part.lr" in compared.keys and compared.best["val/loss"] == 0


def test_a_folder_of_mlflow_is_read_as_runs(tmp_path):
    for number, lr in enumerate((0.1, 0.2)):
        folder = tmp_path / "mlruns/7" / f"{number}a"
        for part in ("metrics/val", "params/part", "tags"):
            (folder / part).mkdir(parents=True)
        (folder / "meta.yaml").write_text("run_name: given\nstatus: 3\n")
        (folder / "metrics/val/loss").write_text(f"1700000000000 {1 + lr} 0\n1700000000001 {0.5 + lr} 4\n")
        (folder / "params/part/lr").write_text(str(lr))
        (folder / "params/seed").write_text("1")
        (folder / "tags/mlflow.runName").write_text(f"run-{number}")
    (tmp_path / "mlruns/7/meta.yaml").write_text("name: lr\n")  # belongs to the experiment
    result = runs.collect([tmp_path / "mlruns/7"])
    assert [(run.name, run.state) for run in result] == [("run-0", "finished"), ("run-1", "finished")]
    assert result[0].curves == {"val/loss": [(0, 1.1), (4, 0.6)]} and result[0].config == {"part.lr": 0.1, "seed": 1}
    compared = compare.compare(result)
    assert compared.keys == ["part.lr"] and compared.best["val/loss"] == 0
    (folder / "metrics/val/loss").write_text("no numbers")
    with pytest.raises(UserError, match=r"MLflow run .*1a is damaged"):
        runs.collect([folder])


def test_runs_are_read_from_an_mlflow_experiment(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow reads its own stores")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}")
    client = mlflow.MlflowClient()
    experiment = client.create_experiment("rates")
    for lr, group in ((0.1, "a"), (0.2, "a"), (0.3, "b")):
        run = client.create_run(experiment, tags={"group": group}, run_name=f"run-{lr}").info.run_id
        client.log_param(run, "part/lr", lr)
        for step in range(2):
            client.log_metric(run, "val/loss", 1 + lr - step / 2, step=step)
        client.set_terminated(run)
    result = runs.from_mlflow("rates", "a")
    assert {run.name: run.config for run in result} == {"run-0.1": {"part.lr": 0.1}, "run-0.2": {"part.lr": 0.2}}
    assert {run.curves["val/loss"][-1] for run in result} == {(1, 0.6), (1, 0.7)} and len(
        runs.from_mlflow("rates")
    ) == 3
    assert [run.config for run in runs.collect([tmp_path / experiment])] != []
    with pytest.raises(UserError, match="MLflow has no experiment rats; it has Default, rates"):
        runs.from_mlflow("rats")


def test_csv_contains_the_unrounded_numbers(sweep):
    rows = list(csv.DictReader(compare.to_csv(compare.compare(runs.collect([sweep]))).splitlines()))
    assert rows[0]["part.lr"] == "0.1" and float(rows[0]["val/psnr"]) == 21.0
    assert float(rows[0]["val/psnr (std)"]) == pytest.approx(2**0.5) and rows[1]["val/psnr (std)"] == ""


def test_the_comparison_page_contains_table_curves_and_pictures(sweep):
    result = runs.collect([sweep])
    text = page.page(compare.compare(result), result, "A <title>")
    assert "A &lt;title&gt;" in text and '<td class="number best">1.2</td>' in text
    assert text.count("data:image/png;base64,") == 1  # one curve picture: val/loss
    assert text.count("data:image/jpeg;base64,") == 2
    assert not re.search(r"(src|href)=['\"]?https?:", text)


def test_the_compare_stage_writes_markdown_csv_and_html(sweep, tmp_path, capsys):
    cfg = OmegaConf.create(
        {
            "runs": [],
            "sweep": "lr",
            "wandb": None,
            "mlflow": None,
            "root": str(tmp_path),
            "columns": None,
            "maximize": [],
            "title": None,
            "output": str(tmp_path / "out"),
        }
    )
    stage.run(cfg)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {f"comparison.{e}" for e in ("md", "csv", "html")}
    assert "part.lr" in capsys.readouterr().out
    cfg.sweep = None
    with pytest.raises(UserError, match="compare what"):
        stage.run(cfg)


def test_the_error_for_a_folder_without_runs_names_it(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.*no such folder"):
        runs.collect([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="no run in"):
        runs.collect([tmp_path])
