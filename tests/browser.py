"""A headless Chromium, spoken to over a pipe in its own protocol: pages opened, measured, photographed."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--remote-debugging-pipe",
]  # fmt: skip

# What sticks out: of the page to the side, of its drawing, of its box where nothing scrolls; and words on words.
_PROBE = """(() => {
  const found = [], wide = document.documentElement.scrollWidth, view = innerWidth;
  if (wide > view) found.push(`the page is ${wide} wide in a window of ${view}`);
  const out = (inner, outer) => inner.left < outer.left - 1 || inner.right > outer.right + 1
    || inner.top < outer.top - 1 || inner.bottom > outer.bottom + 1;
  for (const svg of document.querySelectorAll('svg')) {
    const box = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll('text')];
    for (const text of texts) if (out(text.getBoundingClientRect(), box)) found.push(`cut off: ${text.textContent}`);
    const boxes = texts.map(text => text.getBoundingClientRect());
    if (svg.matches('.halo')) texts.forEach((text, i) => texts.slice(0, i).forEach((other, j) => {
      const [a, b] = [boxes[i], boxes[j]];
      if (a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3)
        found.push(`on one another: ${text.textContent} | ${other.textContent}`);
    }));
  }
  for (const element of document.querySelectorAll('main *')) {
    if (element.closest('svg, .scroll') || !element.getClientRects().length) continue;
    const box = element.getBoundingClientRect();
    if (box.right > view + 1 || box.left < -1) found.push(`${element.tagName} sticks out: ${box.left}–${box.right}`);
    if (element.scrollWidth > element.clientWidth + 1 && element.clientWidth
        && getComputedStyle(element).display !== 'inline') found.push(`${element.tagName} overflows`);
  }
  for (const cell of document.querySelectorAll('td, th'))
    if (cell.scrollWidth > cell.clientWidth + 1) found.push(`runs out of its cell: ${cell.textContent}`);
  const ids = [...document.querySelectorAll('[id]')].map(e => e.id);
  if (new Set(ids).size < ids.length) found.push('an id is there twice');
  return found;
})()"""


class Browser:
    """One Chromium with one page."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading, self._writing, self._held, self._number = reading, writing, b"", 0
        self.told: list[str] = []  # what the console, the network and exceptions said
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")

    def open(
        self, page: Path, *, width: int = 1280, height: int = 900, dark: bool = False, unfold: bool = False
    ) -> None:
        """Shows a page as on a screen of so many CSS pixels; `unfold` opens all that is shown on demand."""
        self.told.clear()
        self._ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", features=[scheme])
        self._ask("Page.navigate", url=page.resolve().as_uri())
        deadline = time.monotonic() + 30
        while self.run("document.readyState") != "complete" or self.run("location.href") == "about:blank":
            assert time.monotonic() < deadline, "the page does not load"
            time.sleep(0.02)
        if unfold:
            self.run("document.querySelectorAll('details').forEach(part => part.open = true)")

    def run(self, script: str) -> Any:
        """The value of a piece of JavaScript, on the page but from outside it."""
        answer = self._ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def faults(self) -> list[str]:
        """What is cut off, sticks out or is ambiguous, and whatever the console said."""
        return [*self.run(_PROBE), *self.told]

    def screenshot(self, target: Path, whole: bool = True) -> Path:
        """A PNG of the page, or of what a window shows of it."""
        size = self._ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"clip": {**size, "x": 0, "y": 0, "scale": 1}} if whole else {}
        told = self._ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **clip)
        target.write_bytes(base64.b64decode(told["data"]))
        return target

    def pdf(self) -> bytes:
        """The page as it prints."""
        return base64.b64decode(self._ask("Page.printToPDF", preferCSSPageSize=True)["data"])

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        call = {"id": self._number, "method": method, "params": parameters}
        if hasattr(self, "_session"):
            call["sessionId"] = self._session
        waiting = memoryview(json.dumps(call).encode() + b"\0")
        while waiting:
            waiting = waiting[os.write(self._writing, waiting) :]
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._held:
            ready, _, _ = select.select([self._reading], [], [], 60)
            assert ready, "the browser does not answer"
            part = os.read(self._reading, 1 << 20)
            assert part, "the browser ended"
            self._held += part
        message, self._held = self._held.split(b"\0", 1)
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        told, kind = event.get("params", {}), event.get("method")
        if kind == "Runtime.consoleAPICalled":
            self.told.append(f"console: {[argument.get('value') for argument in told['args']]}")
        elif kind == "Runtime.exceptionThrown":
            self.told.append(f"exception: {told['exceptionDetails'].get('text')}")
        elif kind == "Log.entryAdded":
            self.told.append(f"log: {told['entry']['text']}")
        elif kind == "Network.requestWillBeSent" and not told["request"]["url"].startswith(("file:", "data:")):
            self.told.append(f"asked the network for {told['request']['url']}")


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """A browser with an empty profile, ended with the block."""
    asks, answers = os.pipe(), os.pipe()
    theirs = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (asks[0], answers[1])]

    def attach() -> None:
        os.dup2(theirs[0], 3)  # where Chromium reads, and where it writes
        os.dup2(theirs[1], 4)

    process = subprocess.Popen(
        [str(CHROMIUM), *_FLAGS, f"--user-data-dir={profile}"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, preexec_fn=attach, pass_fds=(3, 4), start_new_session=True,
    )  # fmt: skip
    for end in (asks[0], answers[1], *theirs):
        os.close(end)
    try:
        yield Browser(answers[0], asks[1])
    finally:
        for end in (answers[0], asks[1]):
            os.close(end)
        try:
            process.wait(10)  # it ends when its pipe does
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
