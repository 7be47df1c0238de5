"""`tunas study`."""

from __future__ import annotations

from tunas.study.config import StudyConfig


def run(config: StudyConfig) -> None:
    from rich.console import Console
    from rich.table import Table

    from tunas.study.study import study

    figures = study(config)
    low, high = figures["range"]
    table = Table(title=f"{figures['ssd']}, {low:g} to {high:g} {figures['unit']}")
    table.add_column("kind", no_wrap=True, min_width=max(len(kind) for kind in figures))
    for name in ("trained", "mean", "best", "random better", "search = random trials", "their best"):
        table.add_column(name)
    for kind, found in figures.items():
        if not isinstance(found, dict):
            continue
        spread = f" ± {100 * found['standard_error']:.2f}" if "standard_error" in found else ""
        row = [kind, str(found["count"]), f"{100 * found['mean']:.2f}{spread} %", f"{100 * found['best']:.2f} %"]
        if "random_trainings_for_one_search" in found:
            row += [
                f"{100 * found['probability_that_random_is_better']:.0f} %",
                f"{found['random_trainings_for_one_search']:.1f}",
                f"{100 * found['expected_best_of_so_many']:.2f} %",
            ]
        table.add_row(*row)
    Console().print(table)
    random = figures["random"]
    if "seed_spread" in random and "spread" in random:
        apart, seeds = (f"{100 * random[name]:.2f}" for name in ("spread", "seed_spread"))
        print(f"standard deviation: {apart} points between random architectures, {seeds} between trainings of one")
    print(f"rows are in {config.out}, in the released format")
