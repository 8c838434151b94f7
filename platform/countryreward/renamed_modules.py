"""Import paths of the release before, kept for this one: old module -> where it is now.

`install` is called by the package itself, so that `import countryreward.serving.client` still works and says the new path.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType

RENAMED = {
    "on_ray.handle_asker": "on_ray.handle_scorer",
    "scoring.reward_judge": "scoring.country_reward",
    "data.config": "data.data_config",
    "data.evidence": "data.pooled_evidence",
    "data.image_source": "data.images",
    "data.image_table": "data.images",
    "data.importers.creatives": "data.importers.products",
    "data.importers.dataset": "data.importers.import_dataset",
    "data.importers.fingerprint": "data.importers.import_dataset",
    "data.importers.output": "data.importers.table_files",
    "data.importers.pairs": "data.importers.pair_files",
    "data.importers.reading": "data.importers.table_files",
    "data.items": "data.records",
    "data.marketplace.config": "data.marketplace.marketplace_config",
    "data.marketplace.preference": "data.marketplace.true_preference",
    "data.marketplace.variants": "data.marketplace.export",
    "data.marketplace.wording": "data.marketplace.vocabulary",
    "data.own_pictures": "data.dataset",
    "data.thumbnails": "data.images",
    "equations.adapter": "equations.reward_layers",
    "equations.diffusion": "equations.ad_generation",
    "equations.diversity": "equations.writer_metrics",
    "equations.gain": "equations.writer_metrics",
    "equations.head": "equations.reward_layers",
    "equations.preference": "equations.ad_generation",
    "evaluation.alignment_words": "evaluation.alignment_report",
    "doctor": "cli_commands.doctor",
    "evaluation.config": "evaluation.evaluation_config",
    "evaluation.flip_picture": "evaluation.flip_cards",
    "evaluation.flips": "evaluation.flip_cards",
    "evaluation.gallery": "evaluation.flip_cards",
    "evaluation.html": "evaluation.report_page",
    "evaluation.paired_means": "evaluation.statistics",
    "evaluation.report": "evaluation.judge_metrics",
    "evaluation.reward_report": "evaluation.reward_variants",
    "evaluation.swaps": "evaluation.reward_variants",
    "evaluation.sweep": "evaluation.sweep_report",
    "evaluation.sweep_plots": "evaluation.sweep_report",
    "evaluation.variants": "evaluation.simple_judges",
    "evaluation.words": "evaluation.report_text",
    "evaluation.write_report": "evaluation.build_report",
    "evaluation.writer_measures": "evaluation.writer_cases",
    "generation.config": "generation.generation_config",
    "generation.contracts": "generation.ad_contracts",
    "generation.drawing": "generation.drawing_renderer",
    "generation.pair_table": "generation.preference_table",
    "generation.pairs": "generation.preference_pairs",
    "generation.prompts": "generation.diffusion_prompts",
    "generation.rendering": "generation.make_renderer",
    "generation.writing": "generation.model_writer",
    "key_commands": "cli_commands.key_commands",
    "models.backbone": "models.tiny_backbone",
    "models.batch": "models.pair_batch",
    "models.config": "models.pretrain_config",
    "models.country_reward": "models.reward_model",
    "models.prompts": "models.reward_prompts",
    "models.rate_groups": "models.learning_rate_groups",
    "models.pretext_steps": "models.pretrain",
    "models.sampling": "models.design_writer",
    "models.writer_config": "models.reward_config",
    "on_ray.awaited": "on_ray.async_protocols",
    "on_ray.backlog": "on_ray.autoscaling",
    "on_ray.config": "on_ray.ray_config",
    "on_ray.embeddings": "on_ray.encode_dataset",
    "on_ray.features": "on_ray.encode_dataset",
    "on_ray.knowledge_base": "on_ray.build_knowledge_base",
    "on_ray.making": "on_ray.publish_pairs",
    "on_ray.pairs": "on_ray.make_pairs",
    "on_ray.patience": "on_ray.retry",
    "on_ray.private": "on_ray.ray_security",
    "on_ray.remembering": "on_ray.searchers",
    "on_ray.reward_training": "on_ray.training",
    "on_ray.sweep_progress": "on_ray.tuning",
    "on_ray.writer_training": "on_ray.training",
    "retrieval.batch": "retrieval.bulk_priors",
    "retrieval.build": "retrieval.write_knowledge_base",
    "retrieval.config": "retrieval.retrieval_config",
    "retrieval.embeddings": "retrieval.embedding_table",
    "retrieval.pretrained": "retrieval.encoders.contrastive",
    "retrieval.publish_priors": "retrieval.bulk_priors",
    "retrieval.text": "retrieval.embedding_table",
    "run_commands": "cli_commands.run_commands",
    "scoring.config": "scoring.scoring_config",
    "scoring.encodes": "scoring.feature_cache",
    "scoring.encoding": "scoring.image_encoding",
    "scoring.judging": "scoring.predict",
    "scoring.parts": "scoring.verdict_shards",
    "scoring.questions": "scoring.prior_lookup",
    "serving.addresses": "serving.http.image_fetcher",
    "serving.app": "serving.http.apps",
    "serving.asking": "scoring.contracts",
    "serving.bare": "serving.http.apps",
    "serving.batch": "serving.durable_jobs.batch",
    "serving.batch.create": "serving.durable_jobs.batch.batch_store",
    "serving.batch.job": "serving.durable_jobs.batch.batch_store",
    "serving.batch.judging": "serving.durable_jobs.batch.batch_predict",
    "serving.batch.limits": "serving.durable_jobs.batch.batch_table",
    "serving.batch.parts": "serving.durable_jobs.batch.batch_results",
    "serving.batch.reading": "serving.durable_jobs.batch.batch_table",
    "serving.batch.results": "serving.durable_jobs.batch.batch_results",
    "serving.batch.routes": "serving.durable_jobs.batch.batch_routes",
    "serving.batch.runner": "serving.durable_jobs.batch.batch_runner",
    "serving.batch.store": "serving.durable_jobs.batch.batch_store",
    "serving.batching": "serving.inference.batching",
    "serving.cache": "serving.inference.bounded_cache",
    "serving.client": "client",
    "serving.client.address": "client.connection",
    "serving.client.asynchronous": "client.async_client",
    "serving.client.attempts": "client.connection",
    "serving.client.awaited": "client.remote_services",
    "serving.client.batches": "client.job_handles",
    "serving.client.calls": "client.connection",
    "serving.client.errors": "client.client_errors",
    "serving.client.forms": "client.request_forms",
    "serving.client.generation_handles": "client",
    "serving.client.generations": "client.job_handles",
    "serving.client.handles": "client",
    "serving.client.questions": "client.async_client",
    "serving.client.retrying": "client.retrying",
    "serving.client.sync": "client.sync_client",
    "serving.client.uploads": "client.request_forms",
    "serving.config": "serving.service_config",
    "serving.exchange": "serving.http.request_guard",
    "serving.fetch": "serving.http.image_fetcher",
    "serving.follow": "serving.inference.hot_reload",
    "serving.forms": "serving.http.form_fields",
    "serving.front": "serving.http.request_guard",
    "serving.gate": "serving.http.gate",
    "serving.generator": "serving.durable_jobs.generation",
    "serving.generator.app": "serving.durable_jobs.generation.generation_routes",
    "serving.generator.create": "serving.durable_jobs.generation.create_generation",
    "serving.generator.forms": "serving.durable_jobs.generation.create_generation",
    "serving.generator.job": "serving.durable_jobs.generation.generation_store",
    "serving.generator.ranking": "serving.durable_jobs.generation.image_ranking",
    "serving.generator.rendering": "serving.durable_jobs.generation.generation_passes",
    "serving.generator.results": "serving.durable_jobs.generation.generation_results",
    "serving.generator.routes": "serving.durable_jobs.generation.generation_routes",
    "serving.generator.runner": "serving.durable_jobs.generation.generation_runner",
    "serving.generator.schemas": "api.schemas",
    "serving.generator.store": "serving.durable_jobs.generation.generation_store",
    "serving.generator.writing": "serving.durable_jobs.generation.generation_passes",
    "serving.haproxy": "serving.http.haproxy",
    "serving.jobs": "serving.durable_jobs",
    "serving.jobs.arrival": "serving.durable_jobs.job_folders",
    "serving.jobs.job": "serving.durable_jobs.job_folders",
    "serving.jobs.lease": "serving.durable_jobs.job_folders",
    "serving.jobs.patience": "serving.durable_jobs.retrying_scorer",
    "serving.jobs.store": "serving.durable_jobs.job_folders",
    "serving.jobs.threads": "serving.durable_jobs.job_worker",
    "serving.jobs.worker": "serving.durable_jobs.job_worker",
    "serving.journal": "serving.http.request_log",
    "serving.keys": "serving.http.keys",
    "serving.loading": "serving.inference.load_engine",
    "serving.local": "serving.local_service",
    "serving.problems": "serving.http.problems",
    "serving.prometheus": "serving.http.prometheus_metrics",
    "serving.questions": "serving.http.score_routes",
    "serving.rates": "serving.http.rates",
    "serving.reward": "serving.inference.engine",
    "serving.schemas": "api.schemas",
    "serving.studio.app": "serving.studio.studio_app",
    "serving.studio.config": "serving.service_config",
    "serving.studio.gate": "serving.studio.sessions",
    "serving.studio.results": "serving.studio.studio_results",
    "serving.studio.variants": "serving.studio.studio_variants",
    "serving.studio.words": "serving.studio.verdict_text",
    "serving.watching": "serving.metrics_observer",
    "training.config": "training.training_config",
    "training.planning.probe": "training.planning.rehearsal",
    "training.planning.speed": "training.planning.plan",
    "training.randomness": "training.checkpoints",
    "training.ranks": "training.distributed",
    "training.resizing": "training.engine",
    "training.reward": "training.reward_loop",
    "training.run": "training.reward_run",
    "training.sampling": "training.data_order",
    "training.schedule": "training.engine",
    "training.sweep": "training.sweep_plan",
    "training.turns": "training.data_order",
    "training.watch": "training.trackers",
    "training.writer_config": "training.training_config",
}
"""Below `countryreward`. Modules that no document ever named may leave this table at any time."""
_ROOT = "countryreward."


class _OldPaths(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module of the old name and gives the module of the new one, with a warning that says it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith(_ROOT) or fullname.removeprefix(_ROOT) not in RENAMED:
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        new = _ROOT + RENAMED[spec.name.removeprefix(_ROOT)]
        warnings.warn(f"{spec.name} is {new} now; the old path works in this release only", FutureWarning, stacklevel=2)
        module = importlib.import_module(new)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """The module has run already; only its own spec, which the import system has just replaced, is put back."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


def install() -> None:
    """Let the import system know the old paths; more than once changes nothing."""
    if not any(isinstance(finder, _OldPaths) for finder in sys.meta_path):
        sys.meta_path.append(_OldPaths())
