"""Run the benchmarks: ``python -m benchmarks.run [--only NAME] [--quick] [--rounds N] [--output FOLDER]``.

Prints every section as soon as it is measured. A whole run is written to ``benchmarks/results/``; a missed
target is printed and written, and fails nothing: time depends on the machine.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from importlib import import_module
from pathlib import Path

import django

from . import report
from .figures import Plan, Result

NAMES = ("drain", "send", "send_many", "latency", "backlog")
FEWEST_ROUNDS = 3


def main() -> None:
    options = _arguments()
    plan = Plan(max(options.rounds, FEWEST_ROUNDS), options.quick)
    with tempfile.TemporaryDirectory(prefix="mailrail-benchmarks-") as folder:
        os.environ["BENCHMARKS_FOLDER"] = folder  # for the processes that benchmarks start, too
        os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.settings"
        django.setup()
        under = report.conditions(plan)
        results = _measure(options.only or NAMES, plan)
    under["load after"] = report.load()
    print("\n".join(f"- {name}: {value}" for name, value in under.items()))
    if options.only or options.quick:
        print("Not written down: a part of a run, or a quick one.")
    else:
        print(f"Written to {report.write(under, results, options.output)}")
    _tell_misses(results)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description="Run the benchmarks.")
    parser.add_argument("--only", action="append", choices=NAMES, help="This one only; may be given again.")
    parser.add_argument("--quick", action="store_true", help="A tenth of the size, to see whether it works.")
    parser.add_argument("--rounds", type=int, default=FEWEST_ROUNDS, help="At least 3 (the default).")
    parser.add_argument("--output", type=Path, default=report.FOLDER, help="Folder for the result.")
    return parser.parse_args()


def _measure(names: list[str] | tuple[str, ...], plan: Plan) -> list[Result]:
    import_module("benchmarks.database").create_tables()
    results: list[Result] = []
    for name in names:
        print(f"{name} …", file=sys.stderr, flush=True)
        results.append(import_module(f"benchmarks.{name}").run(plan))  # models need Django to be set up
        print("\n".join(report.section(results[-1])) + "\n", flush=True)
    return results


def _tell_misses(results: list[Result]) -> None:
    missed = [(r, t) for r in results for t in r.targets if not t.met]
    for result, target in missed:
        print(f"NOT MET: {result.title}: {target.text}, found {target.found}")
    if not missed:
        print("All targets met.")


if __name__ == "__main__":
    main()
