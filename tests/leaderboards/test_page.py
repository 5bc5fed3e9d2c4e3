"""The page: what is in it, and what is said where it cannot be."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest

from leaderboards import __main__ as command
from leaderboards import page
from leaderboards.records import write_record
from leaderboards.table import groups, summary
from tests.leaderboards.results import ALL, DENSE, EARLY, records

ROOT = Path(__file__).parents[2]
NASTY = "gate </script><img src=x onerror=alert(1)>"

LINES = [
    *ALL,
    *(replace(EARLY, run=f"f{i}", seed=i, sparsity_asked=0.98, value=60.0 + i, batch_ms=1.0) for i in range(2)),
    replace(EARLY, run="n0", variant=NASTY, value=98.0),
    replace(EARLY, run="n1", variant="gate rows", value=99.0),
    replace(DENSE, run="g0", device="NVIDIA X", batch_ms=0.5),
    replace(EARLY, run="g1", device="NVIDIA X", value=70.0),
    *(replace(r, run=f"o{r.run}", preset="other", epochs=9, value=r.value / 2) for r in ALL[:4]),
    *(
        replace(r, run=f"p{r.run}", task="ptb", dataset="ptb", metric="perplexity", higher_is_better=False)
        for r in ALL[:4]
    ),
]


def test_lines_are_those_of_the_summary_and_dense_comes_once_a_device() -> None:
    lines = page.content(records(LINES), Path("."))["lines"]
    keys = [(line["task"], line["preset"], line["device"], line["label"], line["asked"]) for line in lines]
    assert len(keys) == len(set(keys))
    assert sorted(run["run"] for line in lines for run in line["runs"]) == sorted(result.run for result in LINES)
    of_cpu = next(group for group in groups(ALL) if "earlycrop-s" in set(group.rows["method"]))
    gpu = next(line for line in lines if line["device"] == "NVIDIA X" and line["label"] == "earlycrop-s")
    assert gpu["gap"] == 70.0 - 100.0
    cpu = next(line for line in lines if line["device"] == "cpu" and line["label"] == "earlycrop-s")
    expected = summary(of_cpu).loc["earlycrop-s"]
    for name in ("seeds", "mean", "std", "gap", "batch_ms", "parameters"):
        assert cpu[name] == expected[name], name
    assert (cpu["low"], cpu["high"]) == (90.0, 99.0)
    assert (gpu["places"], cpu["places"]) == (1, 4)


def test_no_text_of_a_record_can_leave_its_element() -> None:
    text = page.html(page.content(records(LINES), Path(".")))
    assert "<img" not in text
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    assert NASTY in [line["variant"] for line in json.loads(data)["lines"]]
    assert not re.search(r"""\b(src|href)=["']?(https?:)?//""", text)


@pytest.mark.parametrize("where", ["page.html", "elsewhere/deep/all.html"])
def test_every_run_links_its_record(tmp_path: Path, where: str) -> None:
    for record in records(LINES):
        write_record(tmp_path / "out", record)
    file = tmp_path / "out" / where
    assert command.main(["page", str(file), "--out", str(tmp_path / "out")]) == 0
    (data,) = re.findall(r'id="data">(.*?)</script>', file.read_text())
    links = [run["href"] for line in json.loads(data)["lines"] for run in line["runs"]]
    assert len(links) == len(LINES)
    for link in links:
        assert (file.parent / unquote(link)).is_file(), link


def test_same_records_make_the_same_page(tmp_path: Path) -> None:
    first, second = (page.write(records(LINES), tmp_path, tmp_path / name).read_bytes() for name in ("a", "b"))
    assert first == second


def test_what_cannot_be_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["page", "--out", str(tmp_path / "none")]) == 2
    assert "No records found in" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"^The page cannot be written to .*page\.html: File exists\.$"):
        page.write(records(LINES), tmp_path, tmp_path / "file" / "page.html")


def test_the_library_is_as_published() -> None:
    published = dict(
        re.findall(r"^\| `([\w.]+)` .*\| (\w{64}) \|$", (page.ASSETS / "vendor" / "README.md").read_text(), re.M)
    )
    files = {path.name: path for path in (page.ASSETS / "vendor").glob("*.js")}
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()} == published
