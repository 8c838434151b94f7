"""What serve_apps/generator.yaml names as `import_path: serve_apps.generator:app`; the other names are of the release before."""

from countryreward.on_ray.deployments.generator_deployment import Generator, GeneratorArgs, app, build

__all__ = ["Generator", "GeneratorArgs", "app", "build"]
