"""Helpers of stack.py: Docker Compose, HTTP, checks with deadlines, and the values that panels show.

The Compose project, its ports and its volumes differ from the defaults (see ENV), so that a running stack is
not affected. All traffic stays on this machine.
"""

import json
import os
import pathlib
import subprocess
import time
import urllib.error
import urllib.request

import panels
from panels import Prometheus

ROOT = pathlib.Path(__file__).resolve().parents[2]
PORTS = {
    "SERVICE_A_PORT": "18080",
    "SERVICE_A_ADMIN_PORT": "19464",
    "SERVICE_B_PORT": "18081",
    "JAEGER_PORT": "26686",
    "PROMETHEUS_PORT": "19090",
    "ALERTMANAGER_PORT": "19093",
    "GRAFANA_PORT": "13000",
}
# The load injects no faults until a step enables it.
ENV = {**PORTS, "COMPOSE_PROJECT_NAME": "stack-check", "LOAD_FAULTS_URL": "", **os.environ}
B = f"http://127.0.0.1:{ENV['SERVICE_B_PORT']}"
A_ADMIN = f"http://127.0.0.1:{ENV['SERVICE_A_ADMIN_PORT']}"
JAEGER = f"http://127.0.0.1:{ENV['JAEGER_PORT']}"
GRAFANA = f"http://127.0.0.1:{ENV['GRAFANA_PORT']}"
PROMETHEUS = Prometheus(f"http://127.0.0.1:{ENV['PROMETHEUS_PORT']}")
STOP_GRACE_PERIOD = 12  # seconds, as in docker-compose.yml
BOARDS = {board["uid"]: board for board in panels.dashboards()}
CHOSEN = {"job": "service-a|service-b", "callee": "service-a"}  # what Grafana fills in for All, and for the called service
START = time.monotonic()
passed = 0


def elapsed():
    """Returns the seconds since the start of the run."""
    return time.monotonic() - START


def heading(text):
    print(f"\n-- {text} ({elapsed():.0f} s)", flush=True)


def success(text):
    """Counts and prints a passed check."""
    global passed
    passed += 1
    print(f"   ok  {text}", flush=True)


def check(condition, text):
    """Ends the run if the condition does not hold."""
    if not condition:
        raise SystemExit(f"   NOT {text}")
    success(text)


def wait(text, condition, timeout):
    """Polls until `condition` returns a true value and returns it. Ends the run at the timeout."""
    start, last = time.monotonic(), None
    while time.monotonic() - start < timeout:
        try:
            last = condition()
            if last:
                success(f"{text} ({time.monotonic() - start:.0f} s)")
                return last
        except (OSError, ValueError, KeyError) as error:
            last = error
        time.sleep(0.5)
    raise SystemExit(f"   NOT within {timeout} s: {text}; last: {last!r}")


def compose(*arguments, **options):
    options = {"check": True, "capture_output": True, "text": True, "env": ENV, **options}
    return subprocess.run(["docker", "compose", *arguments], cwd=ROOT, **options)


def docker(*arguments):
    return subprocess.run(["docker", *arguments], env=ENV, check=True, capture_output=True, text=True).stdout


def container(service):
    """Returns what `docker inspect` reports about the container of a service."""
    name = compose("ps", "--all", "--quiet", service).stdout.strip()
    return json.loads(docker("inspect", name))[0]


def up(*services, profile=()):
    """Starts services, waits until they are healthy and returns the seconds this took."""
    start = time.monotonic()
    result = compose(*profile, "up", "--detach", "--wait", "--wait-timeout", "180", *services, check=False)
    if result.returncode:
        raise SystemExit(f"   NOT up:\n{result.stderr}")
    return time.monotonic() - start


def http(url, method="GET", body=None, timeout=5):
    """Returns status, headers and body of a response with any status."""
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def set_fault(text, **fault):
    status, _, body = http(f"{A_ADMIN}/faults", "PUT", fault)
    check(status == 200, f"fault set: {text}: {body.decode().strip()}")


def clear_faults():
    status, _, _ = http(f"{A_ADMIN}/faults", "DELETE")
    check(status < 300, "faults cleared")


def panel_values(board, title, source=PROMETHEUS, **chosen):
    """Returns the current values of all queries of a panel by their legend."""
    result, chosen = {}, {**CHOSEN, **chosen}
    for panel, target, expression in panels.queries(BOARDS[board], **chosen):
        if panel["title"] == title:
            template = panels.substitute(target["legendFormat"], panels.variables(BOARDS[board], **chosen))
            for labels, value in source.query(expression):
                result[panels.legend(template, labels)] = value
    return result


def wait_for_panel(board, title, series, predicate, description, timeout=40):
    wait(
        f"{board} / {title}: {series} {description}",
        lambda: any(name == series and predicate(value) for name, value in panel_values(board, title).items()),
        timeout,
    )


def above(limit):
    """Returns a predicate and its description."""
    return (lambda value: value > limit), f"above {limit:g}"


def below(limit):
    """Returns a predicate and its description."""
    return (lambda value: value < limit), f"below {limit:g}"


def service_options(source=PROMETHEUS):
    """Returns the services that the dashboards offer."""
    return source.label_values(next(v["query"]["query"] for v in BOARDS["service"]["templating"]["list"] if v["name"] == "job"))


def empty_panels(source, chosen, may_be_empty=()):
    """Returns the panels without data, except those that may be empty."""
    may_be_empty = {"Alerts", "Not called by reason", *may_be_empty}
    queries = [(board["uid"], p["title"], e) for board in BOARDS.values() for p, _, e in panels.queries(board, **chosen)]
    return [(uid, title) for uid, title, expr in queries if title not in may_be_empty and not source.query(expr)]


def check_filter(board, variable):
    """Checks that no panel has a value other than 0 for a value of the variable that does not exist."""
    unfiltered = set()
    for panel, target, expression in panels.queries(board, **{**CHOSEN, variable: "absent"}):
        excepted = "not filter this" in panel["description"] or f"${variable}" not in "".join(t["expr"] for t in panel["targets"])
        if not excepted and any(value for _, value in PROMETHEUS.query(expression)):
            unfiltered.add(panel["title"])
    check(not unfiltered, f"{board['uid']}: {variable} filters every panel, or the panel says that it does not; unfiltered: {sorted(unfiltered) or 'none'}")


def error_counts():
    """Returns B's error counters by error kind."""
    return {labels["error_type"]: value for labels, value in PROMETHEUS.query("sum by (error_type) (http_client_request_errors_total)")}


def check_new_errors(before, kinds, allowed=()):
    """Checks which error counters have grown. `canceled` is ignored, because stopping the load causes it."""
    grown = {k for k, v in error_counts().items() if v > before.get(k, 0)} - {"canceled", *allowed}
    check(grown == set(kinds), f"only these error kinds have grown: {', '.join(sorted(grown)) or 'none'}")


def wait_for_alerts(*names, timeout, state="firing", source=PROMETHEUS):
    wait(f"{state}: {', '.join(names)}", lambda: set(names) <= source.alerts(state), timeout)


def wait_for_next_scrape():
    """Waits until B was scraped after all calls that an earlier fault affected have ended."""
    moment = time.time() + 2
    query = "min(timestamp(http_client_request_errors_total))"
    wait("the next scrape", lambda: PROMETHEUS.query(query)[0][1] > moment, 15)
