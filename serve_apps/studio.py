"""What serve_apps/studio.yaml names as `import_path: serve_apps.studio:app`; the other names are of the release before."""

from countryreward.on_ray.deployments.studio_deployment import Studio, StudioArgs, app, build

__all__ = ["Studio", "StudioArgs", "app", "build"]
