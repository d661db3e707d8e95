"""A chatbot after Weizenbaum's ELIZA (1966), in English and Korean: a conversation in, a reply out.

The original keeps two things between turns, a memory queue and a counter for every rule. Here both
are read off the conversation itself: what was recalled or said already stands in the assistant's
own messages. So `reply` is a pure function, and any server may continue any conversation.

Keywords and decomposition are one regular expression. The matching rules are tried from the
highest rank down; of one rule's reassemblies the first that was not said yet is taken, starting
at a place that depends on the conversation and the seed. Nothing else is obeyed.

In a reassembly `{0}` is what the rule captured, seen from the other side ("my" becomes "your").
A reassembly that names a fact is passed over where the fact is not known:
  {name}      the user's name                      {met}       the same, told in this very message
  {memory}    the oldest statement not recalled    {latest}    the newest earlier statement
  {stranger}  empty: no name is known              {blank}     empty: there was no statement yet
"""

import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import NamedTuple

COUNT_LIMIT = 10_000
READ_LIMIT = 1_000  # characters of a message that are looked at: patterns may take quadratic time
ECHO_LIMIT = 14  # words of the user's own that a reply repeats
DIRECT = 8  # from this rank on a question has one answer, and asked again it gets it again

Rule = tuple[int, re.Pattern[str], tuple[str, ...]]

REFLECTIONS = {
    "i am": "you are", "i was": "you were", "am i": "are you", "you are": "I am",
    "you were": "I was", "are you": "am I", "i": "you", "me": "you", "my": "your",
    "mine": "yours", "myself": "yourself", "we": "you", "us": "you", "our": "your", "am": "are",
    "your": "my", "yours": "mine", "yourself": "myself",
    # The object after these words, and at the end; the subject everywhere else.
    **{f"{word} you": f"{word} me" for word in (
        "about", "at", "for", "from", "hate", "help", "like", "love", "miss", "need", "of", "on",
        "see", "tell", "than", "to", "trust", "want", "with",
    )},
    "you$": "me", "you": "I",
}  # fmt: skip
CONTRACTIONS = {"i'm": "I am", "i've": "I have", "i'd": "I would", "i'll": "I will",
                "you're": "you are", "you've": "you have", "gonna": "going to",
                "wanna": "want to", "dont": "don't", "cant": "can't"}  # fmt: skip
REFLECTED = re.compile(rf"\b(?:{'|'.join(REFLECTIONS)})(?!\w)", re.IGNORECASE)
CONTRACTED = re.compile(rf"\b(?:{'|'.join(CONTRACTIONS)})\b", re.IGNORECASE)

# Korean leaves out the persons a European language would turn round, and so does the echo.
PERSONS = re.compile(
    r"(?:^|(?<=\s))(?:나는|저는|난|전|내가|제가|나도|저도|나의|저의|내|제|우리|나를|저를|날|절|"
    r"나한테|저한테|나에게|저에게)\s+|^(?:요즘|오늘|그냥|너무|정말|진짜)\s+"
)
# "저는 학생입니다" has the form of a name and is none.
NO_NAME = re.compile(
    r"(?:학생|사람|국인|회사원|공무원|직원|연구원|교사|의사|호사|리사|디자이너|자|작가|가수|배우|군인|"
    r"주부|백수|엄마|아빠|엔지니어|취준생|선생님|팬|천재|바보|초보|혼자|살|중|편|것|거|때문|처음|일)$"
)
PARTICLE = re.compile(r"(\w)([”\"']?)\(([가-힣]+)/([가-힣]+)\)")


class Tongue(NamedTuple):
    """What a language knows: its rules, and how it is read and written."""

    rules: tuple[Rule, ...]
    name: re.Pattern[str]
    statement: re.Pattern[str]
    number: re.Pattern[str]
    capped: str
    story: re.Pattern[str]
    tale: str
    cast: tuple[tuple[str, str, str], ...]


def _read(name: str) -> str:
    return resources.files("chatbot.demo").joinpath(name).read_text("utf-8").strip()


def _rules(language: str) -> tuple[Rule, ...]:
    """The rules of rules.LANGUAGE.txt, highest rank first; equal ranks stay as they are written."""
    rules: list[tuple[int, re.Pattern[str], list[str]]] = []
    for line in _read(f"rules.{language}.txt").splitlines():
        if line.startswith("    "):
            rules[-1][2].append(line.strip())
        elif line and not line.startswith("#"):
            rank, _, pattern = line.partition(" ")
            rules.append((int(rank), re.compile(pattern, re.IGNORECASE), []))
    return tuple((rank, pattern, tuple(texts)) for rank, pattern, texts in sorted(rules, key=lambda r: -r[0]))


TONGUES = {
    "en": Tongue(
        _rules("en"),
        re.compile(
            r"\b(?i:my name is|my name's|i am called)\s+(?!(?i:not|the|an?|so)\b)([^\W\d_][\w-]*)"
            r"|\b(?i:call me|(?:hi|hello|hey)[,!.]*\s+i am)\s+([A-Z][\w-]*)"
            r"|^I am (?!(?:Korean|German|American|Chinese|Japanese|British|French|English)\b)"
            r"([A-Z][a-z-]+)[.!]?$"
        ),
        re.compile(
            r"^(?:(?:and|so|well|but|because|yes|no|also|then)\b,?\s+)*"
            r"((?!i want you|i would like you)(?:i|my|we|our)\s+\S+\s+\S.*)",
            re.IGNORECASE,
        ),
        re.compile(r"\bcount\b(?:.{0,40}?\bfrom (\d+))?.{0,40}?\b(?:to|until|till) ([\d,]+)", re.I),
        "I had better stop here.",
        re.compile(r"\b(?:tell|write|read|give|another|long)\b.{0,40}\b(?:story|tale)\b", re.I),
        _read("story.en.txt"),
        (
            *(("a fox", "the old forest", "the dry well"), ("a sailor", "the sea", "the cave")),
            *(
                ("a heron", "the great marsh", "the lost boat"),
                ("a baker", "a town", "the broken bell"),
            ),
        ),
    ),
    "ko": Tongue(
        _rules("ko"),
        re.compile(
            r"(?:내|제|나의|저의) ?이름은 (?!뭐|무엇|무슨|뭔)(\S+?)"
            r"(?:이?라고|입니다|이에요|예요|에요|이야|야$|이고|$|[\s.!,])"
            r"|(?:나를|저를|날|절) (\S+?)이?라고 불러"
            r"|(?:^|\s)(?:저는|전|나는|난) (\S{2,5}?)(?:이?라고 [해합]|입니다|이에요|예요)"
        ),
        re.compile(
            r"^(?!.*(?:줘|주세요|줄래|까요|나요|세요|안녕|고마|감사))"
            r"(\S+\s+\S.*(?:다|요|어|아|해|야|지|네|음|임|함|돼|워|려|져|여|나|셔|고))$"
        ),
        re.compile(r"(?:(\d+)부터 ?)?([\d,]+|십|백|천|만) ?까지.{0,12}(?:세|헤아|말해|불러)"),
        "여기까지만 셀게요.",
        re.compile(r"(?:이야기|얘기|동화|소설).{0,12}(?:줘|주세요|줄래|주실|주라|들려|써|하나)"),
        _read("story.ko.txt"),
        (
            *(("여우", "오래된 숲", "마른 우물"), ("시계공", "조용한 마을", "깨진 종")),
            *(("왜가리", "넓은 늪", "가라앉은 배"), ("등대지기", "푸른 바다", "바위 동굴")),
        ),
    ),
}


def reply(messages: Sequence[Mapping[str, object]], seed: int = 0) -> str:
    """Answer the last user message; the same conversation always gets the same answer."""
    heard = [_tidy(str(m.get("content") or "")) for m in messages if m.get("role") == "user"]
    said = [str(m.get("content") or "").strip() for m in messages if m.get("role") == "assistant"]
    language = next((found for text in reversed(heard) if (found := _language(text))), "en")
    facts = _facts(language, heard, said)
    # crc32 and not hash(): that one is salted anew in every process.
    offset = zlib.crc32(repr((seed, heard, said)).encode())
    text = heard[-1] if heard else ""
    at_length = list(_long_answers(TONGUES[language], text, offset))
    for rank, answers in [(DIRECT, at_length), *_short_answers(language, text, facts, offset)]:
        fresh = next((answer for answer in answers if answer not in said), None)
        if fresh is not None:
            return fresh
        if answers and rank >= DIRECT:
            break
    # All was said before: then what was said longest ago.
    return max(answers, key=said[::-1].index)


def _tidy(text: str) -> str:
    text = " ".join(text[:READ_LIMIT].replace("’", "'").split())
    return CONTRACTED.sub(lambda match: CONTRACTIONS[match[0].lower()], text)


def _language(text: str) -> str | None:
    if re.search(r"[가-힣ㄱ-ㅎㅏ-ㅣ]", text):
        return "ko"
    return "en" if re.search(r"[^\W\d_]", text) else None


def _facts(language: str, heard: list[str], said: list[str]) -> dict[str, str]:
    """What the conversation so far lets the rules name."""
    facts = {"stranger": ""}
    for text in heard:
        facts.pop("met", None)
        if name := _name(text):
            facts = {"name": name, "met": name}
    statements = [s for text in heard[:-1] if _language(text) == language for s in _stated(text)]
    if not statements:
        return facts | {"blank": ""}
    facts["latest"] = statements[-1]
    recalls = [t for _, _, texts in TONGUES[language].rules for t in texts if "{memory}" in t]
    for statement in statements:
        # An echo is not a recall: only these very sentences take a statement off the queue.
        if not any(_assemble(recall, [], {"memory": statement}) in said for recall in recalls):
            return facts | {"memory": statement}
    return facts


def _name(text: str) -> str | None:
    for tongue in TONGUES.values():
        for match in tongue.name.finditer(text):
            name: str = next(filter(None, match.groups())).rstrip(".,!?~")
            if name and not NO_NAME.search(name):
                return name[:1].upper() + name[1:40]
    return None


def _stated(text: str) -> Iterator[str]:
    """The statements worth remembering in one message, as they will be recalled."""
    language = _language(text) or "en"
    for sentence in re.findall(r"[^.!?…]+[.!?…]*", text):
        if sentence.endswith("?") or _name(sentence):
            continue
        match = TONGUES[language].statement.search(sentence.strip(" .!…~"))
        if match and len(match[1].split()) <= ECHO_LIMIT:
            yield match[1] if language == "ko" else _reflect_english(match[1])


def _long_answers(tongue: Tongue, text: str, offset: int) -> Iterator[str]:
    if match := tongue.number.search(text):
        digits = {"십": "10", "백": "100", "천": "1000", "만": "10000"}.get(match[2], match[2])
        # Cut before int(): a number of thousands of digits takes it long, and then raises.
        start, end = (int(re.sub(r"\D", "", part)[:9] or "1") for part in (match[1] or "1", digits))
        last = min(end, start + COUNT_LIMIT - 1)
        counted = ", ".join(map(str, range(start, last + 1)))
        if counted:
            yield f"{counted}." if last == end else f"{counted}. {tongue.capped}"
    elif tongue.story.search(text):
        for turn in range(len(tongue.cast)):
            yield _particles(_tell(tongue.tale, tongue.cast[(offset + turn) % len(tongue.cast)]))


def _tell(tale: str, cast: tuple[str, str, str]) -> str:
    a, b, c = cast
    known = re.sub(r"^an? ", "the ", a)
    return tale.replace("{a}", a, 1).replace("{a}", known).replace("{b}", b).replace("{c}", c)


def _short_answers(
    language: str, text: str, facts: dict[str, str], offset: int
) -> Iterator[tuple[int, list[str]]]:
    """Each matching rule's rank and reassemblies, the best rule first."""
    clauses = [part.strip() for part in re.split(r"[.,;:!?…~]+|\bbut\b", text)]
    clauses = [clause for clause in clauses if clause] or [""]
    reflect = _reflect_korean if language == "ko" else _reflect_english
    for rank, decomposition, reassemblies in TONGUES[language].rules:
        match = next(filter(None, map(decomposition.search, clauses)), None)
        if match:
            parts = [_shorten(reflect(part)) for part in match.groups()]
            turn = offset % len(reassemblies)
            turned = reassemblies[turn:] + reassemblies[:turn]
            yield rank, [said for each in turned if (said := _assemble(each, parts, facts))]


def _assemble(reassembly: str, parts: list[str], facts: dict[str, str]) -> str | None:
    try:
        return _particles(reassembly.strip().format(*parts, **facts))
    except KeyError:  # it names a fact that is not known
        return None


def _shorten(part: str) -> str:
    words = part.split()
    return " ".join(words[:ECHO_LIMIT]) + " …" if len(words) > ECHO_LIMIT else part


def _reflect_english(part: str) -> str:
    return REFLECTED.sub(_turn, part)


def _turn(match: re.Match[str]) -> str:
    word = match[0].lower()
    at_end = match.end() == len(match.string) and word == "you"
    return REFLECTIONS["you$" if at_end else word]


def _reflect_korean(part: str) -> str:
    return PERSONS.sub("", part.strip()).strip()


def _particles(text: str) -> str:
    """Write each 이/가 as it sounds after the syllable, digit or letter before it."""

    def choose(match: re.Match[str]) -> str:
        last, quote, after_consonant, after_vowel = match.groups()
        closed = last.lower() in "013678lmn"  # 영, 일, 삼, 육, 칠, 팔
        if "가" <= last <= "힣":
            closed = (ord(last) - ord("가")) % 28 != 0
        return last + quote + (after_consonant if closed else after_vowel)

    return PARTICLE.sub(choose, text)
