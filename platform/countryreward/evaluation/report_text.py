"""The report's numbers in plain words, for a reader who does not know what a logit is."""

from collections.abc import Mapping
from typing import Any

from countryreward import markets
from countryreward.evaluation.judge_rows import CEILINGS, JUDGE_ROWS, judge_row
from countryreward.scoring.verdicts import claim_sentence

Metric = Mapping[str, float | None]
"""value, low and high: an interval of evaluation/statistics.py."""

_NOT_CLICKS = {
    "score": "The winners here come from ratings, not from ads and not from clicks.",
    "orders": "The winners here come from orders, not from clicks; that both pictures were shown equally often is assumed.",
    "votes": "Winners here come from votes: people were shown both pictures and said which they prefer.",
}
"""Kind of evidence -> what a reader must know of it."""

_OUTCOMES = {"conversions": "sales or sign-ups", "value": "money"}
"""What counts as success, where that is not a click -> in plain words."""

METRICS = {
    "accuracy": ("Right answers", "share of product-and-country cases where the winner was named; half of a tie"),
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


def name_of(variant: str) -> str:
    """A judge's or a ceiling's name in plain words."""
    return CEILINGS.get(variant) or judge_row(variant).name


def market_name(code: str) -> str:
    """ "South Korea" for KR; a code we do not know stands for itself, the report must not fail on it."""
    market = markets.parse(code)
    return code if market is None else markets.name(market)


def percent(value: float | None, digits: int = 0) -> str:
    """.634 -> "63 %" (no-break space); "no data" for None."""
    return "no data" if value is None else f"{100 * value:.{digits}f}\u00a0%"


def span(metric: Metric, digits: int = 0) -> str:
    """The interval in words: "61 to 65 %"; empty without one."""
    if metric["low"] is None or metric["high"] is None:
        return ""
    return f"{100 * metric['low']:.{digits}f} to {percent(metric['high'], digits)}"


def cell(metric: Metric, share: bool) -> tuple[str, str]:
    """(value, interval) for a table: per cent with one digit for shares, three decimals otherwise."""
    if metric["value"] is None:
        return "–", ""
    if share:
        return percent(metric["value"], 1), span(metric, 1)
    low_high = "" if metric["low"] is None else f"{metric['low']:.3f} to {metric['high']:.3f}"
    return f"{metric['value']:.3f}", low_high


def in_brackets(metric: Metric) -> str:
    """For a terminal: "0.631 [0.611, 0.650]", without brackets where there is no interval, "none" where no value."""
    value, low, high = metric["value"], metric["low"], metric["high"]
    if value is None:
        return "none"
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def points(metric: Metric) -> tuple[str, str]:
    """(difference, interval) in percentage points with signs: ("+4.1", "+2.0 to +6.2"); the interval is empty without one."""
    if metric["value"] is None:
        return "–", ""
    low, high = metric["low"], metric["high"]
    interval = "" if low is None or high is None else f"{100 * low:+.1f} to {100 * high:+.1f}"
    return f"{100 * metric['value']:+.1f}", interval


def points_in_words(metric: Metric, remark: str = "") -> str:
    """A difference inside a sentence: "+4.1 points (95 % interval +2.0 to +6.2)"; `remark` ends the brackets, where there are."""
    value, interval = points(metric)
    return f"{value} points (95 % interval {interval}{remark})" if interval else f"{value} points"


def stated_p(p: float) -> str:
    """Three digits without the leading zero, as statistics writes it: ".012", "< .001"."""
    return "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def shorten(text: str, most: int) -> str:
    """The text, cut at `most` characters with an ellipsis."""
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def is_simulated(report: Mapping[str, Any]) -> bool:
    """Whether the numbers come from the marketplace simulator."""
    return bool(report.get("simulated", report.get("ceilings", {}).get("source") == "simulator truth"))


def headline(report: Mapping[str, Any], variant: str = "prior_only") -> str:
    """The one sentence to remember, made from the numbers and as negative as they are."""
    who, many = name_of(variant), judge_row(variant).plural
    put, are, do = ("put", "are", "do") if many else ("puts", "is", "does")
    ordering = report["variants"][variant]["discordant_ordering"]
    if ordering["value"] is None:
        return (
            "No two countries disagree about any product here, so nothing can be said about listening to the country."
        )
    digits = _digits(ordering)
    value, interval = percent(ordering["value"], digits), span(ordering, digits)
    if ordering["low"] is None:
        inside = who if who.startswith("CountryReward") else f"{who[0].lower()}{who[1:]}"
        return (
            f"Too little data to say: {inside} {put} two countries in the right order {value} of the time,"
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


def _digits(metric: Metric) -> int:
    """One decimal where rounding to whole per cents would put the interval's end or the value on 50 %."""
    return 1 if any(v is not None and v != 0.5 and round(100 * v) == 50 for v in metric.values()) else 0


def findings(report: Mapping[str, Any], variant: str = "prior_only") -> list[str]:
    """More sentences: what the winners come from and what winning says, against its own shuffle, other judges, the blind one,
    what is possible."""
    differences = report.get("differences", {})

    def lead_over(other: str, metric: str) -> Metric | None:
        """How much the subject is ahead of another judge; None where they were not compared."""
        return differences.get(f"{variant} - {other}", {}).get("metrics", {}).get(metric)

    data = report.get("data", {})
    sentences = [_NOT_CLICKS[kind] for kind in data.get("kinds", {}) if kind in _NOT_CLICKS]
    if data.get("outcome") in _OUTCOMES:
        sentences.append(f"The winners here have more {_OUTCOMES[data['outcome']]} per view, whatever their clicks.")
    delivered = data.get("not_identified")
    if delivered and delivered["as_delivered"]:
        sentences.append(
            f"In {delivered['as_delivered']:,} cases the platform may have chosen who saw which ad: those winners won as"
            f" delivered, and {percent(delivered['share'])} of all winners are not identified as the better ad."
        )
    elif "delivery" in report:
        sentences.append(claim_sentence(report["delivery"]))
    comparable = (report.get("comparable") or {}).get("variants", {}).get(variant)
    if comparable and comparable["accuracy"]["value"] is not None:
        sentences.append(
            f"On the {report['comparable']['n']['rows']:,} cases in which chance decided who saw which ad it names "
            f"{percent(comparable['accuracy']['value'])} of the winners."
        )
    own_countries = lead_over(judge_row(variant).mixed_up, "discordant_ordering")
    if own_countries and own_countries["value"] is not None:
        sentences.append(_worth_of_countries(own_countries))
    for other, row in JUDGE_ROWS.items():
        lead = lead_over(other, "accuracy") if row.called else None
        if lead and lead["value"] is not None and lead["low"] is not None:
            sentences.append(_right_answers_against(row.called, lead))
    blind, own = report["variants"].get("market_blind_oracle"), report["variants"][variant]["accuracy"]
    if blind and blind["accuracy"]["value"] is not None and own["value"] is not None:
        beaten = own["value"] > blind["accuracy"]["value"]
        sentences.append(
            f"On plain right answers it reaches {percent(own['value'])}; the best judge that ignores the country, "
            f"knowing every result in advance, reaches {percent(blind['accuracy']['value'])}"
            + (" and is beaten." if beaten else ", but is right on both sides of a disagreement 0 % of the time.")
        )
    ceilings = report["ceilings"]
    noise = ceilings["noise"]["accuracy"]["value"]
    if noise is None:
        sentences.append("How much better anyone could do is unknown: this data has no click counts to tell noise by.")
    else:
        source = "exact, the data are simulated" if is_simulated(report) else ceilings["source"]
        sentences.append(f"Chance leaves {percent(noise)} right answers to a judge who knows the truth ({source}).")
    return sentences


def _worth_of_countries(lead: Metric) -> str:
    """What dealing the answers to other countries costs. lead: in discordant ordering, with a value."""
    value, low, high = lead["value"], lead["low"], lead["high"]
    assert value is not None
    size = f"{abs(100 * value):.1f} points"
    if low is not None and high is not None and low > 0:
        size += f" (95 % interval {100 * low:.1f} to {100 * high:.1f})"
        return f"Mixing up the countries' answers costs {size} of that: what helps is the country itself."
    if low is not None and high is not None and high < 0:
        size += f" (95 % interval {-100 * high:.1f} to {-100 * low:.1f})"
        return f"Mixing up the countries' answers gains {size}: each country's own answer is the worse one."
    return (
        f"Mixing up the countries' answers makes a difference of {points(lead)[0]} points "
        f"(95 % interval {points(lead)[1] or 'unknown'}), so there is no proof that listening to the country helps."
    )


def _right_answers_against(other: str, lead: Metric) -> str:
    """Whether the subject is right more often. lead: in accuracy, with value and interval; other: the judge inside a sentence."""
    value, low, high = lead["value"], lead["low"], lead["high"]
    assert value is not None
    assert low is not None
    assert high is not None
    interval = f"(95 % interval of the difference {points(lead)[1]})"
    if low > 0 or high < 0:
        more = "more" if low > 0 else "less"
        return f"It names the winner {abs(100 * value):.1f} points {more} often than {other} {interval}."
    return (
        f"It names the winner no more and no less often than {other}, as far as these cases tell: "
        f"{points(lead)[0]} points {interval}."
    )
