"""What the marketplace sells: eight categories with the words of their titles and attributes."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Category:
    """One category of products. Its key in CATEGORIES names its shape in `shapes.py`."""

    name: str
    """What the category column says."""
    nouns: tuple[str, ...]
    """What a title may call the product."""
    adjectives: tuple[str, ...]
    """What a title may say of it."""
    attributes: dict[str, tuple[str, ...]]
    """Attribute -> its values; the colour is added to every product."""
    tags: tuple[str, ...]
    """Search tags."""


BRANDS: tuple[str, ...] = (
    "Alder", "Brisa", "Café Lumen", "Dahlia & Co", "Élan", "Fjörd", "Grove", "Hikari 光", "Indigo", "Jardín",
    "Kestrel", "Lumo", "Måne", "Nordlys", "Orchard", "Piñata", "Quill", "Rosé", "Söder", "Tide", "Umbra", "Vela",
    "Wren", "Yuki 雪", "Zephyr",
)  # fmt: skip
"""Invented brands; some are not ASCII, as in real catalogues."""

SUFFIXES: tuple[str, ...] = (
    "", "", "for everyday use", "gift edition", "2 pcs", "classic", "limited edition", "for men and women",
    "travel size", "II",
)  # fmt: skip
"""Ends of titles."""

CATEGORIES: dict[str, Category] = {
    "sneaker": Category(
        name="Shoes",
        nouns=("sneakers", "running shoes", "low-top trainers", "canvas shoes"),
        adjectives=("lightweight", "breathable", "retro", "cushioned", "waterproof", "street"),
        attributes={"material": ("mesh", "suede", "canvas", "leather"), "sole": ("rubber", "foam"),
                    "closure": ("laces", "slip-on")},
        tags=("footwear", "sport", "streetwear", "running", "casual"),
    ),
    "handbag": Category(
        name="Bags",
        nouns=("handbag", "tote bag", "shoulder bag", "city bag"),
        adjectives=("quilted", "vegan", "compact", "structured", "soft", "roomy"),
        attributes={"material": ("leather", "cotton", "nylon", "cork"), "size": ("S", "M", "L"), "lining": ("silk", "none")},
        tags=("accessories", "fashion", "gift", "travel", "office"),
    ),
    "lamp": Category(
        name="Lighting",
        nouns=("table lamp", "bedside lamp", "desk lamp", "reading lamp"),
        adjectives=("dimmable", "mid-century", "cordless", "warm-white", "sculptural", "adjustable"),
        attributes={"bulb": ("E14", "E27", "LED"), "base": ("ceramic", "brass", "oak"), "power": ("5 W", "9 W", "12 W")},
        tags=("home", "decor", "bedroom", "reading", "light"),
    ),
    "mug": Category(
        name="Tableware",
        nouns=("mug", "coffee cup", "tea mug", "breakfast cup"),
        adjectives=("hand-glazed", "stackable", "double-walled", "stoneware", "oversized", "enamel"),
        attributes={"capacity": ("250 ml", "350 ml", "450 ml"), "material": ("porcelain", "stoneware", "enamel"),
                    "dishwasher": ("yes", "no")},
        tags=("kitchen", "coffee", "tea", "breakfast", "gift"),
    ),
    "perfume": Category(
        name="Beauty",
        nouns=("eau de parfum", "body mist", "eau de toilette", "fragrance"),
        adjectives=("floral", "woody", "citrus", "musky", "long-lasting", "unisex"),
        attributes={"volume": ("30 ml", "50 ml", "100 ml"), "notes": ("jasmine", "oud", "bergamot", "vanilla"),
                    "vegan": ("yes", "no")},
        tags=("beauty", "fragrance", "gift", "luxury", "evening"),
    ),
    "headphones": Category(
        name="Electronics",
        nouns=("headphones", "wireless headset", "over-ear headphones", "studio headphones"),
        adjectives=("noise-cancelling", "foldable", "hi-fi", "low-latency", "comfortable", "deep-bass"),
        attributes={"battery": ("20 h", "30 h", "50 h"), "connection": ("Bluetooth 5.3", "wired"),
                    "weight": ("190 g", "250 g")},
        tags=("audio", "music", "gaming", "travel", "tech"),
    ),
    "chair": Category(
        name="Furniture",
        nouns=("armchair", "accent chair", "lounge chair", "reading chair"),
        adjectives=("upholstered", "ergonomic", "velvet", "bouclé", "Scandinavian", "swivel"),
        attributes={"legs": ("oak", "walnut", "steel"), "fabric": ("velvet", "linen", "bouclé"),
                    "assembly": ("needed", "none")},
        tags=("home", "furniture", "living", "interior", "comfort"),
    ),
    "watch": Category(
        name="Watches",
        nouns=("wristwatch", "chronograph", "quartz watch", "automatic watch"),
        adjectives=("minimalist", "sapphire-glass", "solar", "vintage", "water-resistant", "slim"),
        attributes={"strap": ("steel", "leather", "silicone"), "diameter": ("36 mm", "40 mm", "44 mm"),
                    "movement": ("quartz", "automatic")},
        tags=("accessories", "time", "gift", "business", "luxury"),
    ),
}  # fmt: skip
"""Key (also the shape's name) -> category."""
