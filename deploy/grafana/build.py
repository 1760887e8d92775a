#!/usr/bin/env python3
"""Generates dashboards/*.json. With `--check` it only reports whether the files are up to date.

Needs the package that requirements.txt names.
"""

import pathlib
import sys

from builders import (
    BLUE, GREEN, KIND_COLOURS, LIVE, ORANGE, QUANTILE_COLOURS, RATE, RED, SEL, SERVICES, STATUS_COLOURS, YELLOW,
    bars, dashboard, heatmap, lines, q, quantiles, stat, steps, table, traces, variable,
)  # fmt: skip
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import ValueMap, ValueMappingResult

OUT = pathlib.Path(__file__).parent / "dashboards"
ERRORS_ONLY = "%7B%22error%22%3A%22true%22%7D"  # {"error":"true"}
SERVER, CLIENT, CLIENT_ERRORS = "http_server_request_duration_seconds", "http_client_request_duration_seconds", "http_client_request_errors_total"
LATENCY = steps(GREEN, (0.25, ORANGE), (1, RED))
WITH_KIND = ', error_type!=""'
RATIO = steps(GREEN, (0.005, ORANGE), (0.05, RED))


def rate(metric, selector, live=""):
    return f"rate({metric}{{{selector}}}[{RATE}]) {live}"


def alerts():
    """Returns the table of alerts, the first panel of each dashboard."""
    columns = {"alertname": "Alert", "alertstate": "State", "severity": "Severity", "job": "Service", "instance": "Instance", "error_type": "Kind", "slo": "Objective"}
    return table(
        24, "Alerts", "Pending and firing alerts of the chosen services. Each has a section in docs/runbook.md with its name.",
        'ALERTS{job=~"$job|", instance=~"$instance|"}', columns, "no alerts")  # fmt: skip


def which_request(metric, selector, label, slow, failed):
    """Returns two panels whose dots are requests. A dot opens its trace."""
    return [
        lines(
            12, slow, "99 % were faster than the line. Each dot is a request at its duration: the highest dots are the slowest. A click on a dot opens its trace.",
            [q(f"histogram_quantile(0.99, sum by (le, {label}) ({rate(metric + '_bucket', selector)}))", "{{" + label + "}}", exemplar=True)], "s"),
        lines(
            12, failed, "95 % of the failures of the kind were faster than the line. Each dot is a failed request, and its label `error_type` is the kind. A click on a dot opens its trace.",
            [q(f"""histogram_quantile(0.95, sum by (le, error_type) ({rate(metric + '_bucket', selector + WITH_KIND)}))""", "{{error_type}}", exemplar=True)],
            "s", colours=KIND_COLOURS),
    ]  # fmt: skip


# --- Service -------------------------------------------------------------------------------------

FAILED = SEL + ', error_type!~"|canceled"'
JOB_TRACES, JOB_ERRORS = traces("Traces", "${__field.labels.job}"), traces("Failed traces", "${__field.labels.job}", ERRORS_ONLY)
UP = [ValueMap(options={"0": ValueMappingResult(text="DOWN", index=0), "1": ValueMappingResult(text="UP", index=1)})]
NO_INSTANCE = "Of all instances: the variable Instance does not filter this panel."


def burn(objective, text):
    queries = [q(f'slo:budget_burn:rate{w}{{job=~"$job", slo="{objective}"}}', f"{{{{job}}}} over {w}") for w in ("5m", "1h", "6h")]
    return lines(
        12, f"Burn rate of the {objective} budget", f"{text} At 1 the budget lasts exactly 30 days. An alert pages at 14.4 over an hour or 6 over six hours, if there are 100 calls and the data is older. {NO_INSTANCE}",
        queries, "none", thresholds=steps(GREEN, (1, YELLOW), (6, ORANGE), (14.4, RED)))  # fmt: skip


service = dashboard(
    "service",
    "Service",
    "Alerts, request rate, errors, latency and service level objective of any service that uses the library.",
    [],
    {
        "Alerts and current state": [
            alerts(),
            stat(5, "Up", "Whether Prometheus can scrape all instances of the service.", f"min by (job) (up{{{SEL}}})", "{{job}}", "none", steps(RED, (1, GREEN)), no_value="not scraped", mappings=UP),
            stat(5, "Requests", "Requests per second. Probes and /metrics are not counted.", f"sum by (job) ({rate(SERVER + '_count', SEL, LIVE)})", "{{job}}", "reqps", steps(BLUE), decimals=1),
            stat(
                5, "Error ratio", "Share of requests that failed: 5xx responses and responses whose body failed. 4xx responses and disconnected clients are not failures of the service.",
                f"""(sum by (job) ({rate(SERVER + '_count', FAILED, LIVE)}) or 0 * sum by (job) ({rate(SERVER + '_count', SEL, LIVE)}))
                    / (sum by (job) ({rate(SERVER + '_count', SEL, LIVE)}) > 0)""", "{{job}}", "percentunit", RATIO, decimals=2),
            stat(
                5, "p95 latency", "95 % of the requests were faster than this.",
                f"histogram_quantile(0.95, sum by (job, le) ({rate(SERVER + '_bucket', SEL, LIVE)}))", "{{job}}", "s", LATENCY, decimals=1),
            stat(
                4, "In flight", "Number of requests that the service is serving. It grows without bound if the service hangs.",
                f"sum by (job) (http_server_active_requests{{{SEL}}})", "{{job}}", "none", steps(GREEN, (20, ORANGE), (100, RED))),
        ],
        "Requests and errors": [
            lines(
                8, "Requests by status", "Responses per second by service and HTTP status. A request whose client disconnected before the response has no status.",
                [q(f"sum by (job, http_response_status_code) ({rate(SERVER + '_count', SEL)})", "{{job}} {{http_response_status_code}}")],
                "reqps", stack=True, colours=STATUS_COLOURS, links=[JOB_TRACES]),
            lines(
                8, "Errors by kind", "Failed requests per second by service and error kind. The kind is the same in the response, the span and the log. The series `none` is always 0 and shows that there is traffic.",
                [q(f"""sum by (job, error_type) ({rate(SERVER + '_count', SEL + WITH_KIND)})
                       or label_replace(0 * sum by (job) ({rate(SERVER + '_count', SEL)}), "error_type", "none", "", "")""", "{{job}} {{error_type}}")],
                "reqps", stack=True, bars=True, colours=KIND_COLOURS, links=[JOB_ERRORS]),
            lines(
                8, "Error ratio over time", "Share of requests that failed. The dashed lines are 0.5 %, which the objective of B allows, and 5 %.",
                [q(f"""(sum by (job) ({rate(SERVER + '_count', FAILED)}) or 0 * sum by (job) ({rate(SERVER + '_count', SEL)}))
                       / (sum by (job) ({rate(SERVER + '_count', SEL)}) > 0)""", "{{job}}")],
                "percentunit", thresholds=RATIO),
        ],
        "Which request?": which_request(SERVER, SEL, "http_route", "Slowest requests", "Failed requests by kind"),
        "Latency": [
            lines(
                24, "Latency of $job", "50 %, 95 % and 99 % of the requests were faster than this. A dot is a request and opens its trace. The dashed lines are 250 ms and 1 s.",
                quantiles(SERVER, SEL), "s", thresholds=LATENCY, colours=QUANTILE_COLOURS, repeat="job", links=[traces("Traces of $job", "$job")]),
            heatmap(
                24, "Latency distribution of $job", "All requests by duration. Two bands are two groups of requests, such as successful ones and timeouts, which a quantile does not show.",
                f"sum by (le) ({rate(SERVER + '_bucket', SEL)})", repeat="job"),
        ],
        "Service level objective": [
            stat(
                12, "Good calls, 30 days", f"Share of calls that meet each objective. Availability: 99.5 % of the calls do not fail. Latency: 95 % of the successful calls take less than 250 ms. {NO_INSTANCE}",
                'slo:good_calls:ratio30d{job=~"$job"}', "{{job}} {{slo}}", "percentunit", steps(RED, (0.95, ORANGE), (0.995, GREEN)), decimals=2),
            stat(
                12, "Error budget left, 30 days", f"Share of the allowed errors that is left. At 100 % no error has occurred. Below 0 the objective is missed. {NO_INSTANCE}",
                'slo:budget_left:ratio30d{job=~"$job"}', "{{job}} {{slo}}", "percentunit", steps(RED, (0, ORANGE), (0.25, GREEN)), decimals=1),
            burn("availability", "Rate at which failed calls use up the error budget."),
            burn("latency", "Rate at which slow calls use up the error budget."),
        ],
        "Rollout": [
            table(
                24, "Versions", "Version and revision of each instance. Two revisions at the same time are a rollout in progress.",
                f"build_info{{{SEL}}}", {"job": "Service", "instance": "Instance", "version": "Version", "revision": "Revision"}, "not scraped"),
        ],
    },
)  # fmt: skip


# --- Calls ---------------------------------------------------------------------------------------

CALLS = SEL + ', server_address=~"$server"'
CALLEE = 'job="$callee"'
NOT_MADE = CALLS + ', error_type=~"circuit_open|overload"'
MADE = CALLS + ', error_type!~"circuit_open|overload"'
NOT_USABLE = CALLS + ', error_type!~"canceled|circuit_open|overload"'
SUCCESSFUL = CALLS + ', error_type=""'
ANSWERED = ', http_response_status_code!=""'
OF_CALLEE = "Of all requests to $callee: the other variables do not filter this series."


def made(by, live=""):
    """Returns the rate of the calls that were made. A failed call is counted as an error, because its kind is 0 before it first fails."""
    return f"sum{by} ({rate(CLIENT + '_count', SUCCESSFUL, live)} or {rate(CLIENT_ERRORS, MADE, live)})"


def failed(by, live=""):
    return f"sum{by} ({rate(CLIENT_ERRORS, NOT_USABLE, live)})"


def mean(metric, selector):
    return f"sum({rate(metric + '_sum', selector + ANSWERED)}) / sum({rate(metric + '_count', selector + ANSWERED)})"


calls = dashboard(
    "calls",
    "Calls to other services",
    "Calls of a service to other services: rate, outcomes, latency, and the place where the time is spent.",
    [
        variable("server", "Called address", f'label_values({CLIENT_ERRORS}{{job=~"$job"}}, server_address)', "Host name that the service calls", ".+"),
        variable("callee", "Called service", SERVICES, "Service behind the called address, for a comparison of both sides", single=True),
    ],
    {
        "Alerts and current state": [
            alerts(),
            stat(4, "Calls", "Calls per second that were made, with any outcome.", made("", LIVE), "calls", "reqps", steps(BLUE), decimals=1),
            stat(
                4, "Failed calls", "Share of the calls that were made and have no usable response. Calls that were canceled because the client disconnected are not failures.",
                f"{failed('', LIVE)} / ({made('', LIVE)} > 0)", "failed", "percentunit", RATIO, decimals=2),
            stat(
                4, "Not called", "Calls per second that were not made: the circuit breaker is open, or too many calls are in flight. They are in no share.",
                f"sum({rate(CLIENT_ERRORS, NOT_MADE, LIVE)}) or 0 * {made('', LIVE)}", "not called", "reqps", steps(GREEN, (0.01, RED)), decimals=1),
            stat(
                4, "p95 measured by the caller", "95 % of the calls ended within this time, from connecting to the end of the response.",
                f"histogram_quantile(0.95, sum by (le) ({rate(CLIENT + '_bucket', CALLS, LIVE)}))", "p95", "s", LATENCY, decimals=1),
            stat(
                4, "p95 measured by $callee", f"95 % of the requests ended within this time, from their arrival to the end of the response. A request that hangs is counted only when it ends. {OF_CALLEE}",
                f"histogram_quantile(0.95, sum by (le) ({rate(SERVER + '_bucket', CALLEE, LIVE)}))", "p95", "s", LATENCY, decimals=1),
            stat(
                4, "In flight in $callee", f"Number of requests that the called service is serving. It grows without bound if the service hangs. {OF_CALLEE}",
                f"sum(http_server_active_requests{{{CALLEE}}})", "requests", "none", steps(GREEN, (20, ORANGE), (100, RED))),
        ],
        "Outcomes": [
            lines(
                12, "Calls by outcome", "Every call that was made by its outcome: ok, or its error kind.",
                [
                    q(f"sum({rate(CLIENT + '_count', SUCCESSFUL)})", "ok"),
                    q(f"sum by (error_type) ({rate(CLIENT_ERRORS, MADE)})", "{{error_type}}"),
                ],
                "reqps", stack=True, colours=KIND_COLOURS),
            lines(
                12, "Not called by reason", "Calls per second that were not made. circuit_open: the calls before failed. overload: too many calls are in flight. A value of 1 of the circuit breaker means that it is open.",
                [
                    q(f"sum by (error_type) ({rate(CLIENT_ERRORS, NOT_MADE)})", "{{error_type}}"),
                    q(f"max by (server_address) (http_client_circuit_breaker_open{{{CALLS}}})", "circuit breaker {{server_address}}"),
                ],
                "none", colours=KIND_COLOURS),
            lines(
                8, "Errors by kind", "refused, dns, unreachable: no connection. timeout: no response in time. reset: the connection was closed before the response was complete. decode: a 2xx response that is not what the caller expects. A number: the status. canceled: the client disconnected. A dot is a failed call and opens its trace.",
                [q(f"sum by (error_type) ({rate(CLIENT_ERRORS, MADE)})", "{{error_type}}", exemplar=True)],
                "reqps", colours=KIND_COLOURS),
            lines(
                8, "Share of failed calls by kind", "Share of each error kind in the calls that were made. If refused, dns, unreachable or timeout stay above the dashed red line at 5 % for some minutes, the alert ServiceARefused or ServiceATimingOut fires.",
                [q(f"{failed(' by (error_type)')} / ignoring (error_type) group_left () ({made('')} > 0)", "{{error_type}}")],
                "percentunit", thresholds=RATIO, colours=KIND_COLOURS),
            bars(
                8, "Errors in this time range", "Number of errors by kind over the selected time range.",
                f"round(sum by (error_type) (increase({CLIENT_ERRORS}{{{CALLS}}}[$__range])))", "{{error_type}}"),
            lines(
                24, "Responses by status", "Status of each response. A status from 400 on is an error of the kind with that number.",
                [q(f"sum by (http_response_status_code) ({rate(CLIENT + '_count', CALLS + ANSWERED)})", "{{http_response_status_code}}")],
                "reqps", stack=True, colours=STATUS_COLOURS),
        ],
        "Which call?": which_request(CLIENT, CALLS, "server_address", "Slowest calls", "Failed calls by kind"),
        "Latency": [
            lines(
                12, "Latency measured by the caller", "All calls, including failed ones, which end at their time limit if they time out. A dot is a call and opens its trace.",
                quantiles(CLIENT, CALLS), "s", thresholds=LATENCY, colours=QUANTILE_COLOURS),
            lines(
                12, "Latency measured by $callee", f"If it is high, the called service is slow. If only the latency measured by the caller is high, the cause is the network, a queue, or a service that never responds. {OF_CALLEE}",
                quantiles(SERVER, CALLEE), "s", thresholds=LATENCY, colours=QUANTILE_COLOURS, links=[traces("Traces of $callee", "$callee")]),
            lines(
                12, "Time in $callee and on the network", f"Mean duration of completed calls measured by the caller, by $callee, and the difference, which is network and queue. {OF_CALLEE}",
                [q(mean(CLIENT, CALLS), "caller"), q(mean(SERVER, CALLEE), "$callee"), q(f"{mean(CLIENT, CALLS)} - {mean(SERVER, CALLEE)}", "difference")],
                "s", minimum=None, colours={"caller": BLUE, "difference": ORANGE}),
            lines(
                12, "In flight", f"Calls and requests in flight at the time of the scrape. If there are many more calls than requests in $callee, the calls wait before it. {OF_CALLEE}",
                [q(f"sum(http_client_active_requests{{{CALLS}}})", "calls"), q(f"sum(http_server_active_requests{{{CALLEE}}})", "requests in $callee")], "none"),
            heatmap(24, "Latency distribution of the calls", "All calls by duration. A band at the time limit consists of calls that reached it.", f"sum by (le) ({rate(CLIENT + '_bucket', CALLS)})"),
        ],
    },
)  # fmt: skip


# --- Telemetry health ----------------------------------------------------------------------------

QUEUE, EXPORT = "otel_sdk_processor_span_processed_total", "otel_sdk_exporter_span_exported_total"
SAMPLED = SEL + ', otel_span_sampling_result="RECORD_AND_SAMPLE"'
LOST, ACCEPTED = SEL + ', error_type!=""', SEL + ', error_type=""'
BY_KIND = "sum by (job, error_type)"


def each(title, description, query, unit, **more):
    """Returns a panel with a series for each process."""
    return lines(8, title, description, [q(query, "{{job}} {{instance}}")], unit, **more)


telemetry = dashboard(
    "telemetry-health",
    "Telemetry health",
    "Whether the data of the other dashboards is complete: spans, scrapes, logs, and the resource usage of the processes.",
    [],
    {
        "Alerts and current state": [
            alerts(),
            stat(4, "Targets up", "Share of instances that Prometheus can scrape. Below 100 %, some series on the other dashboards end.", f"avg(up{{{SEL}}})", "up", "percentunit", steps(RED, (1, GREEN))),
            stat(4, "Spans started", "Sampled spans started per second by the chosen services.", f"sum({rate('otel_sdk_span_started_total', SAMPLED, LIVE)})", "spans/s", "none", steps(BLUE), decimals=1),
            stat(
                4, "Dropped spans in this time range", "Spans that did not reach the collector in the selected time range, because the queue was full or the export failed.",
                f"round((sum(increase({QUEUE}{{{LOST}}}[$__range])) or vector(0)) + (sum(increase({EXPORT}{{{LOST}}}[$__range])) or vector(0)))", "spans", "none", steps(GREEN, (1, RED))),
            stat(
                4, "Dropped log lines in this time range", "Log lines that could not be written to stdout in the selected time range.",
                f"round(sum(increase(log_lines_lost_total{{{SEL}}}[$__range])) or vector(0))", "lines", "none", steps(GREEN, (1, RED))),
            stat(
                4, "Series", "Number of time series that the services expose. It is constant, because no label contains a value from a client.",
                f"sum(scrape_samples_post_metric_relabeling{{{SEL}}} {LIVE})", "series", "short", steps(GREEN, (2000, ORANGE), (10000, RED))),
            stat(4, "Uptime", "Time since the start of the latest process.", f"time() - max(process_start_time_seconds{{{SEL}}})", "uptime", "s", steps(ORANGE, (60, GREEN)), no_value="not scraped"),
        ],
        "Spans": [
            lines(
                8, "Spans started and exported", "Both series of a service are equal, apart from a delay because spans are exported in batches. A lasting difference means dropped spans.",
                [
                    q(f"sum by (job) ({rate('otel_sdk_span_started_total', SAMPLED)})", "{{job}} started"),
                    q(f"sum by (job) ({rate(EXPORT, ACCEPTED)})", "{{job}} exported"),
                ],
                "cps"),
            lines(
                8, "Spans that wait", "Share of the queue that is full, and of the queue's size that is in the exporter, retries included. At 100 % the queue drops spans. Both rise while the collector is away.",
                [
                    q(f"max by (job) (otel_sdk_processor_span_queue_size{{{SEL}}} / otel_sdk_processor_span_queue_capacity)", "{{job}} queued"),
                    q(f"max by (job) (sum by (job, instance) (otel_sdk_exporter_span_inflight{{{SEL}}}) / sum by (job, instance) (otel_sdk_processor_span_queue_capacity))", "{{job}} in flight"),
                ],
                "percentunit"),
            lines(
                8, "Dropped spans by reason", "queue_full: the service creates more spans than it can export. Increase OTEL_BSP_MAX_QUEUE_SIZE or sample. Any other reason is a failed export. The series `none` is always 0.",
                [q(f"""{BY_KIND} ({rate(QUEUE, LOST)}) or {BY_KIND} ({rate(EXPORT, LOST)})
                       or label_replace(0 * sum by (job) ({rate('otel_sdk_span_started_total', SAMPLED)}), "error_type", "none", "", "")""", "{{job}} {{error_type}}")],
                "cps", stack=True, bars=True, colours={"none": GREEN}),
        ],
        "Scrapes and logs": [
            each("Scrape duration", "Duration of the scrape of each target. The dashed lines are 1 s and the time limit of 4 s.", f"scrape_duration_seconds{{{SEL}}}", "s", thresholds=steps(GREEN, (1, ORANGE), (4, RED))),
            each("Series over time", "Number of series that each target exposes. Unbounded growth means that a label has too many values.", f"scrape_samples_post_metric_relabeling{{{SEL}}}", "short"),
            lines(
                8, "Dropped log lines", "Log lines per second that could not be written, because stdout is too slow, closed or full, or a line is too long. Requests are not affected.",
                [q(f"{BY_KIND} ({rate('log_lines_lost_total', SEL)})", "{{job}} {{error_type}}")], "cps", bars=True, stack=True),
        ],
        "Processes": [
            each("CPU", "CPU usage of each process. 100 % is one core.", f"sum by (job, instance) ({rate('process_cpu_seconds_total', SEL)})", "percentunit"),
            each("Memory", "Resident memory. The dashed line is the limit of 128 MiB in docker-compose.yml.", f"process_resident_memory_bytes{{{SEL}}}", "bytes", thresholds=steps(GREEN, (134217728, RED))),
            lines(
                8, "Open files and sockets", "Open and maximum file descriptors, on a logarithmic scale. At the maximum, the service can accept no more connections.",
                [q(f"process_open_fds{{{SEL}}}", "{{job}} {{instance}} open"), q(f"process_max_fds{{{SEL}}}", "{{job}} {{instance}} allowed")], "short", log=True),
            each("Threads", "Threads of each process. The number is constant under load, because requests share the threads.", f"process_threads{{{SEL}}}", "short"),
            each("Time since start", "Time since the start of each process. A drop to zero is a restart.", f"time() - process_start_time_seconds{{{SEL}}}", "s"),
        ],
    },
)  # fmt: skip


def main():
    texts = {f"{board.uid}.json": JSONEncoder(sort_keys=True, indent=2, ensure_ascii=False).encode(board) + "\n" for board in (service, calls, telemetry)}
    if sys.argv[1:] == ["--check"]:
        current = {path.name: path.read_text() for path in OUT.glob("*.json")}
        stale = sorted(name for name in texts.keys() | current.keys() if texts.get(name) != current.get(name))
        if stale:
            sys.exit(f"out of date: {', '.join(stale)}; run deploy/grafana/build.py")
        return
    for name, text in texts.items():
        (OUT / name).write_text(text)


if __name__ == "__main__":
    main()
