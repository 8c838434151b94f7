"""How many replicas jobs in a queue need: HTTP requests say nothing of it. Serve applies its delays and bounds to the answer."""

import math
from typing import Any

OPEN_JOBS = "open_jobs"
"""Under this name replicas record, in `record_autoscaling_stats`, how many jobs wait or run; every one sees all of them."""


def by_backlog(context: Any) -> tuple[int, dict[str, Any]]:
    """A policy of Serve's: a replica for every `target_ongoing_requests` jobs that wait or run, at least one.

    context: `ray.serve.config.AutoscalingContext`.
    """
    open_jobs = (context.aggregated_metrics or {}).get(OPEN_JOBS, {})
    if not open_jobs:  # no replica has told anything yet
        return max(1, context.target_num_replicas), {}
    return max(1, math.ceil(max(open_jobs.values()) / context.config.target_ongoing_requests)), {}
