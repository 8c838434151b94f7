"""The report's numbers in plain words, for a reader who does not know what a logit is."""

from collections.abc import Mapping
from typing import Any

from countryreward import markets

NAMES = {
    "country_reward": "CountryReward",
    "country_masked": "CountryReward, not told the country",
    "country_shuffled": "CountryReward, countries mixed up",
    "name_only_masked": "CountryReward, past ads but no country name",
    "images_masked": "CountryReward, not shown the images",
    "prior_only": "Past ads alone",
    "prior_only_paper": "Past ads alone, as the paper counts",
    "prior_shuffled": "Past ads, countries mixed up",
    "constant_letter": "Always the same letter",
    "market_blind_oracle": "Country-blind, in hindsight",
    "noise": "Knows the true click rates",
    "market_blind": "Knows them, but country-blind",
}

PLURAL = ("prior_only", "prior_only_paper", "prior_shuffled")
"""Variants whose name takes a verb in the plural."""

_NOT_CLICKS = {
    "score": "The winners here come from ratings, not from ads and not from clicks.",
    "orders": "The winners here come from orders, not from clicks; that both pictures were shown equally often is assumed.",
}
"""Kind of evidence -> what a reader must know of it."""

METRICS = {
    "accuracy": ("Right answers", "share of product-and-country cases where the better ad was named"),
    "balanced_accuracy": ("Balanced right answers", "mean of the share right where A won and where B won"),
    "sensitivity": ("Both countries right", "share of country pairs of one product with both answers right (Eq. 15)"),
    "discordant_sensitivity": (
        "Both right where countries disagree",
        "the same, only country pairs with different winners; a judge that ignores the country gets exactly 0",
    ),
    "concordant_sensitivity": ("Both right where countries agree", "the same, only country pairs with one winner"),
    "discordant_ordering": (
        "Countries in the right order",
        "where two countries disagree: the one where A won got the higher A-score; coin and country-blind: 50\u00a0%",
    ),
    "brier": ("Brier score", "mean squared error of the stated probability; 0 is perfect, .25 is always saying 50 %"),
    "log_loss": ("Log loss", "surprise per answer in nats; .693 is always saying 50 %"),
    "ece": ("Calibration error", "stated probability against observed share, debiased; 0 is perfect"),
}
SHARES = (
    "accuracy",
    "balanced_accuracy",
    "sensitivity",
    "discordant_sensitivity",
    "concordant_sensitivity",
    "discordant_ordering",
)


def name_of(variant: str) -> str:
    """A variant's or ceiling's name in plain words."""
    return NAMES.get(variant, variant.replace("_", " "))


def market_name(code: str) -> str:
    """ "South Korea" for KR; a code we do not know stands for itself, the report must not fail on it."""
    known = markets.parse(code)
    return code if known is None else markets.name(known)


def percent(value: float | None, digits: int = 0) -> str:
    """.634 -> "63 %" (no-break space); "no data" for None."""
    return "no data" if value is None else f"{100 * value:.{digits}f}\u00a0%"


def span(metric: Mapping[str, float | None], digits: int = 0) -> str:
    """The interval in words: "61 to 65 %"; empty without one."""
    if metric["low"] is None or metric["high"] is None:
        return ""
    return f"{100 * metric['low']:.{digits}f} to {percent(metric['high'], digits)}"


def cell(metric: Mapping[str, float | None], share: bool) -> tuple[str, str]:
    """(value, interval) for a table: per cent with one digit for shares, three decimals otherwise."""
    if metric["value"] is None:
        return "–", ""
    if share:
        return percent(metric["value"], 1), span(metric, 1)
    low_high = "" if metric["low"] is None else f"{metric['low']:.3f} to {metric['high']:.3f}"
    return f"{metric['value']:.3f}", low_high


def in_brackets(metric: Mapping[str, float | None]) -> str:
    """For a terminal: "0.631 [0.611, 0.650]", without brackets where there is no interval, "none" where no value."""
    value, low, high = metric["value"], metric["low"], metric["high"]
    if value is None:
        return "none"
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def is_simulated(report: Mapping[str, Any]) -> bool:
    """Whether the numbers come from the marketplace simulator."""
    return bool(report.get("simulated", report.get("ceilings", {}).get("source") == "simulator truth"))


def headline(report: Mapping[str, Any], variant: str = "prior_only") -> str:
    """The one sentence to remember, made from the numbers and as negative as they are."""
    who = name_of(variant)
    many = variant in PLURAL
    put, are, do = ("put", "are", "do") if many else ("puts", "is", "does")
    ordering = report["variants"][variant]["discordant_ordering"]
    if ordering["value"] is None:
        return (
            "No two countries disagree about any product here, so nothing can be said about listening to the country."
        )
    digits = _digits(ordering)
    value, interval = percent(ordering["value"], digits), span(ordering, digits)
    if ordering["low"] is None:
        return (
            f"Too little data to say: {_inside(who)} {put} two countries in the right order {value} of the time,"
            " and there are too few products for an interval."
        )
    if ordering["low"] > 0.5:
        return (
            f"{who} {put} two countries in the right order {value} of the time "
            f"(95 % interval {interval}; a judge that ignores the country: 50 %)."
        )
    if ordering["high"] < 0.5:
        return (
            f"{who} {are} worse than a coin at telling countries apart: right order {value} of the time "
            f"(95 % interval {interval}; a coin: 50 %)."
        )
    return (
        f"{who} {do} not tell countries apart here: right order {value} of the time, and the 95 % interval "
        f"({interval}) includes the 50 % of a judge that ignores the country."
    )


def _inside(name: str) -> str:
    """A name inside a sentence: "past ads alone", but "CountryReward"."""
    return name if name.startswith("CountryReward") else f"{name[0].lower()}{name[1:]}"


def _digits(metric: Mapping[str, float | None]) -> int:
    """One decimal where rounding to whole per cents would put the interval's end or the value on 50 %."""
    return 1 if any(v is not None and v != 0.5 and round(100 * v) == 50 for v in metric.values()) else 0


def findings(report: Mapping[str, Any], variant: str = "prior_only") -> list[str]:
    """More sentences: what the winners come from, against its own shuffle, the blind judge, what is possible."""
    found = [_NOT_CLICKS[kind] for kind in report.get("data", {}).get("kinds", {}) if kind in _NOT_CLICKS]
    variants, ceilings = report["variants"], report["ceilings"]
    differences = report.get("differences", {})
    mixed = "country_shuffled" if variant == "country_reward" else "prior_shuffled"
    shuffled = differences.get(f"{variant} - {mixed}")
    if shuffled and shuffled["metrics"]["discordant_ordering"]["value"] is not None:
        gap = shuffled["metrics"]["discordant_ordering"]
        low, high = gap["low"], gap["high"]
        size = f"{abs(100 * gap['value']):.1f} points"
        if low is not None and low > 0 and high is not None:
            size += f" (95 % interval {100 * low:.1f} to {100 * high:.1f})"
            found.append(f"Mixing up the countries' answers costs {size} of that: what helps is the country itself.")
        elif low is not None and high is not None and high < 0:
            size += f" (95 % interval {-100 * high:.1f} to {-100 * low:.1f})"
            found.append(f"Mixing up the countries' answers gains {size}: each country's own answer is the worse one.")
        else:
            found.append(
                f"Mixing up the countries' answers makes a difference of {100 * gap['value']:+.1f} points "
                f"(95 % interval {_points(gap)}), "
                "so there is no proof that listening to the country helps."
            )
    for other, what in (("prior_only", "past ads alone"), ("images_masked", "the same model without the images")):
        gap = differences.get(f"{variant} - {other}", {}).get("metrics", {}).get("accuracy")
        if gap and gap["low"] is not None and other != variant:
            inside = f"(95 % interval of the difference {_points(gap)})"
            if gap["low"] > 0 or gap["high"] < 0:
                more = "more" if gap["low"] > 0 else "less"
                found.append(
                    f"It names the winner {abs(100 * gap['value']):.1f} points {more} often than {what} {inside}."
                )
            else:
                found.append(
                    f"It names the winner no more and no less often than {what}, as far as these cases tell: "
                    f"{100 * gap['value']:+.1f} points {inside}."
                )
    blind = variants.get("market_blind_oracle")
    own = variants[variant]["accuracy"]
    if blind and blind["accuracy"]["value"] is not None and own["value"] is not None:
        better = own["value"] > blind["accuracy"]["value"]
        found.append(
            f"On plain right answers it reaches {percent(own['value'])}; the best judge that ignores the country, "
            f"knowing every result in advance, reaches {percent(blind['accuracy']['value'])}"
            + (" and is beaten." if better else ", but is right on both sides of a disagreement 0 % of the time.")
        )
    noise = ceilings["noise"]["accuracy"]["value"]
    if noise is None:
        found.append("How much better anyone could do is unknown: this data has no click counts to tell noise by.")
    else:
        found.append(
            f"Chance in the clicks leaves {percent(noise)} right answers to a judge who knows the truth "
            f"({'exact, the data are simulated' if is_simulated(report) else ceilings['source']})."
        )
    return found


def _points(metric: Mapping[str, float | None]) -> str:
    low, high = metric["low"], metric["high"]
    return "unknown" if low is None or high is None else f"{100 * low:+.1f} to {100 * high:+.1f}"
