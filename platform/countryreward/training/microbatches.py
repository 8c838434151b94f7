"""Which worker takes which batch of an optimizer step, also when there are fewer workers than the training was planned for.

A step is planned workers x accumulation batches, whoever is there: with fewer workers each takes more of them, so weights,
losses and the order of the data stay what they would have been, up to the order in which floats are added.
"""

from dataclasses import dataclass

from countryreward.training.distributed import ProcessGroup


@dataclass(frozen=True)
class Microbatch:
    """One forward and backward pass of one worker."""

    part: int
    """Of the accumulation."""
    planned: int
    """The planned worker whose batch it is."""
    weight: float
    """On the batch's loss, so that the mean over all workers and turns is the mean over the step's batches. 0: a batch that
    another worker takes, here only because all workers must make as many passes."""


def turns(planned: int, accumulation: int, ranks: ProcessGroup) -> list[Microbatch]:
    """The turns of one worker in every step: as many for each, batch n to worker n modulo their number.

    With as many workers as planned, worker r has the batches of planned worker r, each with weight 1.
    """
    batches = planned * accumulation
    each = -(-batches // ranks.world)
    weight = ranks.world * each / batches
    numbers = [ranks.rank + turn * ranks.world for turn in range(each)]
    return [
        Microbatch(number % batches // planned, number % planned, weight if number < batches else 0.0)
        for number in numbers
    ]
