"""An answer is understood by what it is, in whatever shape real servers write it."""

# ruff: noqa: E501 (a case of a table is a line)
from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import pytest

from chatbot.records import CALL
from tests.llm.asking import DONE, STOP, chunk, event, play, stream, text, whole
from tests.tools.scripted_llm import Close, ScriptedLLM, Step, answer


def call(
    index: Any = None, id: Any = None, name: Any = None, arguments: Any = None, **more: Any
) -> dict[str, Any]:
    """A piece of a tool call, with the fields that are given."""
    function = {k: v for k, v in (("name", name), ("arguments", arguments)) if v is not None}
    entry = {k: v for k, v in (("index", index), ("id", id)) if v is not None}
    return entry | {"function": function} | more


def calls(*entries: Any) -> dict[str, Any]:
    return chunk({"tool_calls": list(entries)})


SHAPES: dict[str, tuple[list[Any], str]] = {
    # what it is: (its chunks, what is said)
    "parts (Mistral)": (
        [
            text([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]),
            text([{"type": "text", "text": "Hel"}]),
            text("lo"),
        ],
        "[hm]Hello",
    ),
    "output_text and refusal parts": (
        [text([{"type": "output_text", "text": "a"}, {"type": "refusal", "refusal": "no"}])], "a{no}",
    ),
    "parts of bare strings": ([text(["Hel", "lo"])], "Hello"),
    "text in an object": ([text([{"type": "text", "text": {"value": "Hello"}}]), text({"text": "!"})], "Hello!"),
    "reasoning parts": ([text([{"type": "reasoning", "text": "hm"}, {"type": "text", "text": "Hi"}])], "[hm]Hi"),
    "a thought (Gemini)": ([text([{"text": "hm", "thought": True}, {"text": "Hi"}])], "[hm]Hi"),
    "white space at the beginning": ([text(" Hi")], " Hi"),
    "parts in parts without end": ([text(json.loads("[" * 600 + "]" * 600)), text("Hi")], "Hi"),
    "no text in any part": ([text([{"type": "image_url"}, None, 7]), text("Hi")], "Hi"),
    "message in a stream": (
        [{"choices": [{"index": 0, "message": {"content": part}, "finish_reason": None}]} for part in ("Hel", "lo")], "Hello",
    ),
    "a message that repeats thoughts that came after the text had begun": (
        [text("Hel"), chunk({"reasoning_content": "Hm", "content": "lo"}), whole({"reasoning_content": "Hm", "content": "Hello"})],
        "Hel[Hm]lo",
    ),
    "a message that repeats all (MiniMax)": ([text("Hel"), text("lo"), whole({"content": "Hello"})], "Hello"),
    "a message that repeats a long reply": ([*(text("ab") for _ in range(9)), whole({"content": "ab" * 9})], "ab" * 9),
    "an empty message beside a delta": (
        [{"choices": [{"delta": {"content": "Hi"}, "message": {"content": ""}, "finish_reason": None}]}], "Hi",
    ),
    "an empty delta beside a message": (
        [{"choices": [{"delta": {}, "message": {"content": "Hi"}, "finish_reason": None}]}], "Hi",
    ),
    "an empty delta beside a message, later": (
        [text("a"), *({"choices": [{"delta": {}, "message": {"content": c}}]} for c in "bcd")], "abcd",
    ),
    "a message that repeats thoughts and calls, too": (
        [
            chunk({"reasoning_content": "hm"}),
            calls(call(0, "a", "f", "{}")),
            whole({"content": "", "reasoning_content": "hm", "tool_calls": [call(None, "a", "f", "{}")]}),
        ],
        "[hm]<f>{}",
    ),
    "a message that has the text alone": (
        [chunk({"reasoning_content": "hm"}), whole({"content": "Hi", "reasoning_content": "hm"})], "[hm]Hi",
    ),
    "text as in completions": ([{"choices": [{"index": 0, "text": "Hi", "finish_reason": None}]}], "Hi"),
    "choices null, empty, missing": ([{"choices": None}, {"choices": []}, {}, text("Hi")], "Hi"),
    "index 0 only": (
        [
            {"choices": [{"index": 1, "delta": {"content": "no"}}, {"index": 0, "delta": {"content": "Hi"}}]},
            {"choices": [{"index": 1, "delta": {"content": "no"}, "finish_reason": "stop"}]},
        ],
        "Hi",
    ),
    "an index in a string": (
        [{"choices": [{"index": index, "delta": {"content": said}}]} for index, said in (("1", "no"), ("0", "Hi"))], "Hi",
    ),
    "index null": ([{"choices": [{"index": None, "delta": {"content": "Hi"}}]}], "Hi"),
    "finish_reason empty, or 'null' (DashScope)": ([chunk({"content": "H"}, ""), chunk({"content": "i"}, "null")], "Hi"),
    "reasoning_content": ([chunk({"reasoning_content": "hm", "content": None}), text("Hi")], "[hm]Hi"),
    "reasoning (OpenRouter)": ([chunk({"reasoning": "hm", "content": ""}), text("Hi")], "[hm]Hi"),
    "both at once (vLLM)": ([chunk({"reasoning": "hm", "reasoning_content": "hm"}), text("Hi")], "[hm]Hi"),
    "details beside it (OpenRouter)": (
        [chunk({"reasoning": "hm", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]}), text("Hi")], "[hm]Hi",
    ),
    "details alone (MiniMax)": ([chunk({"reasoning_details": [{"type": "reasoning.text", "text": "hm"}]}), text("Hi")], "[hm]Hi"),
    "blocks alone (LiteLLM)": ([chunk({"thinking_blocks": [{"type": "thinking", "thinking": "hm"}]}), text("Hi")], "[hm]Hi"),
    "reasoning and text in one chunk": ([chunk({"reasoning_content": "hm", "content": "Hi"})], "[hm]Hi"),
    "tags": ([text("<think>\nhm\n</think>\n\nHi")], "[hm]Hi"),
    "thoughts in their field, and then in tags, too": (
        [chunk({"reasoning_content": "hm"}), text("<think>hm</think>Hi")], "[hm]Hi",
    ),
    "tags, and white space in the text": ([text("<think>hm</think>Hi"), text(" you")], "[hm]Hi you"),
    "tags cut anywhere": ([text(c) for c in "<think>\nhm, <b>\n</think>\n\nHi"], "[hm, <b>]Hi"),
    "tags (Gemini)": ([text("<thought>hm"), text(" hm"), text("</thought>Hi")], "[hm hm]Hi"),
    "tags (Bedrock)": ([text("<reasoning>hm</think></reasoning>Hi")], "[hm</think>]Hi"),
    "tags (Mistral), cut anywhere": ([text(c) for c in "[THINK]hm[/THINK]Hi"], "[hm]Hi"),
    "tags (Kimi), cut anywhere": ([text(c) for c in "◁think▷hm◁/think▷Hi"], "[hm]Hi"),
    "tags beside the same in a field (MiniMax)": (
        [
            chunk({"content": "<think>The", "reasoning_content": "The"}),
            chunk({"content": " user</think>H", "reasoning_content": " user"}),
            text("i"),
        ],
        "[The user]Hi",
    ),
    "tags after a finish_reason": ([chunk({"role": "assistant"}, "stop"), text("<think>hm</think>"), text("Hi")], "[hm]Hi"),
    "white space before the tag": ([text("\n"), text("<think>hm</think>Hi")], "[hm]Hi"),
    "empty tags (Qwen)": ([text("<think>\n\n</think>\n\n"), text("Hi")], "Hi"),
    "a closing tag alone is text": ([text("hm</think>Hi")], "hm</think>Hi"),
    "a tag that is none": ([text("<thin"), text("g> Hi")], "<thing> Hi"),
    "a tag that ends as none": ([text("<thi")], "<thi"),
    "a tag later is text": ([text("Hi <think>no</think>")], "Hi <think>no</think>"),
    "a refusal": ([chunk({"content": "", "refusal": None}), chunk({"refusal": "I can't."})], "{I can't.}"),
    "half a pair": ([text("a\ud83d"), text("\udc4bb")], "a👋b"),
    "half a pair of reasoning": ([chunk({"reasoning": "\ud83d"}), chunk({"reasoning": "\udc4b"}), text("b")], "[👋]b"),
    "half a pair after text like it": ([text("x"), text("x"), text("a\ud83d"), text("x")], "xxa\ufffdx"),
    "halves of pairs that stay alone": ([text(said) for said in ("a\udc4b", "\ud83d", "b", "\ud83d")], "a\ufffd\ufffdb\ufffd"),
    "half a pair that stays alone": ([text("a\ud83d")], "a\ufffd"),
    "calls in pieces": (
        [
            calls(call(0, "call_1", "weather", "")),
            calls(call(0, arguments='{"city": ')),
            calls(call(0, arguments='"Seoul"}')),
            calls(call(1, "call_2", "time", "{}")),
        ],
        '<weather>{"city": "Seoul"}<time>{}',
    ),
    "a whole call without an index (Ollama)": ([calls(call(None, "c", "f", "{}"))], "<f>{}"),
    "several at once": ([calls(call(0, "a", "f", "{}"), call(1, "b", "g", "[]"))], "<f>{}<g>[]"),
    "several at the same index (Gemini)": ([calls(call(0, "a", "f", "{}")), calls(call(0, "b", "g", "{}"))], "<f>{}<g>{}"),
    "several without index and id": ([calls(call(None, None, "f", "{}"), call(None, None, "g", "{}"))], "<f>{}<g>{}"),
    "the same function twice without id": ([calls(call(0, None, "f", "{}")), calls(call(0, None, "f", "{}"))], "<f>{}<f>{}"),
    "the name in every piece, cut after a brace": (
        [calls(call(0, None, "f", '{"a":{}')), calls(call(0, None, "f", "}"))], '<f>{"a":{}}',
    ),
    "the name in every piece, nested deep": (
        [calls(call(0, None, "f", "[" * 9000)), calls(call(0, None, "f", "]" * 9000))], f"<f>{'[' * 9000}{']' * 9000}",
    ),
    "several without ids, by turns": (
        [calls(call(0, None, "f", ""), call(1, None, "g", "")), calls(call(0, arguments="{}"), call(1, arguments="[]"))],
        "<f><g>{}[]",
    ),
    "an id in the first piece, the name in every one": (
        [calls(call(0, "a", "f", '{"x"')), calls(call(0, None, "f", ":1}"))], '<f>{"x":1}',
    ),
    "arguments as an object": ([calls(call(0, "a", "f", {"x": [1, "é"]}))], '<f>{"x":[1,"é"]}'),
    "pieces without an index": ([calls(call(None, "a", "f", '{"x"')), calls(call(None, arguments=":1}"))], '<f>{"x":1}'),
    "id and name in every piece": ([calls(call(0, "a", "f", '{"x"')), calls(call(0, "a", "f", ":1}"))], '<f>{"x":1}'),
    "all so far in each piece (Qianfan), and again at the end (GLM)": (
        [calls(call(0, "a", "f", "")), *(calls(call(0, arguments=so_far)) for so_far in ("{", '{"x"', '{"x":1}', '{"x":1}'))],
        '<f>{"x":1}',
    ),
    "a key that is said again": (
        [calls(call(0, "a", "f", "")), *(calls(call(0, arguments=one)) for one in '{"a":{"a":1}}')], '<f>{"a":{"a":1}}',
    ),
    "a second that begins at the index of the first (DeepSeek, by a gateway)": (
        [calls(call(0, "a", "f", "{}")), calls(call(0, "b", "g", "")), calls(call(1, arguments="[]"))], "<f>{}<g>[]",
    ),
    "another id in each later piece (Poolside)": (
        [calls(call(0, "a", "f", "")), calls(call(0, "b", None, '{"x"')), calls(call(0, "c", None, ":1}"))], '<f>{"x":1}',
    ),
    "an object that holds no call": ([chunk({"content": "Hi", "tool_calls": {}})], "Hi"),
    "a name that comes after the id": ([calls(call(0, "a")), calls(call(0, None, "f", "{}"))], "<f>{}"),
    "a name that comes after all": ([calls(call(0, "a", None, "{}")), calls(call(0, None, "f", ""))], "<f>{}"),
    "pieces with their index in a string": (
        [calls(call("0", "a", "f", "{"), call("1", "b", "g", "{")), calls(call("0", arguments="}"), call("1", arguments="}"))],
        "<f>{<g>{}}",
    ),
    "function_call beside tool_calls": (
        [chunk({"tool_calls": [call(0, "a", "f", "{}"), call(1, "b", "g", "[]")], "function_call": {"name": "f", "arguments": "{}"}})],
        "<f>{}<g>[]",
    ),
    "an index that is no number": ([calls(call("one", "a", "f", "{")), calls(call("one", arguments="}"))], "<f>{}"),
    "a call that is no list": ([chunk({"tool_calls": call(0, "a", "f", "{}")})], "<f>{}"),
    "function_call": ([chunk({"function_call": {"name": "f", "arguments": "{}"}})], "<f>{}"),
    "a custom call": ([calls({"id": "a", "type": "custom", "custom": {"name": "f", "input": "x"}})], "<f>x"),
    "a custom call whose text says a brace twice": (
        [calls({"index": 0, "id": "a", "type": "custom", "custom": {"name": "f", "input": ""}}),
         *(calls({"index": 0, "custom": {"input": one}}) for one in ("{", "{ name }", "}"))], "<f>{{ name }}",
    ),
    "an envelope (Cloudflare, gateways)": (
        [{"result": text("H"), "success": True}, {"code": 0, "message": "ok", "data": text("i")}], "Hi",
    ),
    "text and calls": ([text("so"), calls(call(0, "a", "f", "{}"))], "so<f>{}"),
}  # fmt: skip


def script_of(name: str) -> list[Step]:
    chunks, _ = SHAPES[name]
    last = [] if chunks[-1].get("object") == "chat.completion" else [STOP]
    return stream(*chunks, *last, DONE)


@pytest.mark.parametrize("name", SHAPES)
async def test_a_reply_in_any_shape_is_read_whole(llm: ScriptedLLM, name: str) -> None:
    heard = await play(llm, script_of(name))
    assert (heard.said, heard.finish, heard.error) == (SHAPES[name][1], "stop", None)


def as_a_plain_client_reads(chunks: list[Any]) -> dict[Any, str]:
    """What chunks say to a client that knows nothing but the standard fields, of a call by its index."""
    read: dict[Any, str] = defaultdict(str)
    for one in chunks:
        for choice in one.get("choices") or []:
            for field in ("reasoning_content", "content", "refusal"):
                assert isinstance(choice["delta"].get(field) or "", str), one
                read[field] += choice["delta"].get(field) or ""
            for entry in choice["delta"].get("tool_calls") or []:
                for field in ("name", "arguments"):
                    read[entry["index"], field] += entry["function"].get(field, "")
                read[entry["index"], "id"] += entry.get("id", "")
    return {key: value for key, value in read.items() if value}


@pytest.mark.parametrize("name", SHAPES)
async def test_who_listens_live_reads_the_same_as_who_comes_late(llm: ScriptedLLM, name: str) -> None:
    heard = await play(llm, script_of(name))
    said: dict[Any, str] = defaultdict(str)
    fields = {"reasoning": "reasoning_content", "text": "content"}
    for piece in (piece for one in heard.chunks for piece in one.pieces):
        key = (piece.call, "arguments") if piece.kind == CALL else fields.get(piece.kind, piece.kind)
        said[key] += piece.text
        if piece.head:
            said[piece.call, "id"], said[piece.call, "name"] = piece.head.id, piece.head.name
    read = as_a_plain_client_reads(heard.json)
    assert read == {key: text for key, text in said.items() if text}
    ids = [read.get((piece.call, "id")) for one in heard.chunks for piece in one.pieces if piece.head]
    assert all(ids)
    assert len(set(ids)) == len(ids), "two calls have one id"


OF_ONE_PIECE = [name for name, (chunks, _) in SHAPES.items() if len(chunks) == 1 and chunks[0].get("object")]


@pytest.mark.parametrize("name", OF_ONE_PIECE)
async def test_what_comes_whole_where_a_stream_was_due_is_read_as_well(llm: ScriptedLLM, name: str) -> None:
    [one], said = SHAPES[name]
    heard = await play(llm, answer(body=whole(one["choices"][0]["delta"], usage={"total_tokens": 7})))
    assert (heard.said, heard.finish, heard.error) == (said, "stop", None)
    assert heard.usage == '{"total_tokens":7}'
    assert {got["object"] for got in heard.json} == {"chat.completion.chunk"}
    assert heard.json[-1]["choices"][0]["finish_reason"] == "stop"


JSON = json.dumps(whole({"content": "Hi"})).encode()
EVENTS = event(text("Hi")) + event(STOP) + DONE
BEGINNINGS = {
    "blank lines before JSON": b" \r\n\n" + JSON,
    "a BOM before JSON": b"\xef\xbb\xbf" + JSON,
    "JSON lines": "\n".join(map(json.dumps, [text("Hi"), STOP])).encode(),
    "JSON, and then [DONE]": JSON + b"\n\n" + DONE,
    "blank lines before a stream": b"\n\n\r\n" + EVENTS,
    "a BOM before a stream": b"\xef\xbb\xbf" + EVENTS,
    "a comment before a stream": b": OPENROUTER PROCESSING\n\n" + EVENTS,
    "events without blank lines": EVENTS.replace(b"\n\n", b"\n"),
    "events on one line": EVENTS.replace(b"}\n\ndata: {", b"}data: {"),
    "data: twice (one-api)": EVENTS.replace(b"data: ", b"data: data: "),
    "an event field before a stream": b"event: message\nid: 1\n" + EVENTS,
}


@pytest.mark.parametrize("type_", ["application/json", "text/event-stream", "text/html; charset=bogus", ""])
@pytest.mark.parametrize("name", BEGINNINGS)
async def test_how_it_begins_tells_what_it_is_and_not_its_content_type(
    llm: ScriptedLLM, name: str, type_: str
) -> None:
    body = BEGINNINGS[name]
    for script in (
        answer(body=body, headers=f"Content-Type: {type_}\r\n"),
        [b"HTTP/1.1 200 OK\r\n\r\n", *(bytes([byte]) for byte in body), Close],
    ):
        heard = await play(llm, script)
        assert (heard.said, heard.finish, heard.error) == ("Hi", "stop", None)


USAGE = {"total_tokens": 7}


@pytest.mark.parametrize(
    "last",
    [
        chunk(finish="stop", usage=USAGE),
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "usage": USAGE}]},  # Moonshot
        chunk(finish="stop", x_groq={"id": "r", "usage": USAGE}),
        chunk({"usage": USAGE}, "stop"),
    ],
)
async def test_usage_is_found_wherever_it_stands(llm: ScriptedLLM, last: Any) -> None:
    assert (await play(llm, stream(text("Hi"), last, DONE))).usage == '{"total_tokens":7}'


async def test_chunks_that_need_no_change_are_passed_on_byte_for_byte(llm: ScriptedLLM) -> None:
    chunks = [chunk({"content": said}, x=[1.50, "é"]) for said in ("a", " b", "c\n", "", "d")]
    sent = [json.dumps(one, ensure_ascii=False).encode() for one in (*chunks, STOP)]
    heard = await play(llm, stream(*(b"data: %b\n\n" % one for one in sent), DONE))
    assert [one.data for one in heard.chunks] == sent


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        ("201 Created", ""),
        ("203 Non-Authoritative Information", ""),
        ("246 Hooks Failed", ""),
        ("200 OK", "Content-Encoding: UTF-8\r\n"),
        ("200 OK", "Content-Encoding: none\r\n"),
    ],
)
async def test_an_odd_head_does_not_hide_an_answer(llm: ScriptedLLM, status: str, headers: str) -> None:
    for body in (JSON, EVENTS):
        heard = await play(llm, answer(status, body, headers))
        assert (heard.said, heard.finish, heard.error) == ("Hi", "stop", None)
