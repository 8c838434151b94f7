"""Align a design writer with the reward, round by round: pairs, DPO (Eq. 14), a new writer, pairs of it; until a rule says stop
(docs/generation.md, Is it really better?).

    python jobs/align_designs.py --writer=runs/demo/designer --held_out=runs/other/model --out=runs/demo/aligned

Every round is a folder in `rounds`, every stage of it a job of its own (generate_pairs.py, train_designer.py, judge_designs.py)
and is skipped when its result is up to date: killed, the loop goes on when the same command is run again.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import generate_pairs
import judge_designs
import train_designer
from countryreward.command import run
from countryreward.data.artifacts import Artifact
from countryreward.evaluation.evaluation_config import StopRule
from countryreward.generation.generation_config import PairRule, TasksConfig
from countryreward.job_options import contained
from countryreward.models.reward_config import LoraOptions
from countryreward.on_ray.ray_config import AdMakingConfig, RayConfig, WorkersConfig
from countryreward.training.training_config import WriterLoop, WriterTraining

if TYPE_CHECKING:
    from countryreward.evaluation.writer_cases import WriterCases


@dataclass(kw_only=True)
class Config:
    """From a writer to one that the customers of each market like better."""

    writer: str = "runs/demo/designer"
    """The design writer to start from: the reference."""
    tasks: TasksConfig = contained(lambda: TasksConfig(products=200, draws=2), hidden=("split", "first"))
    """What pairs are made for (of train, without draws) and writers are judged on (of test, on `judged` products)."""
    held_out: str = ""
    """A judge that took no part, trained with another seed on other products: a model folder, app:NAME or an address. Empty:
    none, and whether the writer only learned to please its reward cannot be told."""
    truth: str = ""
    """The simulated export that the dataset was imported from; empty: real data."""
    count: int = 3
    """Rounds at most."""
    judged: int = 60
    """Products of the test split that writers are judged on; 0: all."""
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
    making: AdMakingConfig = contained(AdMakingConfig)
    """Who makes and judges the ads."""
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
    from countryreward.evaluation.alignment import alignment_table
    from countryreward.evaluation.stop_rule import decide
    from countryreward.on_ray.alignment import pairs_by_market, publish_aligned, round_tasks, write_report
    from countryreward.on_ray.deployments.service_pool import ServicePool
    from countryreward.on_ray.session import session

    rounds = Path(config.rounds or Path(config.out).parent / "rounds")
    table_of = partial(alignment_table, simulated=bool(config.truth), draws=config.bootstrap, seed=config.tasks.seed)
    with session(config.ray):
        pool = ServicePool(config.making.services, rounds.absolute() / ".services")
        try:
            pool.scorer()
            pool.renderer()
            held_out = config.held_out and pool.at(config.held_out, "held_out")
            making = replace(config.making, services=pool.started())
            variants = [_judged(config, making, held_out, rounds / "reference", config.writer, {})]
            writer, decision = config.writer, decide(table_of(variants), config.stop)
            for number in range(1, config.count + 1):
                folder = rounds / f"round-{number}"
                print(f"align: {folder.name} of {config.count}")
                pairs = generate_pairs.main(
                    generate_pairs.Config(
                        tasks=round_tasks(config.tasks, number),
                        writer=writer,
                        rule=config.rule,
                        everywhere=config.everywhere,
                        making=making,
                        out=str(folder / "pairs"),
                        ray=config.ray,
                    )
                )
                writer = _trained(config, pairs, writer, str(folder / "designer"))
                variants.append(_judged(config, making, held_out, folder, writer, pairs_by_market(pairs)))
                decision = decide(table_of(variants), config.stop)
                print(f"align: {decision.why}")
                if decision.stop:
                    break
        finally:
            pool.close()
    judges = {"reward": config.making.services.reward, "held_out": config.held_out, "truth": config.truth}
    table = table_of(variants)
    write_report(table, decision, variants, config.tasks.dataset, Path(config.out).parent, config.stop, judges)
    good = config.writer if decision.last_good == "reference" else str(rounds / decision.last_good / "designer")
    return publish_aligned(config.out, good, decision.why)


def _trained(config: Config, pairs: Artifact, writer: str, out: str) -> str:
    """The folder of the writer after a round of DPO on these pairs."""
    training = WriterTraining(
        pairs=str(pairs.path), writer=writer, preset=config.preset, lora=config.lora, loop=config.training
    )
    train_designer.main(train_designer.Config(training=training, workers=config.workers, ray=config.ray, out=out))
    return out


def _judged(
    config: Config, making: AdMakingConfig, held_out: str, folder: Path, writer: str, pairs: dict[str, int]
) -> "WriterCases":
    """The cases of a round's writer, or of the reference. pairs: market -> pairs that it learned from."""
    from countryreward.evaluation.writer_cases import open_cases

    judge_designs.main(
        judge_designs.Config(
            tasks=replace(config.tasks, split="test", products=config.judged),
            writer=writer,
            reference="" if folder.name == "reference" else str(folder.parent / "reference" / "cases"),
            reference_writer=config.writer,
            held_out=held_out,
            truth=config.truth,
            both_orders=config.both_orders,
            making=making,
            out=str(folder / "cases"),
            ray=config.ray,
        )
    )
    return open_cases(folder / "cases", name=folder.name, pairs=pairs)


if __name__ == "__main__":
    run(Config, main, reading=True)
