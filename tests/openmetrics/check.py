#!/usr/bin/env python3
"""Reads B's and A's /metrics with the OpenMetrics parser of `prometheus_client`, which nobody here
wrote, and opens each exemplar in Jaeger.

    check.py --service-a URL --service-b URL --jaeger URL [--requests N]

Sends B N requests and a few that A answers slowly (it needs FAULTS_ENABLED=true), then holds: the
pages parse; every exemplar's trace is stored; the one of the slowest bucket lasted as long as it says.
Exits with 1 and one line that says what was not so.
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


def call(url, method="GET", body=None, accept=None):
    request = urllib.request.Request(url, method=method, data=body)
    if accept:
        request.add_header("Accept", accept)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


def check(condition, message):
    if not condition:
        sys.exit(message)


def exemplars(url):
    """Every exemplar on the page: the sample that carries it, and the exemplar."""
    status, headers, page = call(f"{url}/metrics", accept=MEDIA_TYPE)
    check(status == 200, f"{url}/metrics answers {status}")
    check(headers["content-type"].startswith(MEDIA_TYPE), f"{url}: {headers['content-type']}")
    found = []
    for family in text_string_to_metric_families(page):
        found += [(sample, sample.exemplar) for sample in family.samples if sample.exemplar]
    return found


def stored(jaeger, labels):
    """The span that an exemplar names, once it has arrived; the two services send on their own."""
    end = time.monotonic() + DEADLINE_S
    while True:
        status, _, body = call(f"{jaeger}/api/traces/{labels['trace_id']}")
        spans = json.loads(body)["data"][0]["spans"] if status == 200 else []
        for span in spans:
            if span["spanID"] == labels["span_id"]:
                return span
        check(time.monotonic() < end, f"the span of an exemplar is not in Jaeger: {labels}, {status}")
        time.sleep(0.1)


def main():
    parser = argparse.ArgumentParser()
    for name in ("service-a", "service-b", "jaeger"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--requests", type=int, default=100)
    options = parser.parse_args()
    a, b, jaeger = options.service_a, options.service_b, options.jaeger

    for _ in range(options.requests):
        call(f"{b}/call-echo?msg=hello")
    call(f"{a}/faults", "PUT", json.dumps({"delay_ms": SLOW_MS}).encode())
    # A caller that says its trace is sampled, so that the slow ones are, whatever the ratio is.
    for n in range(1, 4):
        request = urllib.request.Request(f"{b}/call-echo?msg=slow")
        request.add_header("traceparent", f"00-{time.time_ns():032x}-{n:016x}-01")
        urllib.request.urlopen(request, timeout=10).read()
    call(f"{a}/faults", "DELETE")

    opened = 0
    for url in (a, b):
        slowest = None
        for sample, exemplar in exemplars(url):
            span = stored(jaeger, exemplar.labels)
            opened += 1
            if sample.name == "http_server_request_duration_seconds_bucket":
                if slowest is None or exemplar.value > slowest[0].value:
                    slowest = exemplar, span
        check(slowest, f"{url}: no exemplar on the served requests")
        exemplar, span = slowest
        lasted, said = span["duration"] / 1e6, exemplar.value
        check(said >= SLOW_MS / 1000, f"{url}: the slowest exemplar says {said} s only")
        check(abs(lasted - said) < 0.05, f"{url}: the trace lasted {lasted} s, its exemplar says {said} s")
    print(f"{opened} exemplars, each opens a stored trace; the slowest lasted as long as they say")


main()
