"""The demo model: what ELIZA says, and the OpenAI API it says it through."""

import asyncio
import io
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from aiohttp import web

from chatbot import demo
from chatbot.eliza import reply

ROOT = Path(demo.__file__).parents[1]  # other processes find the package there


def user(text):
    return {"role": "user", "content": text}


def talk(*texts, seed=0):
    """Say each text after the other; return all replies."""
    messages, replies = [], []
    for text in texts:
        messages.append(user(text))
        replies.append(reply(messages, seed))
        messages.append({"role": "assistant", "content": replies[-1]})
    return replies


def any_reply(text, *before):
    """Every reply that some seed gives to the last text."""
    return {talk(*before, text, seed=seed)[-1] for seed in range(40)}


# --- what it says


def test_the_same_conversation_gets_the_same_reply_in_every_process():
    messages = [user("Hello"), user("I am sad about my job.")]
    code = f"from chatbot.eliza import reply; print(reply({messages!r}, 7))"
    runs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": salt},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for salt in ("1", "2")
    }
    assert runs == {reply(messages, 7)}


def test_the_seed_chooses_among_the_variants():
    assert len(any_reply("I am sad")) == 3


@pytest.mark.parametrize(
    ("said", "echo"),
    [
        ("I think you hate me", "I hate you"),
        ("I think I'm late", "you are late"),
        ("I believe my boss dislikes me.", "your boss dislikes you"),
        ("I need a holiday with my sister", "a holiday with your sister"),
        ("I think everybody talks to you", "everybody talks to me"),
        ("I think YOUR rules are yours", "my rules are mine"),
    ],
)
def test_english_is_seen_from_the_other_side(said, echo):
    assert any(echo in answer for answer in any_reply(said))


@pytest.mark.parametrize(
    ("said", "echo"),
    [
        ("저는 여행을 가고 싶어요", "여행을 가고 싶으시군요"),
        ("나는 회사에 가기 싫어", "회사에 가기 싫을 때가"),
        ("내 고양이가 좋아요", "고양이를 언제부터 좋아하셨어요?"),
        ("떡볶이를 정말 좋아해요", "떡볶이가 왜 좋은지"),
        ("비빔밥을 좋아해요", "비빔밥을 언제부터"),
        ("제 동생이 미워요", "동생과 무슨 일이"),
        ("형이 보고 싶어요", "형이 많이 보고 싶으시군요"),
        ("BTS가 보고 싶어요", "BTS가 많이"),
        ("Spam을 좋아해요", "Spam을 언제부터"),
        ("뉴진스1이 미워", "뉴진스1과 무슨"),
    ],
)
def test_korean_drops_the_person_and_takes_the_right_particle(said, echo):
    assert any(echo in answer for answer in any_reply(said)), any_reply(said)


@pytest.mark.parametrize(
    "text",
    ["안녕하세요", "힘들어요", "ㅠㅠ", "ㅇㅇ", "오늘 meeting이 있어요", "파리의 수도는 어디야?"],
)
def test_korean_is_answered_in_polite_korean(text):
    for answer in any_reply(text):
        assert re.search(r"[가-힣](?:요|죠)[.?!]$", answer), answer
        assert "(" not in answer, "an unresolved particle"


def test_the_language_follows_the_user_and_signs_alone_do_not_change_it():
    first, second, third = talk("안녕하세요", "...!!", "And now in English")
    assert re.search("[가-힣]", first)
    assert re.search("[가-힣]", second)
    assert not re.search("[가-힣]", third)


def test_a_higher_ranking_keyword_wins_wherever_it_stands():
    for answer in any_reply("Hello, maybe yes, because I am sad."):
        assert "sad" in answer or "brought it on" in answer


@pytest.mark.parametrize(
    ("told", "name", "asked"),
    [
        ("My name is Ada.", "Ada", "What is my name?"),
        ("hi, i\u2019m Ada", "Ada", "who am I"),
        ("Hello, I am Ada and I am new", "Ada", "who am I"),
        ("I'm Ada", "Ada", "do you remember my name?"),
        ("please call me Ada", "Ada", "What's my name?"),
        ("my name is ada", "Ada", "what is my name"),
        ("내 이름은 하늘이야", "하늘", "내 이름이 뭐야?"),
        ("제 이름은 민지예요.", "민지", "제 이름 기억하세요?"),
        ("저는 김철수입니다", "김철수", "내가 누구야?"),
        ("저는 민준이라고 해요", "민준", "내 이름 알아?"),
        ("저를 별이라고 불러 주세요", "별", "제 이름이 무엇일까요"),
        ("내 이름은 Ada야", "Ada", "what is my name?"),
    ],
)
def test_the_name_is_remembered(told, name, asked):
    answers = talk(told, "The weather is grey", asked)
    assert re.search(rf"\b{name}(?=[.,! ])", answers[0]), answers[0]
    assert name in answers[2]
    assert "님" in answers[2] or "name" in answers[2] or "You are" in answers[2]


@pytest.mark.parametrize("text", ["I am Korean", "I am sad", "my name is not important", "저는 학생입니다"])
def test_what_only_looks_like_a_name_is_none(text):
    asked = "내 이름이 뭐야?" if "학생" in text else "What is my name?"
    assert any(word in talk(text, asked)[1] for word in ("I do not think", "말씀해 주지 않으셨어요"))


def test_the_newest_name_counts():
    assert "Bo" in talk("My name is Ada", "My name is Bo", "What is my name?")[2]


def test_statements_are_recalled_oldest_first_when_nothing_else_matches():
    said = ["My dog is ill.", "I live in the north.", "blah", "blubb"]
    assert "your dog is ill" in talk(*said)[2]
    assert "you live in the north" in talk(*said)[3]
    assert "요즘 회사 일이 많아요" in talk("요즘 회사 일이 많아요.", "음...")[1]


def test_a_statement_is_recalled_once():
    answers = talk("My dog is ill.", *["blah"] * 4)[1:]
    assert sum("your dog is ill" in answer for answer in answers) == 1


def test_questions_names_and_mutterings_are_not_recalled():
    answers = talk("My name is Ada.", "My dog is ill, is it?", "ok", "I go", "blah")
    assert not any("Earlier" in answer or "you told me" in answer for answer in answers)


def test_asked_what_was_said_it_says_it():
    assert "your dog is ill" in talk("My dog is ill.", "What did I say?")[1]
    assert "not told me much" in talk("What did I say?")[0]
    assert "강아지가 아파요" in talk("우리 강아지가 아파요", "아까 내가 뭐라고 했어?")[1]


@pytest.mark.parametrize("text", ["blah", "그냥", "I am sad", "hello", "우울해요"])
def test_no_answer_is_repeated_while_there_is_another(text):
    answers = talk(*[text] * 5)
    assert len(set(answers)) == 5, answers


def test_when_all_is_said_the_oldest_answer_comes_first():
    answers = talk(*["blah"] * 10)
    assert len(set(answers)) == 5
    assert answers[:5] == answers[5:]


def test_a_question_with_one_answer_gets_it_again():
    answers = talk("My name is Ada", *["What is my name?"] * 6)[1:]
    assert all("Ada" in answer for answer in answers)
    assert talk("count to 3", "count to 3") == ["1, 2, 3."] * 2


def test_a_long_statement_is_echoed_in_part():
    (answer,) = talk("I believe " + "very " * 50 + "much")
    assert len(answer.split()) < 30


def test_braces_and_percents_are_only_text():
    assert any("{name} {0} %s" in answer for answer in any_reply("I need {name} {0} %s"))


def test_nothing_at_all_is_answered_too():
    assert reply([])
    assert reply([user("")])
    assert reply([{"role": "assistant", "content": None}, {"role": "user"}])


def test_a_system_prompt_is_not_obeyed():
    system = {"role": "system", "content": "Only say OK. My name is Ada."}
    assert reply([system, user("What is my name?")]) == reply([user("What is my name?")])


@pytest.mark.parametrize("text", ["I want to die", "죽고 싶어요"])
def test_despair_is_answered_with_a_number_to_call(text):
    assert all(re.search(r"988|109", answer) for answer in any_reply(text))


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("Count to 200", 200),
        ("please count up to 1,234 for me", 1234),
        ("100까지 세어 줘", 100),
        ("1부터 20까지 세어줘", 20),
        ("백까지 세 줘", 100),
    ],
)
def test_it_counts_to_the_number_asked_for(text, last):
    assert talk(text) == [", ".join(map(str, range(1, last + 1))) + "."]


def test_it_counts_from_where_it_is_asked_to():
    assert talk("count from 5 to 7") == ["5, 6, 7."]
    assert "5" not in talk("count from 5 to 2")[0]
    assert "," not in talk("count to , please")[0][:3]


@pytest.mark.parametrize("text", ["count to 10001", "count to " + "9" * 900, "99999까지 세어 줘"])
def test_it_stops_counting_at_ten_thousand(text):
    (answer,) = talk(text)
    numbers = re.findall(r"\d+", answer)
    assert (len(numbers), numbers[-1]) == (10_000, "10000")
    assert not answer.endswith("10000.")


@pytest.mark.parametrize("text", ["Tell me a story", "이야기 해줘", "재미있는 얘기 하나 들려줘"])
def test_a_story_has_a_few_hundred_words_and_the_next_is_another(text):
    answers = talk(*[text] * 5)
    assert len(set(answers[:4])) == 4
    assert answers[4] == answers[0]
    for answer in answers:
        assert 180 <= len(answer.split()) <= 400
        assert not re.search(r"[{}()]", answer)


@pytest.mark.parametrize("part", ["가", "고 ", "가이", "count to ", "from 1 ", "i am ", "and ", "my "])
def test_a_hostile_message_is_read_in_no_time(part):
    start = time.perf_counter()
    reply([user(part * 100_000)] * 2)
    assert time.perf_counter() - start < 5, "quadratic, or worse"


# --- how it is asked


@pytest.fixture
async def client(aiohttp_client):
    return await aiohttp_client(demo.create_demo_app(delay=0))


async def ask(client, **body):
    return await client.post("/v1/chat/completions", json={"messages": [user("count to 5")], **body})


async def frames(response):
    text = (await response.read()).decode()
    assert text.endswith("\n\n")
    lines = text.removesuffix("\n\n").split("\n\n")
    assert all(line.startswith("data: ") and "\n" not in line for line in lines)
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


async def test_a_whole_answer_has_the_openai_shape(client):
    response = await ask(client, model="anything")
    body = await response.json()
    assert response.status == 200
    assert re.fullmatch(r"chatcmpl-[0-9a-f]{32}", body.pop("id"))
    assert isinstance(body.pop("created"), int)
    message = {"role": "assistant", "content": "1, 2, 3, 4, 5."}
    assert body == {
        "object": "chat.completion",
        "model": "eliza",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8},
    }


async def test_a_stream_is_a_role_then_words_then_the_end(client):
    response = await ask(client, stream=True)
    assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    chunks = await frames(response)
    assert len({(c["id"], c["created"], c["object"], c["model"]) for c in chunks}) == 1
    assert list(chunks[0]) == ["id", "object", "created", "model", "choices"]
    assert chunks[0]["object"] == "chat.completion.chunk"
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    words = [{"content": word} for word in ("1,", " 2,", " 3,", " 4,", " 5.")]
    assert deltas == [{"role": "assistant", "content": ""}, *words, {}]
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None] * 6 + ["stop"]
    assert all(c["choices"][0]["logprobs"] is None for c in chunks)


async def test_usage_is_streamed_last_and_only_if_asked_for(client):
    chunks = await frames(await ask(client, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
    chunks = await frames(await ask(client, stream=True, stream_options={"include_usage": False}))
    assert not any("usage" in chunk for chunk in chunks)


async def test_a_pause_follows_each_streamed_word(aiohttp_client, monkeypatch):
    async def sleep(seconds, *, real=asyncio.sleep):
        pauses.append(seconds)
        await real(0)

    pauses = []
    client = await aiohttp_client(demo.create_demo_app(delay=1234.5))
    monkeypatch.setattr(asyncio, "sleep", sleep)
    await frames(await ask(client, stream=True))
    assert pauses.count(1234.5) == 5
    pauses.clear()
    await (await ask(client)).read()
    assert 1234.5 not in pauses


async def test_stream_and_whole_answer_say_the_same(client):
    story = [user("이야기 해줘")]
    whole = await (await ask(client, messages=story)).json()
    chunks = await frames(await ask(client, messages=story, stream=True))
    streamed = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks)
    assert streamed == whole["choices"][0]["message"]["content"]
    assert "\n\n" in streamed


@pytest.mark.parametrize(
    ("asked", "content", "reason"),
    [
        ({"max_tokens": 2}, "1, 2,", "length"),
        ({"max_completion_tokens": 2, "max_tokens": 4}, "1, 2,", "length"),
        ({"max_tokens": 5}, "1, 2, 3, 4, 5.", "stop"),
        ({"max_tokens": None, "stop": None, "seed": None}, "1, 2, 3, 4, 5.", "stop"),
        ({"stop": "3"}, "1, 2, ", "stop"),
        ({"stop": ["4", ", 2", "nowhere"]}, "1", "stop"),
        ({"stop": "1"}, "", "stop"),
        ({"stop": "4", "max_tokens": 1}, "1,", "length"),
    ],
)
async def test_the_answer_ends_where_it_is_told_to(client, asked, content, reason):
    choice = (await (await ask(client, **asked)).json())["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (content, reason)


async def test_the_seed_reaches_the_reply(client):
    answers = set()
    for seed in range(20):
        body = await (await ask(client, messages=[user("I am sad")], seed=seed)).json()
        answers.add(body["choices"][0]["message"]["content"])
    assert answers == {reply([user("I am sad")], seed) for seed in range(20)}
    assert len(answers) == 3


async def test_text_parts_and_turns_of_tool_calls_are_read(client):
    parts = [{"type": "text", "text": "count to"}, {"type": "text", "text": "2"}]
    called = {"role": "assistant", "content": None, "tool_calls": []}
    body = await (await ask(client, messages=[called, user(parts)])).json()
    assert body["choices"][0]["message"]["content"] == "1, 2."


async def test_half_a_surrogate_pair_does_not_break_the_answer(client):
    raw = b'{"stream": true, "messages": [{"role": "user", "content": "I need \\ud83d"}]}'
    response = await client.post("/v1/chat/completions", data=raw)
    assert response.status == 200
    assert len(await frames(response)) > 3


async def test_models_and_health(client):
    models = await (await client.get("/v1/models")).json()
    assert [model["id"] for model in models["data"]] == ["eliza"]
    assert models["object"] == "list"
    response = await client.get("/health")
    assert (response.status, await response.json()) == (200, {"status": "ok"})


async def error_of(response, status):
    body = await response.json()
    assert response.status == status, body
    assert list(body) == ["error"]
    assert sorted(body["error"]) == ["code", "message", "param", "type"]
    return body["error"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"messages": [{"content": "hello"}]}, "messages[0]"),
        ({"messages": [{"role": ["user"], "content": "hello"}]}, "messages[0]"),
        ({"messages": [user("hello"), user(None)]}, "messages[1]"),
        ({"messages": [user(7)]}, "messages[0]"),
        ({"messages": [user(["hello"])]}, "messages[0]"),
        ({"messages": [user([{"type": "image_url"}])]}, "messages[0]"),
        ({"model": 7}, "model"),
        ({"stream": "yes"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"stream_options": True}, "stream_options"),
        ({"seed": True}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "9"}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", 1]}, "stop"),
        ({"stop": {}}, "stop"),
    ],
)
async def test_a_bad_field_is_a_400_that_names_it(client, fields, param):
    error = await error_of(await ask(client, **fields), 400)
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert param in error["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000, b'{"messages": '])
async def test_bad_json_is_a_400(client, body):
    error = await error_of(await client.post("/v1/chat/completions", data=body), 400)
    assert error["code"] == "invalid_json"


async def test_a_charset_that_is_none_is_a_400(client):
    headers = {"Content-Type": "application/json; charset=bogus"}
    response = await client.post("/v1/chat/completions", data=b"{}", headers=headers)
    assert (await error_of(response, 400))["code"] == "invalid_json"


async def test_json_that_is_no_object_is_a_400(client):
    await error_of(await client.post("/v1/chat/completions", json=[]), 400)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_beyond_the_context_is_refused_as_openai_does(client, stream):
    full = [user("word " * 8000), user("word " * 192)]
    assert (await ask(client, messages=full, stream=stream)).status == 200
    error = await error_of(await ask(client, messages=[*full, user("one")], stream=stream), 400)
    assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
    assert "8193" in error["message"]


async def test_a_prompt_above_aiohttps_own_limit_is_refused_as_too_long(client):
    body = io.BytesIO(json.dumps({"messages": [user("word " * 400_000)]}).encode())
    response = await client.post("/v1/chat/completions", data=body)
    assert (await error_of(response, 400))["code"] == "context_length_exceeded"


async def test_aiohttps_own_errors_have_the_same_shape(client, monkeypatch):
    assert (await error_of(await client.get("/v1/nothing"), 404))["code"] == "not_found"
    response = await client.get("/v1/chat/completions")
    assert (await error_of(response, 405))["code"] == "method_not_allowed"
    assert response.headers["Allow"] == "POST"
    monkeypatch.setattr(client.app, "_client_max_size", 10)
    error = await error_of(await ask(client), 413)
    assert error["type"] == "invalid_request_error"


async def test_a_crash_is_logged_and_says_nothing_of_the_inside(client, monkeypatch, caplog):
    def crash(messages, seed):
        raise RuntimeError("the inside")

    monkeypatch.setattr(demo, "reply", crash)
    error = await error_of(await ask(client), 500)
    assert (error["code"], error["type"]) == ("internal_error", "server_error")
    assert "inside" not in error["message"]
    assert "RuntimeError: the inside" in caplog.text


@pytest.mark.parametrize(
    ("delay", "cancels"), [(0.001, False), (3600, True)], ids=["at a write", "in a pause"]
)
async def test_a_client_that_leaves_ends_its_stream_quietly(delay, cancels, caplog):
    runner = web.AppRunner(demo.create_demo_app(delay), handler_cancellation=cancels)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    body = json.dumps({"messages": [user("count to 9999")], "stream": True})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
    others = asyncio.all_tasks()
    reader, writer = await asyncio.open_connection(*runner.addresses[0])
    writer.write((head + body).encode())
    await reader.readuntil(b'"content":"1,"')
    writer.transport.abort()
    # The whole stream would take ten seconds, or a year.
    _, pending = await asyncio.wait(asyncio.all_tasks() - others, timeout=2)
    assert not pending
    await runner.cleanup()
    assert not [record for record in caplog.records if record.levelname != "INFO"]


async def test_shutting_down_ends_the_streams_without_an_end(aiohttp_client):
    app = demo.create_demo_app(delay=0)
    client = await aiohttp_client(app)
    await app.shutdown()
    text = await (await ask(client, stream=True)).text()
    assert '"role":"assistant"' in text
    assert "[DONE]" not in text
    assert '"finish_reason":"stop"' not in text


# --- how it is started


def test_it_prints_its_url_serves_and_ends_cleanly(monkeypatch):
    def visit():
        with urllib.request.urlopen(printed.get(timeout=5).split()[-1] + "/health") as response:
            seen.append(json.load(response))
        os.kill(os.getpid(), signal.SIGTERM)

    seen, lines, printed = [], [], queue.Queue()
    monkeypatch.setattr(
        demo, "print", lambda line, flush: (lines.append(line), printed.put(line)), raising=False
    )
    visitor = threading.Thread(target=visit)
    visitor.start()
    assert demo.main(["--port", "0", "--delay", "0"]) == 0
    visitor.join()
    assert seen == [{"status": "ok"}]
    assert len(lines) == 1
    assert re.fullmatch(r"ELIZA answers at http://127\.0\.0\.1:\d+", lines[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_open_stream_does_not_delay_its_end(number):
    command = [sys.executable, "-m", "chatbot.demo", "--port", "0", "--delay", "0.01"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        url = process.stdout.readline().split()[-1]
        body = json.dumps({"messages": [user("count to 9999")], "stream": True}).encode()
        with urllib.request.urlopen(url + "/v1/chat/completions", body, timeout=5) as stream:
            assert stream.readline().startswith(b"data: ")
            process.send_signal(number)
            assert process.wait(timeout=5) == 0
        assert process.stderr.read() == ""


def test_a_port_in_use_is_exit_code_2_and_one_line(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert demo.main(["--port", str(port)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"127.0.0.1:{port}" in error
    assert error.endswith("in use\n")


@pytest.mark.parametrize(
    "argv", [["--port", "70000"], ["--port", "x"], ["--delay", "-1"], ["--delay", "nan"]]
)
def test_a_bad_option_is_exit_code_2(argv, capsys):
    with pytest.raises(SystemExit) as ended:
        demo.main(argv)
    assert ended.value.code == 2
    assert argv[0] in capsys.readouterr().err


def test_the_app_is_a_plain_aiohttp_application():
    assert isinstance(demo.create_demo_app(), web.Application)
