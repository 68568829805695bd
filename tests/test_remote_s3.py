"""Data, weights and runs in a bucket: commands read them from a local S3 server."""

import json
import os

import fsspec
import pytest
import requests
import torch

from oodgan import remote
from oodgan.cli import main
from oodgan.remote import local
from oodgan.tracking.artifacts import Manifest
from oodgan.weights import trained

s3fs = pytest.importorskip("s3fs", reason="s3:// needs s3fs (extra remote)")
boto3 = pytest.importorskip("boto3", reason="boto3 makes the server's accounts")
server = pytest.importorskip("moto.server", reason="moto is the server: pip install 'moto[s3]' flask flask-cors")

LISTS = {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": "*"}
INVERSION = ["inversion", "experiment=tiny", "data=folder", "inverter.fit.codes.max_steps=0"]
CASES = {
    "data": ["data", "check", "s3://{}/faces", "faces=0", "to=out/report.json"],
    "training": [*INVERSION, "data.source.root=s3://{}/faces", "root=out"],
    "weights": ["ghosts", "experiment=tiny", "diffcam.weights=s3://{}/run/diffcam", "root=out"],
    "comparison": ["compare", "s3://{}/run", "output=out"],
}


@pytest.fixture(scope="module")
def endpoint():
    """The server's address. It accepts any credentials unless `checks_credentials` is used."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("AWS_", "FSSPEC_S3"))]:
            patch.delenv(name)
        for name, value in {
            "ACCESS_KEY_ID": "key",
            "SECRET_ACCESS_KEY": "secret",
            "DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(f"AWS_{name}", value)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        moto = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        moto.start()
        host, port = moto.get_host_and_port()
        patch.setenv("FSSPEC_S3_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setitem(fsspec.config.conf, "s3", {})
        fsspec.config.set_conf_env(fsspec.config.conf)  # as in a new process
        yield f"http://{host}:{port}"
        moto.stop()


@pytest.fixture(scope="module")
def bucket(endpoint, tmp_path_factory, draw_face):
    """The folder whose images and training run are in the bucket `own`."""
    folder = tmp_path_factory.mktemp("bucket")
    (folder / "faces").mkdir()
    for i in range(12):
        draw_face(i, 32).save(folder / "faces" / f"{i}.png")
    artifact = folder / "run/diffcam/artifact"
    artifact.mkdir(parents=True)
    trained.save(artifact / trained.FILE, {"a": torch.arange(3.0)}, part="diffcam")
    Manifest("diffcam", {"diffcam": {"fit": {"lr": 0.1}}}, seed=1, metrics={"val/loss": 0.5}).save(artifact)
    system = fsspec.filesystem("s3")
    system.mkdir("own")
    system.put(f"{folder}/", "own/", recursive=True)
    return folder


@pytest.fixture(autouse=True)
def new_process(endpoint, tmp_path, monkeypatch):
    """An empty cache and folder, and no memory of earlier requests."""
    monkeypatch.setenv("OODGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    remote._copy.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def checks_credentials(endpoint, bucket):
    """During this test the server checks credentials."""

    def free_requests(count):
        requests.post(f"{endpoint}/moto-api/reset-auth", data=str(count).encode()).raise_for_status()

    free_requests(0)
    yield
    free_requests(10**9)


@pytest.fixture
def error_of(tmp_path, capsys):
    """`error_of(*words)`: run a command that must exit with 2 and write no files; returns its error line."""

    def run(*words):
        with pytest.raises(SystemExit) as stop:
            main([*words])
        *_, line = capsys.readouterr().err.strip().splitlines()
        left = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]
        assert stop.value.code == 2 and line.startswith("error: ") and not left, (line, left)
        return line.removeprefix("error: ")

    return run


def run(*words):
    with pytest.raises(SystemExit) as stop:
        main([*words])
    assert stop.value.code == 0


def test_a_data_set_in_a_bucket_is_checked(bucket, tmp_path):
    run("data", "check", "s3://own/faces", "faces=0", "to=report.json")
    assert json.loads((tmp_path / "report.json").read_text())["images"] == 12


def test_training_on_a_bucket_gives_the_same_weights_as_on_the_local_folder(bucket, tmp_path):
    """`data=folder` with a folder in a bucket gives the same weights as with the local folder."""
    split = ["data.split.val=0.3", "data.split.test=0.0"]
    for root, where in (("there", "s3://own/faces"), ("here", bucket / "faces")):
        run(*INVERSION, f"data.source.root={where}", f"root={root}", *split)
    there, here = (trained.load(tmp_path / root / "tiny/inversion", "encoder")[0] for root in ("there", "here"))
    assert there.keys() == here.keys() and all(torch.equal(there[name], here[name]) for name in here)


def test_weights_are_loaded_from_a_bucket(bucket, tmp_path):
    for place in ("run/diffcam", "run/diffcam/artifact", "run/diffcam/artifact/weights.safetensors"):
        assert torch.equal(trained.load(f"s3://own/{place}", "diffcam")[0]["a"], torch.arange(3.0))


def test_runs_in_a_bucket_are_compared_without_copying_weights(bucket, tmp_path):
    run("compare", "s3://own/run", "output=out")
    assert "0.5" in (tmp_path / "out/comparison.csv").read_text()
    assert not list((tmp_path / "cache").rglob("*.safetensors"))  # a comparison needs no weights


@pytest.mark.parametrize("case", CASES)
def test_a_bucket_that_does_not_exist_is_a_one_line_error(case, bucket, error_of):
    assert "s3://none/" in (line := error_of(*(word.format("none") for word in CASES[case])))
    assert "there is no such file or folder" in line


@pytest.mark.parametrize("case", CASES)
def test_refused_access_to_a_bucket_is_a_one_line_error(case, bucket, checks_credentials, error_of):
    line = error_of(*(word.format("own") for word in CASES[case]))
    assert "s3://own/" in line and "refuses access" in line and "AWS_PROFILE" in line


@pytest.fixture
def list_only_credentials(endpoint, bucket, monkeypatch):
    """Credentials of a user who may list files, but not read them."""
    accounts = boto3.client("iam", endpoint_url=endpoint)
    accounts.create_user(UserName="reader")
    policy = json.dumps({"Version": "2012-10-17", "Statement": [LISTS]})
    accounts.put_user_policy(UserName="reader", PolicyName="lists", PolicyDocument=policy)
    key = accounts.create_access_key(UserName="reader")["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    s3fs.S3FileSystem.clear_instance_cache()


def test_files_that_may_be_listed_but_not_read_leave_no_partial_copy(
    list_only_credentials, checks_credentials, error_of
):
    assert len(fsspec.filesystem("s3").ls("own/faces")) == 12
    assert "s3://own/faces refuses access" in error_of(*(word.format("own") for word in CASES["data"]))


def test_missing_or_unknown_credentials_are_errors_and_public_files_need_none(bucket, error_of, monkeypatch):
    fsspec.filesystem("s3").chmod("own/faces", "public-read", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    words = [word.format("own") for word in CASES["data"]]
    assert "s3://own/faces needs credentials" in error_of(*words)
    monkeypatch.setenv("AWS_PROFILE", "unknown")
    s3fs.S3FileSystem.clear_instance_cache()
    assert "s3://own/faces needs credentials" in (line := error_of(*words)) and "profile (unknown)" in line
    monkeypatch.delenv("AWS_PROFILE")
    monkeypatch.setitem(fsspec.config.conf, "s3", fsspec.config.conf["s3"] | {"anon": "true"})  # FSSPEC_S3_ANON=true
    assert len(list(local("s3://own/faces").iterdir())) == 12
