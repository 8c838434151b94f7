"""The tables of contract 1 (input) and contract 2 (records) as Arrow schemas. docs/data.md explains every column."""

import pyarrow as pa

KINDS = ("counts", "rate", "orders", "score")
"""Evidence kinds, from the most to the least informative: a pair is labelled by the first kind both creatives have."""

PRODUCTS = pa.schema(
    [
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("category", pa.string()),
        pa.field("attributes", pa.map_(pa.string(), pa.string())),
        pa.field("tags", pa.list_(pa.string())),
        pa.field("seller", pa.string()),
    ]
)

CREATIVES = pa.schema(
    [
        pa.field("creative_id", pa.string(), nullable=False),
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("image_uri", pa.string()),  # where the image came from
        pa.field("content_hash", pa.string(), nullable=False),  # SHA-256 of the file's bytes, hex
        pa.field("perceptual_hash", pa.string(), nullable=False),  # 64-bit pHash, 16 hex digits
    ]
)

IMAGES = pa.schema(
    [
        pa.field("content_hash", pa.string(), nullable=False),
        pa.field("perceptual_hash", pa.string(), nullable=False),
        pa.field("format", pa.string(), nullable=False),  # PNG, JPEG or WEBP
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("uri", pa.string()),  # set when images are kept by reference
        pa.field("bytes", pa.binary()),  # set when images are embedded
    ]
)

OBSERVATIONS = pa.schema(
    [
        pa.field("creative_id", pa.string(), nullable=False),
        pa.field("market", pa.string(), nullable=False),  # ISO 3166 alpha-2
        pa.field("period_start", pa.date32()),  # first day, included; null: undated
        pa.field("period_end", pa.date32()),  # last day, included
        pa.field("kind", pa.string(), nullable=False),  # one of KINDS
        pa.field("impressions", pa.int64()),
        pa.field("clicks", pa.int64()),
        pa.field("rate", pa.float64()),  # CTR as a share
        pa.field("orders", pa.float64()),  # units sold
        pa.field("score", pa.float64()),  # mean rating
        pa.field("score_sd", pa.float64()),
        pa.field("score_n", pa.int64()),
        pa.field("source", pa.string()),
    ]
)

LISTED_PAIRS = pa.schema(
    [
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("creative_1", pa.string(), nullable=False),
        pa.field("creative_2", pa.string(), nullable=False),
        pa.field("market", pa.string(), nullable=False),
    ]
)
"""Only when the input was a pair file: records are then made for these pairs alone, not for all pairs of a product."""

RECORDS = pa.schema(
    [
        pa.field("record_id", pa.string(), nullable=False),  # pair_id, market and window
        pa.field("pair_id", pa.string(), nullable=False),  # free of market: product and the two hashes sorted
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("market", pa.string(), nullable=False),
        pa.field("creative_a", pa.string(), nullable=False),
        pa.field("creative_b", pa.string(), nullable=False),
        pa.field("hash_a", pa.string(), nullable=False),
        pa.field("hash_b", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("value_a", pa.float64(), nullable=False),  # CTR, orders or score
        pa.field("value_b", pa.float64(), nullable=False),
        pa.field("impressions_a", pa.int64()),  # null without counts
        pa.field("impressions_b", pa.int64()),
        pa.field("label", pa.int8(), nullable=False),  # 1: A got the larger value
        pa.field("soft_label", pa.float64()),  # P(CTR_A > CTR_B); null without counts
        pa.field(
            "target", pa.float64(), nullable=False
        ),  # what training learns from: label or soft label, by label_kind
        pa.field("equal_exposure_assumed", pa.bool_(), nullable=False),  # true for orders
        pa.field("split", pa.string(), nullable=False),  # train, validation or test
        pa.field("as_of", pa.date32()),  # priors may use only evidence that ended before; null: no date
    ]
)

SPLIT_UNITS = pa.schema(
    [
        pa.field("unit", pa.string(), nullable=False),  # product_id, content hash, or window
        pa.field("split", pa.string(), nullable=False),
    ]
)

PRIORS = pa.schema(
    [
        pa.field("record_id", pa.string(), nullable=False),
        pa.field("knowledge_base", pa.string(), nullable=False),  # its version
        pa.field("retrieval", pa.string(), nullable=False),  # hash of the retrieval configuration
        pa.field("log_odds", pa.float64(), nullable=False),  # 0 without neighbours
        pa.field("n", pa.int32(), nullable=False),  # neighbours that voted
        pa.field("letter", pa.string()),  # A, B, or null: no evidence or a tie
        pa.field("neighbours_a", pa.list_(pa.string())),  # creative ids, best first
        pa.field("neighbours_b", pa.list_(pa.string())),
    ]
)
