"""A second Prometheus in the stack. It scrapes and evaluates once a minute and calls B by another job.

A panel or an alert that names a service or a data source, or that has a short window, has no data here.
"""

import pathlib
import re
import subprocess
import tempfile

import panels
from harness import ENV, container, docker, empty_panels, heading, service_options, wait

NAME, PORT, JOB = "stack-check-second", "19091", "checkout"
CLIENT = panels.Prometheus(f"http://127.0.0.1:{PORT}")
FOLDER = tempfile.TemporaryDirectory(prefix="second-prometheus.")  # removed at exit
CHOSEN = {"job": JOB, "callee": JOB, "__rate_interval": "240s"}


def start():
    config = (panels.DEPLOY / "prometheus/prometheus.yml").read_text()
    config = re.sub(r"(scrape|evaluation)_interval: 5s", r"\1_interval: 60s", config).replace("job_name: service-b", f"job_name: {JOB}")
    path = pathlib.Path(FOLDER.name, "prometheus.yml")
    path.parent.chmod(0o755)  # the user of the container reads it
    path.write_text(config)
    first = container("prometheus")
    docker(
        "run", "--detach", "--name", NAME, "--network", next(iter(first["NetworkSettings"]["Networks"])), "-p", f"127.0.0.1:{PORT}:9090",
        "-v", f"{path}:/etc/prometheus/prometheus.yml:ro", "-v", f"{panels.DEPLOY}/prometheus/rules:/etc/prometheus/rules:ro",
        first["Config"]["Image"], "--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus",
    )  # fmt: skip


def stop():
    subprocess.run(["docker", "rm", "--force", "--volumes", NAME], env=ENV, capture_output=True)


def check():
    heading(f"a Prometheus that scrapes once a minute and calls B {JOB}: the panels have data")
    wait(f"the dashboards offer {JOB} as a service", lambda: service_options(CLIENT) == [JOB, "service-a"], 90)

    def complete():
        # These show the failures of the last minutes. The faults of the checks before may be older.
        empty = empty_panels(CLIENT, CHOSEN, {"Failed calls by kind", "Failed requests by kind"})
        if empty:
            raise ValueError(f"without data: {empty}")
        return True

    wait("every panel has data at a scrape interval of 60 s", complete, 300)
