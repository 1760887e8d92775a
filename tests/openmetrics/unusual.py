#!/usr/bin/env python3
"""Parses all pages of a service that registers unusual metrics: `prometheus_client`, promtool and Prometheus.

    unusual.py --service URL --tools FOLDER

The service is the example `user_histogram` of the crate `observability`. The folder has promtool and prometheus. Exits
with code 1 if a page is invalid.
"""

import argparse
import subprocess
import sys
import urllib.request

from prometheus import get, prometheus, wait_for
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text


def page(url, accept):
    message = urllib.request.Request(f"{url}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(message, timeout=10) as response:
        assert response.headers["content-type"].startswith(accept), response.headers["content-type"]
        return response.read().decode()


def main():
    parser = argparse.ArgumentParser()
    for name in ("service", "tools"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()
    url = options.service
    urllib.request.urlopen(urllib.request.Request(f"{url}/unusual", method="POST"), timeout=10).read()
    for accept, parse in (("text/plain", parse_text), ("application/openmetrics-text", parse_openmetrics)):
        families = list(parse(page(url, accept)))
        series = [(sample.name, tuple(sorted(sample.labels.items()))) for family in families for sample in family.samples]
        assert len(series) == len(set(series)), f"{accept}: a series occurs twice"
        labels = dict(series)
        assert labels["rate_limit_bucket"] == (("rule", "login"),), labels["rate_limit_bucket"]
        print(f"{accept}: {len(families)} metrics in {len(series)} series, all valid")

    command = [f"{options.tools}/promtool", "check", "metrics"]
    lint = subprocess.run(command, input=page(url, "text/plain"), capture_output=True, text=True)
    # 3 means that names do not follow the conventions. They are those of the service.
    if lint.returncode not in (0, 3):
        sys.exit(f"promtool: {lint.stderr}")

    protocols = {"text": "PrometheusText0.0.4", "openmetrics": "OpenMetricsText1.0.0", "protobuf": "PrometheusProto"}
    with prometheus(f"{options.tools}/prometheus", url, **protocols) as api:

        def targets():
            found = get(f"{api}/targets")["activeTargets"]
            return found if all(target["health"] != "unknown" for target in found) else None

        for target in wait_for("Prometheus has scraped", targets):
            if target["lastError"]:
                sys.exit(f"{target['labels']['job']}: {target['lastError']}")

        def samples(job):
            result = get(f"{api}/query", query=f"""count({{job="{job}", __name__!~"scrape_.+|up|.+_created"}})""")["result"]
            return int(result[0]["value"][1]) if result else None

        counts = {job: wait_for(f"{job} is stored", lambda job=job: samples(job)) for job in protocols}
    # OpenMetrics omits sum and count of histograms with negative bounds.
    if counts["text"] != counts["protobuf"] or counts["openmetrics"] > counts["text"]:
        sys.exit(f"the pages have different samples: {counts}")
    print(f"Prometheus stores {counts}")


main()
