"""A plan as a table for people."""

from rich.console import Console
from rich.table import Table

from countryreward.training.planning.memory import row_tokens, trained_parameters
from countryreward.training.planning.options import (
    PAPER_EPOCHS,
    PAPER_GPUS,
    PAPER_HOURS,
    PAPER_PAIRS_PER_SECOND,
)
from countryreward.training.planning.plan import Plan

_TIGHT = 0.95  # of the memory; the plan is not more exact than that


def show(plan: Plan, console: Console | None = None) -> None:
    """Print it."""
    console = console or Console(highlight=False, soft_wrap=True)
    options, loop, shape, need = plan.options, plan.options.loop, plan.shape, plan.memory
    trained, frozen = trained_parameters(shape, options)
    visual = 2 * shape.visual_tokens(options.px)
    unit, divisor = ("GiB", 2**30) if need.peak >= 2**30 else ("MiB", 2**20)

    def size_of(size: float) -> str:
        value = size / divisor
        return f"{value:.1f}" if value >= 10 or value == 0 else f"{value:.2f}"

    console.print(f"{options.preset} on {plan.where}", style="bold")
    console.print(
        f"parameters      {_count(trained)} trained, {_count(frozen + shape.groups['tower'])} frozen "
        f"({_count(shape.groups['tower'])} of them the vision tower)"
    )
    engine = f"DeepSpeed ZeRO {loop.zero_stage}" if loop.engine == "deepspeed" else "plain torch"
    types = "bf16 weights" if plan.setting.bf16_weights else "bf16 autocast" if plan.setting.autocast else "fp32"
    lora = f", LoRA rank {options.lora.rank} on {options.lora.base} weights" if options.lora.rank else ""
    again = ", gradient checkpointing" if loop.gradient_checkpointing else ""
    console.print(f"training        {engine}, {types}, {loop.optimizer}{lora}{again}")
    console.print(
        f"a step          {loop.batch_size} pairs x {loop.accumulation} passes per process, each pair in "
        f"{'both orders' if options.rows_per_pair == 2 else 'one order'}; {row_tokens(shape, options)} tokens per order "
        f"({visual} visual at {options.px} px); features {options.features}"
    )

    table = Table(title="memory per process", title_justify="left", box=None, pad_edge=False)
    table.add_column("part", no_wrap=True)
    table.add_column(unit, justify="right", no_wrap=True, min_width=7)
    table.add_column("", no_wrap=True)
    rows = (
        ("weights", need.weights, "language model, merger, adapter, head"),
        ("frozen tower", need.tower, "loaded even where features are stored"),
        ("float32 masters", need.masters, ""),
        ("optimizer states", need.optimizer, loop.optimizer),
        ("gradients", need.gradients, ""),
        ("activations", need.activations, "of one pass"),
        ("logits, focus probe", need.probe, ""),
        ("buckets, buffers", need.working, "communication, and a layer's backward pass"),
        ("optimizer's buffers", need.step, "only in the optimizer step"),
        ("device overhead", need.overhead, "assumed: 1.5 GiB and 3 %" if plan.setting.cuda else ""),
    )
    for name, size, note in rows:
        table.add_row(name, size_of(size), note)
    console.print(table)
    moments = Table(title="and at a time, with the overhead", title_justify="left", box=None, pad_edge=False)
    moments.add_column("moment", no_wrap=True)
    moments.add_column(unit, justify="right", no_wrap=True, min_width=7)
    moments.add_column("", no_wrap=True)
    for name, size in need.moments.items():
        mark = "<- the peak" if name == need.moment else ""
        moments.add_row(name, size_of(size + need.overhead) if size else "none", mark)
    console.print(moments)
    tight = need.peak > _TIGHT * plan.capacity
    verdict = (
        "does NOT fit" if not plan.fits else f"fits with under {1 - _TIGHT:.0%} to spare: tight" if tight else "fits"
    )
    console.print(
        f"peak {size_of(need.peak)} of {size_of(plan.capacity)} {unit}: {verdict}",
        style="green" if plan.fits else "red",
    )

    console.print(
        f"work            {plan.work.total / 1e12:.3g} TFLOP per pair: forward {plan.work.forward / 1e12:.3g}, "
        f"backward {plan.work.backward / 1e12:.3g}, tower {plan.work.tower / 1e12:.3g}"
    )
    if plan.timing is None:
        console.print(
            f"speed assumed   {plan.efficiency:.0%} of the datasheet's peak: what the paper's 4.29 pairs/s per A100 imply, if "
            "its step asked one order, ran the tower and checkpointed nothing"
        )
    else:
        measured = ", ".join(f"{depth} layers {1000 * median:.0f} ms" for depth, median in plan.timing.measured.items())
        console.print(f"speed measured  {measured} (medians of {plan.timing.rounds}), a straight line from there")
    per_gpu = plan.pairs_per_second / plan.setting.world
    console.print(
        f"estimate        {plan.seconds:.3g} s per step, {plan.pairs_per_second:.3g} pairs/s ({per_gpu:.3g} per process), "
        f"[bold]{plan.hours:.3g} hours[/bold] for {loop.epochs:g} epoch{'' if loop.epochs == 1 else 's'} of "
        f"{options.records:,} pairs"
    )
    derived = f"; {options.records:,} pairs are derived from that" if not options.pairs else ""
    console.print(
        f"the paper's     {PAPER_HOURS:.0f} hours on {PAPER_GPUS} x A100: {PAPER_PAIRS_PER_SECOND} pairs/s, "
        f"{PAPER_PAIRS_PER_SECOND / PAPER_GPUS:.3g} per GPU, {PAPER_EPOCHS} epochs{derived}"
    )
    if not plan.fits and plan.timing is None:
        if not plan.ways:
            console.print("nothing tried makes it fit: take more or larger GPUs, or a smaller preset")
        for number, way in enumerate(plan.ways):
            console.print(
                f"{'cheapest change' if number == 0 else 'or':<15} {' '.join(way.changes)}: peak {size_of(way.peak)} {unit}, "
                f"{way.hours:.3g} hours"
            )


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.2f} B" if parameters >= 1e8 else f"{parameters / 1e6:.2f} M"
