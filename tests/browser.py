"""Open every page of a built book in headless Chromium with no network.

``audit`` returns what is wrong as sentences, ``screenshot`` saves a picture.
Every host but our own server is made impossible to resolve, and what the
pages asked for is read from the browser's log.
"""

import contextlib
import functools
import html
import http.server
import json
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

import pytest

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
HEIGHT = 1000  # px of the window
PATIENCE = 20.0  # seconds until a page's charts and formulas must be there
# Addresses that do not leave the page.
INTERNAL = ("data:", "blob:", "about:", "chrome:", "devtools:")
# What a reader must never see on a page.
RAW = re.compile(
    r"\{glue:|\{numref\}|\{cite|\{doc\}|\{result\}|\{term\}"
    r"|Traceback \(most recent call last\)|\bWARNING\b"
)

SETTLED = """
const charts = [...document.querySelectorAll("[id^='altair-viz']")];
const drawn = charts.every(c => c.querySelector("svg, canvas, .error"));
const formulas = document.querySelectorAll(".math").length === 0
  || !document.querySelector("script[src*='mathjax']")
  || document.querySelectorAll("mjx-container").length > 0;
return document.readyState === "complete" && drawn && formulas;
"""

INSPECT = r"""
const problems = [];
const rgb = c => (c.match(/[\d.]+/g) || []).map(Number);
const light = c => {
  const [r, g, b] = rgb(c).map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = node => {
  for (let n = node; n; n = n.parentElement) {
    const c = getComputedStyle(n).backgroundColor, p = rgb(c);
    if (p.length === 3 || p[3] > 0.5) return c;
  }
  return "rgb(255, 255, 255)";
};
const contrast = (a, b) => {
  const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
  return (x + 0.05) / (y + 0.05);
};

for (const chart of document.querySelectorAll("[id^='altair-viz']")) {
  const svg = chart.querySelector("svg");
  const canvas = chart.querySelector("canvas");
  const marks = svg && svg.querySelectorAll(
    "g.mark-group path, .mark-rect path, .mark-symbol path, .mark-text text");
  if (!svg && !canvas) problems.push(`chart ${chart.id} is not drawn`);
  else if (svg && !marks.length) problems.push(`chart ${chart.id} is empty`);
  const error = chart.querySelector(".error");
  if (error) problems.push(`chart ${chart.id}: ${error.textContent}`);
  const faint = [...chart.querySelectorAll(
    "[class*='role-axis-label'] text, [class*='role-axis-title'] text, " +
    "[class*='role-legend-label'] text, [class*='role-title'] text")]
    .filter(t => t.textContent.trim())
    .find(t => contrast(getComputedStyle(t).fill, ground(chart)) < 3);
  if (faint) problems.push(
    `chart ${chart.id}: "${faint.textContent}" can hardly be read `
    + `(${getComputedStyle(faint).fill} on ${ground(chart)})`);
}
for (const image of document.images) {
  const lazy = image.loading === "lazy" && !image.complete;
  const shown = getComputedStyle(image).display !== "none";
  if (shown && !lazy && !image.naturalWidth)
    problems.push(`image ${image.getAttribute("src")} does not load`);
}
const wide = document.documentElement.scrollWidth - window.innerWidth;
if (wide > 1) {
  const scrolls = n => {
    for (let p = n.parentElement; p && p !== document.body; p = p.parentElement)
      if (/auto|scroll|hidden|clip/.test(getComputedStyle(p).overflowX))
        return true;
    return false;
  };
  const culprit = [...document.querySelectorAll("main *")].reverse().find(n =>
    n.getBoundingClientRect().right > window.innerWidth + 1 && !scrolls(n));
  problems.push(`the page is ${wide} px wider than the window`
    + (culprit ? ` (<${culprit.tagName.toLowerCase()} class="`
       + `${culprit.getAttribute("class") || ""}">)` : ""));
}
for (const error of document.querySelectorAll("mjx-merror"))
  problems.push(`a formula is wrong: ${error.textContent.slice(0, 80)}`);
const prose = document.querySelector("article, main, body").cloneNode(true);
prose.querySelectorAll("script, style, pre, code").forEach(n => n.remove());
return [problems, prose.textContent];
"""


def available() -> bool:
    """Whether Chromium and its driver are installed."""
    return bool(_chromium() and shutil.which("chromedriver"))


def require() -> None:
    """Skip the calling test without Chromium, or fail it under CI."""
    if available():
        return
    why = "Chromium and chromedriver are needed to look at the pages"
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(why)
    pytest.skip(why)


def audit(
    html_dir: Path,
    width: int = 1300,
    dark: bool = False,
    scheme: str = "http",
    pages: Sequence[str] = (),
) -> list[str]:
    """Everything wrong with the pages below ``html_dir``, as sentences.

    Each page (or each of ``pages``) is opened in a window ``width`` px
    wide, in the light or dark colours, over ``scheme`` ("http", from a server
    on 127.0.0.1, or "file").

    Wrong are: a request that is not to the book's own files or that fails,
    an error on the console, a chart that is missing, empty or not legible, a
    picture that does not load, a page wider than the window, a formula that
    does not parse, and raw markup or a traceback in the text.
    """
    names = list(pages) or _pages(Path(html_dir))
    problems = [] if names else [f"there are no pages in {html_dir}"]
    with served(html_dir, scheme) as base, browser(width, dark) as driver:
        for name in names:
            found = _audit_page(driver, base, name, dark)
            problems += [f"{name}: {problem}" for problem in found]
    return problems


def screenshot(
    html_dir: Path,
    page: str,
    out_png: Path,
    width: int = 1300,
    dark: bool = False,
    whole: bool = True,
) -> Path:
    """A picture of one page, from top to foot unless ``whole`` is False."""
    with served(html_dir) as base, browser(width, dark) as driver:
        driver.get(f"{base}/{page}")
        settle(driver)
        if whole:
            tall = driver.execute_script(
                "return Math.min(document.documentElement.scrollHeight, 9000)"
            )
            _resize(driver, width, tall)
        time.sleep(0.3)  # transitions of the theme
        Path(out_png).parent.mkdir(parents=True, exist_ok=True)
        driver.save_screenshot(str(out_png))
    return Path(out_png)


@contextlib.contextmanager
def browser(width: int = 1300, dark: bool = False) -> Iterator:
    """A fresh headless Chromium with no network but this machine's."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = _chromium()
    options.set_capability(
        "goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"}
    )
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=service)
        try:
            driver.set_page_load_timeout(60)
            _resize(driver, width, HEIGHT)
            _set_colours(driver, dark)
            yield driver
        finally:
            driver.quit()


def _pages(folder: Path) -> list[str]:
    found = (file.relative_to(folder) for file in folder.rglob("*.html"))
    return sorted(p.as_posix() for p in found if p.parts[0] != "_static")


def _chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next(filter(None, map(shutil.which, names)), None)


def _resize(driver, width: int, height: int) -> None:
    """Set the page's size; a real window cannot be as narrow as a phone."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {
            "width": width,
            "height": height,
            "deviceScaleFactor": 1,
            "mobile": False,
        },
    )


def _set_colours(driver, dark: bool) -> None:
    scheme = "dark" if dark else "light"
    feature = {"name": "prefers-color-scheme", "value": scheme}
    driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [feature]}
    )


@contextlib.contextmanager
def served(folder: Path, scheme: str = "http") -> Iterator[str]:
    """The address of a folder: of its files, or of a server made for it."""
    if scheme == "file":
        yield Path(folder).resolve().as_uri()
        return
    handler = functools.partial(_Quiet, directory=str(folder))
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args) -> None:
        """Say nothing of single requests."""


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request, client_address) -> None:
        """Say nothing when the browser hangs up in the middle."""


def _audit_page(driver, base: str, name: str, dark: bool) -> list[str]:
    driver.get_log("performance"), driver.get_log("browser")  # empty them
    driver.get(f"{base}/{name}")
    problems = settle(driver)
    found, text = driver.execute_script(INSPECT)
    problems += found
    problems += _colours(driver, dark)
    problems += [f"raw text {m!r}" for m in sorted(set(RAW.findall(text)))]
    problems += _requests(driver.get_log("performance"), base)
    problems += [
        f"console: {entry['message']}"
        for entry in driver.get_log("browser")
        if entry["level"] == "SEVERE"
    ]
    return problems


def settle(driver) -> list[str]:
    """Wait until charts and formulas are drawn; a sentence if they are not."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if driver.execute_script(SETTLED):
            time.sleep(0.1)  # late requests, such as fonts of a formula
            return []
        time.sleep(0.05)
    return [f"charts or formulas are not there after {PATIENCE:.0f} s"]


def _colours(driver, dark: bool) -> list[str]:
    theme = driver.execute_script(
        "return document.documentElement.dataset.theme || null"
    )
    wanted = "dark" if dark else "light"
    if theme in (None, wanted):  # a redirect page has no theme
        return []
    return [f"the page is {theme} where {wanted} was asked for"]


def check_quiet(driver, base: str) -> None:
    """Assert that a page logged no error and asked no other host."""
    errors = [e for e in driver.get_log("browser")
              if e["level"] == "SEVERE" and "favicon" not in e["message"]]
    assert errors == []
    log = driver.get_log("performance")
    assert [m for m in _requests(log, base) if "favicon" not in m] == []


def _requests(log: list[dict], base: str) -> list[str]:
    """Requests that leave the book or are not answered, from Chromium's log."""
    messages = [json.loads(entry["message"])["message"] for entry in log]
    asked: dict[str, str] = {}
    problems = []
    for message in messages:
        method, params = message["method"], message["params"]
        if method == "Network.requestWillBeSent":
            url = params["request"]["url"]
            asked[params["requestId"]] = url
            if not url.startswith((base, *INTERNAL)):
                problems.append(f"asks for {html.unescape(url)}")
        elif method == "Network.responseReceived":
            response = params["response"]
            if response["status"] >= 400:
                problems.append(f"{response['status']} for {response['url']}")
        elif method == "Network.loadingFailed" and not params.get("canceled"):
            url = asked.get(params["requestId"], "")
            if url.startswith(base):
                problems.append(f"{params['errorText']} for {unquote(url)}")
    return problems
