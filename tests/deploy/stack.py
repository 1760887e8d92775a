#!/usr/bin/env python3
"""Starts docker-compose.yml, breaks it in every way it promises to show, and reads the answers where
a person would: in B's answers, in Jaeger, in Prometheus' alerts, and in the panels of the dashboards.

Needs Docker with compose v2. Its project, ports and volumes are its own (see ENV), so that a stack
that runs already is left alone. All traffic goes to this machine.
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
    "GRAFANA_PORT": "13000",
}
# The load's own faults stay off until the story asks for them.
ENV = {**PORTS, "COMPOSE_PROJECT_NAME": "stack-check", "LOAD_FAULTS_URL": "", **os.environ}
B = f"http://127.0.0.1:{ENV['SERVICE_B_PORT']}"
A_ADMIN = f"http://127.0.0.1:{ENV['SERVICE_A_ADMIN_PORT']}"
JAEGER = f"http://127.0.0.1:{ENV['JAEGER_PORT']}"
GRAFANA = f"http://127.0.0.1:{ENV['GRAFANA_PORT']}"
PROMETHEUS = Prometheus(f"http://127.0.0.1:{ENV['PROMETHEUS_PORT']}")
GRACE = 12  # seconds, docker-compose.yml's stop_grace_period
BOARDS = {board["uid"]: board for board in panels.dashboards()}
START = time.monotonic()
passed = 0


# --- saying and asking -----------------------------------------------------------------------------


def say(text):
    print(f"\n-- {text} ({time.monotonic() - START:.0f} s)", flush=True)


def ok(text):
    global passed
    passed += 1
    print(f"   ok  {text}", flush=True)


def check(condition, text):
    if not condition:
        raise SystemExit(f"   NOT {text}")
    ok(text)


def wait(text, condition, within):
    """Asks until `condition` returns something true (returned) or the time is up."""
    begun, last = time.monotonic(), None
    while time.monotonic() - begun < within:
        try:
            last = condition()
            if last:
                ok(f"{text} ({time.monotonic() - begun:.0f} s)")
                return last
        except (OSError, ValueError, KeyError) as error:
            last = error
        time.sleep(0.5)
    raise SystemExit(f"   NOT within {within} s: {text}; last: {last!r}")


def compose(*arguments, **options):
    options = {"check": True, "capture_output": True, "text": True, "env": ENV, **options}
    return subprocess.run(["docker", "compose", *arguments], cwd=ROOT, **options)


def docker(*arguments):
    return subprocess.run(["docker", *arguments], env=ENV, check=True, capture_output=True, text=True).stdout


def container(service):
    name = compose("ps", "--all", "--quiet", service).stdout.strip()
    return json.loads(docker("inspect", name))[0]


def http(url, method="GET", body=None, timeout=5):
    """(status, headers, body) whatever the status."""
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def up(*services, profile=()):
    begun = time.monotonic()
    result = compose(*profile, "up", "--detach", "--wait", "--wait-timeout", "180", *services, check=False)
    if result.returncode:
        raise SystemExit(f"   NOT up:\n{result.stderr}")
    return time.monotonic() - begun


# --- panels as a person sees them --------------------------------------------------------------------


def shown(board, title):
    """{legend: value} of a panel, all its queries together, at this moment."""
    result = {}
    for panel, target, expression in panels.queries(BOARDS[board]):
        if panel["title"] == title:
            for labels, value in PROMETHEUS.query(expression):
                result[panels.legend(target["legendFormat"], labels)] = value
    return result


def panel_shows(board, title, series, predicate, what, within=40):
    wait(
        f"{board} / {title}: {series} {what}",
        lambda: any(name == series and predicate(value) for name, value in shown(board, title).items()),
        within,
    )


def above(limit):
    return (lambda value: value > limit), f"above {limit:g}"


def below(limit):
    return (lambda value: value < limit), f"below {limit:g}"


def error_counts():
    return {labels["error_type"]: value for labels, value in PROMETHEUS.query("sum by (error_type) (http_client_request_errors_total)")}


def check_grown(before, kinds, allowed=()):
    """`canceled` is the load's own business: it is stopped now and then."""
    grown = {k for k, v in error_counts().items() if v > before.get(k, 0)} - {"canceled", *allowed}
    check(grown == set(kinds), f"errors grew of kind {', '.join(sorted(grown)) or 'none'} alone")


def wait_alert(*names, within):
    wait(f"firing: {', '.join(names)}", lambda: set(names) <= PROMETHEUS.alerts(), within)


# --- the story ---------------------------------------------------------------------------------------


def starts():
    say("one command, and everything is healthy")
    took = up()
    ok(f"up --wait ({took:.0f} s)")
    for service in ("service-a", "service-b", "jaeger", "prometheus", "grafana"):
        check(container(service)["State"]["Health"]["Status"] == "healthy", f"{service} is healthy")


def is_hardened():
    say("nobody gets more than they need")
    for service in compose("ps", "--services").stdout.split():
        one = container(service)
        host, config = one["HostConfig"], one["Config"]
        bindings = [b for ports in (host["PortBindings"] or {}).values() for b in ports]
        check(
            host["ReadonlyRootfs"]
            and host["CapDrop"] == ["ALL"]
            and "no-new-privileges:true" in host["SecurityOpt"]
            and host["Memory"] > 0
            and config["User"] not in ("", "0", "root")
            and all(b["HostIp"] == "127.0.0.1" for b in bindings),
            f"{service}: user {config['User']}, read-only, no capabilities, {host['Memory'] >> 20} MiB, "
            f"{len(bindings)} ports, on loopback",
        )
    shell = subprocess.run(["docker", "run", "--rm", "--entrypoint", "sh", container("service-b")["Image"]], env=ENV, capture_output=True)
    check(shell.returncode != 0, "the services' image has no shell")


def one_call():
    say("one curl, one trace of three spans")
    status, headers, body = http(f"{B}/call-echo?msg=hello")
    check((status, body) == (200, b'{"service_a":{"echo":"hello"},"service_b":"ok"}'), "B answers with A's echo")
    trace = headers["x-trace-id"]

    def spans():
        found = json.loads(http(f"{JAEGER}/api/traces/{trace}")[2])["data"]
        return found if found and len(found[0]["spans"]) == 3 else None

    found = wait(f"Jaeger has 3 spans of {trace}", spans, 20)[0]
    by_name = {(found["processes"][s["processID"]]["serviceName"], s["operationName"]): s for s in found["spans"]}
    chain = [("service-b", "GET /call-echo"), ("service-b", "GET"), ("service-a", "GET /echo")]
    check(set(by_name) == set(chain), f"they are {', '.join(' '.join(c) for c in chain)}")
    parents = [[r["spanID"] for r in by_name[c]["references"]] for c in chain]
    check(parents == [[], [by_name[chain[0]]["spanID"]], [by_name[chain[1]]["spanID"]]], "each is the parent of the next")


def is_wired():
    say("Prometheus and Grafana know what they should")
    jobs = {"service-a", "service-b", "prometheus"}
    wait("targets up: " + ", ".join(sorted(jobs)), lambda: {l["job"] for l, v in PROMETHEUS.query("up") if v == 1} == jobs, 30)
    status, _, body = http(f"{GRAFANA}/api/health")
    check(status == 200, f"Grafana is well: {body.decode().strip()}")
    for uid, board in BOARDS.items():
        status, _, body = http(f"{GRAFANA}/api/dashboards/uid/{uid}")
        check(status == 200 and json.loads(body)["dashboard"]["title"] == board["title"], f"Grafana has {board['title']}")
    status, _, body = http(f"{GRAFANA}/api/search?type=dash-db")
    check(len(json.loads(body)) == len(BOARDS), "and no other dashboard")


def every_query_answers():
    say("a steady load with some faults: every panel and rule has data within a minute")
    up("load", profile=("--profile", "load"))
    begun = time.monotonic()
    # What only shows where something went wrong once: a few answers of A's that are no answers.
    wait("the load runs", lambda: shown("overview", "Requests").get("service-b", 0) > 1, 30)
    set_fault("some answers are 500", error_rate=0.3, status=500)

    asked = [(board["uid"], p["title"], t["expr"], e) for board in BOARDS.values() for p, t, e in panels.queries(board)]
    only_in_trouble = {("overview", "Alerts")}

    def silent():
        return [(u, t) for u, t, _, e in asked if not PROMETHEUS.query(e) and (u, t) not in only_in_trouble]

    def rules():
        return [r for g in PROMETHEUS.get("rules")["groups"] for r in g["rules"]]

    def unwell():
        bad = [f"{r['name']}: {r.get('lastError')}" for r in rules() if r["health"] != "ok"]
        records = {r["name"] for r in rules() if r["type"] == "recording"}
        return bad + [f"{name}: no data" for name in records if not PROMETHEUS.query(name)]

    last = None
    while (last := silent() + unwell()) and time.monotonic() - begun < 60:
        time.sleep(1)
    check(not last, f"{len(asked)} queries of {sum(len(panels.panels(b)) for b in BOARDS.values())} panels answer, "
          f"{len(rules())} rules are well, {time.monotonic() - begun:.0f} s after the load began; silent: {last or 'none'}")  # fmt: skip
    for board in BOARDS.values():
        for variable in board["templating"]["list"]:
            offers = PROMETHEUS.label_values(panels.substitute(variable["definition"], panels.variables(board)))
            check(offers, f"{board['uid']}: {variable['label']} offers {', '.join(offers)}")
            for offer in offers:
                chosen = panels.variables(board, **{variable["name"]: offer})
                for panel in panels.panels(board):
                    for target in panel["targets"]:
                        PROMETHEUS.query(panels.substitute(target["expr"], chosen))
    exemplars_open_traces()
    for board, title, series, predicate in (
        ("calls-to-a", "Errors by kind", "500", above(0)),
        ("calls-to-a", "Answers by status", "500", above(0)),
        ("overview", "Errors by kind", "service-b 500", above(0)),
        ("overview", "Errors by kind", "service-a 500", above(0)),
        ("overview", "Requests by status", "service-b 503", above(0)),
        ("overview", "Error ratio over time", "service-b", above(0.1)),
    ):
        panel_shows(board, title, series, *predicate)
    clear_faults()


def exemplars_open_traces():
    """Each panel whose points are requests: the newest dot is a trace that Jaeger has."""
    for board in BOARDS.values():
        for panel in panels.panels(board):
            dots, asked = [], [t for t in panel["targets"] if t.get("exemplar")]
            for target in asked:
                expression = panels.substitute(target["expr"], panels.variables(board))
                series = PROMETHEUS.get("query_exemplars", query=expression, start=time.time() - 300, end=time.time())
                dots += [(dot["timestamp"], dot["labels"]["trace_id"]) for one in series for dot in one["exemplars"]]
            if asked:
                check(dots, f"{board['uid']} / {panel['title']}: {len(dots)} dots")
                trace = max(dots)[1]
                wait("the newest opens its trace", lambda: json.loads(http(f"{JAEGER}/api/traces/{trace}")[2])["data"], 20)


def set_fault(text, **fault):
    status, _, body = http(f"{A_ADMIN}/faults", "PUT", fault)
    check(status == 200, f"fault on: {text}: {body.decode().strip()}")


def clear_faults():
    status, _, _ = http(f"{A_ADMIN}/faults", "DELETE")
    check(status < 300, "faults off")


def every_fault_shows():
    """Each fault turns up its own kind of error, and no other."""
    for kind, fault, more in (
        ("decode", {"garbage": True}, [("calls-to-a", "Errors in this time range", "decode", above(0))]),
        ("reset", {"reset": True}, [("calls-to-a", "Failed calls", "failed", above(0.05))]),
        ("timeout", {"delay_ms": 1500}, [("calls-to-a", "Latency as B sees it", "p95", above(0.9)), ("calls-to-a", "In flight in A", "requests", above(0))]),
    ):  # fmt: skip
        say(f"A's fault {json.dumps(fault)} is an error of kind {kind}")
        settle()
        before = error_counts()
        set_fault(kind, **fault)
        panel_shows("calls-to-a", "Errors by kind", kind, *above(0))
        panel_shows("overview", "Errors by kind", f"service-b {kind}", *above(0))
        for board, title, series, predicate in more:
            panel_shows(board, title, series, *predicate)
        clear_faults()
        check_grown(before, {kind})

    say("A slower, but within the limit: latency, and no errors")
    settle()
    before = error_counts()
    set_fault("400 ms", delay_ms=400)
    panel_shows("calls-to-a", "The difference: network and queue", "A's work", *above(0.3))
    panel_shows("calls-to-a", "The difference: network and queue", "between", *below(0.1))
    panel_shows("overview", "p95 latency", "service-b", *above(0.25))
    panel_shows("overview", "Burn of the latency budget", "over 5m", *above(1))
    clear_faults()
    check_grown(before, ())


def settle():
    """Until B was scraped after the last call that an earlier fault has broken was over."""
    moment = time.time() + 2
    query = 'min(timestamp(http_client_request_errors_total))'
    wait("the next scrape", lambda: PROMETHEUS.query(query)[0][1] > moment, 15)


def load_with_faults():
    say("the load profile as it comes: it breaks A by itself, and mends it in the end")

    def broken():
        fault = json.loads(http(f"{A_ADMIN}/faults")[2])
        return any(fault.values()) and fault

    wait("A is broken for a while", broken, 60)
    compose("--profile", "load", "stop", "load")
    check(not broken(), "and well again when the load has stopped")
    report = compose("--profile", "load", "logs", "--no-color", "--no-log-prefix", "load").stdout.strip()
    print("       " + report[report.rfind("load of") :].replace("\n", "\n       "))


def a_stopped():
    say("A stopped: refused")
    settle()
    before = error_counts()
    begun = time.monotonic()
    compose("stop", "service-a")
    took = time.monotonic() - begun
    check(took < GRACE, f"it stops within its grace period ({took:.1f} s)")
    check(container("service-a")["State"]["ExitCode"] == 0, "with exit code 0")
    status, _, body = http(f"{B}/call-echo?msg=hello")
    answer = json.loads(body)
    check((status, answer["error"], answer["service_a"]) == (503, "refused", "unavailable"), f"B says {body.decode()}")
    panel_shows("overview", "Up", "service-a", *below(1))
    panel_shows("calls-to-a", "Errors by kind", "refused", *above(1))
    panel_shows("calls-to-a", "Calls by outcome", "refused", *above(1))
    panel_shows("overview", "Errors by kind", "service-b refused", *above(1))
    panel_shows("overview", "Error ratio over time", "service-b", *above(0.8))
    panel_shows("overview", "Burn of the availability budget", "over 5m", *above(14.4))
    panel_shows("telemetry-health", "Targets up", "up", *below(1))
    check(container("service-b")["State"]["Health"]["Status"] == "healthy", "B stays healthy")
    begun = time.monotonic()
    status, _, body = http(f"{B}/call-echo")
    check(status == 400 and time.monotonic() - begun < 0.5, f"B still answers 400 in {1000 * (time.monotonic() - begun):.0f} ms")
    wait_alert("ServiceARefused", "ScrapeDown", within=120)
    check("ServiceATimingOut" not in PROMETHEUS.alerts(), "ServiceATimingOut stays quiet")
    panel_shows("overview", "Alerts firing", "alerts", *above(1))
    check_grown(before, {"refused"}, allowed={"reset"})  # a call under way as A ended may break off
    up("service-a")
    wait("A is back", lambda: http(f"{B}/call-echo?msg=hello")[0] == 200, 10)


def a_paused_and_jaeger_gone():
    say("A paused: timeout. Jaeger stopped: spans lost, and no request notices")
    settle()
    before = error_counts()
    compose("stop", "jaeger")
    status, _, body = http(f"{B}/call-echo?msg=hello")
    check(status == 200, "without Jaeger B answers as before")
    compose("pause", "service-a")
    begun = time.monotonic()
    status, _, body = http(f"{B}/call-echo?msg=hello")
    took = time.monotonic() - begun
    answer = json.loads(body)
    check((status, answer["error"], answer["http_status"]) == (503, "timeout", 504) and 0.9 < took < 1.5, f"B says timeout after {took:.2f} s")
    panel_shows("calls-to-a", "Errors by kind", "timeout", *above(1))
    panel_shows("calls-to-a", "Latency as B sees it", "p95", *above(0.75))
    panel_shows("overview", "Errors by kind", "service-b timeout", *above(1))
    panel_shows("overview", "Up", "service-a", *below(1))
    begun = time.monotonic()
    status, _, body = http(f"{B}/call-echo")
    check(status == 400 and time.monotonic() - begun < 0.5, f"B still answers 400 in {1000 * (time.monotonic() - begun):.0f} ms")
    wait_alert("ServiceATimingOut", within=120)
    check("ServiceARefused" not in PROMETHEUS.alerts(), "ServiceARefused has ended")
    check_grown(before, {"timeout"})
    compose("unpause", "service-a")
    wait("telemetry-health / Spans lost, and why: a line other than none", lambda: max((v for k, v in shown("telemetry-health", "Spans lost, and why").items() if "none" not in k), default=0) > 0, 60)
    panel_shows("telemetry-health", "Spans lost in this range", "spans", *above(0))
    wait_alert("SpansLost", "ErrorBudgetBurnsFast", within=120)
    up("jaeger")


def address_gone():
    # From here on the load is the one that breaks A, after 45 s; see load_with_faults.
    compose("--profile", "load", "up", "--detach", "load", env={k: v for k, v in ENV.items() if k != "LOAD_FAULTS_URL"})
    say("A's address gone as well: dns, which ServiceARefused covers")
    compose("stop", "service-a", "service-a-net")
    status, _, body = http(f"{B}/call-echo?msg=hello")
    kind = json.loads(body)["error"]
    check(status == 503 and kind in ("dns", "unreachable"), f"B says {kind}")
    up("service-a-net", "service-a", "service-b")
    wait("B answers again", lambda: http(f"{B}/call-echo?msg=hello")[0] == 200, 30)


def bad_settings():
    say("bad settings: one line says why")
    for text, code, word, options in (
        ("a bad number", 2, "SERVICE_A_TIMEOUT_MS", ("-e", "SERVICE_A_TIMEOUT_MS=soon", "service-b")),
        ("an address that is not this machine's", 1, "203.0.113.1", ("-e", "LISTEN_ADDR=203.0.113.1:8081", "service-b")),
    ):
        result = compose("run", "--rm", "--no-deps", "--quiet-pull", *options, check=False)
        lines = [line for line in (result.stdout + result.stderr).splitlines() if word in line]
        check(result.returncode == code and lines, f"{text}: exit code {result.returncode}, {lines[0] if lines else result.stderr!r}")


def dies_at_start():
    say("a service that dies at start: compose says so, and its log says why")
    begun = time.monotonic()
    broken = {**ENV, "SERVICE_A_TIMEOUT_MS": "soon"}
    result = compose("up", "--detach", "--wait", "--wait-timeout", "60", "service-b", check=False, env=broken)
    check(result.returncode != 0 and "service-b" in result.stderr, f"up --wait fails after {time.monotonic() - begun:.0f} s: {result.stderr.strip().splitlines()[-1]}")
    log = compose("logs", "--no-color", "--no-log-prefix", "--tail", "3", "service-b").stdout.strip().splitlines()
    check("SERVICE_A_TIMEOUT_MS" in log[-1], f"its log: {log[-1]}")
    up("service-b")


def recovers():
    say("with A and Jaeger back, the alerts end")
    ended = {"ServiceARefused", "ServiceATimingOut", "SpansLost", "ScrapeDown"}
    wait(f"quiet again: {', '.join(sorted(ended))}", lambda: not PROMETHEUS.alerts() & ended, 120)


def restarts():
    say("down and up again: the data is still there")
    moment = time.time()
    begun = time.monotonic()
    compose("stop", "--timeout", str(GRACE))
    took = time.monotonic() - begun
    codes = {s: container(s)["State"]["ExitCode"] for s in ("service-a", "service-b")}
    check(took < GRACE and set(codes.values()) == {0}, f"everything stops within the grace period ({took:.1f} s), exit codes {codes}")
    compose("--profile", "load", "down")
    took = up()
    ok(f"up --wait ({took:.0f} s)")
    kept = PROMETHEUS.get("query", query='http_server_request_duration_seconds_count{job="service-b"}', time=moment)["result"]
    check(kept, "Prometheus still has what it saw before")
    mounts = [m for m in container("grafana")["Mounts"] if m["Destination"] == "/var/lib/grafana"]
    check(mounts and mounts[0]["Type"] == "volume" and mounts[0]["Name"].endswith("grafana-data"), "Grafana's data is on its volume")
    health = json.loads(http(f"{GRAFANA}/api/health")[2])
    if health.get("standin"):
        check(health["starts"] >= 2, f"which outlived the container (start number {health['starts']})")


def ends():
    say("down, and nothing is left")
    begun = time.monotonic()
    compose("--profile", "load", "down", "--volumes")
    took = time.monotonic() - begun
    check(took < GRACE, f"down within the grace period ({took:.1f} s)")
    left = docker("ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={ENV['COMPOSE_PROJECT_NAME']}")
    check(not left.strip(), "no container is left")


STORY = [starts, is_hardened, one_call, is_wired, every_query_answers, every_fault_shows, a_stopped, a_paused_and_jaeger_gone, address_gone, bad_settings, dies_at_start, load_with_faults, recovers, restarts, ends]


def main():
    compose("--profile", "load", "down", "--volumes", "--remove-orphans", check=False)
    try:
        for chapter in STORY:
            chapter()
    except BaseException:
        compose("--profile", "load", "ps", "--all", capture_output=False, check=False)
        compose("--profile", "load", "logs", "--no-color", "--tail", "25", capture_output=False, check=False)
        raise
    finally:
        compose("unpause", check=False)
        compose("--profile", "load", "down", "--volumes", "--timeout", "5", check=False)
    print(f"\n{passed} checks passed in {time.monotonic() - START:.0f} s")


if __name__ == "__main__":
    main()
