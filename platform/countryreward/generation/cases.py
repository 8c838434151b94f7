"""Cases: what a writer is worth. One design per (product, market), its ad judged against the product's own picture and, where
there is one, against the ad of a reference writer; by any number of judges, on simulated data also by the truth.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow.parquet as pq

from countryreward.data.artifacts import Artifact, open_artifact
from countryreward.data.design import LABELS, Design
from countryreward.data.marketplace.true_preference import TruePreference
from countryreward.errors import UserError
from countryreward.generation.ad_contracts import AdTask, DesignWriter, Renderer, derived_seed
from countryreward.generation.ad_maker import DesignedTask, RenderedTask, design_tasks, render_tasks
from countryreward.generation.outcomes import Outcome, refused
from countryreward.generation.preference_pairs import loop_request, replace_each
from countryreward.scoring.contracts import Scorer, ScoreRequest, Verdict

Reference = Callable[[AdTask], bytes | None]
"""Gives the PNG file of the reference writer's ad of the same case; None: there is none."""
ADS = "ads"
"""Folder of a cases artifact: <SHA-256>.png of every ad."""


def no_reference(_: AdTask) -> bytes | None:
    """Where nothing is compared with."""
    return None


def case_request(task: RenderedTask, reference: bytes | None, *, both_orders: bool = True) -> ScoreRequest:
    """The ad against the original and against the reference's ad, the ad as A; with both_orders each also with the ad as B."""
    (ad,) = task.ads
    others = [task.task.image, *([] if reference is None else [reference])]
    pairs = tuple(pair for other in range(1, 1 + len(others)) for pair in ((0, other), (other, 0))[: 1 + both_orders])
    return loop_request(task, [ad.png, *others], pairs, [task.task.market])


def beats(verdicts: Sequence[Verdict], *, both_orders: bool = True) -> list[float]:
    """Probability that the ad wins, against each other image of `case_request`; of both orders the mean."""
    stated = [verdict.stated_probability for verdict in verdicts]
    if not both_orders:
        return stated
    return [(as_a + 1 - as_b) / 2 for as_a, as_b in zip(stated[::2], stated[1::2], strict=True)]


def case_outcome(
    task: RenderedTask, judged: Mapping[str, Sequence[Verdict]], writer: str, *, both_orders: bool = True
) -> Outcome:
    """A row of CASES. judged: what each judge answered to `case_request`. writer: its version."""
    (candidate,), (ad,), design = task.candidates, task.ads, task.candidates[0].design
    shares = {judge: beats(verdicts, both_orders=both_orders) for judge, verdicts in judged.items()}
    row: dict[str, Any] = {
        "key": task.task.key,
        "product_id": task.task.product.product_id or "",
        "market": task.task.market,
        "image_hash": task.task.image_hash,
        "foreground": design.foreground,
        "background": design.background,
        "color_tone": design.color_tone,
        "lighting": design.lighting,
        "repaired": candidate.repaired,
        "seed": candidate.seed,
        "seed_render": task.seed,
        "ad": ad.sha256,
        "fidelity": ad.fidelity.score,
        "writer": writer,
        "renderer": task.renderer,
        "beats_original": {judge: share[0] for judge, share in shares.items()},
        "beats_reference": {judge: share[1] for judge, share in shares.items() if len(share) > 1},
    }
    return Outcome(key=task.task.key, row=row, designs=task.counts, files={f"{ADS}/{ad.sha256}.png": ad.png})


def judge_cases(
    judges: Mapping[str, Scorer], tasks: Sequence[RenderedTask], writer: str, reference: Reference = no_reference
) -> list[Outcome]:
    """One call per judge and case, so that one that is refused takes no other with it. Quarantined: what a judge refuses."""
    outcomes = []
    for task in tasks:
        request = case_request(task, reference(task.task))
        try:
            judged = {name: judge.score([request])[0] for name, judge in judges.items()}
        except UserError as error:
            outcomes.append(refused(task.task, error, "product"))
        else:
            outcomes.append(case_outcome(task, judged, writer))
    return outcomes


def make_cases(
    writer: DesignWriter,
    renderer: Renderer,
    judges: Mapping[str, Scorer],
    tasks: Sequence[AdTask],
    reference: Reference = no_reference,
) -> list[Outcome]:
    """One outcome per task, in order; the PNG files are in `Outcome.files`."""
    designed = design_tasks(writer, tasks, 1)
    rendered = replace_each(designed, DesignedTask, lambda some: render_tasks(renderer, some))
    return replace_each(rendered, RenderedTask, lambda some: judge_cases(judges, some, writer.version, reference))


class ReferenceAds:
    """A `Reference` that reads a cases artifact: its ads by product, market, the product's picture and the design's seed."""

    def __init__(self, artifact: Artifact) -> None:
        columns = ["product_id", "market", "image_hash", "seed", "ad"]
        rows = pq.read_table(artifact.path / "cases.parquet", columns=columns).to_pylist()
        self.artifact = artifact
        self._ads = {tuple(row[name] for name in columns[:4]): row["ad"] for row in rows}

    @classmethod
    def open(cls, folder: str) -> "ReferenceAds":
        """Every file checked against its hash."""
        return cls(open_artifact(folder, kind="cases"))

    def __call__(self, task: AdTask) -> bytes | None:
        """The PNG file of the reference writer's ad of the same case; None: there is none."""
        seed = derived_seed(task, "design", 0)
        ad = self._ads.get((task.product.product_id or "", task.market, task.image_hash, seed))
        return None if ad is None else (self.artifact.path / ADS / f"{ad}.png").read_bytes()


TRUTH = "truth"
"""Name, among `data.tables.JUDGES`, of the judge that only a simulation has: which ad the simulated customers truly prefer."""


def add_truth(
    rows: Sequence[dict[str, Any]],
    truth: TruePreference,
    originals: Mapping[str, str],
    reference: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Adds the truth as a judge to rows of CASES, in `beats_original` and `beats_reference`: 1 where the ad is truly preferred,
    .5 where neither is, else 0.

    originals: product -> creative id of its own picture. reference: rows of the reference writer's cases.
    """
    theirs = {(row["product_id"], row["market"], row["seed"]): _design(row) for row in reference}
    for row in rows:
        like, market = originals[row["product_id"]], row["market"]
        own = truth.of_design(_design(row), like, market)
        row["beats_original"][TRUTH] = _beats(own, truth.of_creative(like, market))
        rival = theirs.get((row["product_id"], market, row["seed"]))
        if rival is not None:
            row["beats_reference"][TRUTH] = _beats(own, truth.of_design(rival, like, market))


def _design(row: Mapping[str, Any]) -> Design:
    return Design(**{name: row[name] for name in LABELS})


def _beats(own: float, other: float) -> float:
    return 0.5 if own == other else float(own > other)
