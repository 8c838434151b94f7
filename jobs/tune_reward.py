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
from countryreward.job_options import contained, options_of
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
    training: RewardTraining = contained(
        lambda: RewardTraining(
            dataset="runs/demo/dataset",
            records="runs/demo/records",
            priors="-",
            features="runs/demo/features",
            # short, with validations after which a trial may be stopped
            loop=LoopConfig(epochs=0.15, validations=4),
        ),
        hidden=("priors", "trackers"),
    )
    """The training of a trial, where the space does not say otherwise. Its priors are made for each k of the space."""
    embeddings: str = "runs/demo/embeddings"
    """Its embeddings, to search with."""
    knowledge_base: str = "runs/demo/knowledge_base"
    """Where to search."""
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    """Search and vote of trials whose space names no k, and everything but k of the others."""
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
    from countryreward.on_ray.session import session
    from countryreward.training.run_identity import RunIdentity
    from countryreward.training.sweep_plan import SweepPlan, drop_weights
    from countryreward.training.trackers import console

    space = sweep_space.open_space(config.space)
    job = config.training
    sweep_space.check_space(job, space, config.sweep)
    paths = {
        "dataset": job.dataset, "records": job.records, "knowledge_base": config.knowledge_base, "embeddings": config.embeddings,
    }  # fmt: skip
    paths |= {"features": job.features} if job.features else {}
    inputs = {name: open_artifact(path, kind=name) for name, path in paths.items()}
    options = {
        "training": job.options(), "retrieval": config.retrieval, "space": sweep_space.described(space),
        "sweep": {name: value for name, value in asdict(config.sweep).items() if name != "concurrent"},
        "workers": config.workers.workers,
    }  # fmt: skip
    sweep = current(config.out, kind="sweep", inputs=inputs, config=options | {"draws": config.draws})
    if sweep:
        print(f"sweep: {config.out} is up to date")
        return sweep
    versions = {name: artifact.manifest.version for name, artifact in inputs.items()}
    name = RunIdentity(inputs=versions, options=options).fingerprint()
    folder = Path(config.sweeps or Path(config.out).parent / "sweeps") / name
    default_k = (config.retrieval.search.text_k, config.retrieval.search.image_k)
    priors = _priors(config, inputs["records"], folder / "priors", sweep_space.ks_of(space, default_k))
    del versions["embeddings"]  # of the priors, not of a training
    plan = SweepPlan(
        job=job.with_absolute_paths(), inputs=versions, priors=priors, ks=default_k, workers=config.workers.workers
    )
    with session(config.ray), console() as watch:
        together = tuning.concurrent(config.sweep, config.workers)
        print(f"sweep: {sweep_space.count_trials(space, config.sweep)} trials, at most {together} at a time")
        runs = tuning.run_sweep(
            plan, space, folder, config.workers, config.sweep, watch=watch, metrics=JobMetrics("tune_reward")
        )
        taken = tuning.wait_until_free()
        if taken:
            print(f"sweep: still taken after a minute: {taken}")
    trials = [_trial(run) for run in runs]
    table = sweep_table(trials, _validation(inputs["records"]), draws=config.draws, seed=config.sweep.seed)
    chosen = next(run for run, trial in zip(runs, trials, strict=True) if trial.name == table["best"])
    best, _ = plan.trial(chosen.params)
    with publish(config.out, kind="sweep", inputs=inputs, config=options | {"draws": config.draws}) as draft:
        _write(config, draft.path, table, _command(config, best, folder))
        draft.counts["trials"] = table["n"]
    if not config.keep_weights:
        drop_weights([run.folder for run in runs if run.folder and run is not chosen])
    if (repeated := sum(run.draws for run in runs) - len(runs)) > 0:
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
    from countryreward.retrieval.bulk_priors import publish_priors_of_ks
    from countryreward.retrieval.embedding_table import Embeddings
    from countryreward.retrieval.knowledge_base import KnowledgeBase
    from countryreward.training.sweep_plan import Priors

    source, base = Embeddings.open(config.embeddings), KnowledgeBase.open(config.knowledge_base)
    with bar(f"priors for {len(ks)} k") as progress:
        artifacts = publish_priors_of_ks(
            folder, ks, config.retrieval, records=records, source=source, base=base, progress=progress
        )
    return {k: Priors(path=str(artifact.path), version=artifact.manifest.version) for k, artifact in artifacts.items()}


def _trial(run: Any) -> Any:
    """A TrialRun with what is in its folder."""
    import pandas as pd

    from countryreward.evaluation.sweep_report import Trial
    from countryreward.training.sweep_plan import validations_of

    verdicts = run.folder / "best" / "validation.parquet" if run.folder else None
    return Trial(
        name=run.folder.name if run.folder else "",
        params=run.params,
        status=run.status,
        why=run.why,
        seconds=run.seconds,
        validations=validations_of(run.folder) if run.folder else [],
        verdicts=pd.read_parquet(verdicts) if verdicts and verdicts.exists() else None,
    )


def _validation(records: Artifact) -> Any:
    import pandas as pd

    frame = pd.read_parquet(records.path / "records.parquet")
    return frame[frame["split"] == "validation"]


def _command(config: Config, best: RewardTraining, folder: Path) -> dict[str, Any]:
    """Options of jobs/train_reward.py that are the best trial's, and find its run folder."""
    paths = {name: getattr(config.training, name) for name in ("dataset", "records", "features")}
    return options_of(
        train_reward.Config(
            training=replace(best, **paths),
            knowledge_base=config.knowledge_base,
            simulated=config.simulated,
            workers=config.workers,
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
    run(Config, main, reading=True)
