"""The processes of the scale test: services, collectors, Kafka, Jaeger, OpenSearch and Prometheus.

Each process listens at a loopback address of its own, with the ports that it has in Kubernetes. The addresses are chosen at
random, so that two runs do not meet.
"""
import collections
import contextlib
import json
import os
import pathlib
import random
import signal
import subprocess
import time
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
CONFIG = ROOT / "deploy/collector/config"
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"), "observability-starter")
NET = f"127.{random.randrange(16, 250)}.{random.randrange(1, 250)}"
JOBS = {"node": "otel-node", "gateway": "otel-gateway", "ingester": "jaeger-ingester", "query": "jaeger-query"}
DEADLINE = 120  # seconds to start, on a busy machine


def backend(name):
    """Returns the program of a real backend, which is built if it is not in the cache."""
    return subprocess.check_output([ROOT / ".ci/go-backend", name], text=True).strip()


def jars(name):
    """Returns the class path of the artifacts of a pom, which Maven downloads if they are not in the cache."""
    folder = CACHE / f"scale-{name}"
    if not folder.exists():
        command = ["mvn", "-q", "-B", "-f", HERE / f"{name}.xml", "dependency:copy-dependencies", f"-DoutputDirectory={folder}.new"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        folder.with_name(f"{folder.name}.new").rename(folder)
    return f"{folder}/*"


class Process:
    """A process that can be killed and started again."""

    def __init__(self, name, host, health, command, env=None, stop=signal.SIGKILL):
        self.name, self.ip, self.stop_signal = name, f"{NET}.{host}", stop
        self.health = health and f"http://{self.ip}:{health}"
        self.command, self.env = [str(part) for part in command], env or {}
        self.process, self.killed, self.started = None, None, None

    def start(self, folder):
        self.log = folder / f"{self.name}.log"
        env = {**os.environ, "POD_IP": self.ip, "QUEUE_DIR": str(folder / f"{self.name}-queue"), **self.env}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, env=env, cwd=folder, stdout=log, stderr=log)
        return self

    def wait(self):
        """Waits until the process is ready."""
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError):
                if self.health is None or get(self.health):
                    self.started = time.time()
                    return
            time.sleep(0.1)
        raise SystemExit(f"{self.name} does not start:\n" + "".join(self.log.read_text(errors="replace").splitlines(True)[-5:]))

    def stop(self, number=None):
        """Sends the signal and waits for the end."""
        self.killed = time.time()
        self.process.send_signal(number or self.stop_signal)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def get(url, timeout=5):
    """Returns the body of a response with a status of 2xx."""
    with urllib.request.urlopen(url, timeout=timeout) as response:
        return response.read().decode()


def metrics_port(name):
    return "9464" if name.startswith("service") else "8888"


def java(classes, *arguments, heap):
    return ["java", f"-Xmx{heap}", "-XX:+UseSerialGC", "-cp", jars(classes), *arguments]


def kafka(folder, host=40):
    """Kafka in KRaft mode. Its folder is formatted once."""
    ip, data, properties = f"{NET}.{host}", folder / "kafka-data", folder / "kafka.properties"
    properties.write_text(
        f"process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@{ip}:9093\n"
        f"listeners=PLAINTEXT://{ip}:9092,CONTROLLER://{ip}:9093\nadvertised.listeners=PLAINTEXT://{ip}:9092\n"
        f"controller.listener.names=CONTROLLER\nlog.dirs={data}\nnum.partitions=4\noffsets.topic.replication.factor=1\n"
        "transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\ngroup.initial.rebalance.delay.ms=0\n"
    )
    tool = java("kafka", "kafka.tools.StorageTool", "format", "-t", "c2NhbGUtY2hlY2stMDAwMQ", "-c", properties, heap="128m")
    subprocess.run(tool, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return Process("kafka", host, None, java("kafka", "kafka.Kafka", properties, heap="512m"))


def opensearch(folder, host=50):
    (folder / "opensearch/config").mkdir(parents=True)
    command = java("opensearch", HERE / "OpenSearch.java", f"{NET}.{host}", folder / "opensearch", heap="1g")
    return Process("opensearch", host, "9200/_cluster/health?wait_for_status=yellow", command)


def configs(*names):
    return [f"--config={CONFIG / name}" for name in names]


def prometheus(folder, processes, host=60):
    """Debian's Prometheus with the rules of deploy/prometheus. `job` is the tier, as in Kubernetes."""
    tools = CACHE / "scale-prometheus"
    if not tools.exists():
        subprocess.run([ROOT / ".ci/debian-tools", tools], check=True, stdout=subprocess.DEVNULL)
    targets = collections.defaultdict(list)
    for process in processes:
        tier = process.name.rpartition("-")[0] or process.name
        targets[JOBS.get(tier, tier)].append(f"{process.ip}:{metrics_port(process.name)}")
    config = {
        "global": {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "2s"},
        "rule_files": [str(ROOT / "deploy/prometheus/rules/*.yml")],
        "scrape_configs": [{"job_name": job, "static_configs": [{"targets": hosts}]} for job, hosts in targets.items()],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    command = [tools / "usr/bin/prometheus", "--config.file=prometheus.yml", f"--web.listen-address={NET}.{host}:9090"]
    return Process("prometheus", host, "9090/-/ready", command)


def tiers(folder, programs, sampling_percent, slow_ms, direct):
    """Returns all processes by name, in the order in which they start."""
    collector, jaeger = backend("collector"), backend("jaeger")
    gateways = ", ".join(f"{NET}.{host}:4317" for host in (30, 31))
    site = {
        "GATEWAYS": f"[{gateways}]", "SAMPLING_PERCENT": str(sampling_percent), "SLOW_MS": str(slow_ms), "SHARDS": "1", "REPLICAS": "0",
        "KAFKA_BROKERS": f"[{NET}.40:9092]", "OPENSEARCH_URL": f"http://{NET}.50:9200", "PROMETHEUS_URL": f"http://{NET}.60:9090",
        "JAEGER_COLLECTOR": f"{NET}.41:4317", "OTEL_TRACES_SAMPLER": "always_off", "GOMEMLIMIT": "400MiB",
    }  # fmt: skip

    def service(name, index, host, **env):
        env |= {
            "LISTEN_ADDR": f"{NET}.{host}:8080", "ADMIN_ADDR": f"{NET}.{host}:9464", "FAULTS_ENABLED": "true", "LOG_LEVEL": "warn",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{NET}.{20 + index}:4317", "OTEL_BSP_SCHEDULE_DELAY": "200",
            "OTEL_BSP_MAX_QUEUE_SIZE": "32768", "SERVICE_A_TIMEOUT_MS": "5000",
        }  # fmt: skip
        return Process(f"{name}-{index}", host, "9464/readyz", [programs / name], env, signal.SIGTERM)

    def jaeger_process(name, host, config):
        return Process(name, host, "13133/status", [jaeger, *configs("jaeger-storage.yaml", config)], site)

    every = [opensearch(folder)]
    if direct:
        every += [jaeger_process("ingester", 41, "jaeger-collector.yaml")]
    else:
        every += [kafka(folder), jaeger_process("ingester", 41, "ingester.yaml")]
    gateway = configs("gateway.yaml", "gateway-direct.yaml" if direct else "gateway-kafka.yaml")
    every += [Process(f"gateway-{i}", 30 + i, "13133", [collector, *gateway], site) for i in (0, 1)]
    every += [Process(f"node-{i}", 20 + i, "13133", [collector, *configs("node.yaml")], site) for i in (0, 1)]
    every += [jaeger_process("query", 60, "query.yaml")]
    every += [service("service-a", i, 10 + i) for i in (0, 1)]
    every += [service("service-b", i, 12 + i, SERVICE_A_URL=f"http://{NET}.{10 + i}:8080") for i in (0, 1)]
    every += [prometheus(folder, [process for process in every if process.name not in ("kafka", "opensearch")])]
    return {process.name: process for process in every}
