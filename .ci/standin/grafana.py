"""Stand-in for Grafana if no container registry can be reached.

It reads the provisioning files with Grafana's user id and replaces their variables, calls the data sources from inside
the network, and serves the API calls that tests/deploy/stack.py makes. It renders nothing: stack.py sends the query
of each panel to Prometheus itself.
"""

import http.server
import json
import os
import pathlib
import re
import signal
import time
import urllib.request

import yaml

PROVISIONING = pathlib.Path("/etc/grafana/provisioning")
DATA = pathlib.Path("/var/lib/grafana")


def expand(value):
    """Replaces `$NAME` by the environment variable, and `$$` by `$`, in all texts of a provisioning file, as Grafana does."""
    if isinstance(value, dict):
        return {key: expand(item) for key, item in value.items()}
    if isinstance(value, list):
        return [expand(item) for item in value]
    if isinstance(value, str):
        return re.sub(r"\$(?:(\$)|(\w+))", lambda m: m[1] or os.environ[m[2]], value)
    return value


def load_provisioning():
    """Returns the data sources and the dashboards by their uid."""
    sources, dashboards = {}, {}
    for path in sorted((PROVISIONING / "datasources").glob("*.y*ml")):
        for source in expand(yaml.safe_load(path.read_text()))["datasources"]:
            if source["uid"] in sources:
                raise ValueError(f"duplicate data source {source['uid']}")
            sources[source["uid"]] = source
    for path in sorted((PROVISIONING / "dashboards").glob("*.y*ml")):
        for provider in expand(yaml.safe_load(path.read_text()))["providers"]:
            files = sorted(pathlib.Path(provider["options"]["path"]).glob("**/*.json"))
            if not files:
                raise ValueError(f"no dashboards in {provider['options']['path']}")
            for file in files:
                one = json.loads(file.read_text())
                if one["uid"] in dashboards:
                    raise ValueError(f"duplicate dashboard {one['uid']}")
                dashboards[one["uid"]] = one
    return sources, dashboards


def check_sources(sources):
    """Calls the health endpoint of each data source at the address in the provisioning file."""
    calls = {"prometheus": "/api/v1/status/buildinfo", "jaeger": "/api/services"}
    for source in sources.values():
        with urllib.request.urlopen(source["url"] + calls[source["type"]], timeout=5) as response:
            json.load(response)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            sources, dashboards = load_provisioning()
            uid = self.path.rsplit("/", 1)[-1]
            if self.path == "/api/health":
                check_sources(sources)
                status, body = 200, {"database": "ok", "standin": True, "starts": len(STARTS)}
            elif self.path.startswith("/api/search"):
                status, body = 200, [{"uid": u, "title": d["title"], "type": "dash-db"} for u, d in dashboards.items()]
            elif self.path.startswith("/api/datasources/uid/") and uid in sources:
                status, body = 200, sources[uid]
            elif self.path.startswith("/api/dashboards/uid/") and uid in dashboards:
                status, body = 200, {"dashboard": dashboards[uid], "meta": {"provisioned": True}}
            else:
                status, body = 404, {"message": "not found"}
        except Exception as error:  # the health check reports every error of the provisioning
            status, body = 503, {"error": f"{type(error).__name__}: {error}"}
            print(body["error"], flush=True)
        payload = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    # One line per start shows that this user can write to the volume and that it outlives the container.
    log = DATA / "starts"
    with log.open("a") as file:
        file.write(f"{time.time()}\n")
    STARTS = log.read_text().splitlines()
    http.server.ThreadingHTTPServer(("0.0.0.0", 3000), Handler).serve_forever()
