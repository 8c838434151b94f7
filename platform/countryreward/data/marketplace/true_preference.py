"""Which of two ads the simulated customers of a market truly prefer: for generated ads, which nobody has clicked yet."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from countryreward.data.artifacts import open_artifact
from countryreward.data.design import Design
from countryreward.data.marketplace.copywriting import opening_liking
from countryreward.data.marketplace.delivered import audience_liking, over_audiences
from countryreward.data.marketplace.drawer import GOOD_CRAFT, Craft
from countryreward.data.marketplace.export import spec_of
from countryreward.data.marketplace.marketplace_config import LEVELS
from countryreward.data.marketplace.simulate import CRAFT
from countryreward.data.marketplace.taste import market_taste, spec_index, utility
from countryreward.data.marketplace.vocabulary import Spec, design_to_spec
from countryreward.errors import UserError


class TruePreference:
    """Differences of the log-odds of a click between ads of one product in one market. Only a simulation knows them."""

    def __init__(self, export: str | Path) -> None:
        """export: what jobs/make_marketplace.py published. Raises `UserError` where it is none."""
        artifact = open_artifact(export, kind="export", verify=False)
        options: dict[str, Any] = artifact.manifest.config
        self.level = LEVELS[options["level"]]
        self.world = options["seed"] if options["world_seed"] == -1 else options["world_seed"]
        self.rows: dict[str, dict[str, Any]] = {}
        with open(artifact.path / "designs.jsonl", encoding="utf-8") as handle:
            for line in handle:
                row = json.loads(line)
                self.rows[row["creative_id"]] = row["spec"]

    def of_creative(self, creative_id: str, market: str) -> float:
        """Log-odds of a click on an ad of the marketplace, but for what all ads of its product share in this market."""
        if creative_id not in self.rows:
            raise UserError(f"creative_id: {creative_id!r} is not in this marketplace; give one of its own")
        row = self.rows[creative_id]
        words = float(opening_liking([row.get("opening", "")], market, world_seed=self.world)[0])
        return float(row["shared"]) + words + self._liking(spec_of(row), row["category"], market)

    def of_design(self, design: Design, like: str, market: str, craft: Craft = GOOD_CRAFT) -> float:
        """As `of_creative`, of an ad that is drawn for a design of the product of the creative `like`.

        The part of the shared quality that cannot be seen counts 0, the average of all ads; the drawn ad has no words.
        """
        category = self.rows[like]["category"]
        return self.level.shared_sd * visible_quality(craft) * np.sqrt(self.level.visible_share) + self._liking(
            design_to_spec(design), category, market
        )

    def _liking(self, spec: Spec, category: str, market: str) -> float:
        taste = market_taste(market, world_seed=self.world, category_share=self.level.category_share)
        index = spec_index(pd.DataFrame([{**asdict(spec), "category": category}]))
        liking = self.level.taste_scale * float(utility(taste, index)[0])
        if self.level is not LEVELS["delivered"]:
            return liking
        return liking + float(over_audiences(audience_liking(market, index, self.level, world_seed=self.world))[0])


def visible_quality(craft: Craft) -> float:
    """Shared quality that can be seen, in standard deviations over the marketplace's ads: 0 is an average ad."""
    value = {
        "size": craft.size,
        "offset": float(np.hypot(craft.offset_x, craft.offset_y / 0.6)),
        "blur": craft.blur,
        "contrast": craft.contrast,
    }
    grades = [(value[name] - worst) / (best - worst) for name, (worst, best) in CRAFT.items()]
    return float(sum(np.sqrt(12) * (grade - 0.5) for grade in grades) / np.sqrt(len(grades)))
