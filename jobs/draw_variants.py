"""Draw the images of a pair file that names colours instead of pictures, such as order data by colour variant.

    COUNTRYREWARD_DATA=/path/to/data python jobs/draw_variants.py --config jobs/configs/retail_draw.yaml

The pictures are synthetic, the outcomes stay whatever the file says.
"""

from dataclasses import asdict, dataclass

from countryreward.command import run
from countryreward.data.artifacts import Artifact, current, open_artifact, publish, sha256_file
from countryreward.data.data_config import expand


@dataclass(kw_only=True)
class Config:
    """Draw one plain picture per product and colour."""

    pairs: str = "pairs.csv"
    """A CSV file; environment variables in the path are filled in."""
    out: str = "runs/variants/drawn"
    """Folder to publish: pairs.csv with image_a and image_b, images/."""
    title: str = "product"
    """Column with the product's title."""
    variant_a: str = "variant_a"
    """Column with the colour of A."""
    variant_b: str = "variant_b"
    """Column with the colour of B."""
    image_px: int = 224
    """Width and height of the pictures."""

    def __post_init__(self) -> None:
        self.pairs = expand(self.pairs, "pairs")


def main(config: Config) -> Artifact:
    from countryreward.data.marketplace.export import draw_variant_pairs
    from countryreward.errors import UserError

    try:
        options = {**asdict(config), "pairs_sha256": sha256_file(config.pairs)}
    except OSError as error:
        raise UserError(f"pairs: {config.pairs!r} cannot be read ({error.strerror}); give a CSV file") from None
    options.pop("out")
    artifact = current(config.out, kind="drawn_variants", config=options)
    if artifact:
        print(f"variants: {config.out} is up to date")
        return artifact
    with publish(config.out, kind="drawn_variants", config=options) as draft:
        draft.counts |= draw_variant_pairs(
            config.pairs,
            draft.path,
            title=config.title,
            variants=(config.variant_a, config.variant_b),
            px=config.image_px,
        )
    print(f"variants: {draft.counts} -> {config.out}")
    return open_artifact(config.out, kind="drawn_variants")


if __name__ == "__main__":
    run(Config, main)
