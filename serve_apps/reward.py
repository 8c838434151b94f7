"""What serve_apps/reward.yaml names as `import_path: serve_apps.reward:app`."""

from countryreward.on_ray.deployments.reward_deployment import app

__all__ = ["app"]
