"""Ads of a product for one market or several, ranked by the reward, with a gallery of every market side by side.

    python jobs/generate_ads.py --market=KR --product=p00007
    python jobs/generate_ads.py --markets='[KR, BR]' --title='Oak desk lamp' --attributes='{Material: oak}' --image=lamp.png

In this process, without Ray. gallery.html is also put beside the folder.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from countryreward.command import run
from countryreward.data.artifacts import Artifact, open_artifact, publish
from countryreward.data.file_primitives import write_atomically
from countryreward.errors import UserError
from countryreward.generation.generation_config import RendererConfig
from countryreward.models.reward_config import SamplingConfig


@dataclass(kw_only=True)
class Config:
    """Write the ads as PNG files, ads.json and gallery.html."""

    market: str = ""
    """ISO 3166 code or name of a country."""
    markets: list[str] = field(default_factory=list)
    """Further ones."""
    product: str = ""
    """Id of a product of the dataset."""
    title: str = ""
    """Instead of an id: the title of any product, with its image."""
    category: str = ""
    """Its category."""
    attributes: dict[str, str] = field(default_factory=dict)
    """Its attributes, such as Material: oak."""
    image: str = ""
    """Its own picture, a PNG, JPEG or WEBP file."""
    n: int = 8
    """Ads per market, 1 to 24."""
    dataset: str = "runs/demo/dataset"
    """The published dataset of `product`."""
    writer: str = "runs/demo/aligned"
    """The design writer's folder."""
    model: str = "runs/demo/model"
    """The reward's model folder."""
    out: str = "runs/demo/ads"
    """Folder to publish."""
    renderer: RendererConfig = field(default_factory=RendererConfig)
    """What makes the pictures."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How designs are drawn from the writer."""
    device: str = "auto"
    """Of writer and reward: cpu, cuda, or auto: cuda where there is one."""
    seed: int = 0
    """Of the designs, which count up from it, and of all pictures."""


def main(config: Config) -> Artifact:
    import torch

    from countryreward.evaluation.ad_gallery import ShownAd, ranked_board, write_gallery
    from countryreward.generation.ads import AdvertisedProduct, make_ads, write_ads
    from countryreward.generation.model_writer import ModelWriter, open_writer
    from countryreward.generation.renderers import renderer_of
    from countryreward.scoring.country_reward import CountryReward

    if bool(config.product) == bool(config.title):
        raise UserError("product, title: give the id of a product of the dataset, or else a title and an image")
    inputs = {"dataset": open_artifact(config.dataset, kind="dataset")} if config.product else {}
    advertised = (
        AdvertisedProduct.from_dataset(inputs["dataset"].path, config.product)
        if config.product
        else AdvertisedProduct.described(config.title, config.category, config.attributes, config.image)
    )
    device = config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    writer = ModelWriter.open(config.writer, device=device, sampling=config.sampling)
    reward = CountryReward.from_pretrained(config.model, device=device)
    renderer = renderer_of(config.renderer)
    inputs |= {"writer": open_writer(config.writer), "model": reward.folder.artifact}
    versions = {
        "writer": writer.version,
        "renderer": f"{renderer.name} {renderer.version}",
        "model": reward.version,
        "knowledge_base": reward.folder.base.version,
    }
    markets = [config.market] * bool(config.market) + config.markets
    options = {name: value for name, value in asdict(config).items() if name != "out"}
    with publish(config.out, kind="ads", inputs=inputs, config=options) as draft:
        market_ads = make_ads(
            advertised, markets, config.n, writer=writer, renderer=renderer, scorer=reward, seed=config.seed
        )
        write_ads(draft.path, advertised, market_ads, versions)
        shown = [[ShownAd(**ad.as_shown()) for ad in ads.ads] for ads in market_ads]
        write_gallery(
            [ranked_board(advertised.product.title, advertised.product.category or "", advertised.image, shown)],
            draft.path / "gallery.html",
            title=f"Ads of {advertised.product.title}",
            lead="Made for each country and ranked by CountryReward among each other, best first. The bar is the probability of "
            "being preferred to the original picture, as the reward says; nobody has clicked on these ads yet.",
            facts=list(versions.items()),
        )
        draft.counts |= {"ads": {ads.market: len(ads.ads) for ads in market_ads}}
    artifact, gallery = open_artifact(config.out, kind="ads"), Path(config.out).with_name("gallery.html")
    write_atomically(gallery, (artifact.path / "gallery.html").read_bytes())
    for ads in market_ads:
        print("\n".join(ad.as_line() for ad in ads.ads))
    print(f"ads: -> {config.out}/ads, {gallery}")
    return artifact


if __name__ == "__main__":
    run(Config, main, reading=True)
