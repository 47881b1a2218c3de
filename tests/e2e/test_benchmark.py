"""tools/benchmark, with everything small: each row is filled, and its three forms agree."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from statistics import median

import pytest
from support import ROOT

OTHERS = os.path.join(os.environ.get("OVERLAY_WORK", "/opt/overlay-work"), "others")
PARTS = ["launch", "create", "files", "build", "update", "grow", "pack", "share", "expose"]
SMALL = {
    "BENCH_SCALE": "0.002",
    "BENCHMARK_PACKAGES": "packaging",
    "BENCHMARK_ONE_MORE": "comm",
    "BENCHMARK_MODULES": "packaging",
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Measure all parts on two directories; return where JSON, Markdown, page and SVG lie."""
    place = tmp_path_factory.mktemp("benchmark")
    for name in ("slow", "tmp", "svg", "wheels"):
        (place / name).mkdir()
    for name in ("packaging", "comm"):
        [wheel] = Path(OTHERS, "wheels").glob(f"{name}-*.whl")
        shutil.copy(wheel, place / "wheels")
    words = [ROOT / "tools" / "benchmark", "--slow", place / "slow", "--json", place / "all.json"]
    words += ["--markdown", place / "all.md", "--page", place / "page.md", "--svg", place / "svg"]
    environ = {**os.environ, **SMALL, "TMPDIR": str(place / "tmp")}
    environ["BENCHMARK_WHEELS"] = str(place / "wheels")
    done = subprocess.run(words, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list((place / "slow").iterdir()) == []  # nothing is left
    return place


def cells(text):
    """Return the rows of all tables of ratios: (what, ours, its time, way, its time, ratio)."""
    found = []
    for line in text.splitlines():
        words = [word.strip() for word in line.strip("|").split("|")]
        if line.startswith("| ") and len(words) == 6 and words[0] != "what":
            # The first three of some lines are those of the line before.
            found.append(words if words[0] else [*found[-1][:3], *words[3:]])
    return found


def test_rows(written):
    """Every part has measured something, ours against at least one other way, on both."""
    found = json.loads((written / "all.json").read_text())
    assert (
        list(dict.fromkeys(row["part"] for row in found["rows"] if row["place"] == "local"))
        == PARTS
    )
    assert {row["part"] for row in found["rows"] if row["place"] == "slow"} == {
        "launch",
        "create",
        "files",
        "update",
    }
    for row in found["rows"]:
        assert row["others"], row
        for way in (row["ours"], *row["others"]):
            assert way["values"] and all(value > 0 for value in way["values"]), (row, way)
    plain = [
        row for row in found["rows"] if any("engine alone" in way["name"] for way in row["others"])
    ]
    assert {row["part"] for row in plain} == {
        "launch",
        "files",
        "build",
        "update",
        "share",
        "expose",
    }


def test_three_forms(written):
    """JSON, Markdown and SVG hold the same ways with the same figures."""
    found = json.loads((written / "all.json").read_text())
    table = cells((written / "all.md").read_text())
    assert len(table) == sum(len(row["others"]) for row in found["rows"])
    lines = iter(table)
    # The tables are by file system.
    found["rows"].sort(key=lambda row: row["place"])
    charts = {path.name: path.read_text() for path in (written / "svg").iterdir()}
    drawn = [
        re.sub("<[^>]+>", "", text) for text in re.findall("<text.*", "\n".join(charts.values()))
    ]
    for row in found["rows"]:
        for way in row["others"]:
            what, ours, our_time, other, its_time, ratio = next(lines)
            assert (what, ours, other) == (row["what"], row["ours"]["name"], way["name"])
            values = median(row["ours"]["values"]), median(way["values"])
            for value, words in zip(values, (our_time, its_time)):
                number, unit = words.split()
                factor = 1000 if (row["unit"], unit) == ("s", "ms") else 1
                assert float(number.replace(",", "")) == pytest.approx(value * factor, rel=0.06)
                assert words in drawn
            assert float(ratio.replace(",", "")) == pytest.approx(values[1] / values[0], rel=0.06)
    # As many bars as there are ways: each is a value with its unit.
    bars = [text for text in drawn if re.fullmatch(r"[\d.,]+ (s|ms|MiB)", text)]
    assert len(bars) == sum(1 + len(row["others"]) for row in found["rows"])


def test_page(written):
    """The page has the tables, all that is slower, and is written again from the JSON alone."""
    page = (written / "page.md").read_text()
    assert (written / "all.md").read_text() in page
    table = cells((written / "all.md").read_text())
    slower = page.partition("## Where overlays lose")[2].partition("\n## ")[0]
    for what, _ours, _time, way, _its, ratio in table:
        if float(ratio.replace(",", "")) < 0.94:
            assert f"| {what} | " in slower and f"| {way} | {ratio} |" in slower
    again = written / "again.md"
    words = [ROOT / "tools" / "benchmark", "--from", written / "all.json", "--page", again]
    subprocess.run(words, check=True)
    assert again.read_text() == page


@pytest.mark.parametrize(
    ("words", "scale", "expected"),
    [
        (["nothing"], "1", "nothing is not a part"),
        (["grow"], "small", "BENCH_SCALE: small is not a number above 0"),
        (["--from", "tox.ini"], "1", "tox.ini"),
    ],
)
def test_mistakes(words, scale, expected):
    """What cannot be measured or read is said in a line."""
    environ = {**os.environ, "BENCH_SCALE": scale}
    words = [ROOT / "tools" / "benchmark", *words]
    done = subprocess.run(words, env=environ, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and expected in done.stderr and "Traceback" not in done.stderr
