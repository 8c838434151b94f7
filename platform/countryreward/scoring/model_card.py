"""The model card: README.md of a model folder, in Hugging Face's form."""

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from countryreward.data.artifacts import Artifact
from countryreward.machine import describe_machine
from countryreward.scoring.model_folder import PROBE_RESULT
from countryreward.scoring.verdicts import claim_sentence

_WINS = {"orders": "sell more (orders; equal exposure is assumed)", "score": "be rated higher (ratings, not clicks)"}
"""Kind of evidence -> what the image that wins does; of the others, it gets more clicks."""


def card_facts(folder: Path, options: Mapping[str, Any], dataset: Artifact, *, simulated: bool) -> dict[str, Any]:
    """What `model_card` tells, read from a filled and probed model folder and the options of its training."""
    told = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    trained = json.loads((folder / "markets.json").read_text(encoding="utf-8"))["trained"]
    base = json.loads((folder / "knowledge_base.json").read_text(encoding="utf-8"))
    probe = json.loads((folder / PROBE_RESULT).read_text(encoding="utf-8"))
    machine = describe_machine()
    return {
        "backbone": options["backbone"] or options["preset"],
        "options": options["reward"] | {"image_px": options["image_px"] or "the preset's"} | _lora(options["lora"]),
        "markets": [entry["code"] for entry in trained],
        "records": sum(entry["records"] for entry in trained),
        "validation": told["validation"],
        "validated": told["records"],
        "temperature": told["temperature"],
        "probe": probe,
        "dataset": dataset.manifest.version,
        "knowledge_base": base["version"],
        "kinds": sorted(set(pq.read_table(dataset.path / "observations.parquet")["kind"].to_pylist())),
        "simulated": simulated,
        "delivery": told.get("delivery", "unknown"),
        "machine": f"{machine['cores']} cores {machine['processor']}, {machine['memory_gib']} GiB",
        "command": shlex.join(["python", *sys.argv]),
    }


def _lora(options: Mapping[str, Any]) -> dict[str, Any]:
    return {f"lora.{name}": value for name, value in options.items()} if options["rank"] else {}


def model_card(facts: Mapping[str, Any]) -> str:
    """The card's text from the facts of `card_facts`."""
    validation = facts["validation"]
    measured = "\n".join(
        f"| {name.replace('_', ' ')} | {validation[name]:.3f} |"
        for name in ("accuracy", "discordant_ordering", "discordant_sensitivity", "sensitivity", "brier", "log_loss")
        if validation.get(name) is not None and validation[name] == validation[name]
    )
    options = "\n".join(f"| {name} | {value} |" for name, value in facts["options"].items())
    kind = "simulated clicks of the marketplace simulator" if facts["simulated"] else "the observations imported into"
    wins = " or ".join(dict.fromkeys(_WINS.get(kind, "get the higher click-through rate") for kind in facts["kinds"]))
    simulated = " It learned from simulated clicks: it shows that the method works and knows nothing of real people."
    simulated = simulated if facts["simulated"] else ""
    source = kind if facts["simulated"] else f"{kind} `{facts['dataset']}`"
    return f"""---
library_name: countryreward
pipeline_tag: image-text-to-text
base_model: {facts["backbone"]}
---

# CountryReward

Given a product, two ad images of it and a country, says which image will {wins} there. {claim_sentence(facts["delivery"])}

```python
from countryreward import CountryReward, Product

judge = CountryReward.from_pretrained("THIS FOLDER")
judge.score(Product(title="Oak desk lamp"), "a.jpg", "b.jpg", markets={facts["markets"][:3]})
```

**Made from** backbone `{facts["backbone"]}`, {facts["records"]:,} training pairs of {source}, {len(facts["markets"])} markets:
{", ".join(facts["markets"])}. Knowledge base `{facts["knowledge_base"]}`.

**Measured on validation** ({facts["validated"]:,} records that were not in the training; the best of several moments was
chosen on these very numbers, so they are a little too good; the report of jobs/evaluate_reward.py is on the test split):

| metric | value |
|---|---|
{measured}

**Probe** (probe.json). {_probe(facts["probe"])}

A judge that ignores the country has discordant ordering .5 and discordant sensitivity 0.

**Options**

| option | value |
|---|---|
{options}

**Limits.** It knows the markets above and no other. It was trained on one source of evidence; on other shops, categories or
periods its probabilities need a new look (jobs/evaluate_reward.py). Temperature {facts["temperature"]:.3f} was fitted on
validation.{simulated}

**Made by** `{facts["command"]}` on {facts["machine"]}.
"""


def _probe(found: Mapping[str, Any]) -> str:
    changing, shared = found["items_whose_verdict_changes"], found["items_in_several_markets"]
    said = (
        f"Asked {found['questions']} of these again before it was published, it answered A to {found['share_a']:.0%}, and "
        f"its verdict changed with the market on {changing} of {shared} pairs."
    )
    if not found["collapsed"]:
        return said
    return f"{said}\n**It has collapsed**: {found['collapsed']}. It was published because: {found['allowed']}"
