#!/usr/bin/env python3
"""Parses both pages of a service that registers unusual metrics, with the parsers of `prometheus_client`.

    unusual.py URL

URL is that of the example `user_histogram` of the crate `observability`. Exits with code 1 if a page is invalid.
"""

import sys
import urllib.request

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text


def page(url, accept):
    message = urllib.request.Request(f"{url}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(message, timeout=10) as response:
        assert response.headers["content-type"].startswith(accept), response.headers["content-type"]
        return response.read().decode()


def main():
    url = sys.argv[1]
    urllib.request.urlopen(urllib.request.Request(f"{url}/unusual", method="POST"), timeout=10).read()
    for accept, parse in (("text/plain", parse_text), ("application/openmetrics-text", parse_openmetrics)):
        families = list(parse(page(url, accept)))
        series = [(sample.name, tuple(sorted(sample.labels.items()))) for family in families for sample in family.samples]
        assert len(series) == len(set(series)), f"{accept}: a series occurs twice"
        labels = dict(series)
        assert labels["rate_limit_bucket"] == (("rule", "login"),), labels["rate_limit_bucket"]
        print(f"{accept}: {len(families)} metrics in {len(series)} series, all valid")


main()
