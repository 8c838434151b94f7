"""When to stop aligning a writer. Standard library only, so that `--help` is quick."""

from dataclasses import dataclass

from countryreward.errors import UserError


@dataclass(kw_only=True)
class StopRule:
    """Bounds that a round of alignment must keep (docs/method.md says why these)."""

    level: float = 0.05
    """Two-sided level of the test that the held-out judge's probability fell; half of it is the rate of false alarms a round."""
    fidelity_least: float = 0.5
    """Least mean fidelity of the ads; not applied where the reference's own ads are below it."""
    fidelity_drop: float = 0.1
    """Most that the mean fidelity may lose against the reference's ads of the same cases."""
    diversity_least: float = 0.25
    """Share of the reference's diversity within a market that must stay: below it most of two draws are nearly one design, and
    the next round has hardly a pair to learn from."""
    collapse_most: float = 0.5
    """Largest share of a market's designs that may be one and the same; not applied where the reference's is as large."""
    collapse_products: int = 10
    """Fewest products of a market for that: among few, two equal designs are no collapse."""

    def __post_init__(self) -> None:
        for name in ("level", "fidelity_least", "fidelity_drop", "diversity_least", "collapse_most"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}: {getattr(self, name)}; write a share from 0 to 1")
        if self.collapse_products < 2:
            raise UserError(f"collapse_products: {self.collapse_products}; write 2 or more")
