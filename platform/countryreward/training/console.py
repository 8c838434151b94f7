"""What a training tells, shown to who waits for it: bars with time left, and one line per validation."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from countryreward.progress import bar


@contextlib.contextmanager
def watching() -> Iterator[Callable[[dict[str, Any]], None]]:
    """`with watching() as watch: watch(message)`: one bar per stage, in the order in which stages speak first."""
    with contextlib.ExitStack() as stack:
        stages: dict[str, Callable[[int, int], None]] = {}

        def watch(message: dict[str, Any]) -> None:
            stage = message.get("stage")
            if stage is not None:
                if stage not in stages:
                    stack.close()  # the stage before is over
                    stages[stage] = stack.enter_context(bar(stage))
                stages[stage](message["done"], message["total"])
            elif message["kind"] == "said":
                print(f"  {message['text']}")
            elif message["kind"] == "resumed":
                print(f"  going on from the checkpoint at step {message['step']:,} of {message['of']:,}")
            elif message["kind"] == "validation":
                shown = ("discordant_ordering", "accuracy", "log_loss")
                parts = [
                    f"{name.replace('_', ' ')} {'none' if message[name] is None else format(message[name], '.3f')}"
                    for name in shown
                ]
                print(f"  validation at step {message['step']:,}: {', '.join(parts)}")
            elif message["kind"] == "trial":
                print(f"  trial {message['name']}: {message['score']:.3f} at step {message['step']:,}")
            elif message["kind"] == "writer":
                gain = message.get("rewards_accuracies")
                told = "" if gain is None else f", chosen likelier than before {gain:.0%} of pairs"
                print(f"  step {message['step']:>5,} of {message['of']:,}: loss {message['loss']:.3f}{told}")
            else:
                ratio = message["penalty_to_bce_gradient"]
                print(
                    f"  step {message['step']:>5,} of {message['of']:,}: loss {message['loss']:.3f}, penalty "
                    f"{message['penalty']:.3f} (gradient {'unknown' if ratio is None else f'{ratio:.1%}'} of BCE's), "
                    f"{message['pairs_per_second']:.0f} pairs/s"
                )

        yield watch
