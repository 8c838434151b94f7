"""The tables of contract 1 (input) and contract 2 (records) as Arrow schemas. docs/data.md explains every column."""

import pyarrow as pa

KINDS = ("counts", "rate", "orders", "score")
"""Evidence kinds of a creative, from the most to the least informative: a pair is labelled by the first kind both have."""

RECORD_KINDS = ("counts", "votes", "rate", "orders", "score")
"""Evidence kinds of a pair in the order in which they label it; votes are cast on pairs, the others observed of creatives."""

STRATA = ("placement", "device", "ad_set", "audience")
"""Columns of an observation that say which part of a creative's showing it is; the period is one more."""

DELIVERIES = ("randomised", "rotated", "optimised", "unknown")
"""Who chose what a customer saw: chance, turns, the platform; missing: unknown. Only the first two compare like with like."""

COMPARABLE = DELIVERIES[:2]
"""Deliveries under which both creatives met the same customers."""

OUTCOMES = ("clicks", "conversions", "value")
"""What of an impression counts as success."""

COPY = ("headline", "body", "call_to_action", "tags")
"""The words of an ad, columns of a creative."""

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
        pa.field("headline", pa.string()),
        pa.field("body", pa.string()),
        pa.field("call_to_action", pa.string()),
        pa.field("tags", pa.list_(pa.string())),  # of this ad, not of the product; null or empty: none
        pa.field("copy_hash", pa.string()),  # `copy_hash` of the four; null: an ad without words
    ]
)
"""A creative is (content_hash, copy_hash) within a product; several rows of one creative are ads whose evidence is pooled."""

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
        pa.field("conversions", pa.float64()),  # of the same impressions; attribution gives parts of one
        pa.field("value", pa.float64()),  # revenue of the same impressions, one currency
        pa.field("rate", pa.float64()),  # CTR as a share
        pa.field("orders", pa.float64()),  # units sold
        pa.field("score", pa.float64()),  # mean rating
        pa.field("score_sd", pa.float64()),
        pa.field("score_n", pa.int64()),
        pa.field("placement", pa.string()),  # strata: which part of the creative's showing this is; null: not told
        pa.field("device", pa.string()),
        pa.field("ad_set", pa.string()),
        pa.field("audience", pa.string()),
        pa.field("delivery", pa.string()),  # one of DELIVERIES; null: unknown
        pa.field("source", pa.string()),
    ]
)
"""Key: creative_id, market, kind, the strata, delivery, period. Rows of one key are added on import."""

VOTES = pa.schema(
    [
        pa.field("creative_1", pa.string(), nullable=False),
        pa.field("creative_2", pa.string(), nullable=False),
        pa.field("market", pa.string(), nullable=False),
        pa.field("period_start", pa.date32()),
        pa.field("period_end", pa.date32()),
        pa.field("voter_class", pa.string()),  # such as panel, staff or a model's name; null: not told
        pa.field("votes_1", pa.int64(), nullable=False),
        pa.field("votes_2", pa.int64(), nullable=False),
        pa.field("votes_tie", pa.int64(), nullable=False),  # said neither
        pa.field("source", pa.string()),
    ]
)
"""What panels, arenas and labelling tools collect: two creatives of a product, and how many voters preferred each."""

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
        pa.field("copy_a", pa.string()),  # copy hash; null: no words
        pa.field("copy_b", pa.string()),
        pa.field("kind", pa.string(), nullable=False),  # one of RECORD_KINDS
        pa.field("outcome", pa.string()),  # counts: one of OUTCOMES; else null
        pa.field("delivery", pa.string(), nullable=False),  # of the pair: the less comparable of its two sides
        pa.field(
            "value_a", pa.float64(), nullable=False
        ),  # pooled, for display: outcome per impression, orders, score, votes
        pa.field("value_b", pa.float64(), nullable=False),
        pa.field(
            "compared_a", pa.float64(), nullable=False
        ),  # the same within common strata and days: these are compared
        pa.field("compared_b", pa.float64(), nullable=False),
        pa.field("strata", pa.int32(), nullable=False),  # common cells (strata and days) that were compared
        pa.field("impressions_a", pa.int64()),  # in the common cells; null without counts
        pa.field("impressions_b", pa.int64()),
        pa.field("label", pa.float64(), nullable=False),  # 1: A has the larger compared value, 0: B, .5: a tie
        pa.field("soft_label", pa.float64()),  # P(A is truly better | evidence); null where there is no posterior
        pa.field(
            "target", pa.float64(), nullable=False
        ),  # what training learns from: label or soft label, by label_kind
        pa.field("equal_exposure_assumed", pa.bool_(), nullable=False),  # true for orders
        pa.field("revealed", pa.bool_(), nullable=False),  # its result is known to who is asked of the pair elsewhere
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

DESIGNS = pa.schema(
    [
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("market", pa.string(), nullable=False),
        pa.field("image", pa.string(), nullable=False),  # content hash of the product's own picture
        pa.field("creative_id", pa.string()),  # whose design it is; null: a brief
        pa.field("foreground", pa.string(), nullable=False),
        pa.field("background", pa.string(), nullable=False),
        pa.field("color_tone", pa.string(), nullable=False),
        pa.field("lighting", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),  # of the product, as in the records
    ]
)
"""What a design writer learns from: a design for a product in a market."""

PREFERENCE_PAIRS = pa.schema(
    [
        pa.field(
            "key", pa.string(), nullable=False
        ),  # content key: same product, picture, market, seed, versions, rule
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("category", pa.string()),
        pa.field("attributes", pa.map_(pa.string(), pa.string())),
        pa.field("tags", pa.list_(pa.string())),
        pa.field("market", pa.string(), nullable=False),
        pa.field("images", pa.list_(pa.string()), nullable=False),  # content hashes: the product's own picture
        pa.field("prompt", pa.string(), nullable=False),  # what the writer was asked, in words
        pa.field("chosen", pa.string(), nullable=False),  # written form of the design whose ad won
        pa.field("rejected", pa.string(), nullable=False),
        pa.field("seed_chosen", pa.int64(), nullable=False),  # the writer's
        pa.field("seed_rejected", pa.int64(), nullable=False),
        pa.field("seed_render", pa.int64(), nullable=False),  # the renderer's, the same for both
        pa.field("ad_chosen", pa.string(), nullable=False),  # SHA-256 of the ad's PNG file, hex
        pa.field("ad_rejected", pa.string(), nullable=False),
        pa.field("fidelity_chosen", pa.float64(), nullable=False),
        pa.field("fidelity_rejected", pa.float64(), nullable=False),
        pa.field("probability", pa.float64(), nullable=False),  # that chosen beats rejected; calibrated where it can be
        pa.field("swapped_probability", pa.float64()),  # the same asked in the other order; null: it was not asked
        pa.field("writer", pa.string(), nullable=False),  # versions
        pa.field("renderer", pa.string(), nullable=False),
        pa.field("model", pa.string()),
        pa.field("knowledge_base", pa.string()),
    ]
)
"""Contract 9. `generation/preference_table.py` gives the same rows in TRL's vision format."""

CASES = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("market", pa.string(), nullable=False),
        pa.field("image_hash", pa.string(), nullable=False),  # the product's original creative
        pa.field("foreground", pa.string(), nullable=False),
        pa.field("background", pa.string(), nullable=False),
        pa.field("color_tone", pa.string(), nullable=False),
        pa.field("lighting", pa.string(), nullable=False),
        pa.field("repaired", pa.bool_(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),  # the writer's
        pa.field("seed_render", pa.int64(), nullable=False),
        pa.field("ad", pa.string(), nullable=False),  # SHA-256 of ads/<ad>.png
        pa.field("fidelity", pa.float64(), nullable=False),
        pa.field("writer", pa.string(), nullable=False),
        pa.field("renderer", pa.string(), nullable=False),
        pa.field("beats_original", pa.map_(pa.string(), pa.float64()), nullable=False),  # judge -> probability
        pa.field("beats_reference", pa.map_(pa.string(), pa.float64()), nullable=False),  # the reference writer's ad
    ]
)
"""What a writer is worth: one ad per (product, market), judged against the original creative. Judges: `JUDGES`."""

JUDGES = ("reward", "held_out", "truth")
"""Judges of a case: the reward that trained the writer, one that took no part, and, of the simulator, the true click rates."""
