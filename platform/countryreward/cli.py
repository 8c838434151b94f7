"""`countryreward ask | doctor | plan | data check | kb show | keys | runs`: asking and looking. Jobs are in jobs/."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from countryreward.cli_commands.key_commands import add_keys, run_keys
from countryreward.cli_commands.run_commands import add_runs, show_runs
from countryreward.errors import UserError


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Exit code 2 on a user's error, 1 when the doctor found something wrong."""
    parser = argparse.ArgumentParser(
        prog="countryreward", description="Which of these ad images will win in this country, and why."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    ask = commands.add_parser(
        "ask", help="which of two ad images will win, market by market, and the past ads that say so"
    )
    ask.add_argument("folder", type=Path, help="a trained model, a knowledge base, or the run folder that holds them")
    ask.add_argument(
        "--prior-only", action="store_true", help="ask the past ads alone, also where there is a trained model"
    )
    ask.add_argument("image_a", type=Path, help="PNG, JPEG or WEBP file")
    ask.add_argument("image_b", type=Path, help="PNG, JPEG or WEBP file")
    ask.add_argument("--title", required=True, help="the product's title as customers see it")
    ask.add_argument("--category", default=None, help="the product's category")
    ask.add_argument(
        "--product-id", default=None, help="when given, the product's own past ads never count as evidence"
    )
    for side in "ab":
        of = f"of ad {side.upper()}"
        ask.add_argument(f"--headline-{side}", f"--headline_{side}", default=None, help=f"headline {of}")
        ask.add_argument(f"--body-{side}", f"--body_{side}", default=None, help=f"text {of}")
        ask.add_argument(
            f"--call-to-action-{side}", f"--call_to_action_{side}", default=None, help=f"its button's words, {of}"
        )
        ask.add_argument(
            f"--tag-{side}", f"--tag_{side}", action="append", default=[], help=f"a tag {of}; repeat for several"
        )
    ask.add_argument(
        "--market", action="append", help="ISO 3166 code or name; repeat for several (default: all of the base)"
    )
    ask.add_argument("--top", type=int, default=1, help="past ads to show per side and market (default 1)")
    commands.add_parser("doctor", help="versions, machine, GPU, ports, Ray auth, and the way out of what is wrong")
    data = commands.add_parser("data", help="look at a dataset").add_subparsers(dest="action", required=True)
    data_check = data.add_parser("check", help="what a dataset can show, before anyone trains")
    data_check.add_argument(
        "folder", type=Path, help="a published dataset or records folder, or the run folder that holds them"
    )
    kb = commands.add_parser("kb", help="look at a knowledge base").add_subparsers(dest="action", required=True)
    kb_show = kb.add_parser("show", help="markets, entries, and the past ads with the highest lift")
    kb_show.add_argument("folder", type=Path, help="a published knowledge base, or the run folder that holds one")
    kb_show.add_argument("--market", default=None, help="one market in detail: an ISO 3166 code or a name")
    kb_show.add_argument("--top", type=int, default=5, help="how many past ads to list (default 5)")
    _add_plan(commands)
    add_keys(commands)
    add_runs(commands)
    options = parser.parse_args(arguments)
    try:
        if options.command == "doctor":
            from countryreward.cli_commands.doctor import doctor

            raise SystemExit(doctor())
        if options.command == "ask":
            _ask(options)
        elif options.command == "plan":
            _plan(options)
        elif options.command == "keys":
            run_keys(options)
        elif options.command == "runs":
            show_runs(options)
        elif options.command == "data":
            _data_check(options.folder)
        else:
            _kb_show(options.folder, options.market, options.top)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("countryreward"):
            raise
        print(f"error: {error.name} is not installed; pip install 'countryreward[cpu]' (or [gpu])", file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None


def _add_plan(commands: Any) -> None:
    plan = commands.add_parser("plan", help="memory, speed and hours of a training, before anyone pays for it")
    plan.add_argument("--preset", default="qwen2-vl-7b", help="tiny, qwen2-vl-2b or qwen2-vl-7b (default)")
    plan.add_argument(
        "--gpus", default="8xA100-80", help="such as 2xH100-80 (default 8xA100-80), or here: this machine, measured"
    )
    plan.add_argument("--pairs", type=int, default=0, help="records of the training set (default: the paper's)")
    plan.add_argument("--epochs", type=float, help="passes over them (default: the preset's)")
    plan.add_argument("--batch_size", "--batch-size", type=int, help="pairs per process and pass")
    plan.add_argument("--accumulation", type=int, help="passes per optimizer step")
    plan.add_argument("--precision", choices=("fp32", "bf16", "auto"), help="default: the preset's")
    plan.add_argument("--orders", choices=("both", "one"), help="orders in which a step asks each pair")
    plan.add_argument("--engine", choices=("torch", "deepspeed"), default="deepspeed", help="default deepspeed")
    plan.add_argument("--zero_stage", "--zero-stage", type=int, choices=(0, 1, 2, 3), default=2, help="default 2")
    plan.add_argument("--optimizer", choices=("adamw", "adamw8bit"), default="adamw", help="default adamw")
    plan.add_argument(
        "--gradient-checkpointing",
        "--gradient_checkpointing",
        action=argparse.BooleanOptionalAction,
        help="compute activations again (default: the preset's)",
    )
    plan.add_argument("--lora-rank", "--lora_rank", type=int, default=0, help="0 (default): no LoRA")
    plan.add_argument(
        "--lora-base", "--lora_base", choices=("full", "nf4"), default="full", help="frozen weights under LoRA"
    )
    plan.add_argument("--image_px", "--image-px", type=int, default=0, help="side of a picture (default: the preset's)")
    plan.add_argument(
        "--text_tokens",
        "--text-tokens",
        type=int,
        default=0,
        help="prompt tokens beside the pictures (default: the paper's 200)",
    )
    plan.add_argument(
        "--features", choices=("stored", "decoded"), default="stored", help="decoded: the tower runs in every step"
    )
    plan.add_argument("--json", action="store_true", help="numbers for programs: bytes, seconds, FLOPs")


def _plan(options: argparse.Namespace) -> None:
    from countryreward.models.reward_config import LoraOptions
    from countryreward.training.planning.options import PlanOptions
    from countryreward.training.training_config import LoopConfig

    planned = PlanOptions(  # a wrong option is refused before anything heavy is imported
        preset=options.preset,
        gpus=options.gpus,
        pairs=options.pairs,
        image_px=options.image_px,
        text_tokens=options.text_tokens,
        features=options.features,
        loop=LoopConfig(
            epochs=options.epochs,
            batch_size=options.batch_size,
            accumulation=options.accumulation,
            precision=options.precision,
            orders=options.orders,
            engine=options.engine,
            zero_stage=options.zero_stage,
            optimizer=options.optimizer,
            gradient_checkpointing=options.gradient_checkpointing,
        ),
        lora=LoraOptions(rank=options.lora_rank, base=options.lora_base),
    )
    from countryreward.training.planning.plan import make_plan
    from countryreward.training.planning.show import show

    plan = make_plan(planned)
    if options.json:
        import json

        print(json.dumps(plan.as_dict(), indent=2))
    else:
        show(plan)


_MOST_BYTES = 20 * 2**20  # the scorer refuses more; nothing more is read


def _base_folder(folder: Path) -> Path:
    from countryreward.data.artifacts import MANIFEST

    return folder if (folder / MANIFEST).exists() else folder / "knowledge_base"


def _model_folder(folder: Path) -> Path | None:
    from countryreward.data.artifacts import MANIFEST, read_manifest

    if (folder / MANIFEST).exists():
        return folder if read_manifest(folder).kind == "model" else None
    return folder / "model" if (folder / "model" / MANIFEST).exists() else None


def _ask(options: argparse.Namespace) -> None:
    from countryreward import markets
    from countryreward.scoring.contracts import Copy, Product
    from countryreward.scoring.prior_scorer import PriorScorer
    from countryreward.scoring.verdicts import claim_sentence

    images = []
    for path in (options.image_a, options.image_b):
        try:
            if not path.is_file():
                raise UserError(f"image: {path} is no file; give a PNG, JPEG or WEBP file")
            with open(path, "rb") as handle:
                images.append(handle.read(_MOST_BYTES + 1))
        except OSError as error:
            raise UserError(f"image: {path} cannot be read ({error.strerror}); give a PNG, JPEG or WEBP file") from None
    if options.top < 0:
        raise UserError(f"--top: {options.top} must be at least 0")
    copies = [
        Copy(
            headline=getattr(options, f"headline_{side}"),
            body=getattr(options, f"body_{side}"),
            call_to_action=getattr(options, f"call_to_action_{side}"),
            tags=tuple(getattr(options, f"tag_{side}")),
        )
        for side in "ab"
    ]
    if images[0] == images[1] and copies[0] == copies[1]:
        words = " with the same words" if copies[0] else ""
        print(f"the two images are the same file{words}: there is nothing to choose between")
    product = Product(title=options.title, category=options.category, product_id=options.product_id)
    model = None if options.prior_only else _model_folder(options.folder)
    if model:
        from countryreward.scoring.country_reward import CountryReward

        judge = CountryReward.from_pretrained(model)
        verdicts = judge.score(product, images[0], images[1], markets=options.market, copies=copies)
        print(f"trained model {judge.version} ({model}); the evidence is the past ads it was told about")
    else:
        scorer = PriorScorer(_base_folder(options.folder))
        verdicts = scorer.compare(product, images[0], images[1], options.market or scorer.base.markets, copies)
        print("past ads alone, no trained model")
    if verdicts:
        print(claim_sentence(verdicts[0].delivery))
    for verdict in verdicts:
        stated = verdict.stated_probability
        surer = max(stated, 1 - stated)
        verb = "wins" if surer >= 0.6 else "leans"
        answer = f"{verdict.choice} {verb}, {surer:.0%} sure" if verdict.choice else "no answer"
        note = f"  ({verdict.note})" if verdict.note else ""
        print(f"{markets.name(verdict.market):<20} {answer:<20} {len(verdict.evidence)} pairs of past ads{note}")
        for evidence in verdict.evidence[: options.top]:
            for side, ad in (("A", evidence.like_a), ("B", evidence.like_b)):
                said = f" saying {ad.headline!r}" if ad.headline else ""
                print(
                    f"    like {side} ({ad.similarity:.2f}): {ad.creative_id} {ad.title!r}{said},"
                    f" lift {ad.lift:+.2f}, value {ad.value:.4g}"
                )


def _data_check(folder: Path) -> None:
    from countryreward.data.artifacts import MANIFEST, open_artifact, read_manifest
    from countryreward.data.check import check, describe
    from countryreward.data.data_config import RecordsConfig
    from countryreward.data.dataset import Dataset
    from countryreward.data.records import build_records

    run = folder if not (folder / MANIFEST).exists() else None
    kind = "dataset" if run else read_manifest(folder).kind
    facts = None
    if kind == "records":
        facts = open_artifact(folder, kind="records").manifest.counts["facts"]
        print(f"records           {folder}")
    else:
        dataset = open_artifact(folder / "dataset" if run else folder, kind="dataset")
        print(f"dataset           {folder / 'dataset' if run else folder}")
        order = ["products", "creatives", "observations", "pairs_file", "votes"]  # a manifest sorts its keys
        for table in sorted(dataset.manifest.counts, key=order.index):
            counts = dataset.manifest.counts[table]
            print(
                f"{table:<17} {counts['input']:,} = {counts['kept']:,} kept + {counts['dropped']:,} dropped"
                f" + {counts['quarantined']:,} quarantined"
            )
            for reason, count in counts["quarantined_by_reason"].items():
                print(f"  quarantined     {count:,} {reason}")
        if run and (run / "records" / MANIFEST).exists():
            facts = open_artifact(run / "records", kind="records").manifest.counts["facts"]
        else:
            print("records           derived with the default options (jobs/build_records.py changes them)")
            tables = Dataset.read(dataset.path)
            facts = check(tables, build_records(tables, RecordsConfig()))
    print(describe(facts))


def _kb_show(folder: Path, market: str | None, top: int) -> None:
    import numpy as np

    from countryreward import markets
    from countryreward.retrieval.knowledge_base import KnowledgeBase

    base = KnowledgeBase.open(_base_folder(folder))
    print(f"knowledge base    version {base.version}, run {base.manifest.run_id}, written {base.manifest.created}")
    print(f"encoders          {base.manifest.config['encoders']}")
    if market is None:
        for code, entries in base.manifest.counts["entries"].items():
            print(f"{code}  {markets.name(code):<28} {entries:,} past ads")
        return
    code = markets.parse(market)
    if code is None:
        raise UserError(
            f"--market: {market!r} is no country and no market of the knowledge base; write an ISO 3166 code such as KR"
        )
    found = base.market(code)
    if found is None:
        raise UserError(f"--market: the base knows nothing of {code}; it has {', '.join(base.markets)}")
    evidence = found.evidence(None)
    order = np.argsort(-np.nan_to_num(evidence.lift, nan=-np.inf), kind="stable")
    print(f"{markets.name(found.market)}: {len(order):,} past ads of {len(found.product_rows):,} products")
    for title, rows in (("highest lift", order[:top]), ("lowest lift", order[::-1][:top])):
        print(title)
        for row in rows:
            product = base.products.iloc[found.product_row[row]]
            print(
                f"  {evidence.lift[row]:+.3f}  value {evidence.value[row]:.4g}  {found.creative_id[row]}  {product['title']}"
            )


if __name__ == "__main__":
    main()
