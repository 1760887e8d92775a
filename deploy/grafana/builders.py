"""Builders of Grafana panels and dashboards, with everything that all of them have in common."""

PROMETHEUS = {"type": "prometheus", "uid": "prometheus"}
JAEGER_UI = "http://localhost:16686"
PROMETHEUS_UI = "http://localhost:9090"
RATE = "$__rate_interval"

GREEN, YELLOW, ORANGE, RED, GREY, BLUE = "green", "yellow", "orange", "red", "#8e8e8e", "blue"

# Each error kind has the same colour on every panel.
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


def q(expr, legend, **more):
    """Returns one query. `more` holds options of Grafana such as `instant`, `exemplar` and `format`."""
    return {"expr": " ".join(expr.split()), "legendFormat": legend, **more}


def steps(base, *more):
    """Returns thresholds: a base colour, then pairs of the first value and its colour."""
    return {
        "mode": "absolute",
        "steps": [{"color": base, "value": None}] + [{"color": c, "value": v} for v, c in more],
    }


def colour(name, fixed):
    """Returns an override that colours the series of this name."""
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": fixed}}],
    }


def colour_matching(regexp, fixed):
    """Returns an override that colours the series whose names match."""
    return {**colour(regexp, fixed), "matcher": {"id": "byRegexp", "options": regexp}}


def kind_colours(pattern="{}"):
    """Returns the colours of series that are named by error kind. A status such as `500` is also a kind."""
    named = [colour_matching(f"/^{pattern.format(k)}$/", c) for k, c in KIND_COLOURS.items()]
    return named + [colour_matching(f"/^{pattern.format('5[0-9][0-9]')}$/", "dark-orange")]


def panel(kind, title, description, queries, unit, *, options, defaults=None, custom=None, overrides=(), **more):
    for ref, query in zip("ABCDEFGH", queries):
        query.update(refId=ref, datasource=PROMETHEUS, editorMode="code")
        query["range"] = not query.get("instant", False)
    field = {"unit": unit, "color": {"mode": "palette-classic"}, "custom": custom or {}}
    field.update(defaults or {})
    return {
        "type": kind,
        "title": title,
        "description": " ".join(description.split()),
        "datasource": PROMETHEUS,
        "pluginVersion": "13.2.0",
        "targets": queries,
        "fieldConfig": {"defaults": field, "overrides": list(overrides)},
        "options": options,
        **more,
    }


def stat(title, description, queries, unit, thresholds, *, decimals=None, mappings=(), overrides=(), spark=True, no_value="no traffic"):
    """Returns a panel with the latest value of each series."""
    defaults = {
        "thresholds": thresholds,
        "color": {"mode": "thresholds"},
        "mappings": list(mappings),
        "noValue": no_value,
    }
    if decimals is not None:
        defaults["decimals"] = decimals
    return panel(
        "stat", title, description, queries, unit, defaults=defaults, overrides=overrides,
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


def lines(title, description, queries, unit, *, thresholds=None, stack=False, bars=False, minimum=0, maximum=None, log=False, overrides=(), links=(), repeat=None, calcs=("lastNotNull", "max")):
    """Returns a panel with values over time. The thresholds are dashed lines."""
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
        "timeseries", title, description, queries, unit, defaults=defaults, custom=custom, overrides=overrides,
        options={
            "legend": {"displayMode": "table", "placement": "bottom", "showLegend": True, "calcs": list(calcs)},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        **more,
    )  # fmt: skip


def heatmap(title, description, expr, *, repeat=None):
    """Returns a panel with the distribution of latencies: columns are times, rows are buckets, colours are counts."""
    more = {"repeat": repeat, "repeatDirection": "h", "maxPerRow": 2} if repeat else {}
    return panel(
        "heatmap", title, description, [q(expr, "{{le}}", format="heatmap", exemplar=True)], "reqps",
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


def bars(title, description, queries, unit, thresholds, overrides=()):
    """Returns a panel with one bar per series: its total over the time range."""
    return panel(
        "bargauge", title, description, queries, unit, overrides=overrides,
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


def table(title, description, expr, columns, no_value):
    """Returns a table of the labels of an instant query. `columns` maps a label to its heading, in order."""
    return panel(
        "table", title, description, [q(expr, "__auto", instant=True, format="table")], "none",
        defaults={"thresholds": steps(GREEN), "noValue": no_value, "color": {"mode": "thresholds"}},
        custom={"align": "auto", "cellOptions": {"type": "auto"}},
        options={"showHeader": True, "cellHeight": "sm"},
        transformations=[
            {"id": "filterFieldsByName", "options": {"include": {"names": list(columns)}}},
            {"id": "organize", "options": {"indexByName": {n: i for i, n in enumerate(columns)}, "renameByName": columns}},
        ],
    )  # fmt: skip


def quantiles(metric, selector, *, exemplar=True, by=""):
    """Returns the queries of the p50, p95 and p99 of a histogram."""
    by = f"le, {by}" if by else "le"
    return [
        q(f"histogram_quantile({v}, sum by ({by}) (rate({metric}_bucket{{{selector}}}[{RATE}])))", f"p{round(v * 100)}", exemplar=exemplar)
        for v in (0.5, 0.95, 0.99)
    ]  # fmt: skip


QUANTILE_COLOURS = [colour("p50", GREEN), colour("p95", ORANGE), colour("p99", RED)]


def variable(name, label, query, every, description):
    """Returns a variable of a dashboard. `every` is its value if all options are selected."""
    return {
        "type": "query",
        "name": name,
        "label": label,
        "description": description,
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
    """Returns a link in the header of a dashboard."""
    plain = {"type": "link", "icon": "external link", "tags": [], "url": "", "tooltip": ""}
    switches = {"asDropdown": False, "keepTime": False, "includeVars": False, "targetBlank": False}
    return {"title": title, **plain, **switches, **more}


def dashboard(uid, title, description, source, rows):
    """Returns a dashboard.

    `source` is the metric whose labels are the options of the variables. `rows` is a list of
    (heading, [(height, [(width, panel), ...]), ...]) from top to bottom.
    """
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
        "description": description,
        "tags": ["observability"],
        "schemaVersion": 41,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,  # a crosshair that all panels share
        "refresh": "5s",
        "time": {"from": "now-15m", "to": "now"},
        "timepicker": {"refresh_intervals": ["5s", "15s", "1m", "5m"]},
        "timezone": "browser",
        "templating": {
            "list": [
                variable("service", "Service", f'label_values({source}{{job=~"service-.+"}}, job)', "service-.+", "Service, the label `job` in Prometheus"),
                variable("instance", "Instance", f'label_values({source}{{job=~"$service"}}, instance)', ".+", "Process of the service"),
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
            link("Traces (Jaeger)", url=f"{JAEGER_UI}/search", targetBlank=True, tooltip="Search for traces"),
            link("Alerts (Prometheus)", url=f"{PROMETHEUS_UI}/alerts", targetBlank=True, icon="bolt", tooltip="Alert rules and their state"),
        ],
        "panels": panels,
    }  # fmt: skip


def traces(title, service, tags=""):
    """Returns a link from a point on a panel to the traces of a service."""
    query = f"{JAEGER_UI}/search?service={service}" + (f"&tags={tags}" if tags else "")
    return {"title": title, "url": query, "targetBlank": True}
