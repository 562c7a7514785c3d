"""A headless Chromium that tests drive: through choreographer, which comes with kaleido."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any


PATIENCE = 60.0  # seconds until what a page should show is there; busy machines are slow

# Errors of the page are kept where a test can ask for them.
_NOTE_ERRORS = """
window.testErrors = [];
window.addEventListener('error', event => window.testErrors.push(event.message));
window.addEventListener('unhandledrejection', event => window.testErrors.push(`${event.reason}`));
"""


class Page:
    """A tab of the browser."""

    def __init__(self, tab: Any) -> None:
        self._tab = tab

    async def _send(self, command: str, **parameters: Any) -> Any:
        answer = await self._tab.send_command(command, parameters)
        assert "error" not in answer, answer
        return answer["result"]

    async def resize(self, width: int, height: int) -> None:
        """Set the size of what is seen, in pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self._send("Emulation.setDeviceMetricsOverride", **size)

    async def open(self, address: str) -> None:
        """Go to an address."""
        await self._send("Page.enable")
        await self._send("Page.addScriptToEvaluateOnNewDocument", source=_NOTE_ERRORS)
        await self._send("Page.navigate", url=address)

    async def ask(self, script: str) -> Any:
        """Return the value of a JavaScript expression."""
        answer = await self._send("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def wait(self, script: str) -> float:
        """Wait until a JavaScript expression is true; return how many seconds it took."""
        started = time.monotonic()
        while not await self.ask(f"Boolean({script})"):
            seconds = time.monotonic() - started
            assert seconds < PATIENCE, f"after {seconds:.0f} s still not: {script}"
            await asyncio.sleep(0.05)
        return time.monotonic() - started

    async def click(self, selector: str) -> None:
        """Click on the first element that a CSS selector finds, as soon as it is there."""
        await self.wait(f"document.querySelector({selector!r})")
        await self.ask(f"document.querySelector({selector!r}).click()")

    async def save(self, path: Path) -> None:
        """Write what is seen as a PNG picture."""
        answer = await self._send("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(answer["data"]))


@contextlib.asynccontextmanager
async def page() -> AsyncIterator[Page]:
    """Open a headless browser with one empty tab.

    Raises:
        ChromeNotFoundError: If neither Chrome nor Chromium is installed.
    """
    from choreographer import Browser

    # Chrome's own sandbox does not start as root, as in containers; only local pages are opened.
    async with Browser(headless=True, enable_sandbox=False) as browser:
        yield Page(await browser.create_tab("about:blank"))
