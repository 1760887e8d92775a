"""What all panels and dashboards have in common, on top of Grafana's builders (PyPI: grafana-foundation-sdk)."""

from grafana_foundation_sdk.builders import bargauge, common, dashboard as dash, heatmap as heat, prometheus, stat as stats, table as tables, timeseries
from grafana_foundation_sdk.models import common as options, dashboard as model, heatmap as heat_options
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

PROMETHEUS = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
RATE = "$__rate_interval"
SEL = 'job=~"$job", instance=~"$instance"'
# A rate outlives its series by the range. With this suffix it ends at the first scrape that fails.
LIVE = "and on (job, instance) up == 1"

GREEN, YELLOW, ORANGE, RED, GREY, BLUE = "green", "yellow", "orange", "red", "#8e8e8e", "blue"
# Each error kind has the same colour on every panel. A status such as `500` is also a kind.
KIND_COLOURS = {
    "ok": GREEN, "timeout": ORANGE, "refused": RED, "reset": "purple", "dns": "dark-red", "unreachable": "light-red", "tls": "dark-purple",
    "decode": YELLOW, "canceled": GREY, "other": "dark-blue", "circuit_open": "dark-yellow", "overload": "dark-blue", "5..": "dark-orange",
}  # fmt: skip
STATUS_COLOURS = {"2..": GREEN, "4..": YELLOW, "5..": RED}
QUANTILE_COLOURS = {"p50": GREEN, "p95": ORANGE, "p99": RED}


def q(expr, legend, *, instant=False, exemplar=False, format_as="time_series"):
    """Returns one query."""
    query = prometheus.Dataquery().expr(" ".join(expr.split())).legend_format(legend).datasource(PROMETHEUS).format(PromQueryFormat(format_as))
    query = query.instant() if instant else query.range()
    return query.exemplar(True) if exemplar else query


def now(expr, legend):
    """Returns a query of the current value, which has no result once its series have ended."""
    return q(expr, legend, instant=True)


def quantiles(metric, selector):
    """Returns the queries of the p50, p95 and p99 of a histogram."""
    expr = f"sum by (le) (rate({metric}_bucket{{{selector}}}[{RATE}]))"
    return [q(f"histogram_quantile({v}, {expr})", f"p{round(v * 100)}", exemplar=True) for v in (0.5, 0.95, 0.99)]


def steps(base, *more):
    """Returns thresholds: a base colour, then pairs of the first value and its colour."""
    values = [model.Threshold(color=base, value=None)] + [model.Threshold(color=c, value=v) for v, c in more]
    return dash.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(values)


def panel(builder, width, height, title, description, queries, unit, thresholds, *, colours=None, links=(), repeat=None, minimum=0, decimals=None):
    """Sets what panels of every kind have. `colours` maps the last words of a series name, as a pattern, to its colour."""
    builder = builder.title(title).description(" ".join(description.split())).datasource(PROMETHEUS).span(width).height(height)
    builder = builder.unit(unit).thresholds(thresholds or steps(GREEN)).data_links(list(links))
    for ref, query in zip("ABCDEFGH", queries):
        builder = builder.with_target(query.ref_id(ref))
    for name, colour in (colours or {}).items():
        fixed = model.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": colour})
        builder = builder.override_by_regexp(f"/(^| ){name}$/", [fixed])
    if minimum is not None:
        builder = builder.min(minimum)
    if decimals is not None:
        builder = builder.decimals(decimals)
    return builder.repeat(repeat).repeat_direction("h").max_per_row(2) if repeat else builder


def stat(width, title, description, expr, legend, unit, thresholds, *, decimals=0, no_value="no data", mappings=()):
    """Returns a panel with current values."""
    builder = stats.Panel().no_value(no_value).mappings(list(mappings)).color_scheme(dash.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
    builder = builder.reduce_options(common.ReduceDataOptions().calcs(["last"]).fields("").values(False))
    builder = builder.color_mode(options.BigValueColorMode.BACKGROUND_SOLID).graph_mode(options.BigValueGraphMode.NONE)
    builder = builder.text_mode(options.BigValueTextMode.VALUE_AND_NAME)
    return panel(builder, width, 4, title, description, [now(expr, legend)], unit, thresholds, minimum=None, decimals=decimals)


def lines(width, title, description, queries, unit, *, height=8, thresholds=None, stack=False, bars=False, log=False, minimum=0, **more):
    """Returns a panel with values over time. The thresholds are dashed lines."""
    style = options.GraphThresholdsStyleMode.DASHED if thresholds else options.GraphThresholdsStyleMode.OFF
    builder = timeseries.Panel().color_scheme(dash.FieldColor().mode(model.FieldColorModeId.PALETTE_CLASSIC)).line_width(1)
    builder = builder.draw_style(options.GraphDrawStyle.BARS if bars else options.GraphDrawStyle.LINE).fill_opacity(60 if bars else 40 if stack else 8)
    builder = builder.show_points(options.VisibilityMode.NEVER).span_nulls(False).thresholds_style(common.GraphThresholdsStyleConfig().mode(style))
    builder = builder.stacking(common.StackingConfig().mode(options.StackingMode.NORMAL if stack else options.StackingMode.NONE).group("A"))
    if log:
        builder = builder.scale_distribution(common.ScaleDistributionConfig().type(options.ScaleDistribution.LOG).log(10))
        minimum = None
    # The legend has no last value, because it could be older than the series' end.
    legend = common.VizLegendOptions().display_mode(options.LegendDisplayMode.TABLE).placement(options.LegendPlacement.BOTTOM).show_legend(True)
    builder = builder.legend(legend.calcs(["mean", "max"]))
    builder = builder.tooltip(common.VizTooltipOptions().mode(options.TooltipDisplayMode.MULTI).sort(options.SortOrder.DESCENDING))
    return panel(builder, width, height, title, description, queries, unit, thresholds, minimum=minimum, **more)


def heatmap(width, title, description, expr, **more):
    """Returns a panel with the distribution of durations: columns are times, rows are buckets, colours are counts."""
    colour = heat.HeatmapColorOptions().mode(heat_options.HeatmapColorMode.SCHEME).scheme("Turbo").steps(64).exponent(0.5).fill("dark-orange")
    builder = heat.Panel().calculate(False).y_axis(heat.YAxisConfig().unit("s")).cell_gap(1).show_y_histogram().show_color_scale(True)
    builder = builder.color(colour.scale(heat_options.HeatmapColorScale.EXPONENTIAL)).filter_values(heat.FilterValueRange().le(1e-9))
    return panel(builder, width, 9, title, description, [q(expr, "{{le}}", format_as="heatmap", exemplar=True)], "reqps", None, minimum=None, **more)


def bars(width, title, description, expr, legend):
    """Returns a panel with one bar per series: its total over the time range."""
    builder = bargauge.Panel().display_mode(options.BarGaugeDisplayMode.LCD).orientation(options.VizOrientation.HORIZONTAL).show_unfilled(True)
    builder = builder.reduce_options(common.ReduceDataOptions().calcs(["last"]).fields("").values(False))
    return panel(builder, width, 8, title, description, [now(expr, legend)], "none", steps(GREEN, (1, ORANGE), (100, RED)), decimals=0)


def table(width, title, description, expr, columns, no_value):
    """Returns a table of the labels of a current value. `columns` maps a label to its heading, in order."""
    order = {name: position for position, name in enumerate(columns)}
    builder = tables.Panel().no_value(no_value).show_header(True).cell_height(options.TableCellHeight.SM)
    builder = builder.with_transformation(model.DataTransformerConfig(id_val="filterFieldsByName", options={"include": {"names": list(columns)}}))
    builder = builder.with_transformation(model.DataTransformerConfig(id_val="organize", options={"indexByName": order, "renameByName": columns}))
    return panel(builder, width, 6, title, description, [q(expr, "__auto", instant=True, format_as="table")], "none", None, minimum=None)


def traces(title, job, tags=""):
    """Returns a link from a point on a panel to the traces of a service."""
    return dash.DashboardLink(title).url(f"${{jaeger}}/search?service={job}" + (f"&tags={tags}" if tags else "")).target_blank(True)


def variable(name, label, query, description, every=None, single=False):
    """Returns a variable. If all values are selected, it is the regular expression `every` or a list."""
    kind = 3 if query.startswith("query_result") else 1  # how Grafana names the two kinds of queries
    builder = dash.QueryVariable(name).label(label).description(description).datasource(PROMETHEUS).query({"query": query, "refId": name, "qryType": kind})
    builder = builder.regex('/job="([^"]+)"/' if kind == 3 else "").refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(model.VariableSort.ALPHABETICAL_ASC)
    if single:
        return builder
    builder = builder.multi(True).include_all(True).current(model.VariableOption(text=["All"], value=["$__all"]))
    return builder.all_value(every) if every else builder


# Services of the last day, so that one that has gone is not missing, but down.
SERVICES = 'query_result(count by (job) (last_over_time(build_info{service!=""}[1d])))'


def dashboard(uid, title, description, variables, rows):
    """Returns a dashboard. `rows` maps the heading of a row to its panels."""
    alerts = dash.AnnotationQuery().name("Alerts").datasource(PROMETHEUS).enable(True).icon_color(RED)
    links = dash.DashboardLink("Dashboards").type(model.DashboardLinkType.DASHBOARDS).tags(["observability"]).keep_time(True).include_vars(True)
    board = dash.Dashboard(title).uid(uid).description(description).tags(["observability"]).readonly().timezone("browser")
    board = board.tooltip(model.DashboardCursorSync.CROSSHAIR).refresh("5s").time("now-15m", "now")
    board = board.annotation(alerts.expr('ALERTS{alertstate="firing", job=~"$job|", instance=~"$instance|"}'))
    board = board.link(links).link(dash.DashboardLink("Traces").type(model.DashboardLinkType.LINK).url("${jaeger}/search").target_blank(True))
    for one in (
        dash.DatasourceVariable("datasource").label("Prometheus").type("prometheus"),
        variable("job", "Service", SERVICES, "The label `job` in Prometheus, which is also the service in Jaeger"),
        variable("instance", "Instance", 'label_values(build_info{job=~"$job"}, instance)', "Process of the service", ".+"),
        *variables,
        dash.TextBoxVariable("jaeger").label("Jaeger").default_value("http://localhost:16686").description("Address of Jaeger for the links to traces"),
    ):
        board = board.with_variable(one)
    for heading, panels in rows.items():
        board = board.with_row(dash.Row(heading))
        for one in panels:
            board = board.with_panel(one)
    built = board.build()
    for number, one in enumerate(built.panels, 1):
        one.id_val = number
    return built
