"""From a config to a renderer."""

from countryreward.generation.ad_contracts import Renderer
from countryreward.generation.generation_config import RendererConfig


def renderer_of(config: RendererConfig) -> Renderer:
    """The renderer of `config.kind`, loaded. Raises `UserError` where its model is not found or not as expected."""
    if config.kind == "drawer":
        from countryreward.generation.drawing_renderer import DrawerRenderer

        return DrawerRenderer(px=config.own_px(), threads=config.threads or None)
    from countryreward.generation.sdxl import DiffusionRenderer

    return DiffusionRenderer.load(config)
