#!/usr/bin/env python3
"""Parses /metrics of A and B with the OpenMetrics parser of `prometheus_client` and looks up each exemplar in Jaeger.

    check.py --service-a URL --service-b URL --jaeger URL [--requests N]

Sends N requests to B, and three more while A responds slowly (A needs FAULTS_ENABLED=true). Then it checks that
both pages parse, that Jaeger has the span of every exemplar, and that the slowest exemplar states the duration of
its span. Exits with code 1 and one line about the first failed check.
"""

import argparse
import json
import sys
import time
import urllib.error
import urllib.request

from prometheus_client.openmetrics.parser import text_string_to_metric_families

MEDIA_TYPE = "application/openmetrics-text; version=1.0.0"
SLOW_MS = 300
DEADLINE_S = 20


def request(url, method="GET", body=None, accept=None):
    """Returns status, headers and body of a response with any status."""
    message = urllib.request.Request(url, method=method, data=body)
    if accept:
        message.add_header("Accept", accept)
    try:
        with urllib.request.urlopen(message, timeout=10) as response:
            return response.status, response.headers, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


def check(condition, message):
    if not condition:
        sys.exit(message)


def exemplars(url):
    """Returns each sample that has an exemplar, with the exemplar."""
    status, headers, page = request(f"{url}/metrics", accept=MEDIA_TYPE)
    check(status == 200, f"{url}/metrics responds with {status}")
    check(headers["content-type"].startswith(MEDIA_TYPE), f"{url}: {headers['content-type']}")
    found = []
    for family in text_string_to_metric_families(page):
        found += [(sample, sample.exemplar) for sample in family.samples if sample.exemplar]
    return found


def stored_span(jaeger, labels):
    """Waits until Jaeger has the span of an exemplar and returns it."""
    end = time.monotonic() + DEADLINE_S
    while True:
        status, _, body = request(f"{jaeger}/api/traces/{labels['trace_id']}")
        spans = json.loads(body)["data"][0]["spans"] if status == 200 else []
        for span in spans:
            if span["spanID"] == labels["span_id"]:
                return span
        check(time.monotonic() < end, f"the span of an exemplar is not in Jaeger: {labels}, status {status}")
        time.sleep(0.1)


def main():
    parser = argparse.ArgumentParser()
    for name in ("service-a", "service-b", "jaeger"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--requests", type=int, default=100)
    options = parser.parse_args()
    a, b, jaeger = options.service_a, options.service_b, options.jaeger

    for _ in range(options.requests):
        request(f"{b}/call-echo?msg=hello")
    request(f"{a}/faults", "PUT", json.dumps({"delay_ms": SLOW_MS}).encode())
    # The client marks its trace as sampled, so that the slow requests are sampled with any ratio.
    for n in range(1, 4):
        message = urllib.request.Request(f"{b}/call-echo?msg=slow")
        message.add_header("traceparent", f"00-{time.time_ns():032x}-{n:016x}-01")
        urllib.request.urlopen(message, timeout=10).read()
    request(f"{a}/faults", "DELETE")

    found = 0
    for url in (a, b):
        slowest = None
        for sample, exemplar in exemplars(url):
            span = stored_span(jaeger, exemplar.labels)
            found += 1
            if sample.name == "http_server_request_duration_seconds_bucket":
                if slowest is None or exemplar.value > slowest[0].value:
                    slowest = exemplar, span
        check(slowest, f"{url}: no exemplar of a server request")
        exemplar, span = slowest
        duration, value = span["duration"] / 1e6, exemplar.value
        check(value >= SLOW_MS / 1000, f"{url}: the slowest exemplar is only {value} s")
        check(abs(duration - value) < 0.05, f"{url}: the span took {duration} s, its exemplar states {value} s")
    print(f"{found} exemplars, each refers to a stored span; the slowest state the duration of their span")


main()
