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
    names = [v["name"] for v in board["templating"]["list"]]
    expect({"service", "instance"} <= set(names), f"{uid}: no variable service or instance")
    titles = [p["title"] for p in panels(board)]
    expect(len(titles) == len(set(titles)), f"{uid}: duplicate panel title")
    ids = [p["id"] for p in board["panels"]]
    expect(len(ids) == len(set(ids)), f"{uid}: duplicate panel id")
    taken = set()
    for panel in board["panels"]:
        grid = panel["gridPos"]
        expect(grid["x"] + grid["w"] <= 24, f"{uid}/{panel['title']}: wider than the page")
        for cell in ((x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])):
            expect(cell not in taken, f"{uid}/{panel['title']}: overlaps another panel")
            taken.add(cell)
    for panel in panels(board):
        where = f"{uid}/{panel['title']}"
        defaults = panel["fieldConfig"]["defaults"]
        expect(len(panel["description"]) > 40 and panel["description"].endswith("."), f"{where}: the description is too short or lacks a period")
        expect(defaults.get("unit"), f"{where}: no unit")
        if panel["type"] in ("stat", "timeseries", "bargauge"):
            expect(defaults.get("thresholds"), f"{where}: no thresholds")
        expect(panel["targets"], f"{where}: no query")
        for target in panel["targets"]:
            expect(target["datasource"]["uid"] == "prometheus", f"{where}: data source is not Prometheus")
            expect(target.get("legendFormat"), f"{where}: query without a legend")
            if "histogram_quantile" in target["expr"]:
                expect(target.get("exemplar"), f"{where}: latency query without exemplars")
        for link in defaults.get("links", []):
            expect(link["url"].startswith("http://localhost:16686/"), f"{where}: link to another host")
    list(queries(board))  # raises an error for an unknown variable
    expect(any(link["type"] == "dashboards" for link in board["links"]), f"{uid}: no link to the other dashboards")
    expect("16686" in json.dumps(board["links"]), f"{uid}: no link to Jaeger")
    expect(uid not in uids, f"{uid}: duplicate uid")
    uids.add(uid)


def lint_alerts(uids):
    rules, runbook = read("prometheus/rules/alerts.yml"), read("../docs/runbook.md")
    tests = "".join(path.read_text() for path in (DEPLOY / "prometheus/tests").glob("*.yml"))
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
        dashboard = re.search(r"dashboard: http://localhost:3000/d/(\S+)", text)
        expect(dashboard and dashboard.group(1) in uids, f"{name}: no such dashboard")
        expect(re.search(rf"^  - name: {name} fires", tests, re.M), f"{name}: no test in which it fires")
        expect(re.search(rf"^  - name: {name} stays quiet", tests, re.M), f"{name}: no test in which it stays quiet")
    recorded = set(re.findall(r"- record: (\S+)", read("prometheus/rules/recording.yml") + read("prometheus/rules/slo.yml")))
    for record in sorted(recorded):
        expect(record in tests, f"{record}: not tested")
    used = set()
    for text in [json.dumps(d) for d in dashboards()] + [rules]:
        used |= set(re.findall(r"\b((?:job|job_error|slo):[a-z_]+:\w+)", text))
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
