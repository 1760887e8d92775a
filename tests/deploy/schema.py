#!/usr/bin/env python3
"""Prints the dashboards as TypeScript constants with the types of the package `@grafana/schema`, so that tsc
reports options that Grafana would silently ignore.
"""

import json

from panels import dashboards, panels

KINDS = {"timeseries": "TimeSeries", "stat": "Stat", "bargauge": "BarGauge", "heatmap": "Heatmap", "table": "Table"}
IGNORED = ("auto", "auto_count", "auto_min")  # the builders write the defaults of Grafana 11, as with `footer`
WITH_FIELD_CONFIG = ("timeseries", "heatmap", "table")

# Enums are strings in JSON.
print("type Json<T> = T extends string ? `${T}` : T extends (infer U)[] ? Json<U>[] : T extends object ? { [K in keyof T]: Json<T[K]> } : T;")
print('import { Dashboard } from "@grafana/schema";')
for kind, name in KINDS.items():
    print(f'import * as {kind} from "./node_modules/@grafana/schema/dist/esm/raw/composable/{kind}/panelcfg/x/{name}PanelCfg_types.gen";')

number = 0
for board in dashboards():
    for variable in board["templating"]["list"]:
        for field in IGNORED:
            del variable[field]
    for annotation in board["annotations"]["list"]:
        del annotation["expr"]  # belongs to the Prometheus data source, which the dashboard type lacks
    number += 1
    print(f"const d{number}: Json<Dashboard> = {json.dumps(board)};")
    for panel in panels(board):
        number += 1
        kind = panel["type"]
        panel["options"].pop("footer", None)
        print(f"// {board['uid']} / {panel['title']}")
        print(f"const o{number}: Partial<Json<{kind}.Options>> = {json.dumps(panel['options'])};")
        if kind in WITH_FIELD_CONFIG:
            print(f"const c{number}: Partial<Json<{kind}.FieldConfig>> = {json.dumps(panel['fieldConfig']['defaults'].get('custom', {}))};")
