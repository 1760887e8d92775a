"""Queries of the dashboards, and a client of Prometheus."""

import json
import math
import pathlib
import re
import urllib.parse
import urllib.request

DEPLOY = pathlib.Path(__file__).resolve().parents[2] / "deploy"

# Values of Grafana's built-in variables for a scrape interval of 5 s and a time range of 15 minutes.
BUILT_IN = {"__rate_interval": "20s", "__range": "15m"}


def dashboards():
    return [json.loads(path.read_text()) for path in sorted((DEPLOY / "grafana/dashboards").glob("*.json"))]


def panels(dashboard):
    """Returns the panels without the row headings."""
    return [p for p in dashboard["panels"] if p["type"] != "row"]


def substitute(text, variables):
    """Replaces $name and ${name}. An unknown name is an error, because the panel would be empty."""

    def value(match):
        name = match.group(1) or match.group(2)
        if name not in variables:
            raise KeyError(f"${name} is not a variable")
        return variables[name]

    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", value, text)


def variables(dashboard, **chosen):
    """Returns the values of all variables: built-in ones, `All` or the default for those of the dashboard, and the chosen ones."""
    defaults = {v["name"]: v.get("allValue", ".+") if v["type"] == "query" else v["query"] for v in dashboard["templating"]["list"]}
    return {**BUILT_IN, **defaults, **chosen}


def queries(dashboard, **chosen):
    """Yields panel, target and the expression with the chosen values of variables."""
    values = variables(dashboard, **chosen)
    for panel in panels(dashboard):
        for target in panel["targets"]:
            yield panel, target, substitute(target["expr"], values)


def legend(template, labels):
    """Returns the name of a series as its legend shows it."""
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda m: labels.get(m.group(1), ""), template).strip()


class Prometheus:
    def __init__(self, url):
        self.url = url

    def get(self, path, **parameters):
        query = urllib.parse.urlencode(parameters, doseq=True)
        request = f"{self.url}/api/v1/{path}?{query}"
        try:
            with urllib.request.urlopen(request, timeout=15) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(f"{parameters.get('query', path)}: {error.read().decode()}") from None

    def query(self, expression):
        """Returns the labels and the value of each series, without NaN."""
        result = self.get("query", query=expression)
        if result["resultType"] == "scalar":
            result["result"] = [{"metric": {}, "value": result["result"]}]
        pairs = [(series["metric"], float(series["value"][1])) for series in result["result"]]
        return [(labels, value) for labels, value in pairs if not math.isnan(value)]

    def label_values(self, query):
        """Returns the options of a variable `label_values(metric, label)`, or the jobs of `query_result(expression)`."""
        if query.startswith("query_result("):
            return sorted(labels["job"] for labels, _ in self.query(query[len("query_result(") : -1]))
        match = re.fullmatch(r"label_values\((.+),\s*(\w+)\)", query)
        return self.get(f"label/{match.group(2)}/values", **{"match[]": match.group(1)})

    def alerts(self, state="firing"):
        """Returns the names of the alerts in this state, `firing` or `pending`."""
        return {a["labels"]["alertname"] for a in self.get("alerts")["alerts"] if a["state"] == state}
