"""Remote files are copied and kept up to date: every kind of data set, weights, runs to compare."""

from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFile

from oodgan import remote
from oodgan.cli import main
from oodgan.data.opening import open_source
from oodgan.data.sources import Folder, Parquet, WebDataset, Zip
from oodgan.errors import UserError
from oodgan.remote import local
from oodgan.tracking import runs
from oodgan.weights import trained


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OODGAN_CACHE", str(tmp_path / "cache"))
    remote._copy.cache_clear()


@pytest.fixture
def bucket():
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()


def put(system, path, data):
    system.pipe_file(path, data)
    remote._copy.cache_clear()  # as in a new process


def test_a_local_path_is_returned_unchanged(tmp_path):
    assert local(tmp_path) == tmp_path and local("~/x") == Path.home() / "x" and local("a/b") == Path("a/b")


def test_a_copy_is_updated_when_remote_files_change(bucket):
    for name in ("faces/a.txt", "faces/deep/b.txt"):
        put(bucket, f"/bucket/{name}", name.encode())
    folder = local("memory://bucket/faces")
    assert folder.parts[-2:] == ("bucket", "faces") and (folder / "deep/b.txt").read_text() == "faces/deep/b.txt"
    stamp = (folder / "a.txt").stat().st_mtime_ns
    put(bucket, "/bucket/faces/deep/b.txt", b"longer than before")
    put(bucket, "/bucket/faces/c.txt", b"new")
    assert local("memory://bucket/faces") == folder
    assert (folder / "deep/b.txt").read_text() == "longer than before" and (folder / "c.txt").read_text() == "new"
    assert (folder / "a.txt").stat().st_mtime_ns == stamp  # not copied again
    bucket.rm("/bucket/faces/c.txt")
    remote._copy.cache_clear()
    assert not (local("memory://bucket/faces") / "c.txt").exists()
    assert not list(folder.rglob("*.partial"))


def test_an_interrupted_copy_continues(bucket, monkeypatch):
    for i in range(5):
        put(bucket, f"/bucket/n/{i}", bytes([i]))
    monkeypatch.setattr(remote, "_BATCH", 2)
    kind, copied = type(bucket), []
    get = kind.get

    def fails_after_four(self, names, paths):
        copied.extend(names)
        if len(copied) > 4:
            raise OSError("the line is cut")
        return get(self, names, paths)

    monkeypatch.setattr(kind, "get", fails_after_four)
    with pytest.raises(UserError, match=r"memory://bucket/n cannot be read: the line is cut"):
        local("memory://bucket/n")
    monkeypatch.setattr(kind, "get", lambda self, names, paths: (copied.extend(names), get(self, names, paths))[1])
    assert sorted(path.name for path in local("memory://bucket/n").glob("[0-9]")) == [*"01234"]
    assert len(copied) == 6  # four, the failed one, and the failed one again


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://bucket/none", "there is no such file or folder"),
        ("nothing://bucket/x", "cannot be read: Protocol not known: nothing"),
        ("memory://bucket/*.tar", "there is no such file or folder"),
        ("memory://bucket/bad", "whose name cannot be a file's here"),
    ],
)
def test_missing_or_unsafe_remote_paths_are_one_line_errors(bucket, tmp_path, url, message):
    climbing = "/bucket/bad/../../escape"
    bucket.store[climbing] = MemoryFile(bucket, climbing, b"x")
    with pytest.raises(UserError, match=message):
        local(url)
    assert not list(tmp_path.rglob("escape"))


def test_every_kind_of_data_set_is_read_from_a_remote_url(bucket, tmp_path, draw_face):
    """The remote data set has the same images and pixels as the local folder."""
    from oodgan.data.conversion import convert

    folder = tmp_path / "faces"
    folder.mkdir()
    for i in range(3):
        draw_face(i, 48).save(folder / f"{i}.png")
    here = Folder(folder, 32)
    kinds = {"folder": Folder, "a.zip": Zip, "shards": WebDataset, "table.parquet": Parquet}
    for name, kind in kinds.items():
        if name != "folder":
            if kind is Parquet:
                pytest.importorskip("pyarrow")
            convert(here, tmp_path / name)
        source = folder if name == "folder" else tmp_path / name
        bucket.put(str(source), f"/bucket/{name}", recursive=True)
        remote._copy.cache_clear()
        for opened in (kind(f"memory://bucket/{name}", 32), open_source(f"memory://bucket/{name}", 32)):
            assert type(opened) is kind and len(opened) == 3
            assert all((opened[i]["image"] == here[i]["image"]).all() for i in range(3))
    assert len(WebDataset("memory://bucket/shards/*.tar", 32)) == 3
    # a file: URL names the local file system
    assert len(Folder(f"file://{folder}", 32)) == 3


def test_weights_and_runs_are_read_from_a_remote_url(bucket, tmp_path):
    import torch

    from oodgan.tracking.artifacts import Manifest

    run = tmp_path / "one"
    (run / "artifact").mkdir(parents=True)
    trained.save(run / "artifact/weights.safetensors", {"a": torch.ones(2)}, part="diffcam")
    Manifest("diffcam", {"diffcam": {"fit": {"lr": 0.1}}}, seed=1, metrics={"val/loss": 0.5}).save(run / "artifact")
    bucket.put(str(run), "/bucket/sweep/0", recursive=True)
    result = trained.locate("memory://bucket/sweep/0")
    assert torch.equal(trained.load(result, "diffcam")[0]["a"], torch.ones(2))
    (compared,) = runs.collect(["memory://bucket/sweep"])
    assert compared.name == "sweep/0" and compared.metrics == {"val/loss": 0.5}
    assert compared.config["diffcam.fit.lr"] == 0.1
    copies = list((tmp_path / "cache/remote").rglob("weights.safetensors"))
    assert len(copies) == 1  # only for loading the weights: a comparison does not copy them


def make_error(name, message="", cause=None, base=Exception, **more):
    """Returns an error as a library would raise it, with a class of this name."""
    error = type(name, (base,), more)(message)
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("s3://b/x", ImportError("Install s3fs to access S3"), r"is not installed: pip install 'oodgan\[remote\]'"),
        ("sftp://b/x", ImportError("requires paramiko"), r"is not installed \(requires paramiko\)"),
        ("s3://b/x", PermissionError("Forbidden"), r"refuses access \(Forbidden\); check AWS_PROFILE, or"),
        (
            "hf://datasets/a/b/x",
            make_error(
                "RepositoryNotFoundError", "401", base=FileNotFoundError, response=SimpleNamespace(status_code=401)
            ),
            r"refuses access \(401\); check HF_TOKEN",
        ),
        (
            "https://host/x",
            make_error("FileNotFoundError", "x", make_error("ClientResponseError", status=403), FileNotFoundError),
            "refuses access .* check the credentials",
        ),
        ("s3://b/x", make_error("NoCredentialsError", "none"), r"needs credentials \(none\); check AWS_PROFILE"),
        ("gs://b/x", make_error("DefaultCredentialsError", "none"), "check GOOGLE_APPLICATION_CREDENTIALS"),
        ("s3://b/x", make_error("EndpointConnectionError", "no"), "reached .* network and FSSPEC_S3_ENDPOINT_URL"),
        (
            "hf://datasets/a/b/x",
            make_error("OfflineModeIsEnabled", "off"),
            r"cannot be reached \(off\); check the network$",
        ),
        ("memory://b/x", OSError(28, "No space left on device"), "No space left on device.; set OODGAN_CACHE"),
        ("memory://b/x", ValueError("two\nlines"), "cannot be read: two lines"),
    ],
)
def test_an_error_names_the_cause_and_the_remedy(url, error, message):
    with pytest.raises(UserError, match=message) as expected_message, remote._reaching(url):
        raise error
    assert str(expected_message.value).startswith(url)


def test_training_resumes_from_a_remote_run(bucket, tmp_path):
    from oodgan.training.call import Call
    from oodgan.training.checkpoints import find

    put(bucket, "/bucket/run/checkpoints/last.ckpt", b"weights")
    call = Call({}, {"max_steps": 1}, tmp_path / "new", "memory://bucket/run", None, ())
    call.check()
    assert find(call.resume).read_bytes() == b"weights"


@pytest.mark.parametrize(
    "repository", ["datasets/people/faces/data/*.parquet", "datasets/people/faces", "people/weights"]
)
def test_an_unreachable_hub_is_a_one_line_error(repository, monkeypatch, tmp_path, capsys):
    pytest.importorskip("huggingface_hub", reason="hf:// needs huggingface_hub (extra remote)")
    monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": "http://127.0.0.1:1"})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["data", "check", f"hf://{repository}", "faces=0", "to=report.json"])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and line.startswith(f"error: hf://{repository} cannot be reached"), line
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]
