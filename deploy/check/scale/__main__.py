"""The way of spans from services to OpenSearch, host by host on one machine, while each tier is killed once.

`python3 deploy/check/scale [--calls N]` starts two A, two B, two node collectors, two gateways, Kafka, an ingester,
OpenSearch, a query and Prometheus with the configuration files that Kubernetes mounts. It sends calls of which 1 % fail and 1 % are
slow, kills and restarts each tier meanwhile, and counts what has arrived. The exit code is 1 if a promise is broken.
"""
import argparse
import collections
import contextlib
import json
import math
import pathlib
import shutil
import signal
import tempfile
import threading
import time
import urllib.parse
import urllib.request

import load
import metrics
from processes import NET, ROOT, get, tiers

SLOW_MS = 250
DELAY_MS = 400  # of a slow call
DECISION_WAIT = 5  # seconds, as in gateway.yaml
OUTAGE = 3  # seconds from the kill of a tier to its start
KILLS = [
    ("node-0", signal.SIGKILL), ("gateway-0", signal.SIGTERM), ("gateway-1", signal.SIGKILL), ("kafka", signal.SIGKILL),
    ("ingester", signal.SIGKILL), ("query", signal.SIGKILL), ("opensearch", signal.SIGKILL),
]  # fmt: skip


def kill_each(processes, folder, progress, samples):
    """Kills and restarts each tier at equal distances of the load. Returns the start, the end and the load of each outage."""
    outages = {}
    for number, (name, kind) in enumerate(KILLS, 1):
        if name not in processes:
            continue
        while progress() < number / (len(KILLS) + 1):
            time.sleep(0.1)
        samples.take()
        process, done = processes[name], progress()
        process.stop(kind)
        time.sleep(OUTAGE)
        process.start(folder).wait()
        outages[name] = (process.killed, process.started, progress() - done)
        print(f"{progress():4.0%}  {name}: {kind.name}, ready after {process.started - process.killed:.1f} s", flush=True)
    return outages


def search(path, body):
    request = urllib.request.Request(f"http://{NET}.50:9200/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def stored_spans():
    """Returns the number of documents of each span by trace."""
    traces, page = collections.defaultdict(collections.Counter), None
    while page is None or page["hits"]["hits"]:
        if page is None:
            query = {"size": 5000, "sort": ["_doc"], "_source": ["traceID", "spanID", "process.serviceName"]}
            page = search("*jaeger-span-*/_search?scroll=1m", query)
        else:
            page = search("_search/scroll", {"scroll": "1m", "scroll_id": page["_scroll_id"]})
        for source in (hit["_source"] for hit in page["hits"]["hits"]):
            traces[source["traceID"]][source["process"]["serviceName"], source["spanID"]] += 1
    return traces


def is_whole(spans):
    """Returns whether a trace has the server and the client span of B and the server span of A."""
    return sorted(service for service, _ in spans) == ["service-a", "service-b", "service-b"]


def doubled(traces, limit=50):
    """Returns some traces that OpenSearch has twice."""
    return [trace for trace, spans in traces.items() if is_whole(spans) and max(spans.values()) > 1][:limit]


def wait_until_stored(samples):
    """Waits until no span has been stored for some seconds, and no queue has one."""
    last, since = -1, time.monotonic()
    while time.monotonic() - since < 2 * DECISION_WAIT + 5:
        time.sleep(1)
        with contextlib.suppress(OSError):
            search("*jaeger-span-*/_refresh", {})
            count = search("*jaeger-span-*/_count", {"query": {"match_all": {}}})["count"]
            if count != last or samples.queued():
                last, since = count, time.monotonic()


def fired():
    """Returns the names of the alerts that have fired."""
    query = urllib.parse.quote('count by (alertname) (max_over_time(ALERTS{alertstate="firing"}[6h]))')
    result = json.loads(get(f"http://{NET}.60:9090/api/v1/query?query={query}"))["data"]["result"]
    return {series["metric"]["alertname"] for series in result}


class Report:
    def __init__(self):
        self.failed = False

    def row(self, promise, measured, kept=True):
        self.failed |= not kept
        print(f"| {promise} | {measured} | {'yes' if kept else 'NO'} |")


def report(calls, traces, outages, samples, percent, direct):
    """Prints the table and returns whether a promise is broken. Without Kafka, the buffer of a killed Jaeger is lost too."""
    table = Report()
    windows = [outages[name][:2] for name in ["gateway-1", *(["ingester"] if direct else [])] if name in outages]
    in_memory = {call.trace for call in calls if any(killed - DECISION_WAIT - 3 <= call.sent <= end for killed, end in windows)}
    print("\n| promise | measured | kept |\n|---|---|---|")
    idle = [name for name, (_, _, share) in outages.items() if not share]
    table.row("each tier was killed while calls were sent", f"{len(outages) - len(idle)} of {len(outages)}", not idle)
    unexpected = [call for call in calls if call.status != call.expected]
    table.row("requests that failed because of telemetry: 0", f"{len(unexpected)} of {len(calls)}", not unexpected)
    for kind in ("failed", "slow"):
        chosen = [call.trace for call in calls if call.kind == kind]
        missing = [trace for trace in chosen if not is_whole(traces.get(trace, ()))]
        lost = [trace for trace in missing if trace in in_memory]
        text = f"{len(chosen) - len(missing)} of {len(chosen)}, {len(lost)} in the memory of a killed process, {len(missing) - len(lost)} others"
        table.row(f"every {kind} trace is whole in OpenSearch", text, len(missing) == len(lost))
    rest = [call.trace for call in calls if call.kind == "normal" and call.trace not in in_memory]
    kept = [trace for trace in rest if trace in traces]
    share, sigma = len(kept) / max(1, len(rest)), math.sqrt(percent / 100 * (1 - percent / 100) / max(1, len(rest)))
    inside = abs(share - percent / 100) <= 4 * sigma
    table.row(f"{percent} % of the rest, within 4 standard deviations", f"{share:.2%} of {len(rest)}, interval ± {4 * sigma:.2%}", inside)
    part = [trace for trace in kept if not is_whole(traces[trace])]
    table.row("a sampled trace is whole", f"{len(part)} of {len(kept)} are not", not part)
    copies = sum(sum(spans.values()) - len(spans) for spans in traces.values())
    table.row("spans stored twice, because Kafka, ingester or OpenSearch was killed", f"{copies} of {sum(map(len, traces.values()))}")
    shown = [len(json.loads(get(f"http://{NET}.60:16686/api/traces/{trace}"))["data"][0]["spans"]) for trace in doubled(traces)]
    table.row("Jaeger shows them once", f"{shown.count(3)} of {len(shown)} traces", shown.count(3) == len(shown))
    for where, number in samples.losses().items():
        table.row(f"lost: {where}", f"{number:.0f} spans", number == 0)
    unknown = samples.unknown_to((ROOT / "deploy/prometheus/rules/collector.yml").read_text())
    unknown = [metric for metric in unknown if not (direct and "kafka" in metric)]
    table.row("metrics that the alerts use and no process has", ", ".join(unknown) or "none", not unknown)
    alerts = fired()
    losses = {"SpansLost", "CollectorSpansLost", "SpansNotStored", "GatewayRestarted"} & alerts
    expected = {"GatewayRestarted"} if outages else set()
    table.row("alerts of lost spans that fired in Prometheus", ", ".join(sorted(losses)) or "none", losses == expected)
    table.row("other alerts that fired", ", ".join(sorted(alerts - losses)) or "none")
    lost = samples.undecided("gateway-1")
    table.row("lost: undecided in the killed gateway (GatewayRestarted)", f"{lost:.0f} traces, by design", lost == 0 or "gateway-1" in outages)
    return table.failed


def costs(processes, samples, started, traces):
    """Prints the CPU time of each tier and the size of a span."""
    spans = sum(sum(spans.values()) for spans in traces.values())
    stats = json.loads(get(f"http://{NET}.50:9200/*jaeger-span-*/_stats/store,docs"))["_all"]["primaries"]
    print("\n| tier | spans | CPU seconds | spans per second and core |\n|---|---|---|---|")
    for tier, number, seconds in samples.costs():
        print(f"| {tier} | {number:.0f} | {seconds:.1f} | {number / max(seconds, 0.01):.0f} |")
    print(f"\nOpenSearch: {stats['store']['size_in_bytes'] / max(1, spans):.0f} bytes per span, {spans} spans; {time.time() - started:.0f} s in all")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=8, help="calls in flight to each B")
    parser.add_argument("--sampling-percent", type=float, default=10)
    parser.add_argument("--programs", type=pathlib.Path, default=ROOT / "target/debug", help="folder of service-a and service-b")
    parser.add_argument("--direct", action="store_true", help="without Kafka: gateways send to a Jaeger collector")
    parser.add_argument("--no-kills", action="store_true", help="measures the capacity without an outage")
    parser.add_argument("--keep", action="store_true", help="keeps the folder with the logs")
    args = parser.parse_args()
    folder, started = pathlib.Path(tempfile.mkdtemp(prefix="scale-")), time.time()
    processes = tiers(folder, args.programs.resolve(), args.sampling_percent, SLOW_MS, args.direct)
    samples = metrics.Samples(processes)
    try:
        for process in processes.values():
            process.start(folder).wait()
        print(f"{len(processes)} processes started in {time.time() - started:.0f} s, logs in {folder}", flush=True)
        samples.take()
        driver = load.Driver([(f"{NET}.12:8080", f"{NET}.10:9464"), (f"{NET}.13:8080", f"{NET}.11:9464")], args.calls, args.workers, DELAY_MS)
        thread = threading.Thread(target=driver.run, daemon=True)
        thread.start()
        outages = {} if args.no_kills else kill_each(processes, folder, driver.progress, samples)
        thread.join()
        print(f"{len(driver.calls)} calls in {driver.seconds:.0f} s, {len(driver.calls) / driver.seconds:.0f} per second", flush=True)
        wait_until_stored(samples)
        samples.take()
        traces = stored_spans()
        failed = report(driver.calls, traces, outages, samples, args.sampling_percent, args.direct)
        costs(processes, samples, started, traces)
        return failed
    finally:
        for process in processes.values():
            if process.process and process.process.poll() is None:
                process.stop(signal.SIGKILL)
        if not args.keep:
            shutil.rmtree(folder, ignore_errors=True)


raise SystemExit(main())
