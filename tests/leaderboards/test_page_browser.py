"""What a person does with the page, in a real browser without a network."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from leaderboards import page
from leaderboards.records import read_records, write_record
from tests.leaderboards.results import records
from tests.leaderboards.test_page import LINES, NASTY, ROOT


@dataclass
class Window:
    """A page in the browser, and everything that it asked for or complained of."""

    tab: Any
    requests: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    def column(self, number: int) -> list[str]:
        return self.tab.eval_on_selector_all(
            f"tr.line > :nth-child({number})", "all => all.map(c => c.innerText.split('\\n').pop())"
        )

    def heads(self) -> list[str]:
        return self.tab.eval_on_selector_all("#lines thead button", "all => all.map(b => b.firstChild.data)")

    def choose(self, value: str) -> None:
        self.tab.locator(f'#choice input[value="{value}"]').click()

    def lines(self) -> int:
        return self.tab.locator("tr.line").count()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium, Debian's: nothing is downloaded."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the page's tests need playwright: pip install it")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("the page's tests need a Chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("page")
    for record in records(LINES):
        write_record(place, record)
    return page.write(list(read_records(place).values()), place, place / "page.html")


@pytest.fixture
def show(browser: Any, file: Path) -> Iterator[Any]:
    """Opens a page without a network; in the end it has asked for nothing but itself, and complained of nothing."""
    windows = []

    def opened(address: str = "", path: Path = file, width: int = 1280, **options: Any) -> Window:
        context = browser.new_context(viewport={"width": width, "height": 900}, offline=True, **options)
        window = Window(context.new_page())
        windows.append((context, window, path))
        window.tab.on("request", lambda request: window.requests.append(request.url))
        window.tab.on("console", lambda message: window.messages.append(message.text))
        window.tab.on("pageerror", lambda error: window.messages.append(str(error)))
        window.tab.goto(path.as_uri() + address)
        return window

    yield opened
    for context, window, path in windows:
        assert {url.split("#")[0] for url in window.requests if not url.startswith("data:")} == {path.as_uri()}
        assert window.messages == []
        context.close()


def test_a_click_sorts_and_so_does_a_key(show: Any) -> None:
    window = show("#device=cpu&preset=default")
    head = window.tab.locator('th[data-key="mean"]')
    assert (window.heads()[2], head.get_attribute("aria-sort")) == ("return", None)
    assert window.column(3) == ["105.0 ± 7.1", "97.0", "95.0 ± 4.6", "60.5 ± 0.7"]
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    head.locator("button").focus()
    window.tab.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert window.column(3) == ["60.5 ± 0.7", "95.0 ± 4.6", "97.0", "105.0 ± 7.1"]
    assert window.tab.evaluate("document.activeElement.closest('th').dataset.key") == "mean"
    window.tab.locator('th[data-key="asked"] button').press("Space")
    assert window.column(2) == ["90 %", "90 %", "98 %", "-"]  # what is missing comes last
    assert head.get_attribute("aria-sort") is None
    assert "sort=asked" in window.tab.url


def test_a_column_of_what_few_have_measured_is_there_where_some_have(show: Any, tmp_path: Path) -> None:
    assert not {"CO₂, g", "step, MB"} & set(show().heads())
    first, *others = records(LINES)
    measured = replace(first, result=replace(first.result, emissions_g=12.5, step_bytes=3_000_000))
    window = show(path=page.write([measured, *others], tmp_path, tmp_path / "page.html"))
    at = window.heads().index("CO₂, g")
    assert window.heads()[at - 1] == "step, MB"
    assert {cell for cell in window.column(at + 1) if cell != "-"} == {"12.5"}
    assert {cell for cell in window.column(at) if cell != "-"} == {"3"}


def test_the_selection_filters_table_plots_and_address(show: Any) -> None:
    window = show()
    assert window.lines() == 8
    assert window.tab.locator("figure").count() == 3
    assert "preset" in window.heads()
    assert "epochs" not in window.heads()  # the preset tells them apart
    window.choose("other")
    assert window.lines() == 2
    assert window.tab.inner_text("#told") == "2 of 10 lines, 4 runs"
    assert window.tab.inner_text("figcaption").startswith("CartPole-v0, preset other, mlp-8-8, 9 epochs, cpu")
    window.tab.reload()
    assert window.lines() == 2
    window.tab.click("#clear")
    window.choose("NVIDIA X")
    assert window.column(1) == ["dense", "earlycrop-s"]
    assert window.tab.locator("figure").count() == 1
    window.choose("NVIDIA X")
    window.tab.locator("#choice input[name=variants]").press("Space")
    assert any(NASTY in label for label in window.column(1))
    window.tab.fill("#find", "snip")
    assert window.column(1) == ["snip"]
    window.tab.fill("#find", "nothing of that name")
    assert window.tab.inner_text("#caption") == "No lines are in the selection."
    window.choose("ptb")
    assert window.tab.inner_text("#told") == "0 of 2 lines, 0 runs"
    window.tab.click("#clear")
    assert window.heads()[2] == "perplexity"
    window.tab.locator('th[data-key="mean"] button').click()
    assert window.tab.get_attribute('th[data-key="mean"]', "aria-sort") == "ascending"  # best first


def test_a_line_opens_to_its_runs_by_keyboard(show: Any) -> None:
    window = show("#device=cpu&preset=default")
    opener = window.tab.locator(".opener", has_text="earlycrop-s").first
    opener.focus()
    assert window.tab.locator(".pair .faded").count() > 0  # the plots show which one it is
    window.tab.keyboard.press("Enter")
    assert opener.get_attribute("aria-expanded") == "true"
    links = window.tab.locator(f"#{opener.get_attribute('aria-controls')} a")
    assert links.all_inner_texts() == ["e0", "e1", "e2"]
    window.tab.keyboard.press("Tab")
    assert window.tab.evaluate("document.activeElement.getAttribute('href')") == "records/cartpole/e0.json"
    window.tab.click("#all")
    assert window.tab.inner_text("#all") == "Close all lines"
    assert window.tab.locator("tr.detail:visible").count() == 4
    window.tab.keyboard.press("Control+Home")
    window.tab.locator("body").press("Tab")
    window.tab.locator(".skip").press("Enter")
    assert window.tab.evaluate("document.activeElement.id") == "table"


def test_plots_have_the_numbers_and_tell_them(show: Any) -> None:
    window = show("#device=cpu&preset=default")
    names = window.tab.locator(".pair > div").first.locator(".name text").all_text_contents()
    assert sorted(names) == ["dense", "earlycrop-s", "snip"]
    dots = window.tab.locator('.pair > div:nth-child(2) g[aria-label="dot"] path[aria-label="earlycrop-s"]')
    at = [dot.bounding_box() for dot in dots.all()]
    # 95 at 3 ms (sparsity 0.9) and 60.5 at 1 ms (0.98): right and up is the slower and better one.
    left, right = sorted(at, key=lambda box: box["x"])
    assert left["y"] > right["y"]
    window.tab.mouse.move(right["x"] + 4, right["y"] + 4)
    tip = window.tab.locator('g[aria-label="tip"]').last
    tip.locator("text").wait_for()
    assert "return 95.0 ± 4.6 (3 seeds)" in tip.text_content()
    assert "3 ms a training step" in tip.text_content()


def test_a_method_has_its_own_mark_in_the_plots(show: Any) -> None:
    tab = show("#device=cpu&preset=default&variants=1").tab
    drawn = 'g[aria-label="dot"] path[aria-label="{}"]'
    corners = {
        name: tab.locator(drawn.format(name)).first.get_attribute("d").count("L") for name in ("snip", "earlycrop-s")
    }
    assert corners == {"snip": 3, "earlycrop-s": 0}  # a diamond and a circle


def test_dark_and_light_follow_the_reader(show: Any) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    mark = 'getComputedStyle(document.querySelector(".opener svg path")).fill'
    tabs = {scheme: show("", color_scheme=scheme).tab for scheme in ("light", "dark")}
    assert {scheme: tab.evaluate(ground) for scheme, tab in tabs.items()} == {
        "light": "rgb(255, 255, 255)", "dark": "rgb(22, 23, 25)",
    }  # fmt: skip
    assert tabs["light"].evaluate(mark) != tabs["dark"].evaluate(mark)  # dense is black, and white on dark


def test_a_phone_scrolls_the_table_and_not_the_page(show: Any) -> None:
    tab = show("#variants=1", width=390, has_touch=True, is_mobile=True).tab
    tab.click("#all")
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    assert tab.evaluate("document.querySelector('.scroll').scrollWidth") > 390
    assert all(box["width"] <= 390 for svg in tab.locator(".pair svg").all() if (box := svg.bounding_box()))


@pytest.mark.slow
def test_pictures_of_the_committed_records(show: Any, tmp_path: Path) -> None:
    """They are kept in docs/pictures where ``PICTURES=docs/pictures`` asks for that, to be looked at."""
    out, folder = ROOT / "leaderboards", Path(os.environ.get("PICTURES", tmp_path))
    file = page.write(list(read_records(out).values()), out, tmp_path / "page.html")
    for name, width, address, options in (
        ("page-light", 1280, "", {}),
        ("page-dark", 1280, "#task=cifar10&preset=small&variants=1", {"color_scheme": "dark"}),
        ("page-phone", 390, "#kind=whole+nodes", {"has_touch": True, "is_mobile": True}),
    ):
        tab = show(address, file, width, **options).tab
        if name == "page-light":
            tab.locator(".opener", has_text="earlycrop-s").first.click()
            tab.mouse.move(0, 0)
        taken = Image.open(BytesIO(tab.screenshot(full_page=True)))
        taken.convert("RGB").crop((0, 0, width, 1500)).quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=3).save(
            folder / f"{name}.png", optimize=True
        )
        assert taken.width == width
        assert np.std(np.asarray(taken.convert("L"), float)) > 10
