#!/usr/bin/env python3
"""Prints the dashboards as TypeScript, each part under the type that Grafana's own package
`@grafana/schema` gives it, so that tsc finds an option that Grafana would silently ignore.
"""

import json

from panels import dashboards, panels

KINDS = {"timeseries": "TimeSeries", "stat": "Stat", "bargauge": "BarGauge", "heatmap": "Heatmap", "table": "Table"}
WITH_FIELD_CONFIG = ("timeseries", "heatmap", "table")

# Enums as the strings that stand in JSON.
print("type Json<T> = T extends string ? `${T}` : T extends (infer U)[] ? Json<U>[] : T extends object ? { [K in keyof T]: Json<T[K]> } : T;")
print('import { Dashboard } from "@grafana/schema";')
for kind, name in KINDS.items():
    print(f'import * as {kind} from "./node_modules/@grafana/schema/dist/esm/raw/composable/{kind}/panelcfg/x/{name}PanelCfg_types.gen";')

number = 0
for board in dashboards():
    # Two fields belong to the Prometheus data source and are not in the dashboard's type.
    for variable in board["templating"]["list"]:
        del variable["definition"]
    for annotation in board["annotations"]["list"]:
        for own in ("expr", "titleFormat", "textFormat", "step"):
            del annotation[own]
    number += 1
    print(f"const d{number}: Json<Dashboard> = {json.dumps(board)};")
    for panel in panels(board):
        number += 1
        kind = panel["type"]
        print(f"// {board['uid']} / {panel['title']}")
        print(f"const o{number}: Partial<Json<{kind}.Options>> = {json.dumps(panel['options'])};")
        if kind in WITH_FIELD_CONFIG:
            print(f"const c{number}: Partial<Json<{kind}.FieldConfig>> = {json.dumps(panel['fieldConfig']['defaults']['custom'])};")
