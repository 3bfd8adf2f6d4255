"""The HTML report, the terminal tables and the CSV, from made-up results of realistic shape."""

from __future__ import annotations

import csv
import io
import os
import random
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from bitline.evaluate.result import (
    Band,
    Cause,
    Difference,
    LayerGain,
    LayerReport,
    Mapped,
    Result,
    Row,
    Seen,
    Sensitivity,
    Verification,
)
from bitline.evaluate.swept import IDEAL, Over, Point, Sweep, grid, sentence
from bitline.report import (
    mapping_table,
    render_verification,
    summary_table,
    write_csv,
    write_html,
    write_sweep,
    write_sweep_csv,
    write_verification,
)
from bitline.report.curves import Places

RUN = {
    "command": "bitline run examples/digits-8t-sram.yaml --out out/demo --set seed=1",
    "date": "2025-03-14 15:09 UTC",
    "host": "bench-3, 8 cores",
    "versions": {"bitline": "0.1.0", "torch": "2.5.1+cpu", "numpy": "2.1.3", "python": "3.11.7"},
    "durations": {"float": "11.2 s", "train": "38.4 s", "evaluate": "21.0 s"},
}
METHODS = ("untrained on chips", "untrained, batch norm recalibrated", "gaussian-trained", "error-aware")


def sample(layers: int = 8, chips: int = 20, layer: str = "conv{}", macro: str = "sram-8t", codes: int = 64) -> Result:
    """A whole result; every part is there."""
    draw = random.Random(layers)
    names = [layer.format(i) for i in range(layers)]
    causes = {"clipping": 1.2, "resolution": 4.9, "variation": 31.4, "noise": 0.8, "curve": 7.3, "offset": -0.2}

    def row(method: str, center: float, spread: float) -> Row:
        each = tuple(min(100.0, draw.gauss(center, spread)) for _ in range(chips))
        mean, half = sum(each) / chips, 0.35 + spread / chips**0.5
        return Row(
            method=method,
            macro=macro,
            mean=mean,
            ci95=(mean - half, mean + 0.9 * half),
            p5=sorted(each)[1],
            worst=min(each),
            chips=chips,
            images=1797,
            per_chip=each,
            target=95.0,
            yield_=100 * sum(a >= 95 for a in each) / chips,
            steps=600,
        )

    def report(method: str, i: int, worse: float) -> LayerReport:
        wide = [5e5 / (1 + ((c - 14 - i % 9) / (3 + i % 4)) ** 4) for c in range(1, codes - 1)]
        return LayerReport(
            method=method,
            macro=macro,
            layer=names[i],
            snr_db=None if i == 0 and worse < 1 else 22 - 9 * worse + 5 * draw.random(),
            error_rate=0.2 * worse + 0.1 * draw.random(),
            clipped=0.00004 if i % 3 else 0.03 * worse,
            codes=tuple(map(int, (4e5, *wide, 3e4 * worse))),
        )

    def mapped(i: int) -> Mapped:
        return Mapped(
            layer=names[i],
            kind=f"Conv2d(16, {16 + i}, 3×3)",
            macro=macro,
            plan="reference" if i % 2 else "folded",
            tiles=3 + i,
            arrays=3 + i,
            utilisation=0.4 + 0.5 * draw.random(),
            conversions=16384 * (3 + i),
            why="has a converter" if i % 2 else "",
        )

    def cause(method: str, name: str, share: float) -> Cause:
        return Cause(method=method, cause=name, mean=61.4 + causes[name] * share, gain=causes[name] * share)

    float_row = Row(
        method="float", macro="none", mean=98.1, ci95=(97.4, 98.7), p5=None, worst=98.1, chips=1, images=1797,
        per_chip=(98.1,),
    )  # fmt: skip
    converter = {"kind": "adc", "bits": 6, "range": "calibrated", "shared": True, "inl": [i / 100 for i in range(64)]}
    return Result(
        title="Handwritten digits on an 8T SRAM macro",
        sentence="Error-aware training brings the network from 61.4 % back to 96.9 % on 20 simulated chips, "
        "0.6 points below the ideal macro and 1.1 points above training with Gaussian noise.",
        rows=(float_row, *map(row, METHODS, (61.4, 78.0, 95.8, 96.9), (6.0, 3.2, 0.6, 0.3))),
        differences=(
            Difference(of="error-aware", against="gaussian-trained", mean=1.1, ci95=(0.62, 1.6)),
            Difference(of="ideal macro", against="error-aware", mean=0.6, ci95=(-0.1, 1.2)),
        ),
        layers=tuple(report(m, i, w) for m, w in ((METHODS[0], 1.2), (METHODS[3], 0.5)) for i in range(layers)),
        mapping=(*map(mapped, range(layers)), Mapped(layer="fc", kind="Linear(64, 10)", macro=None, why="in skip")),
        sensitivity=tuple(
            Sensitivity(method=METHODS[0], layer=n, mean=98.1 - 31 / (1 + i), loss=31 / (1 + i))
            for i, n in enumerate(draw.sample(names, layers))
        ),
        gains={
            METHODS[3]: tuple(
                LayerGain(
                    layer=n, shape=(16, 144), norm=2.5 + i, after_norm=None, wanted=0.336, on_chips=4 + i, error=0.371
                )
                for i, n in enumerate(names)
            )
        },
        explanation=tuple(cause(m, c, w) for m, w in ((METHODS[0], 1.0), (METHODS[3], 0.06)) for c in causes),
        macros={
            macro: {
                "rows": 64,
                "columns": 256,
                "columns_per_adc": 16,
                "cell": {"kind": "sram-8t", "sigma": 0.0312, "off": None},
                "converter": converter,
                "passes": [{"digit": 0, "radix": 1}, {"digit": 1, "radix": 2}],
                "supply": 0.8,
            }
        },
        facts={"seed": "1", "frozen σ": "0.031 of full scale", "data": "scikit-learn digits, 1797 images of 8 × 8"},
    )


def stress() -> Result:
    """Many layers, names without a place to break, many codes."""
    layer = "backbone.encoder.blocks.{}.attention.self.query_key_value_projection_with_a_long_name"
    return sample(60, 100, layer, "rram-128x128-" + "differential_multi_level_" * 5, 256)


def bare() -> Result:
    """Nothing but what a result must have."""
    return Result(title="Bare", sentence="Nothing was tried.", rows=())


def verified(name: str = "sram-8t-compact", simulated: int = 32) -> Verification:
    """A verification with a band of either sign, the second without a point in ngspice."""
    on = zip(sample().rows[:3], ("ideal macro", "macro", name), strict=True)
    rows = [row.model_copy(update={"method": method}) for row, method in on]

    def band(low: int, high: int, n: int) -> Band:
        wrong, right = Seen(rate=0.975, error=-9.25), Seen(rate=0.0, error=0.0)
        circuit = wrong if n else None
        common = {"share": 0.004, "network": wrong, "n": 32, "model": right, "table": right}
        return Band(low=low, high=high, circuit=circuit, simulated=n, residual=0.5 if n else None, **common)

    return Verification(
        method="error-aware",
        circuit=name,
        rows=tuple(rows),
        bands=(band(-61, -48, simulated), band(49, 88, 0)),
        simulator="ngspice-39",
        assumed="each conversion is 2 columns",
        left_over=0.25,
    )


class Page(HTMLParser):
    """Checks that tags close in order, and keeps the headings and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "wbr"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data.replace("\u00a0", " ")


def written(result: Result, folder: Path, run: dict | None = None) -> str:
    write_html(result, folder / "report.html", run)
    return (folder / "report.html").read_text(encoding="utf-8")


def sections(page: Page) -> list[str | None]:
    return [attributes.get("id") for tag, attributes in page.tags if tag == "section"]


def test_everything_a_result_holds_is_on_the_page_in_order(tmp_path: Path) -> None:
    result = sample()
    page = Page(written(result, tmp_path, RUN))
    parts = "accuracy differences chips layers codes sensitivity causes gains mapping macros facts run"
    assert sections(page) == parts.split()
    assert "0.371" in page.text
    assert "0.336" in page.text
    for text in (result.title, result.sentence, RUN["command"], "98.10", "97.40 – 98.70", f"{result.rows[4].mean:.2f}"):
        assert text in page.text, text
    for text in (
        "0.031 of full scale",
        "in skip",
        "2.5.1+cpu",
        "columns_per_adc",
        "64 values",
        "38.4 s",
        "no error",
        "0.371",
        "0.336",
    ):
        assert text in page.text, text
    for word in ("chip", "95 % interval", "5th percentile", "Yield"):
        assert word in page.text
    assert "97.40 – 98.70" in (tmp_path / "report.html").read_text(encoding="utf-8")  # numbers never break
    dots = sum(tag == "circle" for tag, _ in page.tags)
    assert dots >= sum(len(row.per_chip) for row in result.rows)
    assert all("aria-label" in a or "aria-hidden" in a for tag, a in page.tags if tag == "svg")
    assert sum(tag == "caption" for tag, _ in page.tags) == sum(tag == "table" for tag, _ in page.tags)
    assert {a["href"] for tag, a in page.tags if tag == "a"} == {f"#{name}" for name in sections(page)}


def test_absent_parts_are_left_out_wholly(tmp_path: Path) -> None:
    page = Page(written(bare(), tmp_path))
    assert sections(page) == []
    assert not any(tag in {"table", "svg", "a", "details", "code"} for tag, _ in page.tags)
    plain = sample().model_copy(update={"layers": (), "sensitivity": (), "differences": (), "gains": {}})
    assert sections(Page(written(plain, tmp_path))) == ["accuracy", "chips", "causes", "mapping", "macros", "facts"]
    text = Page(written(Result(title="t", sentence="s", rows=sample().rows[:1]), tmp_path)).text
    assert not [word for word in ("Yield", "p5", "target", "Steps") if word in text]


def test_names_are_text_never_markup(tmp_path: Path) -> None:
    evil = '<script>alert("x")</script>&amp;\'"{{ 7 * 7 }}'
    page = Page(written(_renamed(sample(2, 3), evil), tmp_path, {"command": evil, evil: {evil: [evil]}}))
    assert not any(tag == "script" for tag, _ in page.tags)
    assert page.text.count(evil) >= 12


def test_a_verification_says_what_it_found_and_what_was_simulated() -> None:
    page = Page(render_verification(verified(), "bitline verify"))
    assert sections(page) == ["accuracy", "conversions", "assumed"]
    told = "32 of its conversions in ngspice, spread over the sums, 97.5 % have another code than their sum's"
    for text in (told, "differ by 0.50 LSB rms, where its own fit leaves 0.25", "−61 … −48", "−9.25", "bitline verify"):
        assert text in page.text, text
    assert "In the circuit each conversion is 2 columns. Simulator: ngspice-39." in page.text
    assert "none of its conversions was simulated" in render_verification(verified(simulated=0))
    evil = "<script>alert(1)</script>{{ 7 * 7 }}"
    page = Page(render_verification(verified(evil), evil))
    assert not any(tag == "script" for tag, _ in page.tags)
    assert page.text.count(evil) >= 4


def _renamed(result: Result, name: str) -> Result:
    def change(value: object) -> object:
        if isinstance(value, dict):
            return {(name if key in {"sram-8t", "seed"} else key): change(v) for key, v in value.items()}
        if isinstance(value, list):
            return [change(v) for v in value]
        return name if isinstance(value, str) else value

    return Result.model_validate(change(result.model_dump(mode="json")))


@pytest.mark.parametrize("make", [sample, stress, bare])
def test_nothing_is_loaded_from_anywhere(tmp_path: Path, make) -> None:
    text = written(make(), tmp_path, RUN)
    assert not re.search(r"https?:|//[a-z]|url\(|@import|<script|\bon[a-z]+=", text.lower())
    for _, attributes in Page(text).tags:
        assert not {"src", "srcset", "data", "action", "style"} & attributes.keys()
        assert (attributes.get("href") or "#").startswith(("#", "data:,"))
    assert "default-src 'none'" in text


def test_the_same_result_gives_the_same_bytes_and_stays_small(tmp_path: Path) -> None:
    first = written(sample(), tmp_path, RUN)
    again = Result.model_validate_json(sample().model_dump_json(by_alias=True))
    assert written(again, tmp_path, RUN) == first
    assert len(first.encode()) < 150_000
    assert len(written(stress(), tmp_path, RUN).encode()) < 1_500_000


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = written(bare(), tmp_path)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_html(sample(), tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == before


def test_numbers_that_are_not_finite_break_nothing(tmp_path: Path) -> None:
    nan, inf = float("nan"), float("inf")
    numbers = {"mean": nan, "ci95": (nan, nan), "p5": nan, "worst": nan, "per_chip": (nan, nan)}
    result = Result(
        title="t",
        sentence="s",
        rows=(Row(method="diverged", macro="m", chips=2, images=5, **numbers),),
        layers=(LayerReport(method="a", macro="m", layer="l", snr_db=-inf, error_rate=nan, clipped=0.0, codes=(0,)),),
        sensitivity=(Sensitivity(method="a", layer="l", mean=nan, loss=nan),),
        differences=(Difference(of="a", against="b", mean=nan, ci95=(nan, nan)),),
    )
    page = Page(written(result, tmp_path))
    drawn = [v for tag, a in page.tags for k, v in a.items() if k in {"x", "x1", "x2", "cx", "width", "d"}]
    assert not any(bad in (v or "") for v in drawn for bad in ("nan", "inf"))


def test_terminal_tables_show_rows_and_layers_as_text() -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    for result in (sample(), _renamed(sample(2, 3), "blocks[0] [bold]")):
        console.print(summary_table(result), mapping_table(result.mapping))
    text = console.export_text()
    for part in (
        "error-aware",
        "98.10",
        "97.40–98.70",
        "chips at 95 % or above",
        "1797 images",
        "conv3",
        "in skip",
        "blocks[0] [bold]",
    ):
        assert part in text, part


def test_csv_has_one_line_a_row(tmp_path: Path) -> None:
    write_csv(sample(), tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["method"] for r in rows] == ["float", *METHODS]
    assert float(rows[4]["ci95_low"]) == sample().rows[4].ci95[0]
    assert rows[0]["p5"] == rows[0]["yield"] == ""
    assert rows[4]["chips"] == "20"


# ------------------------------------------------------------------------------------------------------------ sweeps


def swept(methods: int = 3, layers: int = 5, key: str = "macro.variation.sigma", chips: int = 20) -> Sweep:
    """A sweep over two keys of realistic shape."""
    draw = random.Random(methods)
    over = (Over(key=key, values=(0, 0.05, 0.1, 0.2)), Over(key="macro.variation.mu", values=(0, -0.01)))
    names = [f"method {i}, which has a name of some length" for i in range(methods)]

    def row(method: str, mean: float) -> Row:
        each = (mean - 2.0, *[mean] * (chips - 2), mean + 2.0)
        p5 = mean - 2.0 if chips >= 20 else None
        numbers = {"worst": mean - 2.0, "p5": p5, "per_chip": each, "chips": chips, "images": 597}
        return Row(method=method, macro="m", mean=mean, ci95=(mean - 1.5, mean + 1.5), **numbers)

    def point(settings: dict) -> Point:
        rows = [row(name, 98 - 300 * settings[key] * (0.2 + draw.random())) for name in names]
        best = max(rows, key=lambda one: one.mean)
        behind = [Difference(of=best.method, against=r.method, mean=best.mean - r.mean, ci95=(0.5, 9.0)) for r in rows]
        lost = [
            Sensitivity(method=name, layer=f"stage{i}.0.conv{i}", mean=90.0, loss=60 * settings[key] * draw.random())
            for name in names
            for i in range(layers)
        ]
        rows = [row(IDEAL, 98.0).model_copy(update={"chips": 1, "per_chip": (98.0,), "p5": None}), *rows]
        return Point(settings=settings, rows=rows, differences=[d for d in behind if d.mean], sensitivity=lost)

    points = tuple(point(settings) for settings in grid(over))
    return Sweep(
        title="Digits on analog weights",
        sentence=sentence(points),
        trained="Each method was trained once.",
        over=over,
        float_rows=(row("float", 98.5),),
        points=points,
        macros={"m": {"rows": 64}},
        facts={"seed": "0"},
    )


def swept_page(sweep: Sweep, folder: Path) -> str:
    write_sweep(sweep, folder / "sweep.html", RUN)
    return (folder / "sweep.html").read_text(encoding="utf-8")


def test_a_sweep_is_on_its_page(tmp_path: Path) -> None:
    sweep = swept()
    page = Page(swept_page(sweep, tmp_path))
    assert sections(page) == ["accuracy", "percentile", "layers", "numbers", "macros", "facts", "run"]
    for text in (sweep.sentence, sweep.trained, "5th percentile over 20 chips", "Behind the best", "stage3.0.conv3"):
        assert text in page.text, text
    for method in sweep.methods:
        assert page.text.count(method) >= 4, method
    drawn = [a for tag, a in page.tags if tag == "polyline"]
    assert len(drawn) == 2 * 2 * 5  # two figures of two panels: three methods, the ideal macro and the float network
    for attributes in drawn:
        numbers = [float(n) for pair in (attributes["points"] or "").split() for n in pair.split(",")]
        assert len(numbers) == 8
        assert all(0 <= n <= 100 for n in numbers)
    assert sum(tag == "polygon" for tag, _ in page.tags) == 2 * 3  # intervals, where the mean is
    assert sum(tag == "caption" for tag, _ in page.tags) == sum(tag == "table" for tag, _ in page.tags)
    assert all("aria-label" in a or "aria-hidden" in a or "viewbox" in a for tag, a in page.tags if tag == "svg")
    assert not any({"style", "src"} & a.keys() for _, a in page.tags)
    few = Page(swept_page(swept(chips=5), tmp_path)).text
    assert "Accuracy in % of the worst of 5 chips." in few
    assert swept_page(Sweep.model_validate_json(sweep.model_dump_json(by_alias=True)), tmp_path) == swept_page(
        sweep, tmp_path
    )


def test_a_sweeps_csv_has_one_line_a_row_and_point(tmp_path: Path) -> None:
    sweep = swept()
    write_sweep_csv(sweep, tmp_path / "sweep.csv")
    with (tmp_path / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 * 4
    assert [r["macro.variation.sigma"] for r in rows[::8]] == ["0", "0.05", "0.1", "0.2"]
    assert float(rows[-1]["mean"]) == sweep.points[-1].rows[-1].mean


def test_values_lie_by_size_by_logarithm_or_in_order() -> None:
    assert Places.of([0, 1, 4]).at == (5.0, 27.5, 95.0)
    assert Places.of([1e-2, 1.0, 1e2]).at == pytest.approx((5.0, 50.0, 95.0))
    assert Places.of([1e-2, 1.0, 1e2]).scale == "logarithmic"
    assert Places.of(["a", None, "b"]).labels == ("a", "none", "b")
    assert Places.of([3]).at == (50.0,)
    crowded = str(Places.of([0.0001, 0.00011, 5.0]).picture())
    assert crowded.count("<text") == 2  # no two touch


# A browser narrower than about 500 px cannot be asked for, so the page is loaded in frames of the widths wanted.
FRAMES = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><body><script>
const pages = %s, results = [];
for (const [page, width] of pages) {
  const frame = document.createElement("iframe");
  Object.assign(frame, {src: page, width, height: 900});
  frame.onload = () => {
    const root = frame.contentDocument.documentElement, view = frame.contentWindow;
    for (const part of root.querySelectorAll("details")) part.open = true;
    const outside = [...root.querySelectorAll("body *")].filter(e => {
      const box = e.getBoundingClientRect();
      return box.width && (box.right > view.innerWidth + 0.5 || box.left < -0.5) && !e.closest("caption, thead");
    });
    const styled = view.getComputedStyle(root.querySelector("body")).maxWidth !== "none";
    results.push(`page=${page} width=${width} scrollWidth=${root.scrollWidth} innerWidth=${view.innerWidth} `
      + `styled=${styled} outside=${outside.map(e => e.tagName + "." + e.getAttribute("class")).slice(0, 5)}`);
    if (results.length === pages.length) document.body.dataset.done = results.join("|");
  };
  document.body.append(frame);
}
</script>"""
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --enable-logging=stderr --allow-file-access-from-files"
)


def chromium(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Headless Chromium on a fresh profile; skips where there is none."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if program is None:
        pytest.skip("needs a Chromium browser on PATH (apt-get install chromium)")
    command = [program, *QUIET.split(), f"--user-data-dir={folder / 'profile'}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def test_in_a_browser_nothing_overflows_and_the_console_stays_empty(tmp_path: Path) -> None:
    pages = []
    for name, result in (("sample", sample()), ("stress", stress()), ("bare", bare())):
        write_html(result, tmp_path / f"{name}.html", RUN)
        pages += [[f"{name}.html", width] for width in (1280, 1000, 800, 390)]
    write_verification(verified(), tmp_path / "verified.html", "bitline verify")
    pages += [["verified.html", width] for width in (1280, 1000, 800, 390)]
    for name, sweep in (("sweep", swept()), ("wide", swept(11, 40, "macro.column.sigma.coefficients.0"))):
        write_sweep(sweep, tmp_path / f"{name}.html", RUN)
        pages += [[f"{name}.html", width] for width in (1280, 800, 390)]
    (tmp_path / "frames.html").write_text(FRAMES % str(pages).replace("'", '"'), encoding="utf-8")
    wait = ("--window-size=1400,900", "--virtual-time-budget=20000")
    done = chromium(tmp_path, *wait, "--dump-dom", (tmp_path / "frames.html").as_uri())
    assert not re.findall(r".*CONSOLE.*", done.stderr)
    found = re.search(r'data-done="([^"]*)"', done.stdout)
    assert found, done.stderr[-2000:]
    results = found.group(1).split("|")
    assert len(results) == len(pages)
    for line in results:
        sizes = dict(re.findall(r"(\w+)=(\S*)", line))
        assert int(sizes["scrollWidth"]) <= int(sizes["innerWidth"]), line
        assert sizes["styled"] == "true", line
        assert not sizes["outside"], line
