#!/usr/bin/env python3
"""Writes dashboards/*.json: `build.py` writes them, `build.py --check` says whether they are current.

A panel here is a title, a question it answers, its queries and a unit; what is the same for all of
them (data source, legend, tooltip, grid) stands once. That keeps three dashboards short enough to
review, where their JSON is not.
"""

import json
import pathlib
import sys

OUT = pathlib.Path(__file__).parent / "dashboards"
PROMETHEUS = {"type": "prometheus", "uid": "prometheus"}
JAEGER_UI = "http://localhost:16686"
PROMETHEUS_UI = "http://localhost:9090"

# What a panel with raw series filters by. Recorded series are per service: all instances together.
SEL = 'job=~"$service", instance=~"$instance"'
A = 'job="service-a", http_route="/echo"'
RATE = "$__rate_interval"

GREEN, YELLOW, ORANGE, RED, GREY, BLUE = "green", "yellow", "orange", "red", "#8e8e8e", "blue"

# One colour per kind of error, on every panel of every dashboard.
KIND_COLOURS = {
    "ok": GREEN,
    "timeout": ORANGE,
    "refused": RED,
    "reset": "purple",
    "dns": "dark-red",
    "unreachable": "light-red",
    "tls": "dark-purple",
    "decode": YELLOW,
    "canceled": GREY,
    "other": "dark-blue",
}


# --- the parts -----------------------------------------------------------------------------------


def q(expr, legend, **more):
    """One query: `instant`, `exemplar` and `format` as Grafana knows them."""
    return {"expr": " ".join(expr.split()), "legendFormat": legend, **more}


def steps(base, *more):
    """Thresholds: a base colour, then (from this value on, colour) pairs."""
    return {
        "mode": "absolute",
        "steps": [{"color": base, "value": None}] + [{"color": c, "value": v} for v, c in more],
    }


def colour(name, fixed):
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": fixed}}],
    }


def colour_matching(regexp, fixed):
    return {**colour(regexp, fixed), "matcher": {"id": "byRegexp", "options": regexp}}


def kind_colours(pattern="{}"):
    """Colours for series named by error kind; a status code such as `500` is a kind as well."""
    named = [colour_matching(f"/^{pattern.format(k)}$/", c) for k, c in KIND_COLOURS.items()]
    return named + [colour_matching(f"/^{pattern.format('5[0-9][0-9]')}$/", "dark-orange")]


def panel(kind, title, why, queries, unit, *, options, defaults=None, custom=None, overrides=(), **more):
    for ref, query in zip("ABCDEFGH", queries):
        query.update(refId=ref, datasource=PROMETHEUS, editorMode="code")
        query["range"] = not query.get("instant", False)
    field = {"unit": unit, "color": {"mode": "palette-classic"}, "custom": custom or {}}
    field.update(defaults or {})
    return {
        "type": kind,
        "title": title,
        "description": " ".join(why.split()),
        "datasource": PROMETHEUS,
        "pluginVersion": "13.2.0",
        "targets": queries,
        "fieldConfig": {"defaults": field, "overrides": list(overrides)},
        "options": options,
        **more,
    }


def stat(title, why, queries, unit, thresholds, *, decimals=None, mappings=(), overrides=(), spark=True, no_value="no traffic"):
    defaults = {
        "thresholds": thresholds,
        "color": {"mode": "thresholds"},
        "mappings": list(mappings),
        "noValue": no_value,
    }
    if decimals is not None:
        defaults["decimals"] = decimals
    return panel(
        "stat", title, why, queries, unit, defaults=defaults, overrides=overrides,
        options={
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "background_solid" if not spark else "background",
            "graphMode": "area" if spark else "none",
            "textMode": "value_and_name",
            "justifyMode": "auto",
            "orientation": "auto",
            "wideLayout": True,
        },
    )  # fmt: skip


def lines(title, why, queries, unit, *, thresholds=None, stack=False, bars=False, minimum=0, maximum=None, log=False, overrides=(), links=(), repeat=None, calcs=("lastNotNull", "max")):
    """Values over time; `thresholds` are drawn as dashed lines."""
    custom = {
        "drawStyle": "bars" if bars else "line",
        "lineWidth": 1,
        "fillOpacity": 60 if bars else (40 if stack else 8),
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stack else "none", "group": "A"},
        "thresholdsStyle": {"mode": "dashed" if thresholds else "off"},
        "scaleDistribution": {"type": "log", "log": 10} if log else {"type": "linear"},
    }
    defaults = {"thresholds": thresholds or steps(GREEN), "links": list(links)}
    if minimum is not None and not log:
        defaults["min"] = minimum
    if maximum is not None:
        defaults["max"] = maximum
    more = {"repeat": repeat, "repeatDirection": "h", "maxPerRow": 2} if repeat else {}
    return panel(
        "timeseries", title, why, queries, unit, defaults=defaults, custom=custom, overrides=overrides,
        options={
            "legend": {"displayMode": "table", "placement": "bottom", "showLegend": True, "calcs": list(calcs)},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        **more,
    )  # fmt: skip


def heatmap(title, why, expr, *, repeat=None):
    """Latencies as they are: each column a moment, each row a bucket, the colour how many."""
    more = {"repeat": repeat, "repeatDirection": "h", "maxPerRow": 2} if repeat else {}
    return panel(
        "heatmap", title, why, [q(expr, "{{le}}", format="heatmap", exemplar=True)], "reqps",
        custom={"hideFrom": {"legend": False, "tooltip": False, "viz": False}},
        options={
            "calculate": False,
            "yAxis": {"unit": "s", "axisPlacement": "left"},
            "color": {"mode": "scheme", "scheme": "Turbo", "steps": 64, "scale": "exponential", "exponent": 0.5, "fill": "dark-orange", "reverse": False},
            "cellGap": 1,
            "filterValues": {"le": 1e-9},
            "rowsFrame": {"layout": "auto"},
            "exemplars": {"color": "rgba(255,0,255,0.8)"},
            "legend": {"show": True},
            "tooltip": {"mode": "single", "yHistogram": True, "showColorScale": True},
            "showValue": "never",
        },
        **more,
    )  # fmt: skip


def bars(title, why, queries, unit, thresholds, overrides=()):
    """One bar per series: totals over the time range."""
    return panel(
        "bargauge", title, why, queries, unit, overrides=overrides,
        defaults={"thresholds": thresholds, "min": 0, "decimals": 0},
        options={
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "displayMode": "lcd",
            "orientation": "horizontal",
            "valueMode": "color",
            "showUnfilled": True,
            "namePlacement": "auto",
            "sizing": "auto",
            "legend": {"showLegend": False, "displayMode": "list", "placement": "bottom", "calcs": []},
        },
    )  # fmt: skip


def table(title, why, expr, columns, no_value):
    """The labels of an instant query as a table, in this order: {label: heading}."""
    return panel(
        "table", title, why, [q(expr, "__auto", instant=True, format="table")], "none",
        defaults={"thresholds": steps(GREEN), "noValue": no_value, "color": {"mode": "thresholds"}},
        custom={"align": "auto", "cellOptions": {"type": "auto"}},
        options={"showHeader": True, "cellHeight": "sm"},
        transformations=[
            {"id": "filterFieldsByName", "options": {"include": {"names": list(columns)}}},
            {"id": "organize", "options": {"indexByName": {n: i for i, n in enumerate(columns)}, "renameByName": columns}},
        ],
    )  # fmt: skip


def quantiles(metric, selector, *, exemplar=True, by=""):
    by = f"le, {by}" if by else "le"
    return [
        q(f"histogram_quantile({v}, sum by ({by}) (rate({metric}_bucket{{{selector}}}[{RATE}])))", f"p{round(v * 100)}", exemplar=exemplar)
        for v in (0.5, 0.95, 0.99)
    ]  # fmt: skip


QUANTILE_COLOURS = [colour("p50", GREEN), colour("p95", ORANGE), colour("p99", RED)]


def variable(name, label, query, every, why):
    return {
        "type": "query",
        "name": name,
        "label": label,
        "description": why,
        "datasource": PROMETHEUS,
        "query": {"query": query, "refId": name, "qryType": 1},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": every,
        "current": {"text": ["All"], "value": ["$__all"]},
        "regex": "",
        "hide": 0,
    }


def link(title, **more):
    """A link in the head of a dashboard."""
    plain = {"type": "link", "icon": "external link", "tags": [], "url": "", "tooltip": ""}
    switches = {"asDropdown": False, "keepTime": False, "includeVars": False, "targetBlank": False}
    return {"title": title, **plain, **switches, **more}


def dashboard(uid, title, why, source, rows):
    """`source`: the series that the variables offer their values from.
    `rows`: (heading, [(height, [(width, panel), ...]), ...]), laid out from top to bottom."""
    panels, y = [], 0
    for heading, strips in rows:
        panels.append({"type": "row", "title": heading, "collapsed": False, "panels": [], "gridPos": {"h": 1, "w": 24, "x": 0, "y": y}})
        y += 1
        for height, strip in strips:
            x = 0
            for width, one in strip:
                panels.append({**one, "gridPos": {"h": height, "w": width, "x": x, "y": y}})
                x += width
            y += height
    for number, one in enumerate(panels, 1):
        one["id"] = number
    return {
        "uid": uid,
        "title": title,
        "description": why,
        "tags": ["observability"],
        "schemaVersion": 41,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,  # one crosshair through all panels
        "refresh": "5s",
        "time": {"from": "now-15m", "to": "now"},
        "timepicker": {"refresh_intervals": ["5s", "15s", "1m", "5m"]},
        "timezone": "browser",
        "templating": {
            "list": [
                variable("service", "Service", f'label_values({source}{{job=~"service-.+"}}, job)', "service-.+", "The service: Prometheus' label job"),
                variable("instance", "Instance", f'label_values({source}{{job=~"$service"}}, instance)', ".+", "One process of the service"),
            ]
        },
        "annotations": {
            "list": [
                {
                    "name": "Alerts",
                    "datasource": PROMETHEUS,
                    "enable": True,
                    "iconColor": RED,
                    "expr": 'ALERTS{alertstate="firing"}',
                    "titleFormat": "{{alertname}}",
                    "textFormat": "{{job}} {{error_type}} {{slo}}",
                    "step": "5s",
                }
            ]
        },
        "links": [
            link("Dashboards", type="dashboards", tags=["observability"], keepTime=True),
            link("Traces (Jaeger)", url=f"{JAEGER_UI}/search", targetBlank=True, tooltip="Search the traces"),
            link("Alerts (Prometheus)", url=f"{PROMETHEUS_UI}/alerts", targetBlank=True, icon="bolt", tooltip="The rules and their state"),
        ],
        "panels": panels,
    }  # fmt: skip


def traces(title, service, tags=""):
    """A link from a point on a panel to the traces of that service."""
    query = f"{JAEGER_UI}/search?service={service}" + (f"&tags={tags}" if tags else "")
    return {"title": title, "url": query, "targetBlank": True}


ERRORS_ONLY = "%7B%22error%22%3A%22true%22%7D"  # {"error":"true"}
SERVER, CLIENT = "http_server_request_duration_seconds", "http_client_request_duration_seconds"


# --- Overview ------------------------------------------------------------------------------------

overview = dashboard(
    "overview",
    "Overview",
    "Is it up, how much, how many errors, how slow, and is the promise kept? For both services.",
    "up",
    [
        ("Now", [
            (4, [
                (6, stat(
                    "Up", "Does Prometheus reach the service? One instance that does not answer turns it red.",
                    [q(f"min by (job) (up{{{SEL}}})", "{{job}}")], "none", steps(RED, (1, GREEN)), spark=False, no_value="not scraped",
                    mappings=[{"type": "value", "options": {"0": {"text": "DOWN", "index": 0}, "1": {"text": "UP", "index": 1}}}])),
                (6, stat(
                    "Requests", "Requests answered a second over the last minute, all instances together. Probes and /metrics do not count.",
                    [q('job:http_server_requests:rate1m{job=~"$service"}', "{{job}}")], "reqps", steps(BLUE), decimals=1)),
                (6, stat(
                    "Error ratio", "The share of requests that ended in a 5xx over the last minute. 4xx and callers that went away are no errors of the service.",
                    [q('job:http_server_errors:ratio_rate1m{job=~"$service"}', "{{job}}")], "percentunit", steps(GREEN, (0.005, ORANGE), (0.05, RED)), decimals=2)),
                (6, stat(
                    "p95 latency", "19 of 20 requests were faster than this over the last minute. The promise for B's calls is 250 ms.",
                    [q('job:http_server_request_duration_seconds:quantile_rate1m{job=~"$service", quantile="0.95"}', "{{job}}")], "s", steps(GREEN, (0.25, ORANGE), (1, RED)), decimals=1)),
            ]),
            (4, [
                (6, stat(
                    "Alerts firing", "How many alerts fire now, over the whole system. The table at the end names them.",
                    [q('count(ALERTS{alertstate="firing"}) or vector(0)', "alerts")], "none", steps(GREEN, (1, RED)), decimals=0, no_value="0")),
                (9, stat(
                    "Good calls, 30 days", "What B's callers got of the promise: availability, 99.5 % of calls answered without a 5xx; latency, 95 % of the successful ones under 250 ms. All instances.",
                    [q("slo:good_calls:ratio30d", "{{slo}}")], "percentunit", steps(RED, (0.95, GREEN)), decimals=2,
                    overrides=[{"matcher": {"id": "byName", "options": "availability"}, "properties": [{"id": "thresholds", "value": steps(RED, (0.995, GREEN))}]}])),
                (9, stat(
                    "Error budget left, 30 days", "How much of the errors that the promise allows is left: 100 % all, 0 none, below 0 the promise is broken.",
                    [q("slo:budget_left:ratio30d", "{{slo}}")], "percentunit", steps(RED, (0, ORANGE), (0.25, GREEN)), decimals=1)),
            ]),
        ]),
        ("How much, and how much of it fails", [
            (8, [
                (8, lines(
                    "Requests by status", "Answers a second by service and HTTP status. A request whose caller went away has no status.",
                    [q(f"sum by (job, http_response_status_code) (rate({SERVER}_count{{{SEL}}}[{RATE}]))", "{{job}} {{http_response_status_code}}")],
                    "reqps", stack=True, links=[traces("Traces of ${__field.labels.job}", "${__field.labels.job}")],
                    overrides=[colour_matching("/ 2..$/", GREEN), colour_matching("/ 4..$/", YELLOW), colour_matching("/ 5..$/", RED), colour_matching("/ $/", GREY)])),
                (8, lines(
                    "Errors by kind", "Failed requests a second by service and kind of error (the word in the answer, the span and the log). `none` stands at 0 so that silence shows as a line. Click a point for the traces.",
                    [
                        q(f"""sum by (job, error_type) (rate({SERVER}_count{{{SEL}, error_type!=""}}[{RATE}]))
                              or label_replace(0 * sum by (job) (rate({SERVER}_count{{{SEL}}}[{RATE}])), "error_type", "none", "", "")""", "{{job}} {{error_type}}"),
                    ],
                    "reqps", stack=True, bars=True, overrides=kind_colours("service-. {}"),
                    links=[traces("Failed traces of ${__field.labels.job}", "${__field.labels.job}", ERRORS_ONLY)])),
                (8, lines(
                    "Error ratio over time", "The share of requests that ended in a 5xx. The dashed lines: 0.5 %, what the promise allows in the long run, and 5 %.",
                    [q(f"""(sum by (job) (rate({SERVER}_count{{{SEL}, error_type!="", error_type!="canceled"}}[{RATE}]))
                            or 0 * sum by (job) (rate({SERVER}_count{{{SEL}}}[{RATE}])))
                           / (sum by (job) (rate({SERVER}_count{{{SEL}}}[{RATE}])) > 0)""", "{{job}}")],
                    "percentunit", thresholds=steps(GREEN, (0.005, ORANGE), (0.05, RED)))),
            ]),
        ]),
        ("How slow", [
            (8, [
                (24, lines(
                    "Latency of $service", "Half of the requests, 19 of 20 and 99 of 100 were faster than this. A dot is one request: it opens its trace. The dashed line is the promise, 250 ms; B gives up on A at 1 s.",
                    quantiles(SERVER, SEL), "s", thresholds=steps(GREEN, (0.25, ORANGE), (1, RED)), overrides=QUANTILE_COLOURS, repeat="service",
                    links=[traces("Traces of $service", "$service")])),
            ]),
            (9, [
                (24, heatmap(
                    "Latencies of $service", "Every request by how long it took: two bands are two populations (cached and not, answered and timed out), which a quantile would hide.",
                    f"sum by (le) (rate({SERVER}_bucket{{{SEL}}}[{RATE}]))", repeat="service")),
            ]),
        ]),
        ("The promise", [
            (8, [
                (12, lines(
                    "Burn of the availability budget", "How many times too fast the budget of failed calls is used up, seen over three windows. Dashed: 1, it just lasts the 30 days; 6 and 14.4, a page (two windows must agree).",
                    [q(f'slo:budget_burn:rate{w}{{slo="availability"}}', f"over {w}") for w in ("5m", "1h", "6h")],
                    "none", thresholds=steps(GREEN, (1, YELLOW), (6, ORANGE), (14.4, RED)))),
                (12, lines(
                    "Burn of the latency budget", "The same for slow calls: 1 means that 5 % of the successful calls take 250 ms or more.",
                    [q(f'slo:budget_burn:rate{w}{{slo="latency"}}', f"over {w}") for w in ("5m", "1h", "6h")],
                    "none", thresholds=steps(GREEN, (1, YELLOW), (6, ORANGE), (14.4, RED)))),
            ]),
        ]),
        ("What runs, and what is wrong", [
            (6, [
                (10, table(
                    "Versions", "What each instance says it is. Two revisions side by side are a rollout under way.",
                    f"build_info{{{SEL}}}", {"job": "Service", "instance": "Instance", "version": "Version", "revision": "Revision"}, "not scraped")),
                (14, table(
                    "Alerts", "Pending and firing alerts. Each has a section in docs/runbook.md under its name.",
                    "ALERTS", {"alertname": "Alert", "alertstate": "State", "severity": "Severity", "job": "Service", "error_type": "Kind", "slo": "Promise"}, "none: all is well")),
            ]),
        ]),
    ],
)  # fmt: skip


# --- Calls to A ----------------------------------------------------------------------------------

FAILED = 'error_type!="", error_type!="canceled"'
calls = dashboard(
    "calls-to-a",
    "Calls to A",
    "The dependency as its caller sees it: how much, with what outcome, how slow, and where the time goes.",
    f"{CLIENT}_count",
    [
        ("Now", [
            (4, [
                (4, stat(
                    "Calls", "Calls to A a second over the last minute.",
                    [q('sum(job:http_client_requests:rate1m{job=~"$service"})', "calls")], "reqps", steps(BLUE), decimals=1)),
                (4, stat(
                    "Failed calls", "The share of calls without a usable answer over the last minute, whatever the reason. Calls whose own caller went away are not A's failures.",
                    [q("""sum(job_error:http_client_errors:rate1m{job=~"$service", error_type!="canceled"})
                          / (sum(job:http_client_requests:rate1m{job=~"$service"}) > 0)""", "failed")],
                    "percentunit", steps(GREEN, (0.005, ORANGE), (0.05, RED)), decimals=2)),
                (4, stat(
                    "p95 as B sees it", "19 of 20 calls were over by then: connect, request, wait, answer. B gives up at 1 s.",
                    [q('max(job:http_client_request_duration_seconds:quantile_rate1m{job=~"$service", quantile="0.95"})', "p95")],
                    "s", steps(GREEN, (0.25, ORANGE), (0.75, RED)), decimals=1)),
                (4, stat(
                    "p95 as A measures it", "The same from inside A, from the request's arrival to the end of its answer. A request that hangs is not in it until it ends.",
                    [q('job:http_server_request_duration_seconds:quantile_rate1m{job="service-a", quantile="0.95"}', "p95")],
                    "s", steps(GREEN, (0.25, ORANGE), (0.75, RED)), decimals=1)),
                (4, stat(
                    "Network and queue", "What an answered call takes beyond A's own time, on average: connecting, the way there and back, waiting to be picked up.",
                    [q(f"""sum(rate({CLIENT}_sum{{{SEL}, http_response_status_code!=""}}[{RATE}])) / sum(rate({CLIENT}_count{{{SEL}, http_response_status_code!=""}}[{RATE}]))
                           - sum(rate({SERVER}_sum{{{A}, http_response_status_code!=""}}[{RATE}])) / sum(rate({SERVER}_count{{{A}, http_response_status_code!=""}}[{RATE}]))""", "mean")],
                    "s", steps(GREEN, (0.05, ORANGE), (0.25, RED)), decimals=2)),
                (4, stat(
                    "In flight in A", "Requests that A works on at this moment. It grows without end where A hangs.",
                    [q('sum(http_server_active_requests{job="service-a"}) or vector(0)', "requests")], "none", steps(GREEN, (20, ORANGE), (100, RED)), decimals=0)),
            ]),
        ]),
        ("How the calls end", [
            (9, [
                (12, lines(
                    "Calls by outcome", "Every call once: ok, or its kind of error. The height is the whole traffic.",
                    [
                        q(f'sum(rate({CLIENT}_count{{{SEL}, error_type=""}}[{RATE}]))', "ok"),
                        q(f"sum by (error_type) (rate(http_client_request_errors_total{{{SEL}}}[{RATE}]))", "{{error_type}}"),
                    ],
                    "reqps", stack=True, overrides=kind_colours())),
                (7, lines(
                    "Errors by kind", "refused, dns, unreachable: nobody there. timeout: somebody there who does not answer. reset: the answer broke off. decode: a 2xx that is no echo. A number: A's own status. canceled: B's caller went away first. A dot is one failed call: it opens its trace.",
                    [q(f"sum by (error_type) (rate(http_client_request_errors_total{{{SEL}}}[{RATE}]))", "{{error_type}}", exemplar=True)],
                    "reqps", overrides=kind_colours(), links=[traces("Failed traces of B", "service-b", ERRORS_ONLY)])),
                (5, bars(
                    "Errors in this time range", "The same as totals over the time range chosen above.",
                    [q(f"round(sum by (error_type) (increase(http_client_request_errors_total{{{SEL}}}[$__range])))", "{{error_type}}", instant=True)],
                    "none", steps(GREEN, (1, ORANGE), (100, RED)))),
            ]),
            (7, [
                (12, lines(
                    "Answers by status", "What A answered, where it answered at all. A status outside 2xx is an error of the kind of that number.",
                    [q(f'sum by (http_response_status_code) (rate({CLIENT}_count{{{SEL}, http_response_status_code!=""}}[{RATE}]))', "{{http_response_status_code}}")],
                    "reqps", stack=True, overrides=[colour_matching("/^2..$/", GREEN), colour_matching("/^4..$/", YELLOW), colour_matching("/^5..$/", RED)])),
                (12, lines(
                    "Share of failed calls by kind", "Each kind of error among all calls, over a minute. Where refused, dns, unreachable or timeout stay above the dashed red line, 5 %, ServiceARefused or ServiceATimingOut fires.",
                    [q('max by (error_type) (job_error:http_client_errors:ratio_rate1m{job=~"$service", error_type!="canceled"})', "{{error_type}}")],
                    "percentunit", thresholds=steps(GREEN, (0.005, ORANGE), (0.05, RED)), overrides=kind_colours())),
            ]),
        ]),
        ("How slow, and where", [
            (9, [
                (12, lines(
                    "Latency as B sees it", "All calls, the failed ones too: a column at 1 s is the time limit. A dot is one call: it opens its trace.",
                    quantiles(CLIENT, SEL), "s", thresholds=steps(GREEN, (0.25, ORANGE), (1, RED)), overrides=QUANTILE_COLOURS,
                    links=[traces("Traces of B", "service-b")])),
                (12, lines(
                    "Latency as A measures it", "The same calls inside A. High here: A is slow. High only on the left: it is the network, the queue in front of A, or A does not answer at all.",
                    quantiles(SERVER, A), "s", thresholds=steps(GREEN, (0.25, ORANGE), (1, RED)), overrides=QUANTILE_COLOURS,
                    links=[traces("Traces of A", "service-a")])),
            ]),
            (8, [
                (12, lines(
                    "The difference: network and queue", "The mean of the answered calls as B sees them, as A measures them, and what lies between.",
                    [
                        q(f"""sum(rate({CLIENT}_sum{{{SEL}, http_response_status_code!=""}}[{RATE}])) / sum(rate({CLIENT}_count{{{SEL}, http_response_status_code!=""}}[{RATE}]))""", "B's wait"),
                        q(f"""sum(rate({SERVER}_sum{{{A}, http_response_status_code!=""}}[{RATE}])) / sum(rate({SERVER}_count{{{A}, http_response_status_code!=""}}[{RATE}]))""", "A's work"),
                        q(f"""sum(rate({CLIENT}_sum{{{SEL}, http_response_status_code!=""}}[{RATE}])) / sum(rate({CLIENT}_count{{{SEL}, http_response_status_code!=""}}[{RATE}]))
                              - sum(rate({SERVER}_sum{{{A}, http_response_status_code!=""}}[{RATE}])) / sum(rate({SERVER}_count{{{A}, http_response_status_code!=""}}[{RATE}]))""", "between"),
                    ],
                    "s", minimum=None, overrides=[colour("B's wait", BLUE), colour("A's work", GREEN), colour("between", ORANGE)])),
                (12, heatmap(
                    "Latencies of the calls", "Every call by how long it took. A band at 1 s is the time limit at work.",
                    f"sum by (le) (rate({CLIENT}_bucket{{{SEL}}}[{RATE}]))")),
            ]),
            (7, [
                (24, lines(
                    "In flight", "How much is going on at once, at the moment of each scrape: B's calls without an answer yet, and the requests that each service works on. Calls far above A's requests wait on the way.",
                    [
                        q(f"sum(http_client_active_requests{{{SEL}}})", "calls to A"),
                        q('sum by (job) (http_server_active_requests{job=~"service-a|$service"})', "requests in {{job}}"),
                    ],
                    "none", thresholds=steps(GREEN, (100, RED)))),
            ]),
        ]),
    ],
)  # fmt: skip


# --- Telemetry health ----------------------------------------------------------------------------

SPANS_LOST = f"""sum by (job, error_type) (rate(otel_sdk_processor_span_processed_total{{{SEL}, error_type!=""}}[{RATE}]))
    or sum by (job, error_type) (rate(otel_sdk_exporter_span_exported_total{{{SEL}, error_type!=""}}[{RATE}]))
    or label_replace(0 * sum by (job) (rate(otel_sdk_span_started_total{{{SEL}}}[{RATE}])), "error_type", "none", "", "")"""

telemetry = dashboard(
    "telemetry-health",
    "Telemetry health",
    "Can the other two dashboards be believed? Spans, scrapes, logs, and what the processes cost.",
    "up",
    [
        ("Now", [
            (4, [
                (4, stat(
                    "Targets up", "The share of instances that Prometheus reaches. Below 100 % some series on every dashboard stand still.",
                    [q(f"avg(up{{{SEL}}})", "up")], "percentunit", steps(RED, (1, GREEN)), decimals=0, no_value="none")),
                (4, stat(
                    "Spans started", "Spans begun a second by both services together: three for each GET /call-echo.",
                    [q(f"sum(rate(otel_sdk_span_started_total{{{SEL}}}[{RATE}]))", "spans/s")], "none", steps(BLUE), decimals=1)),
                (4, stat(
                    "Spans lost in this range", "Spans that never reached the collector in the time range above: dropped from a full queue, or refused at export.",
                    [q(f"""round((sum(increase(otel_sdk_processor_span_processed_total{{{SEL}, error_type!=""}}[$__range])) or vector(0))
                           + (sum(increase(otel_sdk_exporter_span_exported_total{{{SEL}, error_type!=""}}[$__range])) or vector(0)))""", "spans", instant=True)],
                    "none", steps(GREEN, (1, RED)), decimals=0, spark=False, no_value="0")),
                (4, stat(
                    "Log lines lost in this range", "Log lines that stdout did not take in the time range above.",
                    [q(f"round(sum(increase(log_lines_lost_total{{{SEL}}}[$__range])) or vector(0))", "lines", instant=True)],
                    "none", steps(GREEN, (1, RED)), decimals=0, spark=False, no_value="0")),
                (4, stat(
                    "Series", "Time series that the services expose. It stays level: no label takes a value from a client.",
                    [q(f"sum(scrape_samples_post_metric_relabeling{{{SEL}}})", "series")], "short", steps(GREEN, (2000, ORANGE), (10000, RED)))),
                (4, stat(
                    "Up since", "The time since the youngest process started.",
                    [q(f"time() - max(process_start_time_seconds{{{SEL}}})", "uptime")], "s", steps(ORANGE, (60, GREEN)), spark=False, no_value="not scraped")),
            ]),
        ]),
        ("Spans", [
            (8, [
                (12, lines(
                    "Spans started and exported", "Both lines of a service run together; exports come in batches, so the second is a little late. A lasting gap is loss or sampling.",
                    [
                        q(f"sum by (job) (rate(otel_sdk_span_started_total{{{SEL}}}[{RATE}]))", "{{job}} started"),
                        q(f'sum by (job) (rate(otel_sdk_exporter_span_exported_total{{{SEL}, error_type=""}}[{RATE}]))', "{{job}} exported"),
                    ],
                    "cps")),
                (12, lines(
                    "Spans lost, and why", "queue_full: more spans than the exporter takes (raise OTEL_BSP_MAX_QUEUE_SIZE, or sample). Anything else is the exporter's word for a failed export. `none` stands at 0.",
                    [q(SPANS_LOST, "{{job}} {{error_type}}")], "cps", stack=True, bars=True, overrides=[colour_matching("/none$/", GREEN)])),
            ]),
        ]),
        ("Scrapes and logs", [
            (8, [
                (8, lines(
                    "Scrape duration", "How long Prometheus waits for each target's metrics. The dashed line is the time limit of 4 s.",
                    [q(f"max by (job, instance) (scrape_duration_seconds{{{SEL}}})", "{{job}} {{instance}}")],
                    "s", thresholds=steps(GREEN, (1, ORANGE), (4, RED)))),
                (8, lines(
                    "Series over time", "How many series each target exposes, and how many Prometheus holds in all. A line that climbs without end is a label that should not be one.",
                    [
                        q(f"scrape_samples_post_metric_relabeling{{{SEL}}}", "{{job}} {{instance}}"),
                        q("prometheus_tsdb_head_series", "held by Prometheus"),
                    ],
                    "short")),
                (8, lines(
                    "Log lines lost", "Lines that stdout did not take, a second: whoever reads it is too slow or gone. The request goes on all the same.",
                    [q(f"sum by (job, error_type) (rate(log_lines_lost_total{{{SEL}}}[{RATE}]))", "{{job}} {{error_type}}")],
                    "cps", bars=True, stack=True)),
            ]),
        ]),
        ("Processes", [
            (8, [
                (8, lines(
                    "CPU", "Cores in use by each process: 100 % is one core, and 200 % is all there is on a machine with two.",
                    [q(f"sum by (job, instance) (rate(process_cpu_seconds_total{{{SEL}}}[{RATE}]))", "{{job}} {{instance}}")], "percentunit")),
                (8, lines(
                    "Memory", "Resident memory, held against the container's limit of 128 MiB (the dashed line).",
                    [q(f"process_resident_memory_bytes{{{SEL}}}", "{{job}} {{instance}}")], "bytes", thresholds=steps(GREEN, (134217728, RED)))),
                (8, lines(
                    "Open files and sockets", "File descriptors open and allowed, on a logarithmic scale. Where they meet, the service can take no more connections.",
                    [
                        q(f"process_open_fds{{{SEL}}}", "{{job}} open"),
                        q(f"process_max_fds{{{SEL}}}", "{{job}} allowed"),
                    ],
                    "short", log=True)),
            ]),
            (7, [
                (12, lines(
                    "Threads", "Threads of each process. It stays level under load: requests do not get threads of their own.",
                    [q(f"process_threads{{{SEL}}}", "{{job}} {{instance}}")], "short")),
                (12, lines(
                    "Time since start", "How long each process has been running. A fall to zero is a restart.",
                    [q(f"time() - process_start_time_seconds{{{SEL}}}", "{{job}} {{instance}}")], "s")),
            ]),
        ]),
    ],
)  # fmt: skip


def main():
    check = sys.argv[1:] == ["--check"]
    stale = []
    for one in (overview, calls, telemetry):
        path = OUT / f"{one['uid']}.json"
        text = json.dumps(one, indent=2, ensure_ascii=False) + "\n"
        if check:
            if not path.exists() or path.read_text() != text:
                stale.append(path.name)
        else:
            path.write_text(text)
    if stale:
        sys.exit(f"not what build.py writes: {', '.join(stale)}; run deploy/grafana/build.py")


if __name__ == "__main__":
    main()
