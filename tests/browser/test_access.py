"""axe-core finds nothing to complain of, whatever is open."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

AXE = Path(__file__).parent / ".cache" / "node_modules" / "axe-core" / "axe.min.js"
RICH = """# A heading

Some **bold** text, `code`, and [a link](https://x.example/).

1. one
   - nested
2. two

| a | b |
|---|--:|
| c | 1 |

- [x] done

The formula $a^2$, and

$$b^2$$

```python
def answer():
    return 42  # and a line that is long enough to need scrolling on any phone, and then some more of it
```
"""


def axe_source() -> str:
    path = Path(os.environ.get("AXE_PATH", AXE))
    if not path.exists() and "AXE_PATH" not in os.environ:
        command = ["npm", "install", "--no-save", "--no-audit", "--no-fund", "axe-core@4"]
        AXE.parents[2].mkdir(exist_ok=True)
        try:
            subprocess.run(command, cwd=AXE.parents[2], check=True, capture_output=True, timeout=60)
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"axe-core is not here and could not be fetched: {error}")
    if not path.exists():
        pytest.skip(f"there is no axe-core at {path}")
    return path.read_text(encoding="utf-8")


PHONE = {"width": 390, "height": 780, "has_touch": True, "is_mobile": True}
KINDS = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": PHONE,
    "phone-dark-korean": PHONE | {"color_scheme": "dark", "locale": "ko-KR"},
}


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
async def test_axe_finds_nothing(open_page, llm, options):
    axe = axe_source()
    reader = await open_page(**options)
    reader.expects("400")
    findings = {}

    async def check(state: str) -> None:
        await reader.see_at_rest()
        # Through the debugger, which the page's policy does not concern.
        await reader.page.evaluate(axe + "; 0")
        result = await reader.page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
        found = [(item["id"], [node["html"] for node in item["nodes"]]) for item in result["violations"]]
        findings.update({state: found} if found else {})

    await check("empty")
    llm.answers("show me").delta(reasoning_content="Hm.").say(RICH).finish()
    await reader.ask("show me")
    llm.answers("refuse me").refuse(400, "no")
    await reader.send("refuse me")
    await reader.see(reader.failure)
    await reader.page.locator(".about").first.click(force=True)
    await check("talking")
    await check_overlays(reader, check, bool(options.get("is_mobile")))
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    llm.answers("call").delta(tool_calls=[call]).finish("tool_calls")
    await reader.ask("call")
    await reader.page.locator(".call summary").click()
    await check("called")
    running = llm.answers("go slowly").delta(reasoning_content="Thinking of it").say("Slowly")
    await reader.send("go slowly")
    await reader.see(reader.answers.last, "Slowly")
    await reader.send("and then")
    await check("answering")
    running.finish()
    await reader.see(reader.done, count=4)
    assert findings == {}


async def check_overlays(reader, check, is_phone):
    """Whatever can lie over the conversation."""
    if is_phone:
        await reader.page.locator("#menu").click()
        await check("list")
        await reader.page.locator("#everything").click()
        await check("list and menu")
        await reader.page.keyboard.press("Escape")
        await reader.page.locator("#close").click()
    await reader.page.locator("#more").click()
    await check("menu")
    await reader.page.keyboard.press("Enter")
    await check("renaming")
    await reader.page.keyboard.press("Escape")
    await reader.page.locator("#adjust").click()
    await check("settings")
    await reader.page.keyboard.press("Escape")
    await reader.page.keyboard.press("Control+/")
    await check("keys")
    await reader.page.keyboard.press("Escape")
