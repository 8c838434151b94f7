"""The designs of a generation job that was sent without any: written for its markets, else from the templates. It blocks."""

from collections import Counter
from collections.abc import Sequence

from countryreward.api.generation_schemas import DesignFields
from countryreward.errors import UserError
from countryreward.generation.ad_contracts import DesignRequest, DesignWriter
from countryreward.serving.durable_jobs.generation.generation_job import Plan, PlannedDesign, StoredGeneration
from countryreward.serving.durable_jobs.generation.render_pass import Order
from countryreward.serving.metrics_observer import MetricsObserver

TRIES = 3
"""Times that a writer is asked for a design, with other seeds, before one of the templates takes its place."""
_UNUSABLE = "what the writer wrote could not be used"
_FAILED = "the writer failed again and again"
_SEEDS = 1_000_003  # apart from one pass to the next; torch reads the lower 32 bits of a seed alone


class Writing:
    """Designs of one job as they are written: design n for market n % len(markets), all in a pass, at most `TRIES` passes."""

    def __init__(self, writer: DesignWriter, stored: StoredGeneration, order: Order, watching: MetricsObserver) -> None:
        assert stored.markets, "a writer writes for a market"
        self.writer, self._stored, self._order, self._watching = writer, stored, order, watching
        self._left, self._pass = list(range(stored.total)), 0
        self._written: dict[int, DesignFields] = {}
        self._unwritten: dict[int, str] = {}

    def done(self) -> bool:
        """Whether nothing is left to be asked."""
        return not self._left

    def write_pass(self) -> None:
        """Ask for all that is left."""
        group, self._left = self._left, []
        self._write(group)
        self._pass += 1

    def plan(self) -> Plan:
        """All designs, those of the templates in the places where none could be written."""
        assert self.done(), "some are still to be written"
        designs = [
            PlannedDesign(design=self._written[n], market=self._market(n), writer=self.writer.version)
            if n in self._written
            else PlannedDesign(design=template)
            for n, template in enumerate(self._order.asked.designs)
        ]
        return Plan(designs=designs, writer=self.writer.version, note=_note(self._unwritten, len(designs)))

    def _write(self, group: Sequence[int]) -> None:
        try:
            answers = self.writer.write([self._request(n) for n in group])
        except UserError as error:
            if len(group) > 1:  # one of them: which
                for n in group:
                    self._write([n])
            else:
                self._unwritten[group[0]] = str(error)[:500]
            return
        for n, answer in zip(group, answers, strict=True):
            self._watching.design_written(accepted=answer.design is not None)
            if answer.design is not None:
                self._written[n] = DesignFields.of(answer.design)
            elif self._pass + 1 < TRIES:
                self._left.append(n)
            else:
                self._unwritten[n] = _UNUSABLE

    def _request(self, n: int) -> DesignRequest:
        order = self._order
        return DesignRequest(
            product=order.product,
            market=self._market(n),
            image=order.pixels,
            image_hash=order.asked.image_hash,
            seed=self._stored.seed + n + self._pass * _SEEDS,
        )

    def _market(self, n: int) -> str:
        return self._stored.markets[n % len(self._stored.markets)]


def template_plan(order: Order, *, failed: bool = False) -> Plan:
    """From the templates alone. failed: there is a writer, but it fails whenever it is asked."""
    designs = [PlannedDesign(design=template) for template in order.asked.designs]
    reasons = dict.fromkeys(range(len(designs)), _FAILED) if failed else {}
    return Plan(designs=designs, note=_note(reasons, len(designs)))


def _note(reasons: dict[int, str], total: int) -> str | None:
    """In plain words, what is from the templates and why."""
    counts = Counter(reason for _, reason in sorted(reasons.items()))
    parts = [f"{count} of {total} designs from the templates: {reason}" for reason, count in counts.items()]
    return "; ".join(parts)[:1_000] or None
