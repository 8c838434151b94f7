"""What serve_apps/studio.yaml names as `import_path: serve_apps.studio:app`."""

from countryreward.on_ray.deployments.studio_deployment import app

__all__ = ["app"]
