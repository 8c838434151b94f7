"""From a finished run to a published design writer.

config.json, model.safetensors, processor files   Qwen2-VL, as transformers loads it
writer.json                                       picture size, preset, what its training measured
README.md                                         the card
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from countryreward.data.artifacts import MANIFEST, MANIFEST_HASH, Artifact, open_artifact, publish


def publish_writer(
    out: str | Path, run: Path, inputs: Mapping[str, Artifact], options: dict[str, Any], *, paragraph: str = ""
) -> Artifact:
    """Publish last/ of a finished run. paragraph: for the card."""
    weights = open_artifact(run / "last", kind="weights")
    with publish(out, kind="design_writer", inputs=inputs, config=options) as draft:
        for name in weights.manifest.files:
            (draft.path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(weights.path / name, draft.path / name)
        assert not {MANIFEST, MANIFEST_HASH} & set(weights.manifest.files)
        about = json.loads((draft.path / "writer.json").read_text(encoding="utf-8"))
        (draft.path / "README.md").write_text(_card(about, inputs, options, paragraph), encoding="utf-8")
    return open_artifact(out, kind="design_writer")


def republish(out: str | Path, writer: Artifact, options: dict[str, Any], *, paragraph: str) -> Artifact:
    """A published writer under another name. paragraph: why it and no other, for the card."""
    with publish(out, kind="design_writer", inputs={"writer": writer}, config=options) as draft:
        for name in writer.manifest.files:
            (draft.path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(writer.path / name, draft.path / name)
        with open(draft.path / "README.md", "a", encoding="utf-8") as card:
            card.write(f"\n## Why this one\n\n{paragraph}\n")
    return open_artifact(out, kind="design_writer")


def _card(about: dict[str, Any], inputs: Mapping[str, Artifact], options: dict[str, Any], paragraph: str) -> str:
    made_of = "\n".join(f"- {name}: {artifact.manifest.version}" for name, artifact in inputs.items())
    how = {"supervised": "by example (maximum likelihood)", "preference": "by preference (Eq. 14 of the paper)"}
    return (
        "# A design writer\n\n"
        f"Qwen2-VL ({options['preset']}) that writes an ad's design (foreground, background, colour tone, lighting)\n"
        f"for a product, its picture and a market. Taught {how[about['stage']]} on {about['rows']:,} rows, "
        f"{about['steps']:,} steps.\n\n"
        f"{paragraph}{'' if not paragraph else chr(10) * 2}"
        "What it writes is a suggestion: read it before an ad goes out. It never saw the rules of any platform or country.\n\n"
        f"Made from:\n{made_of}\n\nOptions: writer.json and manifest.json.\n"
    )
