"""The results as a person reads them in a terminal."""

from helpers import bench_results
from helpers.bench_results import label

__all__ = ["label", "text"]


def text(results: dict) -> str:
    """All tables, and what failed with its reason."""
    parts = [
        machine(results["about"]),
        speed(results),
        quality(results),
        specimen(results),
        end_to_end(results),
        language_model(results),
        failures(results),
    ]
    return "\n\n".join(part for part in parts if part)


def machine(about: dict) -> str:
    """One paragraph on what was used."""
    packages = ", ".join(f"{k} {v}" for k, v in about["packages"].items())
    where = about["gpu"] or about["processor"]
    return (
        f"{about['date']}, commit {about['commit']}; {where}, "
        f"{about['threads']} threads, {' '.join(about['features'])}\n"
        f"{packages}"
    )


def speed(results: dict) -> str:
    """Tokens a second."""
    table = bench_results.speed_table(results)
    lines = [
        f"{'tokens/s':26}{'ours':>9}{'plain':>9}{'peer':>9}{'ratio':>7}"
        f"{'spread':>12}{'floor':>9}{'share':>7}{'MiB':>7}{'peer':>7}"
        "  best peer"
    ]
    for row in table.itertuples():
        spread = f"{row.ratio_low:.1f}-{row.ratio_high:.1f}"
        lines.append(
            f"{row.what:26}{row.ours:9,.0f}{row.plain:9,.0f}{row.peer:9,.0f}"
            f"{row.ratio:7.1f}{spread:>12}{row.floor:9,.0f}"
            f"{row.share_of_floor:7.0%}{row.memory:7,.0f}"
            f"{row.peer_memory:7,.0f}  {row.peer_name}"
        )
    return "\n".join(lines)


def quality(results: dict) -> str:
    """FVU at equal L0 and known directions, ours and the best peer's."""
    table = bench_results.quality_table(results)
    lines = [
        f"{'equal tokens, equal L0':26}{'FVU':>8}{'peer':>8}{'ratio':>7}"
        f"{'MMCS':>7}{'peer':>7}{'MCC':>7}{'peer':>7}  best peer in FVU"
    ]
    lines += [
        f"{row.what:26}{row.fvu:8.4f}{row.peer_fvu:8.4f}{row.fvu_ratio:7.3f}"
        f"{row.mmcs:7.3f}{row.peer_mmcs:7.3f}{row.mcc:7.3f}"
        f"{row.peer_mcc:7.3f}  {row.peer_name}"
        for row in table.itertuples()
    ]
    return "\n".join(lines)


def specimen(results: dict) -> str:
    """Loss recovered, a line a version; empty where there is none."""
    lines = [
        f"  {row.what:34}{row.loss_recovered:8.3f}{row.fvu:8.4f}"
        for row in bench_results.specimen_table(results).itertuples()
    ]
    head = f"  {'TopK on the specimen':34}{'loss rec':>8}{'FVU':>8}"
    return "\n".join([head, *lines]) if lines else ""


def end_to_end(results: dict) -> str:
    """Harvest and training, alone and together."""
    lines = [
        f"  {row.what:34}{row.rate:10,.0f}{row.share:8.0%}"
        for row in bench_results.end_to_end_table(results).itertuples()
    ]
    head = f"  {'harvest and training (TopK)':34}{'tokens/s':>10}{'share':>8}"
    return "\n".join([head, *lines]) if lines else ""


def language_model(results: dict) -> str:
    """The language model's training step, a line a version and batch."""
    lines = [
        f"  {row['version']:34}{unit['batch']:8}"
        f"{row['tokens_per_second']:10,.0f}"
        for unit in bench_results.units(results, "language_model")
        for row in unit["rows"]
    ]
    head = f"  {'language model, training step':34}{'batch':>8}{'tokens/s':>10}"
    return "\n".join([head, *lines]) if lines else ""


def failures(results: dict) -> str:
    """What did not run, and why."""
    lines = [
        f"  {row.section}, {row.what}: {row.reason}"
        for row in bench_results.failures(results).itertuples()
    ]
    return "\n".join(["did not run:", *lines]) if lines else ""
