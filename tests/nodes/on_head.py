"""What tests run on the head of their cluster, as the user who sits there.

python -m tests.nodes.on_head serve MODEL STATE PORT    # the reward service with an emulated model, two replicas on two nodes
python -m tests.nodes.on_head pairs FOLDER PAUSE_S      # pair-making with literal writers, renderer and reward; prints the counts
"""

import json
import logging
import os
import sys
from pathlib import Path

from tests.nodes.machines import PATHS


def join() -> None:
    """This machine's Ray, whose workers find the tests' modules."""
    import ray

    ray.init(
        address=os.environ["CLUSTER_ADDRESS"],
        runtime_env={"env_vars": {"PYTHONPATH": PATHS}},
        logging_level=logging.ERROR,
    )


def deploy(model: str, state: str, port: str) -> None:
    """And leave it running."""
    from ray import serve

    from countryreward.on_ray.deployments.reward_deployment import RewardArgs, build
    from countryreward.serving.service_config import ServiceConfig
    from tests.cluster.service_harness import load_emulated

    serve.start(
        http_options={"host": "0.0.0.0", "port": int(port), "request_timeout_s": 60}, proxy_location="EveryNode"
    )
    args = RewardArgs(model=model, knowledge_base="", device="cpu", service=ServiceConfig(state=state, poll_s=0.3))
    options = {"num_replicas": 2, "autoscaling_config": None, "ray_actor_options": {"num_cpus": 0.8}}
    serve.run(build(args, load_emulated, options), name="reward", route_prefix="/")


def make_pairs(folder: str, pause_s: str) -> None:
    """The job on services with two replicas each."""
    from tests.cluster.pairs_harness import deploy_literal, make

    deploy_literal(float(pause_s))
    print("COUNTS" + json.dumps(make(Path(folder), float(pause_s)).manifest.counts), flush=True)


if __name__ == "__main__":
    join()
    {"serve": deploy, "pairs": make_pairs}[sys.argv[1]](*sys.argv[2:])
