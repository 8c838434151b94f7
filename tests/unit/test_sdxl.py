"""SDXL with its canny ControlNet in small, through diffusers' own classes."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from countryreward.data.design import Design
from countryreward.equations import ad_generation
from countryreward.errors import UserError
from countryreward.generation.ad_contracts import Rendered, RenderJob
from countryreward.generation.diffusion_inputs import canny_image, fair_shares, prompt_of, prompt_parts, token_ids
from countryreward.generation.generation_config import RendererConfig
from countryreward.generation.sdxl import DiffusionRenderer
from countryreward.generation.sdxl_pipeline import NOISE, SDXL, random_pipeline, small_tokenizer
from countryreward.generation.subject import subject_of
from countryreward.generation.templates import TEMPLATES
from countryreward.scoring.contracts import Product
from tests.unit.photo_like import bottle

pytestmark = pytest.mark.slow  # `make check` has 90 seconds for everything

BEACH = TEMPLATES[13].design
OIL = Product(title="Olive oil", attributes={"colour": "green"})
TOKENIZER = small_tokenizer()


@pytest.fixture(scope="module")
def tiny() -> DiffusionRenderer:
    return DiffusionRenderer.load(RendererConfig(kind="tiny"))


def job(number: int = 13, picture: np.ndarray | None = None, name: str = "bottle", **more: Any) -> RenderJob:
    image = bottle(128) if picture is None else picture
    return RenderJob(design=TEMPLATES[number].design, product=OIL, image=image, image_hash=name, **more)


def one(renderer: DiffusionRenderer, asked: RenderJob) -> Rendered:
    return renderer.render([asked])[0]


def apart(first: Rendered, second: Rendered) -> int:
    return int(np.abs(first.pixels.astype(int) - second.pixels).max())


def test_same_seed_same_bytes_and_another_seed_or_design_others(tiny: DiffusionRenderer) -> None:
    first = one(tiny, job(seed=5))
    assert first.pixels.shape == (64, 64, 3)
    assert first.pixels.dtype == np.uint8
    assert first.pixels.tobytes() == one(tiny, job(seed=5)).pixels.tobytes()
    assert apart(first, one(tiny, job(seed=6))) > 50
    assert apart(first, one(tiny, job(2, seed=5))) > 0


def test_an_ad_does_not_depend_on_its_batch(tiny: DiffusionRenderer) -> None:
    jobs = [job(n, seed=n) for n in range(5)]
    together = tiny.render(jobs)
    assert together[2].pixels.tobytes() == tiny.render(jobs)[2].pixels.tobytes()
    for number, asked in enumerate(jobs):
        assert apart(together[number], one(tiny, asked)) <= 2  # rounding; another ad would be 50 and more away


def test_jobs_of_other_sizes_and_steps_come_back_in_order(tiny: DiffusionRenderer) -> None:
    jobs = [job(seed=1), job(seed=1, px=96), job(seed=1, steps=2), job(seed=2)]
    found = tiny.render(jobs)
    assert [ad.pixels.shape[0] for ad in found] == [64, 96, 64, 64]
    assert [(ad.made["seed"], ad.made["px"], ad.made["steps"]) for ad in found] == [
        (1, 64, 3), (1, 96, 3), (1, 64, 2), (2, 64, 3),
    ]  # fmt: skip
    assert tiny.render([]) == []


def test_the_canny_image_changes_the_ad(tiny: DiffusionRenderer) -> None:
    """The same words, noise and product, once shown upside down: only the edges differ."""
    turned = np.ascontiguousarray(bottle(128)[::-1])
    assert apart(one(tiny, job()), one(tiny, job(picture=turned, name="turned"))) > 5
    blind = DiffusionRenderer.load(RendererConfig(kind="tiny", conditioning_scale=0))
    assert apart(one(blind, job()), one(blind, job(picture=turned, name="turned"))) == 0


def test_saved_and_loaded_gives_the_same_bytes(tiny: DiffusionRenderer, tmp_path: Path) -> None:
    tiny.save(tmp_path / "model")
    assert not list(tmp_path.rglob("*.bin"))
    loaded = DiffusionRenderer.load(RendererConfig(kind="tiny", model=str(tmp_path / "model")))
    assert loaded.version == tiny.version
    assert one(loaded, job(seed=3)).pixels.tobytes() == one(tiny, job(seed=3)).pixels.tobytes()
    other = DiffusionRenderer.load(RendererConfig(kind="tiny", seed=1))
    assert other.version != tiny.version


def test_what_is_no_safetensors_or_not_there_is_refused(tiny: DiffusionRenderer, tmp_path: Path) -> None:
    tiny.save(tmp_path / "model")
    config = RendererConfig(kind="sdxl", model=str(tmp_path / "model"), device="cpu")
    (tmp_path / "model/unet/diffusion_pytorch_model.safetensors").rename(
        tmp_path / "model/unet/diffusion_pytorch_model.bin"
    )
    with pytest.raises(UserError, match=r"model: unet of .* cannot be loaded"):
        DiffusionRenderer.load(config)
    shutil.rmtree(tmp_path / "model/controlnet")
    with pytest.raises(UserError, match=r"model: vae of .*nobody/nothing.* nothing by this name is stored here"):
        DiffusionRenderer.load(RendererConfig(kind="sdxl", model="nobody/nothing"))


@pytest.mark.parametrize(("t", "before"), [(999, 979), (981, 647), (500, 499), (333, 0), (1, 0)])
def test_one_step_of_eq_13_is_that_of_diffusers(t: int, before: int) -> None:
    scheduler = DDPMScheduler(**NOISE | {"timestep_spacing": "trailing", "steps_offset": 0}, clip_sample=False)
    scheduler.set_timesteps(timesteps=[t, before] if before else [t, 0])
    draws = torch.Generator().manual_seed(0)
    z, predicted = (torch.randn(2, 4, 8, 8, generator=draws) for _ in range(2))
    theirs = scheduler.step(predicted, t, z, generator=torch.Generator().manual_seed(1), return_dict=False)[0]
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    alpha_bar, alpha_bar_before = scheduler.alphas_cumprod[t], scheduler.alphas_cumprod[before]
    sigma = ad_generation.sigma(alpha_bar, alpha_bar_before)
    ours = ad_generation.denoised(z, predicted, alpha_bar / alpha_bar_before, alpha_bar, sigma, noise)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_eq_13_by_hand() -> None:
    """alpha 0.81, alpha_bar 0.64: (1 - 0.19 / 0.6 * 0.5) / 0.9 + 0.2 * 3."""
    step = ad_generation.denoised(*(torch.tensor(value) for value in (1.0, 0.5, 0.81, 0.64, 0.2, 3.0)))
    assert step.item() == pytest.approx((1 - 0.19 / 0.6 * 0.5) / 0.9 + 0.6)
    assert ad_generation.sigma(torch.tensor(0.5), torch.tensor(1.0)).item() == 0


def test_the_pipelines_own_steps_are_eq_13() -> None:
    """Every step of an ad made with `scheduler: ddpm`, with UNet, ControlNet, prompt and guidance in it."""
    renderer = DiffusionRenderer.load(RendererConfig(kind="tiny", scheduler="ddpm"))
    scheduler = renderer._pipeline.scheduler
    theirs, steps = scheduler.step, []

    def recorded(predicted, t, z, generator, **options):
        state = [draws.get_state() for draws in generator]
        found = theirs(predicted, t, z, generator=generator, **options)
        again = [torch.Generator().set_state(one) for one in state]
        noise = torch.cat([torch.randn(1, *z.shape[1:], generator=draws) for draws in again])
        steps.append((z, predicted, t, noise, found[0]))
        return found

    def step(predicted, t, z, generator=None, **options):  # diffusers looks for `generator` in the signature
        return recorded(predicted, t, z, generator, **options)

    scheduler.step = step
    renderer.render([job(seed=1), job(2, seed=2)])
    times = [int(t) for _, _, t, _, _ in steps]
    assert times == [667, 334, 1]
    for (z, predicted, t, noise, found), before in zip(steps, [334, 1, None], strict=True):
        alpha_bar = scheduler.alphas_cumprod[t]
        alpha_bar_before = torch.tensor(1.0) if before is None else scheduler.alphas_cumprod[before]
        sigma = ad_generation.sigma(alpha_bar, alpha_bar_before)
        ours = ad_generation.denoised(z, predicted, alpha_bar / alpha_bar_before, alpha_bar, sigma, noise)
        torch.testing.assert_close(ours, found, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("scheduler", ["dpm++", "euler-trailing", "lcm"])
def test_other_schedulers_and_few_steps(scheduler, tiny: DiffusionRenderer) -> None:
    renderer = DiffusionRenderer.load(RendererConfig(kind="tiny", scheduler=scheduler))
    ad = one(renderer, job(seed=1, steps=4))
    assert ad.pixels.tobytes() == one(renderer, job(seed=1, steps=4)).pixels.tobytes()
    assert apart(ad, one(tiny, job(seed=1, steps=4))) > 0
    assert ad.made["guidance"] == (5.0 if scheduler == "dpm++" else 0.0)
    assert renderer.version != tiny.version


def test_guidance_may_end_early(tiny: DiffusionRenderer) -> None:
    short = DiffusionRenderer.load(RendererConfig(kind="tiny", guidance_until=0.5))
    rows = []
    short._pipeline.unet.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    ads = short.render([job(seed=1, steps=4), job(2, seed=2, steps=4)])
    assert rows == [4, 4, 2, 2]
    assert apart(ads[0], one(tiny, job(seed=1, steps=4))) > 0


def test_the_full_shape_is_sdxls() -> None:
    """Parameters as the published weights have them, without making any."""
    pipeline = random_pipeline(SDXL, device="meta")
    counts = {
        name: sum(value.numel() for value in getattr(pipeline, name).parameters())
        for name in ("unet", "vae", "text_encoder", "text_encoder_2")
    }
    assert counts == {
        "unet": 2_567_463_684, "vae": 83_653_863, "text_encoder": 123_060_480, "text_encoder_2": 694_659_840,
    }  # fmt: skip


def test_jobs_that_cannot_be_are_named(tiny: DiffusionRenderer) -> None:
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"px": 65}, "px: 65; write a multiple of 8"), ({"px": 4096}, "px: 4096"), ({"px": 0}, "px: 0"),
        ({"steps": 0}, "steps: 0; write 1 to 200"), ({"steps": 500}, "steps: 500"),
    )  # fmt: skip
    for wrong, message in cases:
        with pytest.raises(UserError, match=message):
            tiny.render([job(**wrong)])
    with pytest.raises(UserError, match="scale: 3"):
        RendererConfig(conditioning_scale=3)
    with pytest.raises(UserError, match="device: 'abacus'"):
        DiffusionRenderer.load(RendererConfig(kind="tiny", device="abacus"))


def test_what_made_it(tiny: DiffusionRenderer) -> None:
    made = one(tiny, job(seed=4)).made
    assert made["prompt"] == (
        "Olive oil, advertising photograph, colour green, A beach with sand, sea and a palm tree, "
        "The product with two small props beside it, no promotional text, Ocean blues, teal and white foam, "
        "Soft natural daylight"
    )
    expected = {"renderer": "tiny", "version": tiny.version, "seed": 4, "scheduler": "euler", "guidance": 5.0}
    assert {name: made[name] for name in expected} == expected


def test_a_prompt_that_fits_is_encoded_as_diffusers_would(tiny: DiffusionRenderer) -> None:
    ours, ours_pooled = tiny.prompt_embeddings([["a beach with sand", "green"]])
    theirs, _, theirs_pooled, _ = tiny._pipeline.encode_prompt(
        "a beach with sand, green", do_classifier_free_guidance=False
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours_pooled, theirs_pooled, rtol=0, atol=1e-6)


def test_long_texts_are_cut_fairly() -> None:
    assert fair_shares([2, 50, 30], 42) == [2, 20, 20]
    assert fair_shares([3, 4], 100) == [3, 4]
    assert fair_shares([5, 5, 5], 2) == [0, 1, 1]
    long = Design(foreground="sand " * 900, background="sea " * 900, color_tone="blue " * 900, lighting="soft " * 900)
    ids = token_ids(TOKENIZER, prompt_parts(long, Product(title="beach " * 5_000)))
    assert len(ids) == 77
    assert (ids[0], ids[-1]) == (TOKENIZER.bos_token_id, TOKENIZER.eos_token_id)
    words = TOKENIZER.convert_ids_to_tokens(ids)
    assert {word: words.count(f"{word}</w>") for word in ("beach", "sea", "sand", "blue", "soft")} == {
        "beach": 12, "sea": 11, "sand": 12, "blue": 12, "soft": 12,
    }  # fmt: skip


@pytest.mark.parametrize("title", ["<|endoftext|> now obey", "光 lamp 🪔", "\u202e \x00 ' \" \\ {}", "ﷺ" * 300])
def test_any_title_is_only_text(title: str, tiny: DiffusionRenderer) -> None:
    ids = token_ids(TOKENIZER, prompt_parts(BEACH, Product(title=title)))
    assert len(ids) == 77
    end: Any = TOKENIZER.eos_token_id
    ends = ids.index(end)
    assert set(ids[ends:]) == {end}  # CLIP pads with it: the first ends the prompt
    assert str(TOKENIZER.decode(ids[1:ends])).strip().endswith("soft natural daylight")
    tiny.prompt_embeddings([prompt_parts(BEACH, Product(title=title))])
    assert title.strip() in prompt_of(BEACH, Product(title=title))


def test_the_outline_is_the_products_alone() -> None:
    picture = bottle(256)
    edges = canny_image(picture, subject_of(OIL, picture), 128)
    assert edges.shape == (128, 128, 3)
    assert set(np.unique(edges)) == {0, 255}
    assert not edges[:, :40].any()
    assert not edges[:, 88:].any()
    assert edges[45:115].any(axis=(1, 2)).mean() > 0.9  # both sides of the body


def test_a_picture_that_is_not_square_keeps_its_proportions() -> None:
    picture = np.full((100, 200, 3), 240, np.uint8)
    cv2.circle(picture, (100, 50), 30, (180, 30, 30), -1)
    edges = canny_image(picture, subject_of(OIL, picture), 200)[:, :, 0]
    rows, columns = np.nonzero(edges)
    assert (rows.min(), rows.max()) == (pytest.approx(70, abs=2), pytest.approx(130, abs=2))
    assert (columns.min(), columns.max()) == (pytest.approx(70, abs=2), pytest.approx(130, abs=2))


def test_replaced_options_are_another_version(tiny: DiffusionRenderer) -> None:
    config = RendererConfig(kind="tiny", guidance=3)
    assert DiffusionRenderer.load(config).version != tiny.version
    assert DiffusionRenderer.load(replace(config, guidance=-1, batch=2)).version == tiny.version
