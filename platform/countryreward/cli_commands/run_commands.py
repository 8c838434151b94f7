"""`countryreward runs`: what lies in a folder of runs."""

import argparse
import json
from pathlib import Path
from typing import Any


def add_runs(commands: Any) -> None:
    """Declare the command and its options."""
    runs = commands.add_parser("runs", help="trainings and artifacts: status, metric, node-hours, what made them")
    runs.add_argument("folder", type=Path, nargs="?", default=Path("runs"), help="where jobs write to (default runs)")
    runs.add_argument("--kind", default=None, help="only these, such as training, model or sweep")
    runs.add_argument(
        "--lineage",
        metavar="ID",
        help="what stands behind a run id, a version of a verdict, a pair or a manifest, a training or trial, or a pair's key",
    )
    runs.add_argument("--json", action="store_true", help="for programs, with the whole lineage")


def show_runs(options: argparse.Namespace) -> None:
    """Print the list, or a lineage. Raises `UserError` where there is no such folder or id."""
    if options.lineage is not None:
        _show_lineage(options.folder, options.lineage, plain=options.json)
        return
    from countryreward.training.run_list import list_runs

    runs = [run for run in list_runs(options.folder) if options.kind in (None, run.kind)]
    if options.json:
        print(json.dumps([run.as_dict() for run in runs], indent=2))
        return
    rows = [("when (UTC)", "path", "kind", "status", "metric", "node-h", "version", "made from")]
    for run in runs:
        hours = "" if run.node_hours is None else f"{run.node_hours:.2f}"
        lineage = ", ".join(f"{name} {version[:8]}" for name, version in run.made_from.items())
        rows.append((run.when, run.path, run.kind, run.status, run.metric, hours, run.version, lineage))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) + "  " + row[-1])
    print(f"{len(runs)} in {options.folder}")


def _show_lineage(folder: Path, name: str, *, plain: bool) -> None:
    from countryreward.training.lineage import Lineage

    lineage = Lineage(folder)
    matches = lineage.find(name)
    if plain:
        print(json.dumps(lineage.as_dict(matches), indent=2))
        return
    for top in lineage.tops(matches):
        print("\n".join(lineage.tree(top)))
        if into := lineage.went_into(top):
            print("  went into: " + ", ".join(f"{thing.kind} {thing.version}" for thing in into))
