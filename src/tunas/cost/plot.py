"""The picture of a fit: predicted against measured, and the error by number of samples."""

from __future__ import annotations

import os

from tunas.cost.fit_report import FitReport


def save_fit_plot(report: FitReport, path: str | os.PathLike[str], title: str) -> None:
    """Writes a PNG of two panels: held-out predictions against measurements, and the learning curve over the noise."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    scatter, curve = figure.subplots(1, 2)
    low, high = min(report.measured.min(), report.predicted.min()), max(report.measured.max(), report.predicted.max())
    scatter.plot([low, high], [low, high], color="0.6", linewidth=1, label="equal")
    scatter.plot(report.measured, report.predicted, ".", markersize=4, color="tab:blue", label="held-out architectures")
    scatter.set(xlabel="measured, ms", ylabel="predicted, ms", aspect="equal")
    scatter.legend(loc="upper left", frameon=False)
    scatter.set_title(f"mean error {report.mean_error:.2%}, Spearman {report.spearman:.4f}", fontsize=10)
    counts, errors = zip(*report.learning_curve, strict=True)
    curve.plot(counts, [100 * error for error in errors], "o-", color="tab:blue", label="held-out mean error")
    if report.noise is not None:
        curve.axhline(100 * report.noise, color="0.6", linewidth=1, label="measurement noise alone")
    curve.set(xlabel="samples fitted to", ylabel="error, %", ylim=(0, None), xscale="log")
    curve.set_xticks(counts, [str(count) for count in counts])
    curve.minorticks_off()
    curve.set_title("how the error falls with samples", fontsize=10)
    curve.legend(loc="upper right", frameon=False)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=110)
