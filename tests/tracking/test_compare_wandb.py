"""`oodgan compare wandb=...` with wandb's own client, which queries a local server instead of wandb's.

The server answers the client's GraphQL questions with the fields that they name; that wandb's own server does so too is
not tested here.
"""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("wandb")

# name -> group, learning rate, seed, losses
RUNS = {
    "one": ("lr", 0.1, 1, [3.0, 1.0]),
    "two": ("lr", 0.1, 2, [3.0, 2.0]),
    "three": ("lr", 0.2, 1, [3.0, 1.25]),
    "other": ("elsewhere", 0.3, 1, [3.0, 0.5]),
}
PAGE = 2  # runs per response, so that the client must request a second page


def run_fields(name, full):
    group, lr, seed, losses = RUNS[name]
    fields = {"id": f"id-{name}", "name": name, "displayName": f"diffcam-{name}", "projectId": "7", "group": group}
    fields |= {"state": "finished", "jobType": "diffcam", "tags": [], "historyLineCount": len(losses)}
    if not full:  # the client lists runs without these fields and requests them for each run
        return fields
    config = {"diffcam": {"value": {"fit": {"lr": lr}}}, "seed": {"value": seed}, "_wandb": {"value": {"t": 1}}}
    summary = {"val/loss": losses[-1], "_runtime": 3, "epoch": 0, "sheet": {"_type": "images/separated", "count": 1}}
    more = {"config": json.dumps(config), "summaryMetrics": json.dumps(summary), "systemMetrics": "{}"}
    return {**fields, **more, "historyKeys": {"lastStep": len(losses) - 1}}


def history(name, first, end):
    rows = [
        {"_step": step, "trainer/global_step": 10 * step + 9, "val/loss": loss, "epoch": 0, "sheet": {"_type": "image"}}
        for step, loss in enumerate(RUNS[name][3])
    ]
    return [json.dumps(row) for row in rows[first:end]]


def listed(requested):
    group = json.loads(requested["filters"]).get("group")
    names = [name for name, run in RUNS.items() if group in (None, run[0])]
    start = int(requested.get("cursor") or 0)
    shown = list(enumerate(names))[start : start + PAGE]
    edges = [{"node": run_fields(name, full=False), "cursor": str(place + 1)} for place, name in shown]
    info = {"endCursor": str(start + len(shown)), "hasNextPage": start + PAGE < len(names)}
    return {"internalId": "7", "runCount": len(names), "readOnly": False, "runs": {"edges": edges, "pageInfo": info}}


def answer(question, requested):
    if "viewer" in question:
        viewer = {"id": "1", "entity": "me", "username": "me", "email": "", "flags": "{}", "teams": {"edges": []}}
        return {"viewer": viewer}
    if "serverInfo" in question:
        return {"serverInfo": {"features": []}}
    if (requested["entity"], requested["project"]) != ("me", "faces"):
        return {"project": None}
    if "runs(" in question:
        return {"project": listed(requested)}
    name = requested.get("name") or requested.get("run") or requested["runName"]
    if "parquetHistory" in question:
        result = {"parquetHistory": {"parquetUrls": [], "liveData": []}}
    elif "history(" in question:
        result = {"history": history(name, requested["minStep"], requested["maxStep"])}
    else:
        result = run_fields(name, "summaryMetrics" in question or "historyKeys" in question)
    return {"project": {"run": result}}


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path != "/graphql":
            self.send_error(404)
            return
        requested = json.loads(body)
        result = json.dumps({"data": answer(requested["query"], requested.get("variables") or {})}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(result)))
        self.end_headers()
        self.wfile.write(result)

    def log_message(self, *_):
        pass


@pytest.fixture
def compare(tmp_path):
    """`compare(*words)`: run `oodgan compare` with the local server as wandb."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    own = {name: str(tmp_path / "wandb") for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR")}
    own |= {"WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}", "WANDB_API_KEY": "0" * 40}
    own |= {"WANDB_ERROR_REPORTING": "false", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}

    def run(*words):
        command = [sys.executable, "-m", "oodgan", "compare", *words, f"output={tmp_path / 'out'}"]
        environment = {**os.environ, **own}
        environment.pop("WANDB_MODE", None)
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, cwd=tmp_path)

    yield run
    server.shutdown()
    server.server_close()


def test_the_runs_of_a_wandb_group_are_compared(compare, tmp_path):
    done = compare("wandb=me/faces", "sweep=lr")
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "out/comparison.md").read_text().splitlines() == [
        "| run | seeds | diffcam.fit.lr | val/loss |",
        "|---|---|---|---:|",
        "| diffcam-one | 2 | 0.1 | 1.5 ± 0.71 |",
        "| diffcam-three | 1 | 0.2 | **1.25** |",
    ]
    page = (tmp_path / "out/comparison.html").read_text()
    assert page.count("data:image/png;base64,") == 1  # only val/loss is a curve


def test_an_unknown_project_is_a_one_line_error(compare):
    done = compare("wandb=me/nothing")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: wandb does not give the runs of me/nothing: Could not find project nothing")
