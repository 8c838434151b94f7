"""Cases of a writer and its rounds, made up: utilities of ads, judges with errors of their own, designs of drawn words."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from countryreward.evaluation.writer_cases import WriterCases

WORDS = ("red", "blue", "soft", "neon", "calm", "bright", "street", "beach", "studio", "garden", "lanterns", "snow")


def case(product: str, market: str, **other: Any) -> dict[str, Any]:
    """One row of CASES; what is not given is the same for all."""
    row = {
        "key": f"{product}-{market}-{other.get('seed', 0)}",
        "product_id": product,
        "market": market,
        "image_hash": f"image-{product}",
        "foreground": "bare",
        "background": "studio",
        "color_tone": "grey",
        "lighting": "soft",
        "repaired": False,
        "seed": 0,
        "seed_render": 0,
        "ad": f"ad-{product}-{market}",
        "fidelity": 0.8,
        "writer": "w",
        "renderer": "r",
        "beats_original": {},
        "beats_reference": {},
    }
    return row | other


def world(
    *,
    products: int = 40,
    markets: Sequence[str] = ("BR", "KR", "US"),
    shifts: Mapping[str, Mapping[str, float]],
    draws: int = 2,
    seed: int = 0,
    variety: int = 12,
    fidelity: float = 0.8,
) -> list[WriterCases]:
    """The reference and one variant per entry of `shifts`: {variant: {judge: how much more it likes its ads, in logits}}.

    A judge's utility of an ad is what is true, plus its shift, plus an error of its own (sd .7). variety: words in use.
    """
    rng = np.random.default_rng(seed)
    shape = products, len(markets), draws
    original = rng.normal(0, 1, (products, 1, 1))
    judges = ("reward", "held_out", "truth")
    errors = {judge: 0.0 if judge == "truth" else 0.7 for judge in judges}
    of_original = {judge: original + rng.normal(0, 1, original.shape) * errors[judge] for judge in judges}
    reference: dict[str, np.ndarray] = {}
    found = []
    for name, shift in {"reference": {}, **shifts}.items():
        true = rng.normal(0, 0.7, shape)
        utility = {judge: true + shift.get(judge, 0.0) + rng.normal(0, 1, shape) * errors[judge] for judge in judges}
        reference = reference or utility
        rows = []
        for p, m, d in np.ndindex(shape):
            words = rng.choice(WORDS[:variety], (4, 2))
            against = {
                "beats_original": {judge: of_original[judge][p, 0, 0] for judge in judges},
                "beats_reference": {judge: reference[judge][p, m, d] for judge in judges}
                if name != "reference"
                else {},
            }
            rows.append(
                case(
                    f"p{p:03d}",
                    list(markets)[int(m)],
                    seed=int(rng.integers(2**40)),
                    fidelity=float(np.clip(rng.normal(fidelity, 0.05), 0, 1)),
                    **dict(
                        zip(("foreground", "background", "color_tone", "lighting"), map(" ".join, words), strict=True)
                    ),
                    **{
                        question: {
                            judge: _says(judge, utility[judge][p, m, d] - rival) for judge, rival in rivals.items()
                        }
                        for question, rivals in against.items()
                    },
                )
            )
        frame = pd.DataFrame(rows)
        frame["key"] = [f"{name}-{n}" for n in range(len(frame))]
        logs = pd.DataFrame({"key": frame["key"], "log_prob_reference": rng.normal(-40, 3, len(frame)), "tokens": 60})
        logs["log_prob"] = logs["log_prob_reference"] + (0 if name == "reference" else rng.normal(2, 1, len(frame)))
        pairs = {} if name == "reference" else dict.fromkeys(markets, 2 * products)
        found.append(WriterCases(name=name, cases=frame, log_probs=logs, pairs=pairs, refused=0))
    return found


def _says(judge: str, logit: float) -> float:
    return float((1 + np.sign(logit)) / 2) if judge == "truth" else float(1 / (1 + np.exp(-logit)))
