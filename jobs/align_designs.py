"""Align a design writer with the reward, round by round: pairs, DPO (Eq. 14), a new writer, pairs of it; until a rule says stop
(docs/generation.md, Is it really better?).

    python jobs/align_designs.py --writer=runs/demo/designer --held_out=runs/other/model --out=runs/demo/aligned

Every round is a folder in `rounds`, every stage of it a job of its own (generate_pairs.py, train_designer.py, judge_designs.py)
and is skipped when its result is up to date: killed, the loop goes on when the same command is run again.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import generate_pairs
import judge_designs
import train_designer
from countryreward.command import run
from countryreward.data.artifacts import Artifact, current, open_artifact
from countryreward.evaluation.evaluation_config import StopRule
from countryreward.generation.generation_config import PairRule
from countryreward.models.reward_config import LoraOptions
from countryreward.on_ray.ray_config import PairLoopConfig, RayConfig, ServicesConfig, WorkersConfig, WritersConfig
from countryreward.training.training_config import WriterLoop, WriterTraining


@dataclass(kw_only=True)
class Config:
    """From a writer to one that the customers of each market like better."""

    writer: str = "runs/demo/designer"
    """The design writer to start from: the reference."""
    dataset: str = "runs/demo/dataset"
    """Products and their pictures."""
    records: str = "runs/demo/records"
    """Which product is in which split: pairs are made for train, writers are judged on test."""
    held_out: str = ""
    """A judge that took no part, trained with another seed on other products: a model folder, app:NAME or an address. Empty:
    none, and whether the writer only learned to please its reward cannot be told."""
    truth: str = ""
    """The simulated export that the dataset was imported from; empty: real data."""
    markets: list[str] = field(default_factory=list)
    """Codes or names of countries; empty: all that the records know."""
    count: int = 3
    """Rounds at most."""
    products: int = 200
    """Products whose pairs a round makes, other ones in every round while there are enough; 0: all, the same in every round."""
    judged: int = 60
    """Products of the test split that writers are judged on; 0: all."""
    draws: int = 2
    """Designs of each of them in every market."""
    seed: int = 0
    """Of products, designs and ads."""
    preset: str = "tiny"
    """As the writer was trained with."""
    lora: LoraOptions = field(default_factory=LoraOptions)
    """Low-rank updates of the language model; rank 0: it is trained in full."""
    training: WriterLoop = field(default_factory=WriterLoop)
    """The optimisation of a round; its reference is the writer that the round starts from."""
    rule: PairRule = field(default_factory=PairRule)
    """Which designs become a pair."""
    everywhere: bool = False
    """Judge every two ads in all markets and learn from all of them: two ads whose winner changes with the country teach most."""
    stop: StopRule = field(default_factory=StopRule)
    """When to stop before the last round."""
    both_orders: bool = True
    """Ask every judge of a writer in both orders; an antisymmetric model says the same in both."""
    writers: WritersConfig = field(default_factory=WritersConfig)
    """The actors that write."""
    services: ServicesConfig = field(default_factory=ServicesConfig)
    """Who renders and who chooses: the reward."""
    loop: PairLoopConfig = field(default_factory=PairLoopConfig)
    """How much at a time."""
    workers: WorkersConfig = field(default_factory=WorkersConfig)
    """The processes of a training."""
    rounds: str = ""
    """Folder of the rounds; empty: `rounds` beside out."""
    out: str = "runs/demo/aligned"
    """Design writer to publish: that of the last good round. alignment.html and table2.json are put beside it."""
    bootstrap: int = 2000
    """Bootstrap draws of the report."""
    ray: RayConfig = field(default_factory=RayConfig)
    """Where Ray runs."""


def main(config: Config) -> Artifact:
    from countryreward.evaluation.stop_rule import decide
    from countryreward.on_ray.deployments.service_pool import ServicePool
    from countryreward.on_ray.session import session

    at = Path(config.rounds or Path(config.out).parent / "rounds")
    with session(config.ray):
        services = ServicePool(config.services, at.absolute() / ".services")
        try:
            services.scorer()
            services.renderer()
            held_out = config.held_out and services.at(config.held_out, "held_out")
            asked = _Asked(config, services.started(), held_out, at)
            variants = [asked.cases("reference", config.writer, {})]
            writer, decision = config.writer, decide(asked.table(variants), config.stop)
            for number in range(1, config.count + 1):
                name = f"round-{number}"
                print(f"align: {name} of {config.count}")
                pairs = asked.pairs(number, writer)
                writer = asked.trained(name, pairs, writer)
                variants.append(asked.cases(name, writer, _by_market(pairs)))
                decision = decide(asked.table(variants), config.stop)
                print(f"align: {decision.why}")
                if decision.stop:
                    break
        finally:
            services.close()
    asked.report(variants, decision)
    good = config.writer if decision.last_good == "reference" else str(at / decision.last_good / "designer")
    return _publish(config, good, decision.why)


class _Asked:
    """The stages of a round."""

    def __init__(self, config: Config, services: ServicesConfig, held_out: str, at: Path) -> None:
        self.config, self.services, self.held_out, self.at = config, services, held_out, at
        self.shared: dict[str, Any] = {
            name: getattr(config, name) for name in ("dataset", "records", "markets", "writers", "loop", "ray")
        }

    def pairs(self, number: int, writer: str) -> Artifact:
        """Of other products in every round, while there are enough of them."""
        config = self.config
        train = _products(config)
        rounds = max(1, train // config.products) if config.products else 1
        return generate_pairs.main(
            generate_pairs.Config(
                **self.shared,
                split="train",
                products=config.products,
                first=(number - 1) % rounds * config.products,
                seed=config.seed + number,
                writer=writer,
                rule=config.rule,
                everywhere=config.everywhere,
                services=self.services,
                out=str(self.at / f"round-{number}" / "pairs"),
            )
        )

    def trained(self, name: str, pairs: Artifact, writer: str) -> str:
        """The writer's folder after a round of DPO."""
        config, out = self.config, str(self.at / name / "designer")
        train_designer.main(
            train_designer.Config(
                training=WriterTraining(
                    pairs=str(pairs.path), writer=writer, preset=config.preset, lora=config.lora, loop=config.training
                ),
                workers=config.workers,
                ray=config.ray,
                out=out,
            )
        )
        return out

    def cases(self, name: str, writer: str, pairs: dict[str, int]) -> Any:
        """The variant, judged."""
        from countryreward.evaluation.writer_cases import open_cases

        config, reference = self.config, str(self.at / "reference" / "cases")
        others: dict[str, Any] = {} if name == "reference" else {"reference": reference}
        judge_designs.main(
            judge_designs.Config(
                **self.shared,
                **others,
                split="test",
                products=config.judged,
                draws=config.draws,
                seed=config.seed,
                writer=writer,
                reference_writer=config.writer,
                held_out=self.held_out,
                truth=config.truth,
                both_orders=config.both_orders,
                services=self.services,
                out=str(self.at / name / "cases"),
            )
        )
        return open_cases(self.at / name / "cases", name=name, pairs=pairs)

    def table(self, variants: list[Any]) -> dict[str, Any]:
        """Table 2 and all that goes with it."""
        from countryreward.evaluation.alignment import alignment_table

        config = self.config
        return alignment_table(variants, simulated=bool(config.truth), draws=config.bootstrap, seed=config.seed)

    def report(self, variants: list[Any], decision: Any) -> None:
        """alignment.html, table2.json, alignment.json beside the writer."""
        import shlex
        import sys

        from countryreward.evaluation.ad_gallery import case_boards
        from countryreward.evaluation.alignment_report import write_alignment_report
        from countryreward.generation.ad_tasks import originals_of
        from countryreward.machine import describe_machine

        config, table = self.config, self.table(variants)
        products = sorted(variants[0].cases["product_id"].unique())[:4]
        originals = originals_of(open_artifact(config.dataset, kind="dataset", verify=False), products)
        kept = next(variant for variant in variants if variant.name == decision.last_good)
        compared = [variants[0], kept] if kept is not variants[0] else [variants[0]]
        judges = {"reward": self.config.services.reward, "held_out": config.held_out, "truth": config.truth}
        write_alignment_report(
            table,
            decision,
            case_boards(compared, originals, products),
            Path(config.out).parent,
            rule=config.stop,
            judges={name: what for name, what in judges.items() if what},
            facts=[(name, str(value)) for name, value in describe_machine().items()],
            command=shlex.join(["python", *sys.argv]),
        )


def _publish(config: Config, good: str, why: str) -> Artifact:
    """The last good writer, under a name that stays."""
    from countryreward.training.writer_folder import republish

    inputs = {"writer": open_artifact(good, kind="design_writer")}
    options = {"why": why}
    made = current(config.out, kind="design_writer", inputs=inputs, config=options)
    made = made or republish(config.out, inputs["writer"], options, paragraph=why)
    print(f"align: {good} -> {config.out}")
    print(f"align: who prefers its ads, by how much, and the ads: {Path(config.out).parent / 'alignment.html'}")
    return made


def _products(config: Config) -> int:
    """Products with a picture in the train split."""
    from countryreward.generation.ad_tasks import tasks_of

    places = (open_artifact(getattr(config, name), kind=name, verify=False) for name in ("dataset", "records"))
    return len({one.product.product_id for one in tasks_of(*places, split="train", markets=config.markets).listed})


def _by_market(pairs: Artifact) -> dict[str, int]:
    from countryreward.generation.preference_table import PreferencePairs

    markets = PreferencePairs(pairs).table.column("market").to_pylist()
    return {market: markets.count(market) for market in sorted(set(markets))}


if __name__ == "__main__":
    run(Config, main, reading=True)
