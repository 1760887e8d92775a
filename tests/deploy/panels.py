"""The queries of the dashboards and rules, and the Prometheus they are asked of."""

import json
import math
import pathlib
import re
import urllib.parse
import urllib.request

DEPLOY = pathlib.Path(__file__).resolve().parents[2] / "deploy"

# What Grafana would put in place of its own variables, at a scrape interval of 5 s and the
# dashboards' 15 minutes.
BUILT_IN = {"__rate_interval": "20s", "__interval": "5s", "__range": "15m"}


def dashboards():
    return [json.loads(path.read_text()) for path in sorted((DEPLOY / "grafana/dashboards").glob("*.json"))]


def panels(dashboard):
    return [p for p in dashboard["panels"] if p["type"] != "row"]


def substitute(text, variables):
    """Replaces $name and ${name}; a name nobody set is an error, as it would be an empty panel."""

    def value(match):
        name = match.group(1) or match.group(2)
        if name not in variables:
            raise KeyError(f"${name} is not a variable")
        return variables[name]

    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", value, text)


def variables(dashboard, **chosen):
    """Every variable of the dashboard at `All`, the built-in ones, and what was chosen."""
    every = {v["name"]: v["allValue"] for v in dashboard["templating"]["list"]}
    return {**BUILT_IN, **every, **chosen}


def queries(dashboard):
    """(panel, target, expression with all variables at All)."""
    values = variables(dashboard)
    for panel in panels(dashboard):
        for target in panel["targets"]:
            yield panel, target, substitute(target["expr"], values)


def legend(template, labels):
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda m: labels.get(m.group(1), ""), template).strip()


class Prometheus:
    def __init__(self, url):
        self.url = url

    def get(self, path, **parameters):
        query = urllib.parse.urlencode(parameters, doseq=True)
        request = f"{self.url}/api/v1/{path}?{query}"
        try:
            with urllib.request.urlopen(request, timeout=15) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(f"{parameters.get('query', path)}: {error.read().decode()}") from None

    def query(self, expression):
        """[(labels, value)], without what is not a number."""
        result = self.get("query", query=expression)
        if result["resultType"] == "scalar":
            result["result"] = [{"metric": {}, "value": result["result"]}]
        pairs = [(one["metric"], float(one["value"][1])) for one in result["result"]]
        return [(labels, value) for labels, value in pairs if not math.isnan(value)]

    def label_values(self, query):
        """What a variable `label_values(metric, label)` offers."""
        match = re.fullmatch(r"label_values\((.+),\s*(\w+)\)", query)
        return self.get(f"label/{match.group(2)}/values", **{"match[]": match.group(1)})

    def alerts(self, state="firing"):
        return {a["labels"]["alertname"] for a in self.get("alerts")["alerts"] if a["state"] == state}
