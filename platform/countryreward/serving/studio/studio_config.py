"""Config of the studio. Standard library only."""

from dataclasses import dataclass

from countryreward.errors import UserError


@dataclass(kw_only=True)
class StudioConfig:
    """What the page adds to `ServiceConfig`, whose limits hold here, too."""

    max_pictures: int = 8
    """Pictures compared at a time."""
    kept_px: int = 640
    """Longest side of a picture as it is kept with a result, in pixels."""
    max_results: int = 200
    """Results kept per tenant; the oldest give way."""
    past_ads: int = 3
    """Places of past ads that are shown per market, the most telling first."""
    variants: int = 4
    """Pictures made for a market at a time."""

    def __post_init__(self) -> None:
        for name in ("max_pictures", "kept_px", "max_results", "past_ads", "variants"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: {getattr(self, name)} must be at least 1")
        if self.max_pictures < 2:
            raise UserError(f"max_pictures: {self.max_pictures} must be at least 2")
