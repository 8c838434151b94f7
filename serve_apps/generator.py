"""What serve_apps/generator.yaml names as `import_path: serve_apps.generator:app`."""

from countryreward.on_ray.deployments.generator_deployment import app

__all__ = ["app"]
