"""Decides whether a refusal means that the conversation is too long, and reads the LLM's limit. No I/O.

The patterns are matched against words in lower case, without quotes and thousands separators, and compiled at
their first use. To add a wording, put it into tests/llm/too_long.json; mostly a pattern already matches it.
"""

# ruff: noqa: E501 (a pattern is a line)
from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

# fmt: off
# Error codes and names of exceptions. They are matched against text without spaces, "_" and "-".
_CODES = (
    r"context(length|window|size)+exceed(?!edbehavior)|exceedcontextsize|maxprompttokensexceeded|(prompt|input|tokens)toolong"
    r"|tokenslimitreached|context(toolong|full|overflow)|outofcontexterr|contentlengthexceed|inputlengtherror"
)
# Refusals that only look like it: about rates, waiting, plans, money, an unknown field.
_NEVER = (
    r"\bper[ _-](minute|min|day|hour|second|month)|\b[rt]p[mds]\b|rate.?limit|throttl|wait before|please wait"
    r"|try again (in \d|later)|too many requests|quota|balance|billing|credits?\b|insufficient|concurren|daily|expired"
    r"|monthly|this (month|week)|today|\btier\b|upgrade|account|too small|timed?.?out|deadline|took (too|longer)|cancel|retries|attempts"
    r"|over capacity|(out of|enough) memory|\bqueue|recursion|redirect|spending|safety (limit|filter|threshold|polic)"
    r"|(unknown|unrecogni[sz]ed|unexpected|unsupported) [\w ]{0,20}(argument|param(eter)?|field|name|key)s?\b|extra inputs"
    r"|余额|配额|额度|限流|频率|频繁|次数|今日|速率|并发|每(分|天|日|秒)|欠费|充值|账户|套餐|用尽|稍后|超时"
    r"|분당|초당|하루|일일|할당량|사용량|횟수|(요청|메시지) 한도|잔액|결제|잠시"
)
# Limits on a number of things, or on one string, that are not about the size of the conversation.
_OTHER_THINGS = (
    r"stop sequences?|input should be|at most \d+ (image|audio|video)|logit_bias"
    r"|too many (?!(\w+ )?(tokens|inputs?|prompt|messages?|context|conversation|text|words|bytes|characters))"
    r"|\b(image|picture|file|audio|video|media|document|tool|function|name|header|batch|schema|url)s?\b"
    r"(?! (and|tokens))[^.;]{0,40}(too (large|long|big)|exceed|more than \d{1,3}\b)|(文件|图片|音频|视频|工具|函数|名称).{0,12}超"
    r"|(파일|이미지|함수|도구|이름).{0,20}(초과|너무)"
)
_ANSWER = r"(max_?(completion_|new_|output_|response_)?tokens|budget_tokens|maximum tokens you requested|(thinking|reasoning)[ _](budget|tokens))"
# A negative max_tokens, computed by vLLM or TensorRT-LLM: less than nothing of the context is left for the answer.
_NO_ROOM = r"max_tokens\b.{0,60}[ (]-\d\d"
# Refusals about the size of the requested answer. If they also count the input, the conversation may be too long.
# The text before the name is matched without backtracking ("*+"): there are 2 ** n ways to match ".:" n times.
_OF_THE_ANSWER = (
    rf"^(?:(?!{_ANSWER}\b)(?:<\d+>|\W|[\w.]+:|the|parameter|param|value|for|of|field|invalid|range|requested|your))*+{_ANSWER}\b"
    rf"|{_ANSWER}[\W\d]*(is |are )?(too large|out of range|invalid|exceeds|must|should|cannot)"
    r"|requested for (the )?(completion|output)|^(?!.*context).*(maximum output|generate up to)|(completion|output|response) (tokens?|length|body|payload|size)[^.]{0,40}(exceed|too|limit|at most|maximum)"
    r"|输出长度|输出.{0,6}token|최대 출력|출력 토큰|응답 길이"
)
_ALSO_OF_THE_INPUT = (
    rf"{_NO_ROOM}|\b(input|prompt)s? (\w+ )?(tokens?|length|count)|(in|from) (the|your) (input|messages?|prompt)|input and"
)
_ANSWER_SIZE = (
    r"(\d+) (?:tokens )?(?:in|for|of) the (?:completion|output)",  # OpenAI, SGLang, OpenRouter
    r"(\d+) (?:output|completion|max_new_tokens)\b",  # vLLM, TGI
    r"\d+ ?\+ ?(\d+) ?>",  # Anthropic
    rf"{_ANSWER}\D{{0,60}}?: ?(\d+)\b",  # vLLM
)

# _WHAT is too long; _MUCH says that it is too long. _PATTERNS has the two near each other in any order.
_WHAT = (
    r"\b(prompts?|inputs?|messages?|conversation|history|query|sequence|context|(?<!output )tokens?(?! id)|text|content|request|payload|body"
    r"|n_ctx|max_length|messaggio|mensa\w+|nachricht|eingabe|anfrage|requête|entr[éa]\w*|conversa|unterhaltung|запрос|сообщени\w*"
    r"|[ck]onte[xks]t\w*|contesto|контекст\w*)\b"
)
_MUCH = (
    r"(\b(exceed|too? (long|large|big|many)|(longer|larger|bigger|greater|more|higher) than(?! (or equal to )?(\d\d?|zero|one)\b)|beyond|surpass|over(flow|\b)|not fit"
    r"|(at most|less than|no more than|up to|max(imum)?|can only)\W[^.;\d]{0,30}\d{3}|dépass|überschreit|supera|exced|ultrapassa|превы"
    r"|(trop|zu|demasiado|muito|troppo|слишком) (l[oau]|gra?n|gro|длин|больш))|[<>]=(?! ?\d\d?\b))"
)
_SIZE = r"((context|prompt|input|model|sequence|session|max)[ _](length|window|size|limit|budget|len))"
_PATTERNS = (
    _NO_ROOM,
    # OpenAI: "Your input exceeds the context window"; Anthropic: "prompt is too long"; Gemini: "input token count (…) exceeds"
    rf"{_WHAT}([^.]|\.\d){{0,80}}{_MUCH}|{_MUCH}([^.]|\.\d){{0,40}}{_WHAT}",
    # OpenAI, vLLM, DeepSeek: "maximum context length is 8192"; LM Studio: "n_keep: 23454>= n_ctx: 4096"; DashScope: "Range of input length"
    rf"(max\w*|reached|only|available|filled|s|>=?|range of) ?(the |model |supported |models )*{_SIZE}|n_ctx"
    rf"|{_SIZE}\b.{{0,80}}(exceed|requested|reached|exhausted|available|full)",
    # SiliconFlow: "must be less than or equal to max_seq_len"; Baidu: "the max input characters is"; Bedrock: "expected maxLength: 2048"
    r"max_(seq|model|num|position|input|total)_?(len|tok|emb)|max\w* (number of )?(input|prompt|context)\b|expected maxlength"
    r"|length of.{0,40}\d{3}|context of \d|context (window|size|length) ?is ?\d|tokens? limit ?(reached|:|$)|(not enough|no|out of) (context|room)\b|truncate (prompt|to)|kv cache.{0,20}full|space in the kv cache",
    # Groq, Cerebras, Azure: "reduce the length of the messages"; LM Studio: "provide a shorter input"
    r"(reduce|shorten|decrease|trim)\b.{0,30}\b(length|prompt|messages?|input|context|history|conversation|token count)",
    # The same in Chinese, Korean and Japanese, without spaces
    r"(输入|上下文|窗口|提示|prompt|消息|内容|对话|会话|文本|历史|token|长度|字数|字符|请求|입력|프롬프트|메시지|컨텍스트|문맥|대화|텍스트|토큰|길이|내용"
    r"|入力|プロンプト|コンテキスト|トークン|メッセージ).{0,30}(超长|过长|太长|超过|超出|超限|大于|过大|过多|最[大多]|已满|耗尽|已达到?上限|小于|초과|너무|넘"
    r"|벗어|도달|최대|보다 ?(큽|큰|많)|길어|超え|长[すぎ過]|过ぎ|多すぎ|以内)",
    r"(超长|过长|太长|超过|超出|最大|减少|缩短|精简|压缩|清空|초과|최대).{0,20}(输入|上下文|内容|消息|对话|历史|提示|长度|token|컨텍스트|길이|입력|入力|コンテキスト)",
)

_LIMITS = (
    r"(?:<=|>=?) ?(?:n_ctx\W*)?(\d+)",  # LM Studio also names n_keep
    r"\[ ?\d+ ?, ?(\d+) ?\]",  # DashScope's range
    r"(\d+) (?:maximum|(?:are )?available)|(\d+)[ -]tokens? (?:limit|context|window)|(\d{2,9})\w{0,5}以内",
    r"(?:exceed(?:s|ed|ing)?|(?:longer|larger|greater|more) than)\b[^\d.:;]{0,50}?(?<!by )(\d+)",
    r"context(?:[ _](?:length|window|size|limit))?\b\D{0,40}?(?<!by )(\d+)",
    r"(?:limit|m[aá]xim\w+|максимал\w+|max(?: size|_length)?|(?<!add )up to|at most|less than|cannot exceed|allowed|truncate to)\b"
    r"\D{0,40}?(?<!by )(\d+)",
    r"(?:上限|最大|最多|等于|限制|不能超过|超过了?|최대|제한|한도|윈도우)\D{0,12}(\d+)",
)
_TRADITIONAL = str.maketrans("輸內過長對請數訊達", "输内过长对请数讯达")
_NO_TOKENS = r"character|bytes?\b|string|payload|字符|字数|글자|文字|\bmb\b|maxlength"
# fmt: on


def find(status: int, codes: str, words: str) -> tuple[bool, int | None]:
    """Returns whether the conversation was too long, and the limit in tokens, if the refusal has it."""
    # Removes numbers that are no sizes: codes (2013 is MiniMax's), and numbers of 12 digits or more.
    noise = r"(?<=\d),(?=\d{3}\b)|['\"`*‘’“”]|\d{12,}|\(2013\)|\bcode:? ?\d+"
    text = re.sub(noise, "", words.lower().translate(_TRADITIONAL))
    limit = _limit(text)
    if re.search(_CODES, re.sub(r"[\s_-]", "", f"{codes} {text}"), re.I):
        return True, limit
    if status in (401, 402, 414, 429, 431) or re.search(_NEVER, f"{codes} {text}", re.I):
        return False, None
    if "context" not in text and re.search(_OTHER_THINGS, text):
        return False, None
    if status == 413:
        return True, limit
    answer = _number(_ANSWER_SIZE, text)
    if answer and limit and answer >= limit:
        return False, None  # a shorter conversation would be refused, too
    is_of_the_answer = re.search(_OF_THE_ANSWER, text) or re.search(_ANSWER, codes)
    if is_of_the_answer and not re.search(_ALSO_OF_THE_INPUT, text):
        return False, None
    return any(re.search(pattern, text) for pattern in _PATTERNS), limit


def _limit(text: str) -> int | None:
    """Returns the limit in tokens that the LLM reports; ignores numbers of characters or bytes."""
    unit = r" ?tokens?\b" if re.search(_NO_TOKENS, text) else ""
    if limit := _number([f"(?:{pattern}){unit}" for pattern in _LIMITS], text):
        return limit
    counts = set(re.findall(rf"(?<![\w.:/-])(\d{{3,9}})(?![\w-]){unit}", text))
    return min(map(int, counts)) if len(counts) == 2 else None  # the larger one is the size of the request


def _number(patterns: Iterable[str], text: str) -> int | None:
    for pattern in patterns:
        for found in re.finditer(pattern, text):
            number = int(found[found.lastindex or 0])
            if 16 <= number < 2**31 and text[found.end() : found.end() + 1] != "k":
                return number
    return None


def is_full(usage: dict[str, Any], finish: str, context_size: int | None, room: Any = None) -> bool:
    """Returns whether the usage of an answer without text shows that the conversation filled the context."""
    said, answered = usage.get("prompt_tokens"), usage.get("completion_tokens") or 0
    if "context_window" in finish:
        return True  # Zhipu and Anthropic
    if not isinstance(said, int) or not isinstance(answered, int) or not said:
        return False
    if context_size:
        return said + answered >= context_size - 1
    return finish.lower() in ("length", "max_tokens") and answered <= 1 and room != 1
