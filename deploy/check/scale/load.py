"""Calls whose trace ids and outcomes are known: of each 1000 calls to a B, 10 fail and 10 are slow."""
import collections
import concurrent.futures
import http.client
import json
import secrets
import threading
import time
import urllib.request

Call = collections.namedtuple("Call", "trace kind expected status sent")
BLOCK = [("normal", None, 980), ("failed", {"status": 500}, 10), ("slow", {"delay_ms": ...}, 10)]
EXPECTED = {"normal": 200, "failed": 503, "slow": 200}


class Driver:
    """Sends calls to each B in a pool of threads. A fault of A lasts exactly as long as the calls that it is for."""

    def __init__(self, pairs, calls, workers, delay_ms):
        self.pairs, self.total, self.workers, self.delay_ms = pairs, calls, workers, delay_ms
        self.calls, self.local, self.seconds = [], threading.local(), 0

    def progress(self):
        return len(self.calls) / self.total

    def run(self):
        start = time.monotonic()
        threads = [threading.Thread(target=self.run_pair, args=pair, daemon=True) for pair in self.pairs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.seconds = time.monotonic() - start

    def run_pair(self, b, admin):
        with concurrent.futures.ThreadPoolExecutor(self.workers) as pool:
            for _ in range(self.total // len(self.pairs) // 1000):
                for kind, fault, number in BLOCK:
                    if fault:
                        put(admin, {name: self.delay_ms if value is ... else value for name, value in fault.items()})
                    list(pool.map(lambda _: self.call(b, kind), range(number)))
                    if fault:
                        put(admin, {})

    def call(self, b, kind):
        trace, sent = secrets.token_hex(16), time.time()
        headers = {"traceparent": f"00-{trace}-{secrets.token_hex(8)}-01"}
        try:
            connection = getattr(self.local, "connection", None) or http.client.HTTPConnection(b, timeout=10)
            connection.request("GET", "/call-echo?msg=hello", headers=headers)
            response = connection.getresponse()
            response.read()
            self.local.connection, status = connection, response.status
        except (OSError, http.client.HTTPException):
            self.local.connection, status = None, 0
        self.calls.append(Call(trace, kind, EXPECTED[kind], status, sent))


def put(admin, fault):
    request = urllib.request.Request(f"http://{admin}/faults", json.dumps(fault).encode(), {"Content-Type": "application/json"}, method="PUT")
    urllib.request.urlopen(request, timeout=10).close()
