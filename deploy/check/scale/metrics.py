"""Counters of all tiers, added up over restarts."""
import collections
import contextlib
import re

from processes import get, metrics_port

SAMPLE = re.compile(r"^(\w+)(\{[^}]*\})? (\S+)", re.M)
# Each metric by which a tier counts spans that it loses.
LOSSES = {
    "by a service (SpansLost)": ("service", r"otel_sdk_(processor_span_processed|exporter_span_exported)_total", r'error_type="[^"]'),
    "by a collector, failed (CollectorSpansLost)": ("node|gateway", r"otelcol_exporter_send_failed_spans\w*", ""),
    "by a gateway, full (CollectorSpansLost)": ("gateway", r"otelcol_processor_tail_sampling_sampling_trace_dropped_too_early\w*", ""),
    "by Jaeger, refused by OpenSearch (SpansNotStored)": ("ingester", r"jaeger_\w*bulk_index_errors\w*", ""),
}
RECEIVERS = ["node", "gateway", "ingester"]


class Samples:
    """The last values of each process, and the sums of the processes that were killed."""

    def __init__(self, processes):
        self.processes = {name: p for name, p in processes.items() if not name.startswith(("kafka", "opensearch", "prometheus"))}
        self.every, self.before = processes, collections.defaultdict(float)
        self.last, self.pids, self.cpu, self.startup = {}, {}, collections.defaultdict(dict), {}

    def take(self):
        """Reads the metrics and the CPU time of each process that responds."""
        for name, process in self.every.items():
            with contextlib.suppress(OSError):
                self.cpu[name][process.process.pid] = seconds = process.cpu_seconds()
                self.startup.setdefault(name, seconds)
        for name, process in self.processes.items():
            with contextlib.suppress(OSError):
                text = get(f"http://{process.ip}:{metrics_port(name)}/metrics")
                if self.pids.get(name) not in (None, process.process.pid):
                    for series, value in self.last[name].items():
                        self.before[name, series] += value
                self.pids[name] = process.process.pid
                self.last[name] = {(m[1], m[2] or ""): float(m[3]) for m in SAMPLE.finditer(text)}

    def total(self, tier, metric, labels="", restarts=True):
        """Returns the sum of the matching series of the processes of a tier."""
        old = self.before.items() if restarts else ()
        series = [(n, s, v) for n, values in self.last.items() for s, v in values.items()] + [(n, s, v) for (n, s), v in old]
        return sum(v for n, (m, ls), v in series if re.match(tier, n) and re.fullmatch(metric, m) and re.search(labels, ls))

    def queued(self):
        self.take()
        return self.total("node|gateway", "otelcol_exporter_queue_size", restarts=False)

    def losses(self):
        return {where: self.total(*what) for where, what in LOSSES.items()}

    def unknown_to(self, rules):
        """Returns the metrics of collectors and Jaeger that the rules use and no process has."""
        names = {metric for values in self.last.values() for metric, _ in values}
        return sorted(set(re.findall(r"\b(?:otelcol|jaeger)_\w+", rules)) - names)

    def undecided(self, gateway):
        """Returns the number of traces that a gateway has received and not decided, at the last sample before its end."""
        prefix = "otelcol_processor_tail_sampling_"
        received = self.total(gateway, rf"{prefix}new_trace_id_received\w*")
        return received - self.total(gateway, rf"{prefix}global_count_traces_sampled\w*")

    def costs(self):
        """Yields tier, spans, and CPU seconds without those of the first start."""
        for tier in RECEIVERS:
            names = [name for name in self.cpu if name.startswith(tier)]
            seconds = sum(sum(self.cpu[name].values()) - self.startup[name] for name in names)
            yield tier, self.total(tier, r"otelcol_receiver_accepted_spans\w*"), seconds
