"""The two readings of the paper: every option that has both, and what each reading says (docs/method.md)."""

READINGS: dict[str, tuple[str, str]] = {
    # option: (paper, repaired)
    "prior.weights": ("n-i", "n-i+1"),
    "prior.evidence": ("ctr", "lift"),
    "prior.ties": ("letters", "half"),
    "prior.vote": ("indicator", "logistic"),
    "reward.strategy": ("scaled", "soft"),
    "reward.antisymmetric": ("off", "on"),
    "focus.measure": ("norm", "attention"),
    "focus.layer": ("final", "inner"),
    "focus.reduce": ("first", "relative"),
    "label.kind": ("hard", "soft"),
    "orientation": ("as_given", "hashed"),
    "renderer.scheduler": ("ddpm", "euler"),
}


def resolve(reading: str, option: str, override: str | None) -> str:
    """The value of `option` under `reading` ("paper" or "repaired"), unless it is set by itself."""
    paper, repaired = READINGS[option]
    return override if override is not None else {"paper": paper, "repaired": repaired}[reading]
