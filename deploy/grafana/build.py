#!/usr/bin/env python3
"""Generates dashboards/*.json. With `--check` it only reports whether the files are up to date."""

import json
import pathlib
import sys

from builders import (
    BLUE, GREEN, GREY, ORANGE, QUANTILE_COLOURS, RATE, RED, YELLOW,
    bars, colour, colour_matching, dashboard, heatmap, kind_colours, lines, q, quantiles, stat, steps, table, traces,
)  # fmt: skip

OUT = pathlib.Path(__file__).parent / "dashboards"

# Filter of queries for unaggregated series. Recorded series have no instance: they cover a whole service.
SEL = 'job=~"$service", instance=~"$instance"'
A = 'job="service-a", http_route="/echo"'
ERRORS_ONLY = "%7B%22error%22%3A%22true%22%7D"  # {"error":"true"}
SERVER, CLIENT = "http_server_request_duration_seconds", "http_client_request_duration_seconds"


# --- Overview ------------------------------------------------------------------------------------

overview = dashboard(
    "overview",
    "Overview",
    "Availability, request rate, errors, latency and the service level objective of both services.",
    "up",
    [
        ("Current state", [
            (4, [
                (6, stat(
                    "Up", "Whether Prometheus can scrape the service. The panel turns red if one instance does not respond.",
                    [q(f"min by (job) (up{{{SEL}}})", "{{job}}")], "none", steps(RED, (1, GREEN)), spark=False, no_value="not scraped",
                    mappings=[{"type": "value", "options": {"0": {"text": "DOWN", "index": 0}, "1": {"text": "UP", "index": 1}}}])),
                (6, stat(
                    "Requests", "Requests per second over the last minute, summed over all instances. Probes and /metrics are not counted.",
                    [q('job:http_server_requests:rate1m{job=~"$service"}', "{{job}}")], "reqps", steps(BLUE), decimals=1)),
                (6, stat(
                    "Error ratio", "Share of requests with a 5xx response over the last minute. 4xx responses and disconnected clients are not errors of the service.",
                    [q('job:http_server_errors:ratio_rate1m{job=~"$service"}', "{{job}}")], "percentunit", steps(GREEN, (0.005, ORANGE), (0.05, RED)), decimals=2)),
                (6, stat(
                    "p95 latency", "95 % of the requests over the last minute were faster than this. The objective for B's calls is 250 ms.",
                    [q('job:http_server_request_duration_seconds:quantile_rate1m{job=~"$service", quantile="0.95"}', "{{job}}")], "s", steps(GREEN, (0.25, ORANGE), (1, RED)), decimals=1)),
            ]),
            (4, [
                (6, stat(
                    "Alerts firing", "Number of firing alerts in the whole system. The table at the end lists them.",
                    [q('count(ALERTS{alertstate="firing"}) or vector(0)', "alerts")], "none", steps(GREEN, (1, RED)), decimals=0, no_value="0")),
                (9, stat(
                    "Good calls, 30 days", "Share of B's calls that meet each objective, over all instances. Availability: 99.5 % of the calls have no 5xx response. Latency: 95 % of the successful calls take less than 250 ms.",
                    [q("slo:good_calls:ratio30d", "{{slo}}")], "percentunit", steps(RED, (0.95, GREEN)), decimals=2,
                    overrides=[{"matcher": {"id": "byName", "options": "availability"}, "properties": [{"id": "thresholds", "value": steps(RED, (0.995, GREEN))}]}])),
                (9, stat(
                    "Error budget left, 30 days", "Share of the allowed errors that is left. At 100 % no error has occurred. Below 0 the objective is missed.",
                    [q("slo:budget_left:ratio30d", "{{slo}}")], "percentunit", steps(RED, (0, ORANGE), (0.25, GREEN)), decimals=1)),
            ]),
        ]),
        ("Requests and errors", [
            (8, [
                (8, lines(
                    "Requests by status", "Responses per second by service and HTTP status. A request whose client disconnected has no status.",
                    [q(f"sum by (job, http_response_status_code) (rate({SERVER}_count{{{SEL}}}[{RATE}]))", "{{job}} {{http_response_status_code}}")],
                    "reqps", stack=True, links=[traces("Traces of ${__field.labels.job}", "${__field.labels.job}")],
                    overrides=[colour_matching("/ 2..$/", GREEN), colour_matching("/ 4..$/", YELLOW), colour_matching("/ 5..$/", RED), colour_matching("/ $/", GREY)])),
                (8, lines(
                    "Errors by kind", "Failed requests per second by service and error kind. The kind is the same in the response, the span and the log. The series `none` is always 0 and shows that there is traffic. Click a point to open the traces.",
                    [
                        q(f"""sum by (job, error_type) (rate({SERVER}_count{{{SEL}, error_type!=""}}[{RATE}]))
                              or label_replace(0 * sum by (job) (rate({SERVER}_count{{{SEL}}}[{RATE}])), "error_type", "none", "", "")""", "{{job}} {{error_type}}"),
                    ],
                    "reqps", stack=True, bars=True, overrides=kind_colours("service-. {}"),
                    links=[traces("Failed traces of ${__field.labels.job}", "${__field.labels.job}", ERRORS_ONLY)])),
                (8, lines(
                    "Error ratio over time", "Share of requests with a 5xx response. The dashed lines are 0.5 %, which the objective allows, and 5 %.",
                    [q(f"""(sum by (job) (rate({SERVER}_count{{{SEL}, error_type!="", error_type!="canceled"}}[{RATE}]))
                            or 0 * sum by (job) (rate({SERVER}_count{{{SEL}}}[{RATE}])))
                           / (sum by (job) (rate({SERVER}_count{{{SEL}}}[{RATE}])) > 0)""", "{{job}}")],
                    "percentunit", thresholds=steps(GREEN, (0.005, ORANGE), (0.05, RED)))),
            ]),
        ]),
        ("Latency", [
            (8, [
                (24, lines(
                    "Latency of $service", "50 %, 95 % and 99 % of the requests were faster than this. A dot is a request and opens its trace. The dashed lines are the objective of 250 ms and the time limit of B's calls, 1 s.",
                    quantiles(SERVER, SEL), "s", thresholds=steps(GREEN, (0.25, ORANGE), (1, RED)), overrides=QUANTILE_COLOURS, repeat="service",
                    links=[traces("Traces of $service", "$service")])),
            ]),
            (9, [
                (24, heatmap(
                    "Latency distribution of $service", "All requests by duration. Two bands are two groups of requests, such as successful ones and timeouts, which a quantile does not show.",
                    f"sum by (le) (rate({SERVER}_bucket{{{SEL}}}[{RATE}]))", repeat="service")),
            ]),
        ]),
        ("Service level objective", [
            (8, [
                (12, lines(
                    "Burn rate of the availability budget", "Rate at which failed calls use up the error budget, over three windows. At 1 the budget lasts exactly 30 days. An alert pages at 6 or 14.4 if two windows exceed it. The dashed lines are these values.",
                    [q(f'slo:budget_burn:rate{w}{{slo="availability"}}', f"over {w}") for w in ("5m", "1h", "6h")],
                    "none", thresholds=steps(GREEN, (1, YELLOW), (6, ORANGE), (14.4, RED)))),
                (12, lines(
                    "Burn rate of the latency budget", "Rate at which slow calls use up the error budget. At 1, 5 % of the successful calls take 250 ms or more.",
                    [q(f'slo:budget_burn:rate{w}{{slo="latency"}}', f"over {w}") for w in ("5m", "1h", "6h")],
                    "none", thresholds=steps(GREEN, (1, YELLOW), (6, ORANGE), (14.4, RED)))),
            ]),
        ]),
        ("Versions and alerts", [
            (6, [
                (10, table(
                    "Versions", "Version and revision of each instance. Two revisions at the same time are a rollout in progress.",
                    f"build_info{{{SEL}}}", {"job": "Service", "instance": "Instance", "version": "Version", "revision": "Revision"}, "not scraped")),
                (14, table(
                    "Alerts", "Pending and firing alerts. Each has a section in docs/runbook.md with its name.",
                    "ALERTS", {"alertname": "Alert", "alertstate": "State", "severity": "Severity", "job": "Service", "error_type": "Kind", "slo": "Objective"}, "no alerts")),
            ]),
        ]),
    ],
)  # fmt: skip


# --- Calls to A ----------------------------------------------------------------------------------

calls = dashboard(
    "calls-to-a",
    "Calls to A",
    "B's calls to A: rate, outcomes, latency, and the place where the time is spent.",
    f"{CLIENT}_count",
    [
        ("Current state", [
            (4, [
                (4, stat(
                    "Calls", "Calls to A per second over the last minute.",
                    [q('sum(job:http_client_requests:rate1m{job=~"$service"})', "calls")], "reqps", steps(BLUE), decimals=1)),
                (4, stat(
                    "Failed calls", "Share of calls without a usable response over the last minute. Calls that were canceled because B's client disconnected are not counted as failures.",
                    [q("""sum(job_error:http_client_errors:rate1m{job=~"$service", error_type!="canceled"})
                          / (sum(job:http_client_requests:rate1m{job=~"$service"}) > 0)""", "failed")],
                    "percentunit", steps(GREEN, (0.005, ORANGE), (0.05, RED)), decimals=2)),
                (4, stat(
                    "p95 measured by B", "95 % of the calls ended within this time, from connecting to the end of the response. The time limit is 1 s.",
                    [q('max(job:http_client_request_duration_seconds:quantile_rate1m{job=~"$service", quantile="0.95"})', "p95")],
                    "s", steps(GREEN, (0.25, ORANGE), (0.75, RED)), decimals=1)),
                (4, stat(
                    "p95 measured by A", "95 % of the requests in A ended within this time, from their arrival to the end of the response. A request that hangs is counted only when it ends.",
                    [q('job:http_server_request_duration_seconds:quantile_rate1m{job="service-a", quantile="0.95"}', "p95")],
                    "s", steps(GREEN, (0.25, ORANGE), (0.75, RED)), decimals=1)),
                (4, stat(
                    "Network and queue", "Mean time of a completed call that is not spent in A: connecting, network and queueing before A.",
                    [q(f"""sum(rate({CLIENT}_sum{{{SEL}, http_response_status_code!=""}}[{RATE}])) / sum(rate({CLIENT}_count{{{SEL}, http_response_status_code!=""}}[{RATE}]))
                           - sum(rate({SERVER}_sum{{{A}, http_response_status_code!=""}}[{RATE}])) / sum(rate({SERVER}_count{{{A}, http_response_status_code!=""}}[{RATE}]))""", "mean")],
                    "s", steps(GREEN, (0.05, ORANGE), (0.25, RED)), decimals=2)),
                (4, stat(
                    "In flight in A", "Number of requests that A is serving. It grows without bound if A hangs.",
                    [q('sum(http_server_active_requests{job="service-a"}) or vector(0)', "requests")], "none", steps(GREEN, (20, ORANGE), (100, RED)), decimals=0)),
            ]),
        ]),
        ("Outcomes", [
            (9, [
                (12, lines(
                    "Calls by outcome", "Every call by its outcome: ok, or its error kind. The total height is all traffic.",
                    [
                        q(f'sum(rate({CLIENT}_count{{{SEL}, error_type=""}}[{RATE}]))', "ok"),
                        q(f"sum by (error_type) (rate(http_client_request_errors_total{{{SEL}}}[{RATE}]))", "{{error_type}}"),
                    ],
                    "reqps", stack=True, overrides=kind_colours())),
                (7, lines(
                    "Errors by kind", "refused, dns, unreachable: no connection to A. timeout: no response in time. reset: the connection was closed before the response was complete. decode: a 2xx response that is not an echo. A number: the status of A. canceled: B's client disconnected. A dot is a failed call and opens its trace.",
                    [q(f"sum by (error_type) (rate(http_client_request_errors_total{{{SEL}}}[{RATE}]))", "{{error_type}}", exemplar=True)],
                    "reqps", overrides=kind_colours(), links=[traces("Failed traces of B", "service-b", ERRORS_ONLY)])),
                (5, bars(
                    "Errors in this time range", "Number of errors by kind over the selected time range.",
                    [q(f"round(sum by (error_type) (increase(http_client_request_errors_total{{{SEL}}}[$__range])))", "{{error_type}}", instant=True)],
                    "none", steps(GREEN, (1, ORANGE), (100, RED)))),
            ]),
            (7, [
                (12, lines(
                    "Responses by status", "Status of each response of A. A status outside 2xx is an error of the kind with that number.",
                    [q(f'sum by (http_response_status_code) (rate({CLIENT}_count{{{SEL}, http_response_status_code!=""}}[{RATE}]))', "{{http_response_status_code}}")],
                    "reqps", stack=True, overrides=[colour_matching("/^2..$/", GREEN), colour_matching("/^4..$/", YELLOW), colour_matching("/^5..$/", RED)])),
                (12, lines(
                    "Share of failed calls by kind", "Share of each error kind in all calls, over one minute. If refused, dns, unreachable or timeout stay above the dashed red line at 5 %, the alert ServiceARefused or ServiceATimingOut fires.",
                    [q('max by (error_type) (job_error:http_client_errors:ratio_rate1m{job=~"$service", error_type!="canceled"})', "{{error_type}}")],
                    "percentunit", thresholds=steps(GREEN, (0.005, ORANGE), (0.05, RED)), overrides=kind_colours())),
            ]),
        ]),
        ("Latency", [
            (9, [
                (12, lines(
                    "Latency measured by B", "All calls, including failed ones, which end at the time limit of 1 s if they time out. A dot is a call and opens its trace.",
                    quantiles(CLIENT, SEL), "s", thresholds=steps(GREEN, (0.25, ORANGE), (1, RED)), overrides=QUANTILE_COLOURS,
                    links=[traces("Traces of B", "service-b")])),
                (12, lines(
                    "Latency measured by A", "The same calls, measured inside A. If it is high, A is slow. If only the latency measured by B is high, the cause is the network, the queue before A, or an A that never responds.",
                    quantiles(SERVER, A), "s", thresholds=steps(GREEN, (0.25, ORANGE), (1, RED)), overrides=QUANTILE_COLOURS,
                    links=[traces("Traces of A", "service-a")])),
            ]),
            (8, [
                (12, lines(
                    "Time in A and on the network", "Mean duration of completed calls measured by B, measured by A, and the difference, which is network and queue.",
                    [
                        q(f"""sum(rate({CLIENT}_sum{{{SEL}, http_response_status_code!=""}}[{RATE}])) / sum(rate({CLIENT}_count{{{SEL}, http_response_status_code!=""}}[{RATE}]))""", "measured by B"),
                        q(f"""sum(rate({SERVER}_sum{{{A}, http_response_status_code!=""}}[{RATE}])) / sum(rate({SERVER}_count{{{A}, http_response_status_code!=""}}[{RATE}]))""", "measured by A"),
                        q(f"""sum(rate({CLIENT}_sum{{{SEL}, http_response_status_code!=""}}[{RATE}])) / sum(rate({CLIENT}_count{{{SEL}, http_response_status_code!=""}}[{RATE}]))
                              - sum(rate({SERVER}_sum{{{A}, http_response_status_code!=""}}[{RATE}])) / sum(rate({SERVER}_count{{{A}, http_response_status_code!=""}}[{RATE}]))""", "difference"),
                    ],
                    "s", minimum=None, overrides=[colour("measured by B", BLUE), colour("measured by A", GREEN), colour("difference", ORANGE)])),
                (12, heatmap(
                    "Latency distribution of the calls", "All calls by duration. A band at 1 s consists of calls that reached the time limit.",
                    f"sum by (le) (rate({CLIENT}_bucket{{{SEL}}}[{RATE}]))")),
            ]),
            (7, [
                (24, lines(
                    "In flight", "Calls of B and requests of each service in flight at the time of the scrape. If there are many more calls than requests in A, the calls wait before A.",
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

DROPPED_SPANS = f"""sum by (job, error_type) (rate(otel_sdk_processor_span_processed_total{{{SEL}, error_type!=""}}[{RATE}]))
    or sum by (job, error_type) (rate(otel_sdk_exporter_span_exported_total{{{SEL}, error_type!=""}}[{RATE}]))
    or label_replace(0 * sum by (job) (rate(otel_sdk_span_started_total{{{SEL}}}[{RATE}])), "error_type", "none", "", "")"""

telemetry = dashboard(
    "telemetry-health",
    "Telemetry health",
    "Whether the data of the other dashboards is complete: spans, scrapes, logs, and the resource usage of the processes.",
    "up",
    [
        ("Current state", [
            (4, [
                (4, stat(
                    "Targets up", "Share of instances that Prometheus can scrape. Below 100 %, some series on the other dashboards end.",
                    [q(f"avg(up{{{SEL}}})", "up")], "percentunit", steps(RED, (1, GREEN)), decimals=0, no_value="none")),
                (4, stat(
                    "Spans started", "Spans started per second by both services. Each GET /call-echo is three spans.",
                    [q(f"sum(rate(otel_sdk_span_started_total{{{SEL}}}[{RATE}]))", "spans/s")], "none", steps(BLUE), decimals=1)),
                (4, stat(
                    "Dropped spans in this time range", "Spans that did not reach the collector in the selected time range, because the queue was full or the export failed.",
                    [q(f"""round((sum(increase(otel_sdk_processor_span_processed_total{{{SEL}, error_type!=""}}[$__range])) or vector(0))
                           + (sum(increase(otel_sdk_exporter_span_exported_total{{{SEL}, error_type!=""}}[$__range])) or vector(0)))""", "spans", instant=True)],
                    "none", steps(GREEN, (1, RED)), decimals=0, spark=False, no_value="0")),
                (4, stat(
                    "Dropped log lines in this time range", "Log lines that could not be written to stdout in the selected time range.",
                    [q(f"round(sum(increase(log_lines_lost_total{{{SEL}}}[$__range])) or vector(0))", "lines", instant=True)],
                    "none", steps(GREEN, (1, RED)), decimals=0, spark=False, no_value="0")),
                (4, stat(
                    "Series", "Number of time series that the services expose. It is constant, because no label contains a value from a client.",
                    [q(f"sum(scrape_samples_post_metric_relabeling{{{SEL}}})", "series")], "short", steps(GREEN, (2000, ORANGE), (10000, RED)))),
                (4, stat(
                    "Uptime", "Time since the start of the latest process.",
                    [q(f"time() - max(process_start_time_seconds{{{SEL}}})", "uptime")], "s", steps(ORANGE, (60, GREEN)), spark=False, no_value="not scraped")),
            ]),
        ]),
        ("Spans", [
            (8, [
                (12, lines(
                    "Spans started and exported", "Both series of a service are equal, apart from a delay because spans are exported in batches. A lasting difference means dropped spans.",
                    [
                        q(f"sum by (job) (rate(otel_sdk_span_started_total{{{SEL}}}[{RATE}]))", "{{job}} started"),
                        q(f'sum by (job) (rate(otel_sdk_exporter_span_exported_total{{{SEL}, error_type=""}}[{RATE}]))', "{{job}} exported"),
                    ],
                    "cps")),
                (12, lines(
                    "Dropped spans by reason", "queue_full: the service creates more spans than it can export. Increase OTEL_BSP_MAX_QUEUE_SIZE or sample. Any other reason is a failed export. The series `none` is always 0.",
                    [q(DROPPED_SPANS, "{{job}} {{error_type}}")], "cps", stack=True, bars=True, overrides=[colour_matching("/none$/", GREEN)])),
            ]),
        ]),
        ("Scrapes and logs", [
            (8, [
                (8, lines(
                    "Scrape duration", "Duration of the scrape of each target. The dashed lines are 1 s and the time limit of 4 s.",
                    [q(f"max by (job, instance) (scrape_duration_seconds{{{SEL}}})", "{{job}} {{instance}}")],
                    "s", thresholds=steps(GREEN, (1, ORANGE), (4, RED)))),
                (8, lines(
                    "Series over time", "Number of series that each target exposes, and that Prometheus stores in total. Unbounded growth means that a label has too many values.",
                    [
                        q(f"scrape_samples_post_metric_relabeling{{{SEL}}}", "{{job}} {{instance}}"),
                        q("prometheus_tsdb_head_series", "held by Prometheus"),
                    ],
                    "short")),
                (8, lines(
                    "Dropped log lines", "Log lines per second that could not be written, because the reader of stdout is too slow or has closed it. Requests are not affected.",
                    [q(f"sum by (job, error_type) (rate(log_lines_lost_total{{{SEL}}}[{RATE}]))", "{{job}} {{error_type}}")],
                    "cps", bars=True, stack=True)),
            ]),
        ]),
        ("Processes", [
            (8, [
                (8, lines(
                    "CPU", "CPU usage of each process. 100 % is one core.",
                    [q(f"sum by (job, instance) (rate(process_cpu_seconds_total{{{SEL}}}[{RATE}]))", "{{job}} {{instance}}")], "percentunit")),
                (8, lines(
                    "Memory", "Resident memory. The dashed line is the container's limit of 128 MiB.",
                    [q(f"process_resident_memory_bytes{{{SEL}}}", "{{job}} {{instance}}")], "bytes", thresholds=steps(GREEN, (134217728, RED)))),
                (8, lines(
                    "Open files and sockets", "Open and maximum file descriptors, on a logarithmic scale. At the maximum, the service can accept no more connections.",
                    [
                        q(f"process_open_fds{{{SEL}}}", "{{job}} open"),
                        q(f"process_max_fds{{{SEL}}}", "{{job}} allowed"),
                    ],
                    "short", log=True)),
            ]),
            (7, [
                (12, lines(
                    "Threads", "Threads of each process. The number is constant under load, because requests share the threads.",
                    [q(f"process_threads{{{SEL}}}", "{{job}} {{instance}}")], "short")),
                (12, lines(
                    "Time since start", "Time since the start of each process. A drop to zero is a restart.",
                    [q(f"time() - process_start_time_seconds{{{SEL}}}", "{{job}} {{instance}}")], "s")),
            ]),
        ]),
    ],
)  # fmt: skip


def main():
    check = sys.argv[1:] == ["--check"]
    stale = []
    for board in (overview, calls, telemetry):
        path = OUT / f"{board['uid']}.json"
        text = json.dumps(board, indent=2, ensure_ascii=False) + "\n"
        if check:
            if not path.exists() or path.read_text() != text:
                stale.append(path.name)
        else:
            path.write_text(text)
    if stale:
        sys.exit(f"out of date: {', '.join(stale)}; run deploy/grafana/build.py")


if __name__ == "__main__":
    main()
