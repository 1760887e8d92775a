#!/usr/bin/env python3
"""Starts docker-compose.yml, injects each fault and checks what users see: the responses of B, the traces in
Jaeger, the alerts in Prometheus and the panels of the dashboards.

Needs Docker with Compose v2.
"""

import json
import subprocess
import time

import harness
import panels
import second_prometheus
from harness import (
    A_ADMIN, B, BOARDS, CHOSEN, ENV, GRAFANA, JAEGER, PROMETHEUS, STOP_GRACE_PERIOD,
    above, below, check, check_filter, check_new_errors, clear_faults, compose, container, docker, empty_panels, error_counts, heading, http,
    panel_values, service_options, set_fault, success, up, wait, wait_for_alerts, wait_for_next_scrape, wait_for_panel,
)  # fmt: skip

def check_startup():
    heading("startup: every container becomes healthy")
    took = up(profile=("--profile", "alerting"))
    success(f"up --wait ({took:.0f} s)")
    for service in ("service-a", "service-b", "jaeger", "prometheus", "alertmanager", "grafana"):
        check(container(service)["State"]["Health"]["Status"] == "healthy", f"{service} is healthy")
    second_prometheus.start()


def check_privileges():
    heading("containers have minimal privileges")
    for service in compose("ps", "--services").stdout.split():
        inspection = container(service)
        host, config = inspection["HostConfig"], inspection["Config"]
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
    check(shell.returncode != 0, "the image of the services has no shell")


def check_trace():
    heading("a request is one trace of three spans")
    status, headers, body = http(f"{B}/call-echo?msg=hello")
    check((status, body) == (200, b'{"service_a":{"echo":"hello"},"service_b":"ok"}'), "B responds with the echo of A")
    trace = headers["x-trace-id"]

    def spans():
        found = json.loads(http(f"{JAEGER}/api/traces/{trace}")[2])["data"]
        return found if found and len(found[0]["spans"]) == 3 else None

    found = wait(f"Jaeger has 3 spans of {trace}", spans, 20)[0]
    by_name = {(found["processes"][s["processID"]]["serviceName"], s["operationName"]): s for s in found["spans"]}
    chain = [("service-b", "GET /call-echo"), ("service-b", "GET"), ("service-a", "GET /echo")]
    check(set(by_name) == set(chain), f"the spans are {', '.join(' '.join(c) for c in chain)}")
    parents = [[r["spanID"] for r in by_name[c]["references"]] for c in chain]
    check(parents == [[], [by_name[chain[0]]["spanID"]], [by_name[chain[1]]["spanID"]]], "each span is the parent of the next")


def check_provisioning():
    heading("Prometheus and Grafana are configured")
    jobs = {"service-a", "service-b", "prometheus"}
    wait("targets up: " + ", ".join(sorted(jobs)), lambda: {l["job"] for l, v in PROMETHEUS.query("up") if v == 1} == jobs, 30)
    status, _, body = http(f"{GRAFANA}/api/health")
    check(status == 200, f"Grafana is healthy: {body.decode().strip()}")
    for uid, board in BOARDS.items():
        status, _, body = http(f"{GRAFANA}/api/dashboards/uid/{uid}")
        check(status == 200 and json.loads(body)["dashboard"]["title"] == board["title"], f"Grafana has the dashboard {board['title']}")
    if json.loads(http(f"{GRAFANA}/api/health")[2]).get("standin"):  # the real one shows data sources to administrators only
        source = json.loads(http(f"{GRAFANA}/api/datasources/uid/prometheus")[2])
        links = [link.get("url") for link in source["jsonData"]["exemplarTraceIdDestinations"]]
        check(links == [f"http://localhost:{ENV['JAEGER_PORT']}/trace/${{__value.raw}}"], f"exemplars link to Jaeger and not to Explore: {links}")
    services = json.loads(http(f"{JAEGER}/api/services")[2])["data"] or []
    check("jaeger" not in services, f"Jaeger does not trace itself: it has {', '.join(services)}")
    status, _, body = http(f"{GRAFANA}/api/search?type=dash-db")
    check(len(json.loads(body)) == len(BOARDS), "Grafana has no other dashboard")


def check_queries():
    heading("every panel and rule has data within a minute of load with faults")
    up("load", profile=("--profile", "load"))
    start = time.monotonic()
    wait("the load runs", lambda: panel_values("service", "Requests").get("service-b", 0) > 1, 30)
    # Some panels have data only after a failure.
    set_fault("30 % of the responses are 500", error_rate=0.3, status=500)

    targets = [q for board in BOARDS.values() for q in panels.queries(board, **CHOSEN)]

    def rules():
        return [r for g in PROMETHEUS.get("rules")["groups"] for r in g["rules"]]

    def failed_rules():
        failed = [f"{r['name']}: {r.get('lastError')}" for r in rules() if r["health"] != "ok"]
        records = {r["name"] for r in rules() if r["type"] == "recording"}
        return failed + [f"{name}: no data" for name in records if not PROMETHEUS.query(name)]

    last = None
    while (last := empty_panels(PROMETHEUS, CHOSEN) + failed_rules()) and time.monotonic() - start < 100:
        time.sleep(1)
    check(not last, f"{len(targets)} queries of {sum(len(panels.panels(b)) for b in BOARDS.values())} panels have data, "
          f"{len(rules())} rules are healthy, {time.monotonic() - start:.0f} s after the start of the load; without data: {last or 'none'}")  # fmt: skip
    times = {r["name"]: r["evaluationTime"] for r in rules()}
    check(times["slo:budget_burn:rate30d"] < 0.1, f"the rule over 30 days takes {1000 * times['slo:budget_burn:rate30d']:.1f} ms")
    for board in BOARDS.values():
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                query = panels.substitute(variable["query"]["query"], panels.variables(board, **CHOSEN))
                options = set(PROMETHEUS.label_values(query))
                expected = {"server": {"service-a"}, "instance": {"service-a:9464", "service-b:9464"}}
                check(options == expected.get(variable["name"], {"service-a", "service-b"}), f"{board['uid']}: options of {variable['label']}: {', '.join(sorted(options))}")
                check_filter(board, variable["name"])
    check_exemplars()
    for board, title, series, predicate in (
        ("calls", "Errors by kind", "500", above(0)),
        ("calls", "Responses by status", "500", above(0)),
        ("service", "Errors by kind", "service-b 500", above(0)),
        ("service", "Errors by kind", "service-a 500", above(0)),
        ("service", "Requests by status", "service-b 503", above(0)),
        ("service", "Error ratio over time", "service-b", above(0.1)),
        ("service", "Failed requests by kind", "500", above(0)),
        ("calls", "Failed calls by kind", "500", above(0)),
    ):
        wait_for_panel(board, title, series, *predicate)
    clear_faults()


def check_exemplars():
    """Checks that Jaeger has the trace of the latest exemplar of each panel."""
    for board in BOARDS.values():
        for panel in panels.panels(board):
            exemplars, targets = [], [t for t in panel["targets"] if t.get("exemplar")]
            for target in targets:
                expression = panels.substitute(target["expr"], panels.variables(board, **CHOSEN))
                series = PROMETHEUS.get("query_exemplars", query=expression, start=time.time() - 300, end=time.time())
                exemplars += [(e["timestamp"], e["labels"]["trace_id"]) for found in series for e in found["exemplars"]]
            if targets:
                check(exemplars, f"{board['uid']} / {panel['title']}: {len(exemplars)} exemplars")
                trace = max(exemplars)[1]
                wait("Jaeger has the trace of the latest exemplar", lambda: json.loads(http(f"{JAEGER}/api/traces/{trace}")[2])["data"], 20)


def check_faults():
    """Checks that each fault increases the counter of its error kind and no other."""
    for kind, fault, more in (
        ("decode", {"garbage": True}, [("calls", "Errors in this time range", "decode", above(0))]),
        ("reset", {"reset": True}, [("calls", "Failed calls", "failed", above(0.05))]),
        ("timeout", {"delay_ms": 1500}, [("calls", "Latency measured by the caller", "p95", above(0.9)), ("calls", "In flight in $callee", "requests", above(0))]),
    ):  # fmt: skip
        heading(f"the fault {json.dumps(fault)} causes errors of kind {kind}")
        wait_for_next_scrape()
        before = error_counts()
        set_fault(kind, **fault)
        wait_for_panel("calls", "Errors by kind", kind, *above(0))
        wait_for_panel("service", "Errors by kind", f"service-b {kind}", *above(0))
        for board, title, series, predicate in more:
            wait_for_panel(board, title, series, *predicate)
        clear_faults()
        check_new_errors(before, {kind})

    heading("a delay below the time limit increases the latency and causes no errors")
    wait_for_next_scrape()
    before = error_counts()
    set_fault("400 ms", delay_ms=400)
    wait_for_panel("calls", "Time in $callee and on the network", "service-a", *above(0.3))
    wait_for_panel("calls", "Time in $callee and on the network", "difference", *below(0.1))
    wait_for_panel("service", "p95 latency", "service-b", *above(0.25))
    wait_for_panel("service", "Burn rate of the latency budget", "service-b over 5m", *above(1), timeout=80)  # recorded once a minute
    clear_faults()
    check_new_errors(before, ())


def check_load_faults():
    heading("the load profile injects faults and clears them at its end")

    def active_fault():
        fault = json.loads(http(f"{A_ADMIN}/faults")[2])
        return any(fault.values()) and fault

    wait("a fault is active", active_fault, 60)
    compose("--profile", "load", "stop", "load")
    check(not active_fault(), "no fault is active after the load has stopped")
    report = compose("--profile", "load", "logs", "--no-color", "--no-log-prefix", "load").stdout.strip()
    print("       " + report[report.rfind("load of") :].replace("\n", "\n       "))


def check_stopped_a():
    heading("A is stopped: calls fail with refused")
    wait_for_next_scrape()
    before = error_counts()
    start = time.monotonic()
    compose("stop", "service-a")
    took = time.monotonic() - start
    check(took < STOP_GRACE_PERIOD, f"A stops within its grace period ({took:.1f} s)")
    check(container("service-a")["State"]["ExitCode"] == 0, "A exits with code 0")
    status, _, body = http(f"{B}/call-echo?msg=hello")
    response = json.loads(body)
    check((status, response["error"], response["service_a"]) == (503, "refused", "unavailable"), f"B responds with {body.decode()}")
    two_scrapes = 10 + 5  # and the time that the queries take
    wait_for_panel("service", "Up", "service-a", *below(1), timeout=two_scrapes)
    for title in ("Requests", "Error ratio", "p95 latency", "In flight"):
        wait(f"service / {title}: no value of service-a, which has gone", lambda: "service-a" not in panel_values("service", title), two_scrapes)
    wait_for_panel("calls", "Errors by kind", "refused", *above(1), timeout=two_scrapes)
    wait_for_panel("calls", "Calls by outcome", "refused", *above(1))
    wait_for_panel("service", "Errors by kind", "service-b refused", *above(1))
    wait_for_panel("service", "Error ratio over time", "service-b", *above(0.8))
    wait_for_panel("service", "Burn rate of the availability budget", "service-b over 5m", *above(14.4), timeout=100)
    wait_for_panel("telemetry-health", "Targets up", "up", *below(1))
    check(container("service-b")["State"]["Health"]["Status"] == "healthy", "B stays healthy")
    start = time.monotonic()
    status, _, body = http(f"{B}/call-echo")
    check(status == 400 and time.monotonic() - start < 0.5, f"B responds with 400 in {1000 * (time.monotonic() - start):.0f} ms")
    check_new_errors(before, {"refused"}, allowed={"reset"})  # a call in flight during the shutdown of A may be reset


def check_open_breaker():
    heading("A is stopped and the circuit breaker of B opens: most calls are not made, and the alert still fires")
    compose("up", "--detach", "--no-deps", "service-b", env={**ENV, "SERVICE_A_BREAKER_FAILURES": "5"})
    wait("B rejects a call", lambda: json.loads(http(f"{B}/call-echo?msg=hello")[2])["error"] == "circuit_open", 20)
    wait_for_panel("calls", "Not called", "not called", *above(1), timeout=20)
    wait_for_panel("calls", "Not called by reason", "circuit_open", *above(1))
    wait_for_panel("calls", "Not called by reason", "circuit breaker service-a", *above(0))
    wait_for_panel("service", "Errors by kind", "service-b circuit_open", *above(1))
    for title in ("Failed calls", "Share of failed calls by kind"):
        values = panel_values("calls", title)
        check(values and all(0 <= value <= 1 for value in values.values()) and max(values.values()) > 0.9, f"calls / {title}: at most 100 %: {values}")
    check("circuit_open" not in panel_values("calls", "Calls by outcome"), "calls / Calls by outcome: no series circuit_open")
    wait_for_alerts("ServiceARefused", "ScrapeDown", timeout=420)
    check("ServiceATimingOut" not in PROMETHEUS.alerts(), "ServiceATimingOut stays quiet")
    check("service-a" in service_options(), "service-a, which has gone for minutes, can still be chosen")
    wait("the receiver prints the page", lambda: '"receiver":"page"' in (log := receiver_log()) and "ServiceARefused" in log, 40)
    burn = panel_values("service", "Burn rate of the availability budget")["service-b over 1h"]
    check(burn > 14.4 and "ErrorBudgetBurnsFast" not in PROMETHEUS.alerts(), f"no page about the error budget in the first hour, at a burn rate of {burn:.0f}")
    check(("service-b", "ServiceARefused") in {(labels["job"], labels["alertname"]) for labels, _ in PROMETHEUS.query(alerts_query())}, "service / Alerts: shows ServiceARefused")
    wait_for_alerts("ServiceARefused", "ScrapeDown", timeout=300, source=second_prometheus.CLIENT)
    up("service-a")
    up("service-b")
    wait("calls succeed again", lambda: http(f"{B}/call-echo?msg=hello")[0] == 200, 10)


def receiver_log():
    return compose("--profile", "alerting", "logs", "--no-color", "--no-log-prefix", "alert-receiver").stdout


def alerts_query():
    return next(e for p, _, e in panels.queries(BOARDS["service"], **CHOSEN) if p["title"] == "Alerts")


def check_paused_a_without_jaeger():
    heading("A is paused: calls fail with timeout. Jaeger is stopped: spans are dropped, requests are not affected")
    wait_for_next_scrape()
    before = error_counts()
    compose("stop", "jaeger")
    status, _, body = http(f"{B}/call-echo?msg=hello")
    check(status == 200, "B responds without Jaeger")
    compose("pause", "service-a")
    start = time.monotonic()
    status, _, body = http(f"{B}/call-echo?msg=hello")
    took = time.monotonic() - start
    response = json.loads(body)
    check((status, response["error"], response["http_status"]) == (503, "timeout", 504) and 0.9 < took < 1.5, f"B responds with timeout after {took:.2f} s")
    wait_for_panel("calls", "Errors by kind", "timeout", *above(1))
    wait_for_panel("calls", "Latency measured by the caller", "p95", *above(0.75))
    wait_for_panel("service", "Errors by kind", "service-b timeout", *above(1))
    wait_for_panel("service", "Up", "service-a", *below(1))
    start = time.monotonic()
    status, _, body = http(f"{B}/call-echo")
    check(status == 400 and time.monotonic() - start < 0.5, f"B responds with 400 in {1000 * (time.monotonic() - start):.0f} ms")
    wait_for_alerts("ServiceATimingOut", timeout=120, state="pending")
    check_new_errors(before, {"timeout"})
    compose("unpause", "service-a")
    def dropped_spans():
        values = panel_values("telemetry-health", "Dropped spans by reason")
        return any(value > 0 for name, value in values.items() if "none" not in name)

    wait("telemetry-health / Dropped spans by reason: a series other than none is above 0", dropped_spans, 60)
    wait_for_panel("telemetry-health", "Dropped spans in this time range", "spans", *above(0))
    wait_for_alerts("SpansLost", timeout=120)
    up("jaeger")


def check_removed_address():
    # The new load container injects its first fault after 45 s. check_load_faults waits for it.
    compose("--profile", "load", "up", "--detach", "load", env={k: v for k, v in ENV.items() if k != "LOAD_FAULTS_URL"})
    heading("the address of A is removed: calls fail with dns, which ServiceARefused covers")
    compose("stop", "service-a", "service-a-net")
    status, _, body = http(f"{B}/call-echo?msg=hello")
    kind = json.loads(body)["error"]
    check(status == 503 and kind in ("dns", "unreachable"), f"B responds with {kind}")
    up("service-a-net", "service-a", "service-b")
    wait("calls succeed again", lambda: http(f"{B}/call-echo?msg=hello")[0] == 200, 30)


def check_invalid_settings():
    heading("invalid settings: the log names them in one line")
    for text, code, word, options in (
        ("an invalid number", 2, "SERVICE_A_TIMEOUT_MS", ("-e", "SERVICE_A_TIMEOUT_MS=soon", "service-b")),
        ("an address of another machine", 1, "203.0.113.1", ("-e", "LISTEN_ADDR=203.0.113.1:8081", "service-b")),
    ):
        result = compose("run", "--rm", "--no-deps", "--quiet-pull", *options, check=False)
        lines = [line for line in (result.stdout + result.stderr).splitlines() if word in line]
        check(result.returncode == code and lines, f"{text}: exit code {result.returncode}, {lines[0] if lines else result.stderr!r}")


def check_failed_startup():
    heading("a service exits during startup: compose reports it, and the log names the cause")
    start = time.monotonic()
    environment = {**ENV, "SERVICE_A_TIMEOUT_MS": "soon"}
    result = compose("up", "--detach", "--wait", "--wait-timeout", "60", "service-b", check=False, env=environment)
    check(result.returncode != 0 and "service-b" in result.stderr, f"up --wait fails after {time.monotonic() - start:.0f} s: {result.stderr.strip().splitlines()[-1]}")
    log = compose("logs", "--no-color", "--no-log-prefix", "--tail", "3", "service-b").stdout.strip().splitlines()
    check("SERVICE_A_TIMEOUT_MS" in log[-1], f"its log: {log[-1]}")
    up("service-b")


def check_recovery():
    heading("the alerts end after A and Jaeger have recovered")
    ended = {"ServiceARefused", "ServiceATimingOut", "SpansLost", "ScrapeDown"}
    wait(f"no longer firing: {', '.join(sorted(ended))}", lambda: not PROMETHEUS.alerts() & ended, 330)


def check_restart():
    heading("the data outlives a restart")
    moment = time.time()
    second_prometheus.stop()
    start = time.monotonic()
    compose("stop", "--timeout", str(STOP_GRACE_PERIOD))
    took = time.monotonic() - start
    codes = {s: container(s)["State"]["ExitCode"] for s in ("service-a", "service-b")}
    check(took < STOP_GRACE_PERIOD and set(codes.values()) == {0}, f"all containers stop within the grace period ({took:.1f} s), exit codes {codes}")
    compose("--profile", "*", "down")
    took = up()
    success(f"up --wait ({took:.0f} s)")
    kept = PROMETHEUS.get("query", query='http_server_request_duration_seconds_count{job="service-b"}', time=moment)["result"]
    check(kept, "Prometheus has kept its data")
    mounts = [m for m in container("grafana")["Mounts"] if m["Destination"] == "/var/lib/grafana"]
    check(mounts and mounts[0]["Type"] == "volume" and mounts[0]["Name"].endswith("grafana-data"), "Grafana's data is on its volume")
    health = json.loads(http(f"{GRAFANA}/api/health")[2])
    if health.get("standin"):
        check(health["starts"] >= 2, f"the volume has outlived the container (start number {health['starts']})")


def check_removal():
    heading("down removes everything")
    start = time.monotonic()
    compose("--profile", "*", "down", "--volumes")
    took = time.monotonic() - start
    check(took < STOP_GRACE_PERIOD, f"down takes less than the grace period ({took:.1f} s)")
    left = docker("ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={ENV['COMPOSE_PROJECT_NAME']}")
    check(not left.strip(), "no container is left")


STEPS = [
    check_startup, check_privileges, check_trace, check_provisioning, check_queries, check_faults, second_prometheus.check, check_stopped_a,
    check_open_breaker, check_paused_a_without_jaeger, check_removed_address, check_invalid_settings, check_failed_startup,
    check_load_faults, check_recovery, check_restart, check_removal,
]  # fmt: skip


def main():
    second_prometheus.stop()
    compose("--profile", "*", "down", "--volumes", "--remove-orphans", check=False)
    try:
        for step in STEPS:
            step()
    except BaseException:
        compose("--profile", "*", "ps", "--all", capture_output=False, check=False)
        compose("--profile", "*", "logs", "--no-color", "--tail", "25", capture_output=False, check=False)
        raise
    finally:
        second_prometheus.stop()
        compose("unpause", check=False)
        compose("--profile", "*", "down", "--volumes", "--timeout", "5", check=False)
    print(f"\n{harness.passed} checks passed in {harness.elapsed():.0f} s")


if __name__ == "__main__":
    main()
