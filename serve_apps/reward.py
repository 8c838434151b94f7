"""What serve_apps/reward.yaml names as `import_path: serve_apps.reward:app`; the other names are of the release before."""

from countryreward.on_ray.deployments.reward_deployment import Reward, RewardArgs, app, build

__all__ = ["Reward", "RewardArgs", "app", "build"]
