#!/usr/bin/env python3
"""Checks that dashboards, rules, rule tests, runbook and images are consistent, which promtool does not check."""

import json
import re
import sys

from panels import DEPLOY, dashboards, panels, queries

problems = []


def expect(condition, problem):
    if not condition:
        problems.append(problem)


def read(path):
    return (DEPLOY / path).read_text()


def lint_dashboard(board, uids):
    uid = board["uid"]
    titles = [p["title"] for p in panels(board)]
    expect(len(titles) == len(set(titles)), f"{uid}: duplicate panel title")
    expect(uid not in uids, f"{uid}: duplicate uid")
    uids.add(uid)
    expect(panels(board)[0]["title"] == "Alerts", f"{uid}: the first panel does not show the alerts")
    hosts = set(re.findall(r"https?://[^/\"]+", json.dumps([board["panels"], board["links"], board["annotations"]])))
    expect(not hosts, f"{uid}: addresses that are not in a variable: {hosts}")
    for source in set(re.findall(r'"type": "\w+", "uid": "([^"]*)"', json.dumps(board))):
        expect(source == "${datasource}", f"{uid}: data source {source} is not the variable")
    for panel in panels(board):
        where, text = f"{uid}/{panel['title']}", panel["description"]
        expect(len(text) > 40 and text.endswith("."), f"{where}: the description is too short or lacks a period")
        expect(panel["fieldConfig"]["defaults"].get("unit"), f"{where}: no unit")
        expect(panel["targets"], f"{where}: no query")
        for target in panel["targets"]:
            expr = target["expr"]
            expect(target.get("legendFormat"), f"{where}: query without a legend")
            lint_windows(where, expr, {"$__rate_interval", "$__range"})
            if panel["type"] in ("stat", "bargauge", "table"):
                expect(target["instant"], f"{where}: shows the last value of a range, which may be old")
                expect("rate(" not in expr or expr.count("up == 1") == expr.count("rate("), f"{where}: a rate outlives its series")
            if "histogram_quantile" in expr and panel["type"] == "timeseries":
                expect(target.get("exemplar"), f"{where}: latency query without exemplars")
            for variable in ("$job", "$instance", *(["$server"] if "http_client" in expr else [])):
                expect(variable in expr or "not filter this" in text, f"{where}: {variable} does not filter it, and the description does not say so")
            for errors in re.findall(r"http_client_request_errors_total\{[^}]*\}", expr if " / " in expr else ""):
                expect("circuit_open|overload" in errors, f"{where}: the share contains calls that were not made")
    list(queries(board))  # raises an error for an unknown variable


def lint_windows(where, expr, allowed=()):
    """Requires that a window covers four scrapes of 60 s."""
    seconds = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    for window in set(re.findall(r"\[([^\]]+)\]", expr)) - set(allowed):
        expect(re.fullmatch(r"\d+[smhd]", window) and int(window[:-1]) * seconds[window[-1]] >= 240, f"{where}: window {window}")


def lint_alerts(uids):
    rules = read("prometheus/rules/alerts.yml") + read("prometheus/rules/collector.yml")
    runbook = read("../docs/runbook.md")
    anchors = {re.sub(r"[^\w -]", "", h.lower()).strip().replace(" ", "-") for h in re.findall(r"^#+ (.+)$", runbook, re.M)}
    alerts = re.split(r"^      - alert: ", rules, flags=re.M)[1:]
    expect(alerts, "no alerts found")
    for text in alerts:
        name = text.split()[0]
        for annotation in ("summary", "description", "query", "dashboard", "runbook_url"):
            expect(f"          {annotation}:" in text, f"{name}: no {annotation}")
        expect(re.search(r"severity: (page|ticket)\b", text), f"{name}: severity is neither page nor ticket")
        link = re.search(r"runbook_url: docs/runbook\.md#(\S+)", text)
        expect(link and link.group(1) == name.lower(), f"{name}: runbook_url does not have the name of the alert")
        expect(link and link.group(1) in anchors, f"{name}: no section in docs/runbook.md")
        dashboard = re.search(r"dashboard: /d/([\w-]+)", text)
        expect(dashboard and dashboard.group(1) in uids, f"{name}: no such dashboard")
    lint_windows("alerts.yml and collector.yml", rules)
    lint_windows("slo.yml", read("prometheus/rules/slo.yml"))
    for window in re.findall(r"\}\[(\w+)\]", read("prometheus/rules/slo.yml")):
        expect(window == "5m", f"slo.yml: a rule reads the series of all instances over {window}, and not recorded values")
    recorded = set(re.findall(r"- record: (\S+)", rules + read("prometheus/rules/slo.yml")))
    used = set()
    for text in [json.dumps(d) for d in dashboards()] + [rules, runbook]:
        used |= set(re.findall(r"\b((?:server|slo):[a-z_]+:\w+)", text))
    for record in sorted(used - recorded):
        expect(False, f"{record}: used but not recorded")
    return len(alerts), len(recorded)


def lint_images():
    compose, dockerfile = read("../docker-compose.yml"), read("../Dockerfile")
    for tag in re.findall(r"^  \w+: &\S+-image (\S+)$", compose, re.M):
        expect(compose.count(tag.split(":")[0] + ":") == 1, f"{tag}: pinned in more than one place")
        expect(not tag.endswith(":latest") and ":" in tag, f"{tag}: no version")
    for line in re.findall(r'^ +- "?([\d.:]+:\d+|[^"\n]*:\d+)"? *(?:#.*)?$', compose, re.M):
        if "PORT" in line:
            expect(line.startswith("127.0.0.1:"), f"{line}: not published on loopback")
    expect("# syntax=" not in dockerfile, "Dockerfile: a syntax line needs a registry")


uids = set()
boards = dashboards()
for board in boards:
    lint_dashboard(board, uids)
alerts, records = lint_alerts(uids)
lint_images()
if problems:
    print(*problems, sep="\n")
    sys.exit(1)
count = sum(len(list(queries(d))) for d in boards)
print(f"{len(boards)} dashboards, {sum(len(panels(d)) for d in boards)} panels, {count} queries, {alerts} alerts, {records} recorded names: consistent")
