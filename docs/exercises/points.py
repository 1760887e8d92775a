#!/usr/bin/env python3
"""Prints the points of two services: `points.py FILE…` reads what `lab scenarios --json` has printed and the rubric
in docs/teaching.md. A test counts if it passed in one of the runs and failed in none."""
import json
import pathlib
import re
import sys

RUBRIC = pathlib.Path(__file__).parents[1] / "teaching.md"
ROW = re.compile(r"\| ([\w ]+) \| (\d+) \| (\d+) \|")


def results(files):
    """Returns the results of each test by suite and name."""
    found = {}
    for file in files:
        for suite in json.loads(pathlib.Path(file).read_text())["suites"]:
            for test in suite["tests"]:
                found.setdefault(suite["name"], {}).setdefault(test["name"], []).append(test)
    return found


def main(files):
    found, total, maximum = results(files), 0, 0
    for suite, count, points in ROW.findall(RUBRIC.read_text()):
        passed = 0
        for name, runs in found.get(suite, {}).items():
            failed = [run["reason"] for run in runs if run["result"] == "failed"]
            if failed:
                print(f"FAILED  {suite}: {name}: {failed[0]}")
            elif any(run["result"] == "passed" for run in runs):
                passed += 1
        print(f"{suite:<22} {passed} of {count} tests, {passed * int(points):>3} points")
        total, maximum = total + passed * int(points), maximum + int(count) * int(points)
    print(f"{total} of {maximum} points")


main(sys.argv[1:])
