"""report.html and report.json of a sweep: which parameters matter, and by how much."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from countryreward.evaluation import sweep_plots as plots
from countryreward.evaluation.html import data_uri, points, write_page
from countryreward.evaluation.report_text import METRICS, cell, percent, span


def write_sweep_report(
    table: Mapping[str, Any],
    folder: Path,
    *,
    simulated: bool,
    facts: Sequence[tuple[str, str]] = (),
    command: str = "",
    best_yaml: str = "",
) -> None:
    """Write both files. table: of `sweep_table`. best_yaml: the config that goes on from the best trial, shown as it is."""
    told = {**table, "simulated": simulated, "command": command, "facts": dict(facts)}
    (folder / "report.json").write_text(
        json.dumps(told, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8"
    )
    blocks = []
    if any(len(found) > 1 for found in table["curves"].values()):
        said = "Line: mean over all trials with a value; band: 95 % interval; dots: trials, pale ones stopped early."
        blocks = [
            (plots.response_curves(table, simulated), said),
            (plots.parallel_coordinates(table, simulated), "The best trial stands out; pale lines were stopped early."),
        ]
    blocks.append((plots.learning_curves(table, simulated), "A line that ends early was stopped by the scheduler."))
    write_page(
        "sweep_report.html.j2",
        folder / "report.html",
        headline=headline(table),
        findings=findings(table),
        plots=[{"uri": data_uri(png, "image/png"), "caption": said} for png, said in blocks],
        names=list(table["trials"][0]["params"]),
        metric=METRICS[table["metric"]][0],
        rows=_rows(table),
        failed=[trial for trial in table["trials"] if trial["status"] == "failed"],
        facts=[
            ("trials", ", ".join(f"{table['n'][name]} {name}" for name in ("finished", "stopped", "failed"))),
            ("validation", f"{table['n']['pairs']:,} pairs of {table['n']['products']:,} products"),
            ("intervals", f"95 %, {table['bootstrap']['draws']:,} bootstrap draws over products"),
            *facts,
        ],
        command=command,
        best_yaml=best_yaml,
        best_goes_on=_GOES_ON[best_of(table)["status"]],
        simulated=simulated,
    )


_GOES_ON = {
    "finished": "Its training is there already, so the command only publishes the model.",
    "stopped": "It was stopped early: the command trains it to its end and publishes the model.",
    "failed": "All trials failed, this one after it was measured. The command goes on with it, and may fail where it failed.",
}
"""Status of the best trial -> what the command does with it."""


def headline(table: Mapping[str, Any]) -> str:
    """The best trial in words."""
    best = best_of(table)
    told = ", ".join(f"{name.split('.')[-1]} = {plots.shown(value)}" for name, value in best["params"].items())
    return f"Best of {table['n']['trials']}: {told}"


def findings(table: Mapping[str, Any]) -> list[str]:
    """What a reader must know before believing the headline."""
    best, metric = best_of(table), table["metric"]
    name, shown = METRICS[metric][0].lower(), span(best[metric], 1)
    rivals = [trial for trial in table["trials"] if metric in trial and trial["name"] != table["best"]]
    near = [trial for trial in rivals if trial["to_best"]["high"] is None or trial["to_best"]["high"] >= 0]
    within = f" (95 % interval {shown})" if shown else ""
    found = [f"Its {name} on the validation pairs: {percent(best[metric]['value'], 1)}{within}."]
    if rivals and near:
        found.append(
            f"{len(near)} of the {len(rivals)} other trials cannot be told from it: the interval of their difference holds 0."
        )
    elif rivals:
        found.append("Every other trial is worse, and the interval of the difference does not hold 0.")
    found.append(
        "It was chosen on these pairs, so its own number is a little too good; jobs/evaluate_reward.py measures it on others."
    )
    if table["n"]["stopped"]:
        found.append(
            f"{table['n']['stopped']} trials were stopped early: their numbers are of a shorter training, and means over trials "
            "mix both."
        )
    return found


def best_of(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """The best trial's row."""
    return next(trial for trial in table["trials"] if trial["name"] == table["best"])


def _rows(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Trials from best to worst; those without a number last."""
    metric = table["metric"]
    scored = sorted((trial for trial in table["trials"] if metric in trial), key=lambda trial: -trial[metric]["value"])
    return [
        {
            "params": [plots.shown(value) for value in trial["params"].values()],
            "cells": [cell(trial[metric], True), points(trial["to_best"]), cell(trial["log_loss"], False)],
            "status": trial["status"],
            "steps": max((line["step"] for line in trial["validations"]), default=0),
            "seconds": f"{trial['seconds']:,.0f}",
            "name": trial["name"],
            "best": trial["name"] == table["best"],
        }
        for trial in scored
    ]
