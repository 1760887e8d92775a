#!/usr/bin/env python3
"""Breaks each Prometheus rule in each way and requires that `promtool test rules` fails.

A mutation changes one place of an expression, of `for` or of a label: a number, a duration, a comparison, an
operator, an aggregation, a matcher or a label of `by` and `on`.
"""

import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

PROMETHEUS = pathlib.Path(__file__).resolve().parents[2] / "deploy/prometheus"
SWAPS = {">": "<", ">=": "<", "==": "!=", "and": "or", "or": "and", "sum": "max", "rate": "increase", "increase": "rate",
         "=": "!=", "!=": "=", "=~": "!~", "!~": "=~", "page": "ticket", "ticket": "page"}  # fmt: skip
FIELD = re.compile(r"^( *)(?:- )?(expr|for|labels): *(.*(?:\n\1 +.*)*)", re.M)
TOKEN = re.compile(
    r"""(?P<matcher>\w+(?:=~|!~|!=|=)"[^"]*"(?:,\s*)?)     # in braces
      | (?<=\[)\w+(?=\])|(?<=offset\ )\w+                  # a window or an offset
      | \b(?:by|on)\ \((?P<list>[\w,\ ]+)\)
      | \b(?P<word>and|or|sum|rate|increase)\b(?=[\s(])
      | (?P<comparison>==|>=|>)
      | (?<![\w:.])(?P<number>\d+(?:\.\d+)?)(?![\w:.])""",
    re.X,
)


def other_numbers(text):
    """Returns numbers slightly below and above, because a threshold can be too low and too high."""
    return ["1"] if float(text) == 0 else [f"{float(text) * factor:g}" for factor in (0.8, 1.25)]


def other_durations(text):
    number, unit = re.fullmatch(r"(\d+)(\w)", text).groups()
    seconds = int(number) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[unit]
    return [f"{seconds // 2}s", f"{seconds * 2}s"]


def without_each(items, separator):
    return [separator.join(items[:i] + items[i + 1 :]) for i in range(len(items))]


def other_matchers(text):
    """Returns no matcher, the opposite one, and one with fewer alternatives."""
    label, operator, value, comma = re.fullmatch(r'(\w+)(=~|!~|!=|=)"([^"]*)"(.*)', text, re.S).groups()
    fewer = without_each(value.split("|"), "|") if "|" in value else []
    return ["", f'{label}{SWAPS[operator]}"{value}"{comma}'] + [f'{label}{operator}"{v}"{comma}' for v in fewer]


def variants(match):
    """Returns what may stand in place of a token of an expression."""
    text = match.group()
    if match["matcher"]:
        return other_matchers(text)
    if match["list"]:
        return [text.replace(match["list"], labels) for labels in without_each(match["list"].split(", "), ", ")]
    if match["word"] or match["comparison"]:
        # At zero the border matters. At other values, `>` and `>=` differ for one value of a float.
        return [SWAPS[text]] + ([">="] if re.match(r" 0(?!\.)", match.string[match.end() :]) else [])
    return other_numbers(text) if match["number"] else other_durations(text)


def mutations(rules):
    """Yields the line number, a description and the text of each mutated file."""
    for field in FIELD.finditer(rules):
        start, value = field.start(3), field[3]
        if field[2] == "expr":
            places = [(m.span(), variants(m)) for m in TOKEN.finditer(value)]
        elif field[2] == "for":
            places = [(m.span(), other_durations(m.group())) for m in re.finditer(r"^\w+", value)]
        else:
            places = [(m.span(), [SWAPS.get(m.group(), "other")]) for m in re.finditer(r"(?<=: )\w+", value)]
        for (begin, end), texts in places:
            for text in texts:
                line = rules.count("\n", 0, start + begin) + 1
                yield line, f"{value[begin:end]!r} -> {text!r}", rules[: start + begin] + text + rules[start + end :]


def passes(name, text, tests):
    """Returns whether all tests pass with this text in place of the rule file."""
    with tempfile.TemporaryDirectory() as folder:
        for part in ("rules", "tests"):
            shutil.copytree(PROMETHEUS / part, pathlib.Path(folder, part))
        pathlib.Path(folder, "rules", name).write_text(text)
        for test in list(tests):
            if subprocess.run(["promtool", "test", "rules", test], cwd=f"{folder}/tests", capture_output=True).returncode:
                # The next mutation is of the same rule, so that this test is likely to fail again.
                tests.sort(key=lambda other: other != test)
                return False
    return True


def main():
    files = sorted((PROMETHEUS / "rules").glob("*.yml"))
    texts = {path.name: path.read_text() for path in (PROMETHEUS / "tests").glob("*.yml")}
    tests = {path.name: sorted(test for test, text in texts.items() if f"rules/{path.name}" in text) for path in files}
    work = [(path.name, *mutation) for path in files for mutation in mutations(path.read_text())]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(lambda one: passes(one[0], one[3], tests[one[0]]), work)
    survivors = [f"{name}:{line}: {change}" for (name, line, change, _), passed in zip(work, results) if passed]
    print(*survivors, sep="\n", end="\n" if survivors else "")
    print(f"{len(work)} mutations of the rules, {len(survivors)} of them not noticed by the tests of the rules")
    return bool(survivors)


sys.exit(main())
