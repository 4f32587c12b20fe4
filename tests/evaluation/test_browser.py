"""The page in a real browser: nothing runs, nothing sticks out, no word of a chart is cut, light and dark; fails without a browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import struct
import subprocess
import zlib
from pathlib import Path
from typing import Any

import pytest

from evaluation.cases import HOSTILE, findings, made
from nabi.evaluation.report import run_report

pytestmark = pytest.mark.ui
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--hide-scrollbars")  # fmt: skip
DARK = ("--blink-settings=preferredColorScheme=0",)
# what a page measures of itself; put into a copy of it, whose rule against scripts is taken out
PROBE = """<script>addEventListener("load", () => {
document.querySelectorAll("details").forEach((d) => { d.open = true; });
const parts = [...document.querySelectorAll("svg text")].map((t) => [t.getBoundingClientRect(), t.closest("svg").getBoundingClientRect(), t.textContent]);
const cut = parts.filter(([t, s]) => t.left < s.left - 1 || t.right > s.right + 1 || t.top < s.top - 1 || t.bottom > s.bottom + 1).map((p) => p[2]);
const over = [...document.querySelectorAll("svg")].flatMap((s) => { const r = [...s.querySelectorAll("text")].map((t) => t.getBoundingClientRect());
  return r.flatMap((a, i) => r.slice(i + 1).filter((b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom)); });
const numbers = (c) => c.match(/[\\d.]+/g).map(Number);
const light = (c) => { const [r, g, b] = numbers(c).map((v) => v / 255).map((v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
  return .2126 * r + .7152 * g + .0722 * b; };
const draw = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const seen = (...colours) => { colours.forEach((c) => { draw.fillStyle = c; draw.fillRect(0, 0, 1, 1); });
  return "rgb(" + [...draw.getImageData(0, 0, 1, 1).data].slice(0, 3).join(",") + ")"; };
const ground = getComputedStyle(document.body).backgroundColor;
const faint = [...document.querySelectorAll("p, td, th, dt, dd, summary, caption, h1, h2, a")].map((e) => { const s = getComputedStyle(e);
  const [a, b] = [light(seen(s.color)), light(seen(ground, s.backgroundColor))]; return (Math.max(a, b) + .05) / (Math.min(a, b) + .05); });
document.body.textContent = "FOUND" + JSON.stringify({ wide: document.documentElement.scrollWidth - innerWidth, cut, over: over.length,
  texts: parts.length, contrast: Math.min(...faint), title: document.title, width: innerWidth }) + "END";
});</script>"""


def browse(page: Path, tmp_path: Path, *args: str) -> str:
    """Open a page; what the browser prints."""
    program = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    assert program, f"these tests need one of {', '.join(BROWSERS)} on PATH"
    command = [program, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", *args, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def report(tmp_path: Path, labels: int) -> Path:
    """A page with hostile texts and long names."""
    found = findings(tmp_path, [f"label {i}" if labels < 13 else f"a_rather_long_name_of_an_intent_{i}" for i in range(labels)], 40 * labels, text=HOSTILE)
    page = tmp_path / "report.html"
    page.write_text(run_report(found, made(found), found.model), encoding="utf-8")
    return page


def measured(page: Path, tmp_path: Path, *args: str) -> Any:
    """What a page measures of itself."""
    copy, text = tmp_path / "measured.html", page.read_text()
    changed = re.sub(r"<meta http-equiv=[^>]*>", "", text).replace("</body>", PROBE + "</body>")
    assert changed.count("<meta http-equiv") == 0 and changed.count("<script") == 1
    copy.write_text(changed)
    shown = re.search("FOUND(.*?)END", browse(copy, tmp_path, "--dump-dom", *args), re.DOTALL)
    assert shown
    return json.loads(html.unescape(shown[1]))


@pytest.mark.parametrize("labels", [3, 77])
@pytest.mark.parametrize("scheme", [(), DARK], ids=["light", "dark"])
@pytest.mark.parametrize("width", [500, 1200])
def test_it_reads_well(width: int, scheme: tuple[str, ...], labels: int, tmp_path: Path) -> None:
    found = measured(report(tmp_path, labels), tmp_path, f"--window-size={width},2000", *scheme)
    assert found["width"] == width and found["wide"] <= 0 and found["cut"] == [] and found["over"] == 0 and found["texts"] > 25
    assert found["contrast"] >= 4.5, "WCAG 2.2, 1.4.3"
    assert found["title"] == "made-up: text classification", "a text of a row became a script"


def test_control_what_is_wrong_is_seen(tmp_path: Path) -> None:
    page = report(tmp_path, 3)
    text = page.read_text()
    for right, wrong in (("--soft: #565e69", "--soft: #cccccc"), ("max-width: 64rem", "min-width: 1400px"), ("font-size: 12px", "font-size: 70px")):
        assert right in text
        text = text.replace(right, wrong)
    page.write_text(text)
    found = measured(page, tmp_path, "--window-size=1200,2000")
    assert found["wide"] > 0 and found["contrast"] < 4.5 and found["over"] > 0 and found["cut"]


def test_no_script_runs_even_if_one_came_in(tmp_path: Path) -> None:
    page = report(tmp_path, 3)
    page.write_text(page.read_text().replace("</body>", "<script>document.title = 'taken'</script></body>"))
    assert "<title>made-up" in browse(page, tmp_path, "--dump-dom")
    page.write_text(re.sub(r"<meta http-equiv=[^>]*>", "", page.read_text()))
    assert "<title>taken" in browse(page, tmp_path, "--dump-dom")  # control


def test_its_ground_is_light_or_dark(tmp_path: Path) -> None:
    page = report(tmp_path, 3)
    colours = []
    for scheme in ((), DARK):
        browse(page, tmp_path, f"--screenshot={tmp_path / 'shot.png'}", "--window-size=600,400", *scheme)
        colours.append(corner((tmp_path / "shot.png").read_bytes()))
    assert colours == [(255, 255, 255), (0x14, 0x17, 0x1B)]


def corner(png: bytes) -> tuple[int, ...]:
    """The first pixel: of the first row the filters subtract what lies left or above, which is nothing there."""
    data, at = b"", 8
    while at < len(png):
        (size,) = struct.unpack(">I", png[at : at + 4])
        if png[at + 4 : at + 8] == b"IDAT":
            data += png[at + 8 : at + 8 + size]
        at += 12 + size
    return tuple(zlib.decompress(data)[1:4])
