"""A byte-level BPE tokenizer with Qwen2-VL's special tokens, made from the words of simulated products."""

from collections.abc import Iterable, Iterator
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from countryreward.data.design import LABELS
from countryreward.data.marketplace.marketplace_config import MarketplaceConfig
from countryreward.data.marketplace.simulate import simulate
from countryreward.data.marketplace.vocabulary import AXES, COLOURS
from countryreward.markets import DEFAULT_MARKETS, adjective, name
from countryreward.models.captions import ATTRIBUTES, DESCRIBE, GRADES
from countryreward.models.pretrain_config import PRETEXT_SEED
from countryreward.models.reward_prompts import INSTRUCTION

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END, IMAGE = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"
SPECIAL_TOKENS = (PAD, START, END, VISION_START, VISION_END, "<|vision_pad|>", IMAGE, "<|video_pad|>")
"""Qwen2-VL's, with ids 0 to 7 here."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen2-VL's chat form without its default system message, images only."""

_SPLIT = Regex(  # Qwen2's: contractions, words with the space before them, single digits, punctuation, white space
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_ENGLISH = (
    f"{INSTRUCTION}\nFor Based on the experience, the greater probability answer is A. is B. this market\n"
    "\nProduct Title: \nProduct Category: \nProduct Attributes: \nProduct Tags: \nImage A: \nImage B: "
    "Generate a background design for the market, based on the Product Attributes and Product Image. "
    f"{DESCRIBE} system user assistant You are a helpful assistant. "
)
"""The words of our prompts: a tokenizer that has seen them spends one token on each."""


def train_tokenizer(texts: Iterable[str], vocab_size: int = 2_000) -> PreTrainedTokenizerFast:
    """Byte-level BPE: nothing is normalised and every byte has a token, so any UTF-8 text comes back as it was."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [
            pre_tokenizers.Split(_SPLIT, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        extra_special_tokens=[token for token in SPECIAL_TOKENS if token not in (PAD, END)],
        clean_up_tokenization_spaces=False,
        model_max_length=4_096,
        padding_side="right",
        chat_template=CHAT_TEMPLATE,
    )


PHRASES = (
    INSTRUCTION,
    *(f"\nProduct {field}:" for field in ("Title", "Category", "Attributes", "Tags")),
    *("\nImage A:", "\nImage B:", "\nFor", "user\n", "assistant\n"),
)
"""Fixed pieces of the reward model's prompt. They are the same in every prompt, so the tiny tokenizer gives each a token of its
own and a processor reads two fifths less. A real Qwen2-VL tokenizer reads them word by word."""


def tokenizer_texts(seed: int = PRETEXT_SEED, products: int = 1_500) -> Iterator[str]:
    """What the tokenizer is made from: words only, no observation, no evaluation seed.

    Titles, categories, attributes and tags of products simulated from a pretext seed; design sentences; caption words;
    the English of the prompts with the countries' names and adjectives, which are words like others here.
    """
    for row in pretext_products(seed, products):
        attributes = "; ".join(f"{attribute}: {value}" for attribute, value in row["attributes"].items())
        yield f"\nProduct Title: {row['title']}\nProduct Category: {row['category']}"
        yield f"\nProduct Attributes: {attributes}\nProduct Tags: {', '.join(row['tags'])}"
    words = [f" {word}" for choices in ATTRIBUTES.values() for word in choices] + [
        f" {attribute}" for attribute in ATTRIBUTES
    ]
    words += [f" {word.phrase} {' '.join(word.keywords)}" for axis in AXES.values() for word in axis.values()]
    words += [f" {label}: {field}" for field, label in LABELS.items()]
    words += [f" {colour} {colour.lower()}" for colour in COLOURS]
    words += [f" {grade} A {grade} B" for grade in GRADES]
    yield from (line for line in words * 100)
    yield from [_ENGLISH] * 400
    yield from country_words() * 20


def pretext_products(seed: int = PRETEXT_SEED, products: int = 1_500) -> list[dict[str, Any]]:
    """Titles, categories, attributes and tags of products simulated from a pretext seed."""
    assert seed >= PRETEXT_SEED, seed
    config = MarketplaceConfig(seed=seed, products=products, creatives_per_product=1, markets=["US"], periods=1)
    return simulate(config).products.to_dict("records")  # pyright: ignore[reportReturnType]  # its keys are names


def country_words() -> list[str]:
    """Names and adjectives of the paper's markets, as words."""
    return [f" {adjective(code)} {name(code)}" for code in DEFAULT_MARKETS]
