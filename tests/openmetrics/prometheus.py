"""A real Prometheus that scrapes a service for the time of a check."""

import contextlib
import json
import pathlib
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

DEADLINE_S = 60


def wait_for(what, ask):
    """Asks until the answer is not empty, and returns it."""
    end = time.monotonic() + DEADLINE_S
    while True:
        try:
            answer = ask()
        except OSError:
            answer = None  # does not listen yet
        if answer:
            return answer
        if time.monotonic() > end:
            sys.exit(f"{what}: not within {DEADLINE_S} s")
        time.sleep(0.2)


def get(url, **parameters):
    with urllib.request.urlopen(f"{url}?{urllib.parse.urlencode(parameters)}", timeout=10) as response:
        return json.load(response)["data"]


@contextlib.contextmanager
def prometheus(program, target, **protocols):
    """Scrapes `target` once per second by a job for each protocol. Yields the URL of the API."""
    job = {"static_configs": [{"targets": [target.removeprefix("http://")]}]}
    config = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": name, "scrape_protocols": [protocol], **job} for name, protocol in protocols.items()],
    }
    version = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
    # Prometheus 3.9 replaced the flag by a setting.
    if tuple(map(int, version.split()[2].split(".")[:2])) >= (3, 9):
        config["global"]["scrape_native_histograms"] = True
    with tempfile.TemporaryDirectory() as folder:
        path, log = pathlib.Path(folder, "prometheus.json"), pathlib.Path(folder, "log")
        path.write_text(json.dumps(config))
        flags = ["--enable-feature=native-histograms,exemplar-storage", "--web.listen-address=127.0.0.1:0"]
        command = [program, *flags, f"--config.file={path}", f"--storage.tsdb.path={folder}/data", "--log.format=json"]
        process = subprocess.Popen(command, stderr=log.open("w"))

        def address():
            lines = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
            return next((line["address"] for line in lines if line["msg"] == "Listening on"), None)

        try:
            yield f"http://{wait_for('Prometheus listens', address)}/api/v1"
        finally:
            process.terminate()
            process.wait()
