#!/usr/bin/env python3
"""Scrapes native histograms with a real Prometheus and compares the median with the spans in Jaeger.

    native.py --prometheus PROGRAM --service-a URL --jaeger URL

A needs METRICS_NATIVE_HISTOGRAMS=true and traces all requests. Sends 1,000 requests to A, and requires that the median
which Prometheus computes differs by at most 10 % from that of the spans. Exits with code 1 and one line otherwise.
"""

import argparse
import statistics
import sys
import time
import urllib.request

from prometheus import get, prometheus, wait_for

REQUESTS = 1000
SERIES = 'http_server_request_duration_seconds{http_route="/echo"}'


def main():
    parser = argparse.ArgumentParser()
    for name in ("prometheus", "service-a", "jaeger"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()

    for _ in range(REQUESTS):
        urllib.request.urlopen(f"{options.service_a}/echo?msg=hello", timeout=10).read()
    with prometheus(options.prometheus, options.service_a, protobuf="PrometheusProto") as url:

        def query(expression):
            return get(f"{url}/query", query=expression)["result"]

        wait_for("Prometheus has all requests", lambda: query(f"histogram_count({SERIES}) == {REQUESTS}"))
        [median] = query(f"histogram_quantile(0.5, {SERIES})")
        median = float(median["value"][1])
        now = time.time()
        wait_for("Prometheus has exemplars", lambda: get(f"{url}/query_exemplars", query=SERIES, start=now - 600, end=now + 60))

    def spans():
        traces = get(f"{options.jaeger}/api/traces", service="service-a", operation="GET /echo", limit=1500)
        return [span["duration"] / 1e6 for trace in traces for span in trace["spans"]]

    wait_for("Jaeger has all spans", lambda: len(spans()) == REQUESTS)
    expected = statistics.median(spans())
    if abs(median / expected - 1) > 0.1:
        sys.exit(f"the median is {expected * 1e3:.3f} ms, and Prometheus computes {median * 1e3:.3f} ms")
    print(f"median of {REQUESTS} requests: {expected * 1e3:.3f} ms by the spans, {median * 1e3:.3f} ms by Prometheus")


main()
