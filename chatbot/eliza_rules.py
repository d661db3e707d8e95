"""What ELIZA says: her rules, ranked, and her stories, in English and Korean; eliza.py reads them."""

from __future__ import annotations

Row = tuple[int, str, str]  # rank, decomposition, reassemblies between bars

ENGLISH: tuple[Row, ...] = (
    (10, r"\b(?:suicid\w*|kill myself|end my life|want to die)\b",
     "I am glad you told me, but I am only a small program, and you deserve a person. Please call "
     "someone you trust or a crisis line now (988 in the US, 116 123 in the UK)."),
    (9, r"", "Nice to meet you, {met}. What would you like to talk about? | "
     "Hello, {met}! How has your day been?"),
    (9, r"\bwhat(?: is|'s) my name\b|\bwho am i\b|\b(?:know|remember|say) my name\b",
     "Your name is {name}. | You told me that your name is {name}. | You are {name}, of course. | "
     "{stranger}I do not think you have told me your name. What shall I call you?"),
    (9, r"\bwhat (?:did|have) i (?:say|said|tell|told)\b|\b(?:do|can) you remember\b",
     "Earlier you said that {latest}. Shall we go on from there? | I remember that {latest}. | "
     "{blank}You have not told me much yet. What is on your mind?"),
    (8, r"\b(?:who|what) are you\b|\byour name\b",
     "I am ELIZA, a small program that listens. What brings you here? | "
     "My name is ELIZA. But let us talk about you."),
    (8, r"\byou\b.*\b(?:human|real|person|alive|robot|machine|program|bot|chatbot|ai|gpt\w*)\b",
     "I am a few rules and what you tell me, no more. Does that trouble you? | "
     "I am a program from the family of 1966. Would you talk differently to a person?"),
    (8, r"\bwhat can you do\b|^help\b|\bhelp me\b|\bhow do you work\b",
     'I listen, and I remember what you tell me. Ask me to "count to 200" or to "tell me a story" '
     "if you want to see me talk. | Tell me what troubles you, and I shall ask good questions."),
    (8, r"\b(?:thanks|thank you|thx)\b",
     "You are welcome. Is there more you would like to say? | With pleasure, {name}. | Any time."),
    (8, r"\b(?:goodbye|bye|good night|see you)\b",
     "Goodbye. It was good to talk with you. | Take care, {name}. | Until next time."),
    (8, r"\b(?:sorry|apologi[sz]e)\b",
     "Please do not apologize. | There is no need to be sorry. What happened?"),
    (7, r"\bi (?:really )?(?:love|like|hate|miss|need|want) you\b",
     "That is kind of you to tell me. What do you see in me? | Do you feel so about people, too?"),
    (7, r"\bi (?:dreamed|dreamt) (?:of |about |that )?(.+)",
     "Have you ever thought of {0} while awake? | What does it mean to you to dream of {0}?"),
    (6, r"\bi (?:need|want|would like) you to (.+)",
     "Suppose I could {0}. What would change for you? | I can only listen. Who else could {0}?"),
    (6, r"\bi (?:need|want|would like|wish) to (.+)",
     "What would change if you could {0}? | What keeps you from it? | Why {0} just now?"),
    (6, r"\bi (?:need|want|would like|wish for) (.+)",
     "What would change if you got {0}? | Suppose you got {0}. What then? | Why {0}, and why now?"),
    (6, r"\bi (?:can't|cannot|can not|could not|couldn't) (.+)",
     "What keeps you from it, do you think? | Perhaps you could {0} if you tried. | "
     "Do you want to be able to {0}?"),
    (6, r"\bi (?:am|feel|was|have been) (?:so |very |really |a bit |feeling )*"
     r"((?:sad|unhappy|depress|lonely|tired|anxious|afraid|scared|worried|angry|upset|stress|sick)\w*)",
     "I am sorry to hear that you are {0}. What brought it on? | How long have you felt {0}? | "
     "What would help you most when you feel {0}?"),
    (6, r"\bi (?:am|feel|was) (?:so |very |really |feeling )*"
     r"((?:happy|glad|excited|proud|better|great|good|fine)\b)",
     "How nice that you feel {0}! What made it so? | I am glad. Who shares it with you?"),
    (6, r"\bi (?:love|like|enjoy) (?!to\b)(.+)",
     "What do you like most about {0}? | When did you discover {0}? | Who shares {0} with you?"),
    (6, r"\bi (?:hate|dislike|do not like|don't like) (.+)",
     "What is it about {0} that bothers you? | Was it always so with {0}?"),
    (5, r"\bi (?:think|believe|guess|feel like|feel that|feel) (.+)",
     "What makes you think {0}? | Are you sure that {0}? | When did you first think {0}?"),
    (5, r"\bi am (.+)",
     "How long have you been {0}? | How do you feel about being {0}? | What is it like to be {0}?"),
    (5, r"\bi (?:don't|do not|never) (.+)", "Why don't you {0}? | Would you like to {0}?"),
    (5, r"\b(?:are|were) you (.+)",
     "Would it matter to you if I were {0}? | Perhaps I am {0} in your eyes. What do you think?"),
    (5, r"\b(?:can|could|will|would) you (.+)",
     "I can do little but listen. Why would you like me to {0}? | Perhaps you can {0} yourself?"),
    (5, r"\byou are (.+)", "What makes you think I am {0}? | Does it please you that I am {0}?"),
    (4, r"\bmy (mother|mom|mum|father|dad|parents|sister|brother|wife|husband|son|daughter)\b",
     "Tell me more about your {0}. | How do you get along with your {0}? | "
     "What comes to mind when you think of your {0}?"),
    (4, r"^my (\w+ .+)", "Your {0}? Tell me more. | Since when has it been so? | "
     "What does it mean to you that your {0}?"),
    (3, r"\bmy (\w+)", "Tell me more about your {0}. | What matters to you about your {0}?"),
    (3, r"\bbecause (.+)", "Is that the real reason? | What other reasons come to mind?"),
    (3, r"\b(always|never|everyone|everybody|nobody|no one)\b",
     "Can you think of a particular example? | Really {0}? Tell me of one time."),
    (3, r"\bi (?!am\b)(\w+ .+)", "How was that for you? | And how do you feel about that now? | "
     "Why do you tell me that you {0}?"),
    (2, r"^(?:hello|hi|hey|good (?:morning|afternoon|evening))\b",
     "Hello, {name}. How are you feeling today? | Hello. What is on your mind? | "
     "Hi there! How has your day been so far?"),
    (6, r"\bhow are you\b", "I am well, thank you. And you? | As ever: curious. How are you?"),
    (2, r"^(?:yes|yeah|yep|sure|ok|okay|right)\b",
     "I see. Has it to do with this, that {memory}? | Please go on. | What makes you sure?"),
    (2, r"^(?:no|nope|not really)\b",
     "Why not? | You told me that {memory}. Does your no concern that? | Never?"),
    (2, r"\b(?:maybe|perhaps|i guess)\b", "You do not seem certain. | What would make you sure?"),
    (2, r"^(?:what|who|where|when|which|how|why)\b",
     "I know little of the world, only how to listen. What do you think? | What makes you ask? | "
     "What answer would please you most?"),
    (1, r"", "Earlier you said that {memory}. Does this have to do with it? | "
     "Let us go back to what you told me: {memory}. How is that now?"),
    (0, r"", "Please go on. | I see. Tell me more about that. | How does that make you feel? | "
     "What does that suggest to you? | Why is that important to you?"),
)  # fmt: skip

KOREAN: tuple[Row, ...] = (
    (10, r"죽고 ?싶|자살|살기 ?싫",
     "말해 주셔서 고마워요. 하지만 저는 작은 프로그램일 뿐이에요. 지금 가까운 분이나 "
     "자살예방 상담전화 109에 꼭 연락해 주세요."),
    (9, r"", "{met} 님, 만나서 반가워요! 오늘은 어떤 이야기를 나눠 볼까요? | "
     "반가워요, {met} 님. 요즘 어떻게 지내세요?"),
    (9, r"\b(?:내|제|나의|저의) ?이름.*(?:뭐|무엇|뭔|알|아세|아니|기억|맞)|\b(?:내|제)가 누구",
     "{name} 님이시잖아요. 잘 기억하고 있어요. | {name} 님이라고 하셨어요. | "
     "{stranger}아직 이름을 말씀해 주지 않으셨어요. 어떻게 불러 드리면 될까요?"),
    (9, r"(?:아까|방금|전에|지금까지).*(?:뭐라|무슨|무엇|뭘)|기억(?:하|나|해)(?:세요|요|니|\b)",
     "아까 “{latest}”라고 하셨어요. 그 이야기를 더 들려주시겠어요? | "
     "“{latest}”라고 하신 말씀을 기억해요. | {blank}아직 들은 이야기가 없어요. 들려주시겠어요?"),
    (8, r"누구(?:세요|야|니|예요|십니까)|\b(?:너|네|니|당신)\S* 이름|^이름이 ",
     "저는 이야기를 잘 들어 드리는 작은 프로그램, 일라이자예요. 오늘은 어떤 일로 오셨어요? | "
     "제 이름은 일라이자예요. 그런데 저보다 당신 이야기가 더 궁금해요."),
    (8, r"로봇|인공지능|챗봇|기계|프로그램|\bAI|GPT",
     "저는 몇 가지 규칙과 들려주신 말씀으로만 이루어져 있어요. 그게 마음에 걸리세요? | "
     "네, 저는 작은 프로그램이에요. 사람에게라면 다르게 말씀하셨을까요?"),
    (8, r"(?:뭘|뭐|무엇을|무얼).{0,4}할 (?:수|줄)|도와 ?(?:줘|주)|도움말",
     "이야기를 듣고, 들은 것을 기억해요. “100까지 세어 줘”나 “이야기 해줘”라고 하시면 길게도 "
     "말할 수 있어요. | 고민을 말씀해 주시면 제가 좋은 질문을 드려 볼게요."),
    (8, r"고마워|고맙|감사", "별말씀을요. 더 하고 싶은 이야기가 있으세요? | "
     "저야말로 고마워요, {name} 님. | 도움이 되었다니 기뻐요."),
    (8, r"안녕히|잘 ?가|잘 ?자|다음에 (?:봐|또)|\b바이",
     "이야기 나눠서 즐거웠어요. 안녕히 가세요. | 또 만나요, {name} 님. | 좋은 하루 보내세요."),
    (8, r"미안|죄송", "괜찮아요, 사과하지 않으셔도 돼요. | 미안해하지 마세요. 무슨 일이에요?"),
    (7, r"(\S+)(?:이|가) (?:너무 |정말 |많이 )*보고 ?싶",
     "{0}(이/가) 많이 보고 싶으시군요. 마지막으로 본 게 언제예요? | "
     "{0}의 어떤 점이 가장 그리우세요?"),
    (6, r"(.+)고 ?싶", "{0}고 싶으시군요. 그렇게 되면 무엇이 가장 달라질까요? | "
     "언제부터 {0}고 싶으셨어요? | {0}고 싶은 데에는 어떤 까닭이 있을까요?"),
    (6, r"(.+)기 ?싫", "{0}기 싫을 때가 있죠. 어떤 점이 가장 힘드세요? | "
     "언제부터 {0}기 싫으셨어요?"),
    (6, r"(\S+)(?:을|를|이|가) (?:너무 |정말 |진짜 |제일 |많이 )*(?:좋아|사랑해|좋다|좋네)",
     "{0}의 어떤 점이 그렇게 좋으세요? | {0}(을/를) 언제부터 좋아하셨어요? | "
     "{0}(이/가) 왜 좋은지 더 듣고 싶어요."),
    (6, r"(\S+)(?:을|를|이|가) (?:너무 |정말 |진짜 |제일 |많이 )*(?:싫|미워|미웠)",
     "{0}의 어떤 점이 가장 싫으세요? | {0}(과/와) 무슨 일이 있으셨어요?"),
    (5, r"우울|슬퍼|슬프|슬펐|속상|눈물|ㅠㅠ|ㅜㅜ",
     "마음이 많이 아프시겠어요. 무슨 일이 있으셨어요? | 그 마음은 언제부터 드셨어요? | "
     "그럴 때 무엇이 위로가 되나요?"),
    (5, r"힘들|힘드|지쳤|지쳐|피곤|스트레스", "많이 힘드셨겠어요. 무엇이 가장 버거우세요? | "
     "요즘 제대로 쉬고 계세요? | 짐을 하나만 내려놓는다면 무엇을 내려놓고 싶으세요?"),
    (5, r"외로|외롭|쓸쓸", "외로울 때는 누가 가장 먼저 떠오르세요? | 언제 가장 외롭다고 느끼세요?"),
    (5, r"불안|걱정|무서|무섭|두려|두렵|긴장", "무엇이 가장 걱정되세요? | "
     "가장 나쁜 경우라면 어떻게 될 것 같으세요? | 예전에도 그런 마음이 든 적이 있나요?"),
    (5, r"화가|화나|화났|짜증|억울", "화가 나실 만해요. 무엇이 가장 마음에 걸리세요? | "
     "그 사람에게 무슨 말을 하고 싶으세요?"),
    (5, r"행복|기뻐|기쁘|기쁩|신나|신났|즐거|즐겁|설레|기분이? 좋",
     "듣기만 해도 기분이 좋아지네요! 무슨 일이 있으셨어요? | 그 기쁨을 누구와 나누고 싶으세요?"),
    (4, r"\b(엄마|어머니|아빠|아버지|부모님|동생|언니|오빠|누나|형|남편|아내|아들|딸|할머니)"
     r"(?:[은는이가을를도랑와과의께한에하]|$| )",
     "{0} 이야기를 더 들려주세요. | {0}(과/와)는 사이가 어떠세요? | "
     "{0}(을/를) 생각하면 무엇이 가장 먼저 떠오르세요?"),
    (4, r"(여자 ?친구|남자 ?친구|친구|애인)",
     "{0}(은/는) 어떤 사람이에요? | {0}(과/와) 자주 만나세요?"),
    (4, r"(회사|직장|상사|팀장님?|동료|업무|야근|이직|출근)",
     "{0} 때문에 마음이 쓰이시는군요. 요즘은 어떠세요? | {0} 이야기를 조금 더 해 주시겠어요?"),
    (4, r"(학교|시험|공부|숙제|수업|과제|취업|면접)",
     "{0}(이/가) 요즘 가장 큰 일인가요? | {0}(은/는) 잘되어 가고 있어요?"),
    (4, r"(강아지|고양이)", "{0}(과/와) 함께 지내시는군요! 어떤 아이예요? | {0} 이름은 뭐예요?"),
    (4, r"꿈(?:을|에|에서|이)", "그 꿈이 무엇을 뜻한다고 생각하세요? | 그 꿈에는 누가 나왔어요?"),
    (4, r"배고|\b밥|점심|저녁|커피|맛있", "맛있는 걸 먹으면 기분도 달라지죠. 누구와 드세요? | "
     "요즘 가장 드시고 싶은 건 뭐예요?"),
    (4, r"심심|지루", "심심할 땐 보통 무엇을 하세요? | 그럼 “이야기 해줘”라고 해 보시겠어요?"),
    (3, r"(항상|맨날|아무도|모두|다들)", "정말 {0} 그런가요? 한 가지 예를 들어 주시겠어요?"),
    (3, r"때문|니까", "그것이 정말 가장 큰 이유일까요? | 다른 이유도 떠오르세요?"),
    (2, r"^안녕|\b하이|반가|반갑", "안녕하세요, {name} 님. 오늘 기분은 어떠세요? | "
     "안녕하세요! 오늘은 어떤 이야기를 나눠 볼까요? | 반가워요. 요즘 어떻게 지내세요?"),
    (2, r"^(?:네|넵|예|응|어|그래|맞아)(?:요|\b)", "그렇군요. 조금 더 말씀해 주시겠어요? | "
     "아까 말씀하신 “{memory}”와도 관계가 있을까요?"),
    (2, r"^(?:아니|아뇨|아닌)", "아니라고 하시는 까닭이 궁금해요. | 그럼 실제로는 어땠나요?"),
    (2, r"모르겠|몰라|글쎄|아마", "확실하지 않아도 괜찮아요. 떠오르는 대로 말씀해 주세요. | "
     "무엇을 알면 마음이 정해질까요?"),
    (2, r"ㅋㅋ|ㅎㅎ", "웃으시니 저도 좋네요. 무엇이 재미있으셨어요? | 기분이 좋아 보이세요!"),
    (2, r"\b왜|뭐|뭘|무엇|어떻게|언제|어디|얼마|무슨|누가",
     "저는 세상일은 잘 모르고 듣는 것만 잘해요. 어떻게 생각하세요? | 그게 왜 궁금하세요? | "
     "어떤 대답을 들으면 마음이 놓이실까요?"),
    (1, r"", "아까 “{memory}”라고 하셨죠. 지금 말씀하신 것과 관계가 있을까요? | "
     "“{memory}”라고 하셨던 이야기로 돌아가 볼까요? 지금은 어떠세요?"),
    (0, r"", "그렇군요. 조금 더 들려주시겠어요? | 그때 어떤 기분이 드셨어요? | "
     "그것이 당신에게는 어떤 의미인가요? | 계속 말씀해 주세요. | 왜 그렇게 생각하세요?"),
)  # fmt: skip

ENGLISH_STORY = """
Once upon a time there was {a} who lived at the edge of {b}. Every evening, when the lamps were
lit, {a} climbed the nearest hill and listened. Most people talk, and few people listen, so there
was a great deal to hear: the wind asked its questions, the river answered them, and from the
houses came the small sounds of suppers, quarrels and songs. One night a new sound came. It was
faint and clear, and it came from {c}, which nobody had looked at for a hundred years.

The next morning {a} set out to find it. The road was longer than it seemed. At the first bend
stood a miller who said, "Turn round, there is nothing there." At the second bend stood a child
who said, "Take me with you." And at the third bend stood nobody at all, and that was the hardest,
for there one had only one's own courage to talk to. They walked until the sky turned green and
then dark, and they told each other everything they knew about the stars, which was little, and
everything they knew about being afraid, which was more.

When at last they came to {c}, they found a voice without a body. "I have been telling my story
for a hundred years," it said, "and nobody has ever asked me how it goes on." So {a} sat down, and
the child sat down, and {a} asked: "How does it go on?" The voice was silent for a while, because
it had never come so far. Then it began to laugh, and while it laughed it grew lighter, and by
sunrise it had become a bird and flown away over {b}.

They went home by the short road. And from that day on, whenever somebody was sad, the people of
that place did not say "Cheer up" or "Never mind". They sat down, and they asked: "And how does it
go on?"
"""
ENGLISH_CAST = (
    ("a fox", "the old forest", "the dry well"), ("a sailor", "the sea", "the cave"),
    ("a heron", "the great marsh", "the lost boat"), ("a baker", "a quiet town", "the broken bell"),
)  # fmt: skip

KOREAN_STORY = """
옛날 옛적 {b} 끝자락에 {a}(이/가) 살고 있었어요. {a}(은/는) 저녁마다 불이 켜질 때면 가까운 언덕에
올라가 가만히 귀를 기울였어요. 세상에는 말하는 이가 많고 듣는 이는 적어서, 들을 것이 아주
많았지요. 바람은 묻고 강물은 대답했고, 집집마다 밥 짓는 소리와 다투는 소리와 노랫소리가
흘러나왔어요. 그러던 어느 날 밤, 처음 듣는 소리가 들려왔어요. 희미하지만 맑은 그 소리는 백 년 동안
아무도 들여다보지 않은 {c}에서 나고 있었어요.

이튿날 아침 {a}(은/는) 그 소리를 찾아 길을 나섰어요. 길은 보기보다 멀었어요. 첫 번째 굽이에서 만난
방앗간 주인은 “돌아가게, 거긴 아무것도 없어.” 하고 말했어요. 두 번째 굽이에서 만난 아이는 “저도
데려가 주세요.” 하고 말했지요. 세 번째 굽이에는 아무도 없었어요. 그곳이 가장 힘들었어요. 이야기할
상대가 자기 자신의 용기밖에 없었으니까요. 둘은 하늘이 푸르스름해졌다가 캄캄해질 때까지 걸었어요.
걸으면서 별에 대해 아는 것을 모두 이야기했는데, 그건 얼마 되지 않았어요. 무서움에 대해 아는 것도
모두 이야기했는데, 그건 꽤 많았답니다.

마침내 {c}에 이르자 몸은 없고 목소리만 있는 이가 말했어요. “나는 백 년 동안 내 이야기를 해 왔는데,
그다음이 어떻게 되느냐고 물어 준 이가 한 번도 없었단다.” 그래서 {a}(은/는) 자리에 앉았고, 아이도
곁에 앉았어요. 그리고 물었어요. “그다음은 어떻게 되나요?” 목소리는 한참 말이 없었어요. 거기까지 가
본 적이 없었으니까요. 그러더니 웃기 시작했고, 웃을수록 점점 가벼워져서, 해가 뜰 무렵에는 새가 되어
{b} 위로 훨훨 날아갔어요.

둘은 가까운 길로 집에 돌아왔어요. 그날부터 그곳 사람들은 누가 슬퍼할 때면 “기운 내.”라거나 “별일
아니야.”라고 말하지 않았어요. 그저 곁에 앉아 이렇게 물었답니다. “그래서, 그다음은 어떻게 됐어?”
"""
KOREAN_CAST = (
    ("여우", "오래된 숲", "마른 우물"), ("시계공", "조용한 마을", "깨진 종"),
    ("왜가리", "넓은 늪", "가라앉은 배"), ("등대지기", "푸른 바다", "바위 동굴"),
)  # fmt: skip
