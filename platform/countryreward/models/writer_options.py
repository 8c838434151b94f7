"""Config of the design writer. Standard library only, so that `--help` is quick."""

from dataclasses import dataclass

from countryreward.errors import UserError


@dataclass(kw_only=True)
class SamplingConfig:
    """How designs are drawn from a writer."""

    temperature: float = 1.0
    """1: as it was trained; lower is safer and less various; 0: always the likeliest word."""
    top_p: float = 1.0
    """Words beyond this much probability are never taken; 1: any can be."""
    max_new_tokens: int = 160
    """Longest answer in tokens; one that is longer is refused, unless its four lines are there."""
    batch_size: int = 64
    """Designs written at once."""

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise UserError(
                f"sampling.temperature, top_p: {self.temperature}, {self.top_p}; the first is at least 0, the second in (0, 1]"
            )
        if self.max_new_tokens < 1 or self.batch_size < 1:
            raise UserError(
                f"sampling.max_new_tokens, batch_size: {self.max_new_tokens}, {self.batch_size}; write at least 1"
            )
