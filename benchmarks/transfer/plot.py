"""The benchmark's bars: goodput by line and contender, as a share of iperf3's."""

from __future__ import annotations

from pathlib import Path

from prfaas.core.errors import ConfigError
from prfaas.plots.figure import check_picture, new_figure, save_figure

_SERIES = (
    ("ours, TLS", "ours", True, "#1b6ca8"),
    ("ours, plaintext", "ours", False, "#7fb2d9"),
    ("NIXL (UCX TCP)", "nixl", True, "#c2781c"),
    ("Mooncake TCP, tuned", "mooncake", True, "#8a8a8a"),
)


def draw(rows: list[dict[str, object]], path: Path) -> None:
    """Write a PNG; says so where matplotlib is missing."""
    try:
        check_picture(path)
    except ConfigError as error:
        print(f"no plot: {error}")
        return
    links = list(dict.fromkeys(str(row["link"]) for row in rows))
    figure, (axes,) = new_figure(size=(9, 4.2))
    width = 0.8 / len(_SERIES)
    for place, (label, name, tls, colour) in enumerate(_SERIES):
        heights = [_share(rows, link, name, tls) for link in links]
        at = [n + (place - (len(_SERIES) - 1) / 2) * width for n in range(len(links))]
        axes.bar(at, heights, width, label=label, color=colour)
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(links)), links)
    axes.set_ylabel("goodput / iperf3 -P 8")
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(_SERIES))
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def _share(rows: list[dict[str, object]], link: str, name: str, tls: bool) -> float:
    for row in rows:
        if row["link"] == link and row["tls"] == tls:
            mine, line = row[f"{name}_bytes_per_s"], row["iperf3_bytes_per_s"]
            if isinstance(mine, float) and isinstance(line, float):
                return mine / line
    return 0.0
