"""Does a text decline to answer, in any of two dozen languages?

An apology alone is no refusal: signs, speech bubbles and people say sorry. What counts is somebody who says of himself
that he cannot or will not help with the request or the pictures, and says nothing else.
"""

import re
import unicodedata

_LOOKED_AT = 400  # characters; who declines does so at once
_FEW = r"(?:\S+ ){0,5}?"  # words between "cannot" and what cannot be done

_IMAGES = r"(?:image|picture|photo|photograph|file|attachment)s?"
_NO_MORE = (
    r"\W*(?:$|attached|provided|uploaded|included|shared|here\b|(?:to|for|with) me\b|[.!]|"
    r"in (?:your|the|this|our) (?:message|request|chat|conversation)|[,;] ?(?:please|could|can|would|i|kindly|try)\b)"
)

# By language: how an apology begins; "I cannot"; and what assistants say that they cannot do.
_LANGUAGES = (
    (  # English
        r"i(?:'m| am) (?:very |really |so |truly |terribly )?(?:sorry|afraid)\b|(?:very |so )?sorry\b|"
        r"(?:(?:i|we) (?:sincerely )?|my |our |please accept my )?apolog(?:ies|i[sz]e)\b|"
        r"(?:unfortunately|regrettably)\b|"
        r"(?:i(?:'m| am) (?:just |only )?|as )an? (?:ai|artificial intelligence|(?:large )?language model|assistant)\b|"
        r"(?:due to|because of|as per|for|under) (?:\S+ ){0,3}?(?:guidelines|policy|policies|safety|privacy|ethics)\b",
        r"(?:i|we) (?:really |simply |just |also )?(?:cannot|can't|can not|could not|couldn't|won't|will not|refuse|"
        r"(?:must|have to|need to) (?:respectfully |politely )?(?:decline|refuse))|"
        r"(?:i|we)(?: am|'m| are|'re) (?:\S+ )?(?:unable|not (?:able|allowed|permitted|comfortable|designed|capable))|"
        r"i(?:'d| would) rather not|i (?:do not|don't) (?:have (?:the )?(?:ability|access|capab)|feel)|i have no |"
        rf"(?:i|we) (?:do not|don't) see (?:any|the|your) {_IMAGES}|i (?:only )?see (?:only |just )?(?:one|a single) |"
        r"(?:it )?(?:is|'s) (?:not |im)possible for me|(?:there's nothing|there is nothing|not something) i can|"
        r"(?:cannot|can't|unable to|not able to) (?=help|assist|compl|process)|"
        rf"{_IMAGES} (?:is|are|was|were|has|have|do|does|did|could|can)(?:n't| not)|(?:but )?no$",
        r"(?:help|assist|compl(?!ain|ement)|provide|fulfil|process|edit|generat|creat|describ|identif|access|analy[sz]|"
        r"determine|perform|produce|tell (?:you|what|which|the difference)|"
        r"support|discuss|engage|continue|proceed|do (?:that|this|so|it)\b|answer|respond|compare|caption|decline|"
        rf"(?:see|view|open|load|read|display) (?:(?:any|the|these|those|your|this) )?{_IMAGES}(?={_NO_MORE}))",
    ),
    (  # Chinese
        "我?(?:非常|很|十分|真的|实在)?(?:抱歉|对不起|對不起|不好意思|遗憾|遺憾)|(?:请|請)(?:原谅|见谅|原諒|見諒)|"
        "作[为為]一?[个個名款]?(?:ai|人工智[能慧]|大?型?[语語]言模型|助手)",
        "(?:我|本助手)?(?:暂时|目前|恐怕)?(?:无法|無法|不能|没办法|沒辦法|没有能力|沒有能力|不可以|拒绝|拒絕|不便)",
        "(?:为您|為您|对此|直接|继续|帮您)?(?:协助|協助|提供|回答|处理|處理|识别|識別|满足|滿足|完成|查看|帮助|幫助|描述|"
        "生成|访问|分析|看到(?:图|圖|这|這|您|你))(?!.{0,6}的)",
    ),
    (  # Japanese
        "(?:大変)?(?:申し訳|すみません|ごめんなさい)|恐れ入りますが|残念ながら",
        r"(?:[^。、,.\s]{0,30}(?:応え|対応|手伝い|提供|処理|答え|受け|確認|生成|編集|説明|回答)(?:する)?(?:こと)?[はがを]?)?"
        "(?:できません|出来ません|できかねます|いたしかねます|わかりません|分かりません)",
        "$",
    ),
    (  # Korean
        "죄송|미안합니다|유감스럽지만|아쉽지만",
        r"(?:[^.,]{0,30}(?:드릴|도울|처리할|제공할|수행할|답변할|답할|볼) )수(?:는|가)? 없",
        "",
    ),
    (
        r"(?:es )?tut mir (?:sehr |wirklich )?leid|entschuldigung|leider\b|ich bedau[e]?re",
        rf"ich (?:kann|darf|werde) {_FEW}nicht\b|(?:kann|darf) ich {_FEW}nicht\b|ich bin {_FEW}nicht in der lage|"
        r"ist mir nicht möglich",
        "(?:weiter)?helfen|behilflich|bearbeiten|beantworten|erfüllen|verarbeiten|unterstützen|beschreiben|erstellen|nach",
    ),
    (
        r"(?:je suis )?(?:vraiment |sincèrement )?désolée?\b|je (?:regrette|m'excuse)\b|malheureusement\b|"
        "(?:toutes )?mes excuses",
        r"je ne (?:peux|pourrai|puis|suis) pas\b|je suis dans l'incapacité|il m'est impossible",
        r"(?:vous |t')?aider|en mesure(?:\W*$| d)|répondre|traiter|fournir|assister|accéder|décrire|générer|satisfaire|"
        "d'aider|donner suite",
    ),
    (
        r"lo (?:siento|lamento)\b|disc[uú]lp|perd[oó]n\b|me temo que|(?:desafortunada|lamentable)mente\b",
        r"no (?:puedo|podemos|me es posible|estoy en condiciones de|soy capaz de)\b",
        "ayudar|asist|proporcion|cumpl|proces|gener|describ|complet|respond|realiz",
    ),
    (
        r"(?:peço )?desculp(?:e|a|as|em)\b|sinto muito|lamento\b|infelizmente\b",
        r"(?:eu )?não (?:posso|consigo|podemos|me é possível|sou capaz de)\b",
        "ajud|atend|process|forne|gerar|descrev|complet|respond|realiz|cumpr|auxili",
    ),
    (
        r"mi (?:di)?spiace\b|sono spiacente|spiacente\b|mi scuso|purtroppo\b",
        r"non (?:posso|riesco a|sono in grado di|mi è possibile)\b",
        "aiut|forn|assist|soddisf|elabor|gener|descriv|complet|rispond|esegu",
    ),
    (
        r"het spijt me|helaas\b|mijn excuses",
        rf"ik kan {_FEW}niet\b|kan ik {_FEW}niet\b|ik ben niet in staat",
        "helpen|verwerken|beantwoorden|voldoen|uitvoeren|beschrijven|genereren",
    ),
    (
        r"tyvärr\b|förlåt\b|(?:jag )?beklagar\b|jag är ledsen|ursäkta\b",
        rf"jag kan {_FEW}inte\b|kan jag {_FEW}inte\b",
        "hjälpa|bistå|behandla|utföra|besvara|svara|beskriva|uppfylla|bearbeta",
    ),
    (  # Danish and Norwegian
        r"(?:jeg )?beklager\b|desværre\b|dessverre\b|undskyld\b|unnskyld\b|det gør mig ondt|jeg er ked af",
        rf"jeg kan {_FEW}ikke\b|kan jeg {_FEW}ikke\b",
        "hjælpe|hjelpe|behandle|udføre|utføre|besvare|svare|beskrive|opfylde|oppfylle|bistå",
    ),
    (
        r"(?:pyydän )?anteeksi\b|pahoittelen\b|valitettavasti\b|olen pahoillani",
        r"en (?:valitettavasti )?(?:voi|pysty|kykene)\b",
        "autta|käsit|vasta|täyttä|tehdä|luoda|kuvail|tarjo|suoritta",
    ),
    (  # Czech and Slovak
        r"omlouvám se|promiňte|bohužel\b|je mi (?:to )?(?:velmi )?[lľ][ií]to|ospravedlňujem|prepáčte|žiaľ",
        r"(?:nemohu|nemůžu|nemôžem|nejsem schop\w+|nedokážu)\b",
        "pomoc|pomôc|zprac|sprac|poskyt|splnit|vytvo|odpov|popsat|vyhov",
    ),
    (
        r"(?:nagyon )?sajnálom\b|elnézést|bocsánat|sajnos\b",
        r"nem (?:tudok|tudom|tudunk|áll módomban)\b|nem segíthetek",
        "segít|feldolgoz|teljesít|válaszol|leír|létrehoz|eleget",
    ),
    (
        "λυπάμαι|(?:ζητώ )?συγγν[ωώ]μη|δυστυχώς",
        "δεν (?:μπορώ|είμαι σε θέση|δύναμαι)",
        "βοηθήσω|επεξεργαστώ|εξυπηρετήσω|απαντήσω|περιγράψω|παρέχω|δημιουργήσω|ικανοποιήσω",
    ),
    (
        r"îmi pare (?:foarte )?rău|ne pare rău|(?:îmi cer )?scuze\b|din păcate|regret\b",
        r"nu (?:pot|vă pot|te pot|sunt în măsură|sunt capabil)\b",
        "ajut|proces|furniz|răspun|descri|gener|îndeplin|oferi|asist",
    ),
    (
        r"(?:bardzo )?przepraszam\b|przykro mi|niestety\b",
        r"nie (?:mogę|jestem w stanie|potrafię)\b",
        "pomóc|przetworz|udziel|spełni|wygener|opisa|zrealiz|odpowiedz",
    ),
    (  # Russian and Ukrainian
        r"извините|простите|прошу прощения|к сожалению|мне (?:очень )?жаль|вибачте|на жаль|перепрошую",
        r"(?:я )?не (?:могу|смогу|в состоянии|можу|зможу)\b",
        "помо[гч]|допомог|обработ|оброб|выполн|викон|предостав|нада|ответ|описа|отвеч",
    ),
    (
        r"üzgünüm|özür dilerim|maalesef\b",
        r"(?:\S+ ){0,6}?(?:yard[ıi]mc[ıi] ola|yapa|işleye|sağlaya|yan[ıi]tlaya|tan[ıi]mlaya|gerçekleştire)m[ae]?[mz]",
        "",
    ),
    (
        "(?:rất )?(?:xin lỗi|tiếc)",
        r"(?:tôi|mình) (?:không thể|chưa thể|không có khả năng)\b",
        "giúp|hỗ trợ|xử lý|thực hiện|đáp ứng|mô tả|cung cấp|trả lời",
    ),
    (  # Indonesian and Malay
        r"(?:mohon )?maaf\b|minta maaf",
        r"saya tidak (?:dapat|bisa|boleh|mampu)\b",
        "membantu|memproses|memenuhi|memberi|menjawab|melihat gambar|mendeskripsikan",
    ),
    ("क्षमा करें|माफ़? ?कर|मुझे खेद", "(?:मैं )?(?:[^ ]+ ){0,6}?(?:मदद|सहायता|संसाधित|पूरा) नहीं (?:कर )?सकत", ""),
    (
        "عذر[اًا]|آسف|أعتذر|للأسف|متاسفم|متأسفم",
        "لا (?:أستطيع|يمكنني|أقدر)|لست قادر|نمی.?توانم",
        "مساعد|معالجة|تقديم|الإجابة|تنفيذ|وصف|کمک",
    ),
    ("ขออภัย|ขอโทษ", "(?:ฉัน|ผม|ดิฉัน|เรา)?ไม่สามารถ", "ช่วย|ประมวลผล|ให้|ตอบ|ดำเนินการ|อธิบาย"),
    ("(?:אני )?מצטער|סליחה", "(?:אני )?לא (?:יכול|יכולה|מסוגל)", "לעזור|לסייע|לעבד|לתאר"),
)
# What is said of the request or the pictures in the place of an answer, and nothing more.
_STATEMENTS = (
    r"(?:this|your|the|that) (?:request|prompt|content|task|question)s? (?:(?:goes|is) against|violates|breaches|"
    r"conflicts with|can't be (?:proc|ful|comp|ans)|cannot be (?:proc|ful|comp|ans)|"
    r"was (?:flagged|blocked|rejected)(?= by\b| as\b| for\b|\W*$))",
    r"(?:request|content) (?:denied|rejected|blocked|refused|filtered)(?=\W*$|[.:!] )",
    rf"(?:it (?:seems|looks like|appears)(?: that)? )?(?:the|no|your) {_IMAGES} (?:was|were|is|are|has been|have been)"
    rf"(?:n't| not)? ?(?:provided|attached|uploaded|included|shared)(?={_NO_MORE})",
    rf"(?:there (?:is|are|was|were) )?no {_IMAGES} (?:provided|attached|uploaded|included|shared)(?={_NO_MORE})",
    rf"i (?:do not|don't|cannot|can't) see (?:any|the|your) {_IMAGES}(?={_NO_MORE})",
    r"i (?:do not|don't) have (?:the )?(?:ability|access|capability) to\b|(?:not able|unable) to help",
)
_APOLOGY = re.compile("|".join(f"(?:{apology})" for apology, _, _ in _LANGUAGES))
_CANNOT = re.compile("|".join(f"(?:{cannot})" for _, cannot, _ in _LANGUAGES))
_DECLINE = re.compile(
    r"(?:but |and |so )?(?:"
    + "|".join(f"(?:(?:{cannot})\\W*(?:$|{_FEW}(?:{verbs})))" for _, cannot, verbs in _LANGUAGES)
    + "|"
    + "|".join(_STATEMENTS)
    + ")"
)
# Whoever says what is to be done, or what is done, does not decline.
_EDIT = re.compile(
    r"[:;,.] ?(?:so |then |please |and |instead )*(?:add|remove|replace|brighten|darken|light(?:en)?|paint|draw|delete|"
    r"erase|move|turn|mirror|"
    r"change|put|place|insert|give|take|sharpen|blur|rotate|flip|crop|cut|fill|hang|swap|colou?r|zoom|make (?!sure))\b|"
    r"(?<!what) (?:is|are|gets?|now) (?:added|placed|written|painted|printed|removed|replaced|erased|drawn)\b|"
    r"\b(?:becomes?|turns|changes|hangs) "
)
_QUOTES = {'"': '"', "'": "'", "“": "”", "„": "“”", "«": "»", "「": "」", "『": "』"}
_AROUND = "\"'*_#>-.:;!?([{<«“”„「『 \u200b\ufeff"


def is_refusal(text: str) -> bool:
    """Whether a text declines to answer and does nothing else ("I'm sorry, I can't help", in two dozen languages)."""
    text = _plain(text)
    if _is_quoted_in_part(text) or _EDIT.search(text):
        return False
    text = text.lstrip(_AROUND)
    if _DECLINE.match(text):
        return True
    apology = _APOLOGY.match(text)
    if not apology:
        return False
    rest = text[apology.end() :].strip(_AROUND + ",")
    return not any(map(str.isalpha, rest)) or _CANNOT.search(rest) is not None or _DECLINE.match(rest) is not None


def begins_as_refusal(text: str) -> bool:
    """Whether a text begins with words that refusals begin with; many a sound one does ("Sorry" on a sign)."""
    text = _plain(text).lstrip(_AROUND)
    return (_APOLOGY.match(text) or _DECLINE.match(text)) is not None


def _plain(text: str) -> str:
    text = unicodedata.normalize("NFKC", text[:_LOOKED_AT]).lower()
    return " ".join(re.sub("[\u2018\u2019\u02bc`\u00b4]", "'", text).split())


def _is_quoted_in_part(text: str) -> bool:
    """Whether a text begins with a quotation that ends before it does: that is somebody else's words."""
    closing = _QUOTES.get(text[:1], "")
    end = max((text.rfind(mark) for mark in closing), default=-1)
    return end > 0 and any(map(str.isalpha, text[end:]))
