"""The demo model: what ELIZA says, and the OpenAI API it says it through."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from chatbot.demo import server as demo
from chatbot.demo.eliza import reply

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
    code = f"from chatbot.demo.eliza import reply; print(reply({messages!r}, 7))"
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
        # Korean drops the person and takes the right particle.
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
        ("I need {name} {0} %s", "{name} {0} %s"),
    ],
)
def test_what_was_said_is_seen_from_the_other_side(said, echo):
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
    ("text", "first", "last"),
    [
        ("Count to 200", 1, 200),
        ("please count up to 1,234 for me", 1, 1234),
        ("100까지 세어 줘", 1, 100),
        ("1부터 20까지 세어줘", 1, 20),
        ("백까지 세 줘", 1, 100),
        ("count from 5 to 7", 5, 7),
    ],
)
def test_it_counts_from_and_to_the_numbers_asked_for(text, first, last):
    assert talk(text) == [", ".join(map(str, range(first, last + 1))) + "."]


def test_it_does_not_count_backwards_or_to_nothing():
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
def test_a_hostile_message_is_read_to_its_end(part):
    # Read in a time that grows with the square of its length, it would take longer than a test may.
    assert reply([user(part * 100_000)] * 2)


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
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8},
    }


async def test_a_stream_is_a_role_then_words_then_the_end_then_the_usage(client):
    response = await ask(client, stream=True, stream_options={"include_usage": True})
    *chunks, last = await frames(response)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    words = [{"content": word} for word in ("1,", " 2,", " 3,", " 4,", " 5.")]
    assert deltas == [{"role": "assistant", "content": ""}, *words, {}]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 6 + ["stop"]
    assert last["usage"] == {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}


TOOL = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object"}}}


async def test_asked_for_the_time_it_calls_the_tool_and_then_says_what_that_said(client):
    question = user("What time is it?")
    body = await (await ask(client, messages=[question], tools=[TOOL])).json()
    message, reason = body["choices"][0]["message"], body["choices"][0]["finish_reason"]
    (call,) = message["tool_calls"]
    assert (reason, call["function"]) == (
        "tool_calls",
        {"name": "get_time", "arguments": '{"timezone":"UTC"}'},
    )
    output = {"role": "tool", "tool_call_id": call["id"], "content": "noon"}
    body = await (await ask(client, messages=[question, message, output], tools=[TOOL])).json()
    assert body["choices"][0]["message"]["content"].startswith("It is noon.")


@pytest.mark.parametrize("more", [{}, {"tools": [TOOL], "tool_choice": "none"}, {"tools": [{}]}])
async def test_without_a_tool_for_it_the_time_is_talk(client, more):
    body = await (await ask(client, messages=[user("What time is it?")], **more)).json()
    assert body["choices"][0]["finish_reason"] == "stop"


async def test_with_an_effort_it_thinks_aloud_first(client):
    chunks = await frames(await ask(client, stream=True, reasoning_effort="low"))
    kinds = [next(iter(chunk["choices"][0]["delta"]), None) for chunk in chunks]
    assert kinds[1] == "reasoning_content"
    assert kinds.index("content") > kinds.index("reasoning_content")


@pytest.mark.parametrize(
    ("fields", "content", "reason"),
    [
        ({"max_tokens": 2}, "1, 2,", "length"),
        ({"max_completion_tokens": 5}, "1, 2, 3, 4, 5.", "stop"),
        ({"stop": "3"}, "1, 2, ", "stop"),
        ({"stop": ["9", "2"]}, "1, ", "stop"),
    ],
)
async def test_the_answer_ends_where_it_is_asked_to(client, fields, content, reason):
    choice = (await (await ask(client, **fields)).json())["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (content, reason)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": ["Hi"]}, "messages[0]"),
        ({"messages": [user([{"type": "image_url"}])]}, "messages[0].content"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"messages": [user("word " * 9000)]}, "messages"),
    ],
)
async def test_what_it_cannot_take_is_a_400_that_names_the_field(client, body, param):
    response = await ask(client, **body)
    assert response.status == 400
    assert (await response.json())["error"]["param"] == param


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff"])
async def test_what_is_no_json_object_is_a_400(client, data):
    response = await client.post("/v1/chat/completions", data=data)
    assert (response.status, (await response.json())["error"]["type"]) == (400, "invalid_request_error")


async def test_half_a_surrogate_pair_does_not_break_the_answer(client):
    response = await ask(client, messages=[user("I think \ud83d")])
    assert response.status == 200


async def test_models_lists_the_one_model(client):
    listed = await (await client.get("/v1/models")).json()
    assert [model["id"] for model in listed["data"]] == ["eliza"]
