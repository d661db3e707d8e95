"""Whatever a model, a person or a file says is text: it runs nothing, fetches nothing, is nothing else."""

from __future__ import annotations

import json
from itertools import product

from tests.browser.rendering import FOREIGN

# Every way to write an address that a browser might run, in every way to write a link.
SCHEMES = ["javascript:", "vbscript:", "data:text/html,", "data:image/svg+xml,", "file:///", "blob:"]
SCHEMES += ["filesystem:", "view-source:"]
DISGUISES = [
    lambda scheme: scheme,
    lambda scheme: scheme.upper().title(),
    lambda scheme: scheme[:4] + "\t" + scheme[4:],
    lambda scheme: scheme[:4] + "\n" + scheme[4:],
    lambda scheme: "\x01" + scheme,
    lambda scheme: " " + scheme,
    lambda scheme: scheme.replace(":", "&#58;"),
    lambda scheme: scheme.replace(":", "&colon;"),
    lambda scheme: scheme.replace(":", "%3A"),
    lambda scheme: "".join(f"&#x{ord(letter):x};" for letter in scheme),
    lambda scheme: "".join(f"&#{ord(letter):07}" for letter in scheme),
    lambda scheme: scheme[:4] + "&Tab;" + scheme[4:],
    lambda scheme: scheme[:4] + "&NewLine;" + scheme[4:],
    lambda scheme: scheme.replace("s", "\u017f"),
    lambda scheme: "\\" + scheme,
    lambda scheme: scheme + "//%0a",
]
LINKS = [
    "[x]({})",
    "![x]({})",
    "[x](<{}>)",
    "<{}>",
    "[x][y]\n\n[y]: {}",
    "[x][y]\n\n[y]: <{}> 'title'",
    "[![x]({})]({})",
    '[x](https://a.example "{}")',
    "| [x]({}) |\n|-|\n| ![x]({}) |",
    "- [ ] [x]({})",
    "{}",
    "www.{}",
    "$\\href{{{}}}{{x}}$",
]
CODE = "window.ran=1"

# Markup, which would run if any of it were taken for markup, in every place where text can stand.
ELEMENTS = [
    f"<script>{CODE}</script>",
    f"<img src=x onerror={CODE}>",
    f"<svg onload={CODE}>",
    f"<svg><animate onbegin={CODE} attributeName=x></svg>",
    f"<iframe srcdoc='<script>{CODE}</script>'></iframe>",
    f"<details open ontoggle={CODE}>",
    f"<math><mtext><table><mglyph><style><img src=x onerror={CODE}>",
    f"</textarea></title></style></script><script>{CODE}</script>",
    f"<a href=javascript:{CODE}>x</a>",
    "<style>*{display:none}</style>",
    "<link rel=stylesheet href=//a.example/x.css>",
    "<meta http-equiv=refresh content='0;url=//a.example'>",
    "<base href=//a.example/>",
    "<form action=//a.example><button>x</button></form>",
    "<object data=//a.example></object><embed src=//a.example>",
    f"<!--><img src=x onerror={CODE}>-->",
    f"<noscript><p title='</noscript><img src=x onerror={CODE}>'>",
]
PLACES = [
    "{}",
    "**{}**",
    "`{}`",
    "```{}\n{}\n```",
    "# {}",
    "> {}",
    "- [ ] {}",
    "| {} |\n|-|\n| {} |",
    "[{}](https://a.example)",
    '[x](https://a.example "{}")',
    "![{}](https://a.example)",
    "[x](https://a.example/{})",
    "https://a.example/{}",
    "$\\text{{{}}}$",
    "\\[{}\\]",
    "[x]: https://a.example '{}'\n\n[x]",
    "    {}",
]


def attacks() -> list[str]:
    links = product(LINKS, [disguise(scheme) + CODE for scheme in SCHEMES for disguise in DISGUISES])
    return [
        place.replace("{}", text).replace("{{", "{").replace("}}", "}")
        for place, text in [*links, *product(PLACES, ELEMENTS)]
    ]


async def test_nothing_that_a_model_writes_comes_to_life(reader):
    requests = []
    reader.page.on("request", lambda request: requests.append(request.url))
    texts = attacks()
    found = await reader.page.evaluate(FOREIGN, texts)
    print(len(texts), "inputs")
    assert found == []
    await reader.page.wait_for_timeout(1000)
    assert await reader.page.evaluate("window.ran") is None
    assert [url for url in requests if not url.startswith(reader.url)] == []


async def test_formulas_carry_neither_links_nor_styles(reader, llm):
    tex = [
        r"\href{javascript:window.ran=1}{x}",
        r"\url{javascript:window.ran=1}",
        r"\includegraphics{https://a.example/x.png}",
        r"\htmlStyle{position:fixed;inset:0}{x}",
        r"\htmlData{onclick=window.ran=1}{x}",
        r"\def\a{\a\a}\a",
        r"\rule{100000em}{100000em}",
    ]
    llm.answers("formulas").say("\n\n".join(f"$${one}$$" for one in tex), "\n\n$x$").finish()
    await reader.ask("formulas")
    await reader.see(reader.answers.locator(".katex").first)
    assert await reader.page.locator(".formula :is(a, img, script)").count() == 0
    nodes = "[...document.querySelectorAll('.formula *')]"
    fixed = f"{nodes}.some((node) => getComputedStyle(node).position === 'fixed')"
    assert not await reader.page.evaluate(fixed)


async def test_every_field_that_others_fill_is_text(open_page, llm, server):
    """Title, question, thoughts, calls, refusal, the model's name and error, the stored list and settings."""
    reader = await open_page()
    reader.expects("400")
    bad = f"<img src=x onerror={CODE}><script>{CODE}</script>"
    call = {"index": 0, "id": bad, "type": "function", "function": {"name": bad, "arguments": bad}}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    answer = llm.answers(bad).delta(reasoning_content=bad).say(bad).delta(refusal=bad)
    answer.delta(tool_calls=[call]).finish("tool_calls", usage)
    await reader.ask(bad)
    words = f"no <b onclick={CODE}>such</b> thing"
    llm.answers("refuse").refuse(400, words)
    await reader.send("refuse")
    await reader.see_part(reader.failure, words)
    settings = {"model": bad, "system": bad, "temperature": bad, "other": bad}
    changes = {"metadata": {"title": bad, "settings": settings}, "system_prompt": bad}
    assert (await server.call("PATCH", f"/sessions/{reader.session()}", changes))[0] == 200
    await reader.page.evaluate(
        "bad => localStorage.setItem('defaults', JSON.stringify({ model: bad, system: bad }))", bad
    )
    await reader.refresh()
    await reader.see(reader.listed, bad)
    await reader.see(reader.page.locator("h1"), bad)
    await reader.page.locator("summary").first.click()
    await reader.page.locator(".about").last.click()
    await reader.page.locator("#adjust").click()
    await reader.see(reader.page.locator("#settings"))
    await reader.page.wait_for_timeout(300)
    assert await reader.page.evaluate("window.ran") is None
    assert await reader.page.evaluate("document.querySelectorAll('body script, img, iframe').length") == 0


async def test_an_import_brings_in_text_and_nothing_else(reader, server):
    bad = f"<img src=x onerror={CODE}>"
    url = {"url": "https://a.example/x.png"}
    messages = [
        {"role": "system", "content": bad},
        {"role": "user", "content": [{"type": "text", "text": bad}, {"type": "image_url", "image_url": url}]},
        {"role": "assistant", "content": f"[x](javascript:{CODE}) {bad}"},
    ]
    talk = {"title": bad, "metadata": {"title": bad, "settings": {"model": bad}}, "messages": messages}
    backup = {"format": "chatbot conversations", "version": 1, "conversations": [talk]}
    requests = []
    reader.page.on("request", lambda request: requests.append(request.url))
    await reader.restore(json.dumps(backup).encode())
    await reader.see(reader.listed, bad)
    await reader.see(reader.answers, f"[x](javascript:{CODE}) {bad}")
    assert await reader.page.evaluate("window.ran") is None
    assert [url for url in requests if "a.example" in url] == []
