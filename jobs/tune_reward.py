"""Sweep the options of a reward training with Ray Tune: lambda and k, strategy and adapter, rates, or a space of your own.

    python jobs/tune_reward.py
    python jobs/tune_reward.py --space=rates --sweep.samples=20 --sweep.searcher=optuna
    ray job submit --working-dir . --runtime-env cluster/runtime_env.yaml -- python jobs/tune_reward.py --workers.workers=8 ...

Priors for every k come from one search; knowledge base, embeddings and features are those that are there. Killed, the same
command goes on. Then `python jobs/train_reward.py --config=OUT/best.yaml` publishes the best trial's model.
"""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import train_reward
from countryreward.command import run
from countryreward.data.artifacts import Artifact, current, open_artifact, publish
from countryreward.models.reward_config import LoraOptions, RewardOptions
from countryreward.on_ray.ray_config import ElasticWorkersConfig, RayConfig, SweepConfig
from countryreward.retrieval.retrieval_config import RetrievalConfig
from countryreward.training.training_config import LoopConfig, RewardTraining


@dataclass(kw_only=True)
class Config:
    """Every trial trains on the train split and is compared on validation."""

    space: str = "lambda_k"
    """What to vary: lambda_k, strategy or rates (tune_spaces/), or the path of a Python file with a function space()."""
    sweep: SweepConfig = field(default_factory=SweepConfig)
    """How the space is searched."""
    dataset: str = "runs/demo/dataset"
    """The published dataset."""
    records: str = "runs/demo/records"
    """Its records."""
    embeddings: str = "runs/demo/embeddings"
    """Its embeddings, to search with."""
    knowledge_base: str = "runs/demo/knowledge_base"
    """Where to search."""
    features: str = "runs/demo/features"
    """Feature store of the frozen tower; empty: decode and encode in every step."""
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    """Search and vote of trials whose space names no k, and everything but k of the others."""
    preset: str = "tiny"
    """tiny, qwen2-vl-2b or qwen2-vl-7b."""
    backbone: str = ""
    """Another backbone than the preset's."""
    image_px: int = 0
    """Side of the square that images are resized to; 0: the preset's."""
    reward: RewardOptions = field(default_factory=RewardOptions)
    """What the model computes, where the space does not say."""
    rates: dict[str, float] = field(default_factory=dict)
    """Peak learning rates by group, where the space does not say."""
    lora: LoraOptions = field(default_factory=LoraOptions)
    """Low-rank updates of the language model."""
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(epochs=0.15, validations=4))
    """The optimisation of a trial: short, with validations after which it may be stopped."""
    workers: ElasticWorkersConfig = field(default_factory=ElasticWorkersConfig)
    """The processes of each trial."""
    simulated: bool = False
    """Say in the report that the clicks were simulated."""
    draws: int = 2000
    """Bootstrap draws of the report."""
    keep_weights: bool = False
    """Keep every trial's weights; else only the best one's, once the sweep is over."""
    sweeps: str = ""
    """Where the sweep's folder (priors, trials, Ray Tune's state) is made; empty: `sweeps` beside out."""
    out: str = "runs/demo/sweep"
    """Folder to publish: report.html, report.json, best.yaml."""
    ray: RayConfig = field(default_factory=lambda: RayConfig(dashboard=True))
    """Where Ray runs. The dashboard (on loopback) also lets Ray free the places of a trial whose process was killed."""


def main(config: Config) -> Artifact:
    from countryreward.on_ray.ray_security import private_ray

    private_ray(config.ray)  # spaces are made of Ray Tune's own values
    from countryreward.evaluation.sweep_report import sweep_table
    from countryreward.on_ray import sweep_space, tuning
    from countryreward.on_ray.job_metrics import JobMetrics
    from countryreward.on_ray.reward_training import absolute
    from countryreward.on_ray.session import session
    from countryreward.training.console import watching
    from countryreward.training.reward_run import as_plain, fingerprint
    from countryreward.training.sweep_plan import SweepPlan, drop_weights

    space = sweep_space.open_space(config.space)
    job = RewardTraining(
        priors="-",
        **{name: getattr(config, name) for name in RewardTraining.__dataclass_fields__ if hasattr(config, name)},
    )
    sweep_space.check_space(job, space, config.sweep)
    kinds = ("dataset", "records", "knowledge_base", "embeddings", *(["features"] if config.features else []))
    inputs = {name: open_artifact(getattr(config, name), kind=name) for name in kinds}
    options = {
        "training": as_plain(job), "retrieval": config.retrieval, "space": sweep_space.described(space),
        "sweep": {name: value for name, value in asdict(config.sweep).items() if name != "concurrent"},
        "workers": config.workers.workers,
    }  # fmt: skip
    found = current(config.out, kind="sweep", inputs=inputs, config=options | {"draws": config.draws})
    if found:
        print(f"sweep: {config.out} is up to date")
        return found
    versions = {name: made.manifest.version for name, made in inputs.items()}
    folder = Path(config.sweeps or Path(config.out).parent / "sweeps") / fingerprint(
        {"inputs": versions, "options": options}
    )
    default_k = (config.retrieval.search.text_k, config.retrieval.search.image_k)
    priors = _priors(config, inputs["records"], folder / "priors", sweep_space.ks_of(space, default_k))
    del versions["embeddings"]  # of the priors, not of a training
    job = replace(job, **absolute(job))
    plan = SweepPlan(job=job, inputs=versions, priors=priors, ks=default_k, workers=config.workers.workers)
    with session(config.ray), watching() as watch:
        together = tuning.concurrent(config.sweep, config.workers)
        print(f"sweep: {sweep_space.count_trials(space, config.sweep)} trials, at most {together} at a time")
        told = {"watch": watch, "metrics": JobMetrics("tune_reward")}
        runs = tuning.run_sweep(plan, space, folder, config.workers, config.sweep, **told)
        taken = tuning.wait_until_free()
        if taken:
            print(f"sweep: still taken after a minute: {taken}")
    trials = [_trial(one) for one in runs]
    table = sweep_table(trials, _validation(inputs["records"]), draws=config.draws, seed=config.sweep.seed)
    chosen = next(one for one, told in zip(runs, trials, strict=True) if told.name == table["best"])
    best, _ = plan.trial(chosen.params)
    with publish(config.out, kind="sweep", inputs=inputs, config=options | {"draws": config.draws}) as draft:
        _write(config, draft.path, table, _command(config, best, folder))
        draft.counts["trials"] = table["n"]
    if not config.keep_weights:
        drop_weights([one.folder for one in runs if one.folder and one is not chosen])
    if (repeated := sum(one.draws for one in runs) - len(runs)) > 0:
        print(f"sweep: {repeated} draws repeated an earlier one; each is trained and counted once")
    print(
        f"sweep: {table['n']['finished']} finished, {table['n']['stopped']} stopped early, {table['n']['failed']} failed"
    )
    print(f"sweep: best of them {chosen.params} -> {config.out}")
    print(f"next: open {config.out}/report.html")
    print(
        f"next: .venv/bin/python jobs/train_reward.py --config={config.out}/best.yaml   # publishes its model, "
        + ("the training is there" if chosen.status == "finished" else "after the rest of its training")
    )
    return open_artifact(config.out, kind="sweep")


def _priors(config: Config, records: Artifact, folder: Path, ks: list[tuple[int, int]]) -> dict[tuple[int, int], Any]:
    """Priors for every k from one search each; those that are there already are taken."""
    from countryreward.progress import bar
    from countryreward.retrieval.embedding_table import Embeddings
    from countryreward.retrieval.knowledge_base import KnowledgeBase
    from countryreward.retrieval.publish_priors import publish_priors_of_ks
    from countryreward.training.sweep_plan import Priors

    source, base = Embeddings.open(config.embeddings), KnowledgeBase.open(config.knowledge_base)
    with bar(f"priors for {len(ks)} k") as progress:
        made = publish_priors_of_ks(
            folder, ks, config.retrieval, records=records, source=source, base=base, progress=progress
        )
    return {k: Priors(path=str(one.path), version=one.manifest.version) for k, one in made.items()}


def _trial(one: Any) -> Any:
    """A TrialRun with what is in its folder."""
    import pandas as pd

    from countryreward.evaluation.sweep_report import Trial
    from countryreward.training.sweep_plan import validations_of

    verdicts = one.folder / "best" / "validation.parquet" if one.folder else None
    return Trial(
        name=one.folder.name if one.folder else "",
        params=one.params,
        status=one.status,
        why=one.why,
        seconds=one.seconds,
        validations=validations_of(one.folder) if one.folder else [],
        verdicts=pd.read_parquet(verdicts) if verdicts and verdicts.exists() else None,
    )


def _validation(records: Artifact) -> Any:
    import pandas as pd

    frame = pd.read_parquet(records.path / "records.parquet")
    return frame[frame["split"] == "validation"]


def _command(config: Config, best: RewardTraining, folder: Path) -> dict[str, Any]:
    """Options of jobs/train_reward.py that are the best trial's, and find its run folder."""
    shared = ("dataset", "records", "knowledge_base", "features", "simulated", "workers")
    trained = ("preset", "backbone", "image_px", "reward", "rates", "lora", "loop", "priors")
    return asdict(
        train_reward.Config(
            **{name: getattr(config, name) for name in shared},
            **{name: getattr(best, name) for name in trained},
            out=str(Path(config.out).parent / "tuned_model"),
            runs=str(folder / "trials"),
        )
    )


def _write(config: Config, folder: Path, table: dict[str, Any], best: dict[str, Any]) -> None:
    import shlex
    import sys

    import yaml

    from countryreward.evaluation.sweep_report import write_sweep_report
    from countryreward.machine import describe_machine

    text = yaml.safe_dump(best, sort_keys=False)
    (folder / "best.yaml").write_text(text, encoding="utf-8")
    write_sweep_report(
        table,
        folder,
        simulated=config.simulated,
        facts=[(name, str(value)) for name, value in describe_machine().items()],
        command=shlex.join(["python", *sys.argv]),
        best_yaml=text,
    )


if __name__ == "__main__":
    run(Config, main)
