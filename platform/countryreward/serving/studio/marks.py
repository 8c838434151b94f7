"""Which jobs were made in the studio, and what of: STATE/studio/TENANT/KIND/JOB.json, beside the jobs themselves."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from countryreward.data.artifacts import write_atomically
from countryreward.serving.http.problems import Problem
from countryreward.serving.service_config import ServiceConfig
from countryreward.serving.studio.campaigns import tenants_folder


class Marks:
    """Of one kind of job, such as reports."""

    def __init__(self, config: ServiceConfig, kind: str) -> None:
        self.config, self.kind = config, kind

    def add(self, tenant: str, job_id: str, told: dict[str, Any]) -> None:
        """Remember a job, and what it was made of."""
        write_atomically(self._place(tenant) / f"{job_id}.json", json.dumps(told), mode=0o600)

    def of(self, tenant: str, job_id: str) -> dict[str, Any] | None:
        """What was told of a job; None: it was not made here."""
        try:
            return json.loads((self._place(tenant) / f"{job_id}.json").read_bytes())
        except (OSError, ValueError):
            return None

    def remove(self, tenant: str, job_id: str) -> None:
        """Forget it."""
        (self._place(tenant) / f"{job_id}.json").unlink(missing_ok=True)

    def sweep(self, find: Callable[[str, str], object]) -> None:
        """Forget those whose job is gone. find: of tenant and job; raises `Problem` where there is none."""
        for mark in (Path(self.config.state).absolute() / "studio").glob(f"*/{self.kind}/?-*.json"):
            try:
                find(mark.parents[1].name, mark.stem)
            except Problem:
                with contextlib.suppress(FileNotFoundError):  # another replica was faster
                    mark.unlink()

    def _place(self, tenant: str) -> Path:
        place = tenants_folder(self.config.state, tenant) / self.kind
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        return place
