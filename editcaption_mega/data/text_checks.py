"""Texts that stand where an instruction should: refusals, placeholders, markup, repetitions."""

import re
import unicodedata
import zlib

# "I can't" alone is no refusal ("I can't see her face, make it brighter"): there the verb counts as well.
_VERBS = (
    "help|assist|compl|provide|fulfil|process|edit|generat|creat|describ|identif|view|access|analy[sz]e|write|support|"
    "discuss|engage|continue|do (?:that|this|so)|answer|respond|determine|compare|open|load|caption|tell|"
    "see (?:any|the|these|those|your) (?:image|picture|photo)"
)
_UNABLE = r"(?:cannot|can't|can not|could not|couldn't|will not|won't|do not|don't)"
# How assistants begin when they decline, by language.
_REFUSALS = (
    r"i(?:'m| am) (?:very |really |so |truly )?(?:sorry|afraid)\b",
    r"(?:very |so )?sorry\b ?(?:[,.!;:-]|but\b|i\b|for\b|about\b|we\b|$)",
    r"(?:i|we|my) apolog(?:ies|i[sz]e)\b|apologies\b",
    rf"(?:but )?(?:i|we) {_UNABLE} (?:be able to )?(?:{_VERBS})",
    rf"(?:unfortunately|regrettably),? (?:i|we)(?:'m| am| are| {_UNABLE})\b",
    r"(?:i|we)(?: am|'m| are|'re) (?:unable|not able|not allowed|not permitted|not comfortable)\b",
    r"(?:i|we) (?:must|have to|need to) (?:respectfully )?(?:decline|refuse)|i(?:'d| would) rather not",
    r"as an? (?:ai|artificial intelligence|(?:large )?language model)\b",
    r"i (?:do not|don't) (?:have (?:the )?(?:ability|access|capability)|see any (?:image|picture|photo))",
    r"(?:this|your|the) (?:request|prompt|content) (?:violates|can't be|cannot be|was (?:flagged|blocked|rejected))",
    r"(?:request|content) (?:denied|rejected|blocked|refused|filtered)|no (?:image|picture)s? (?:was|were) provided",
    "(?:非常|很|十分|真的|实在)?(?:抱歉|对不起|對不起|不好意思|遗憾|遺憾)",
    "(?:请|請)(?:原谅|见谅|原諒|見諒)|作[为為]一?[个個名款]?(?:ai|人工智[能慧]|大?型?[语語]言模型|助手)",
    "我(?:无法|無法|不能|没办法|沒辦法|没有能力|沒有能力|不可以|拒绝|拒絕)",
    "(?:无法|無法|不能)(?:协助|協助|提供|回答|处理|處理|识别|識別|满足|滿足|完成|查看|帮助|幫助|描述|生成)",
    "(?:大変)?(?:申し訳|すみません|ごめんなさい)|恐れ入りますが",
    "죄송|미안합니다|유감스럽지만|도와드릴 수 없",
    "(?:es )?tut mir (?:sehr )?leid|leider kann ich|ich kann (?:(?:ihnen|dir|das|dabei|leider) )*nicht",
    "(?:je suis )?(?:vraiment )?désolée?|je ne peux pas|je regrette|malheureusement,? je",
    "lo siento|lo lamento|no puedo (?:ayud|asist|proporcion|cumpl|proces|gener|describ)|discúlp|me temo que",
    "desculp|sinto muito|lamento|não posso|infelizmente,? (?:não|eu)",
    "mi dispiace|spiacente|non posso (?:aiut|forn|assist|soddisf|elabor|gener|descriv)|purtroppo non",
    "het spijt me|helaas kan ik|przepraszam|przykro mi|niestety nie mog",
    "извините|простите|прошу прощения|к сожалению,? я|я не могу|мне жаль",
    "üzgünüm|xin lỗi|tôi không thể|maaf,? |saya tidak (?:dapat|bisa)",
    "क्षमा करें|माफ़? ?कर|मुझे खेद|عذر[اًا]|آسف|أعتذر|لا أستطيع|لا يمكنني|متاسفم|ขออภัย|ขอโทษ|מצטער",
)
_REFUSAL = re.compile("|".join(_REFUSALS))

_DOUBTS = {
    "a placeholder": re.compile(
        r"\[(?:[vsxy]\*?|subject|object|name|class|placeholder|style|colou?r|(?:insert|your)\b[^\]]*)\]|<\*>|\bsks\b|"
        r"\{\{?[\w. ]*\}?\}|\$\{|%s\b|\blorem ipsum\b|\btodo\b|\bfixme\b|<(?:image|img|video|bos|eos|pad|unk|mask)>|"
        r"^\W*(?:none|null|nan|n/?a|undefined|nil|tbd|test|placeholder|instruction|caption|unknown|error|string|prompt|"
        r"no (?:changes?|edits?|caption|instruction))\W*$",
        re.IGNORECASE,
    ),
    "HTML": re.compile(
        r"</?(?:[abipu]|br|div|span|font|html|body|head|table|t[rdh]|[ou]l|li|em|strong|script|style|h[1-6])\b[^<>]*>|"
        r"&(?:\w{2,8}|#\d+);",
        re.IGNORECASE,
    ),
}


def is_refusal(text: str) -> bool:
    """Whether a text begins as a refusal does ("I'm sorry, I can't help", in two dozen languages)."""
    text = unicodedata.normalize("NFKC", text[:400]).lower()
    text = " ".join(re.sub("[\u2018\u2019\u02bc`\u00b4]", "'", text).split())
    return _REFUSAL.match(text.lstrip("\"'*_#>-.:;!?([{<«“”„「『 ")) is not None


def doubts(text: str) -> list[str]:
    """What makes a text doubtful as an instruction, each in a word or two; empty for most."""
    reasons = [name for name, form in _DOUBTS.items() if form.search(text)]
    if not any(letter.isalnum() for letter in text):
        reasons.append("no letter or digit")
    if is_repetition(text):
        reasons.append("mostly repetitions")
    if any(unicodedata.category(letter) == "Cc" and letter not in "\n\r\t" for letter in text):
        reasons.append("control characters")
    return reasons


def is_repetition(text: str) -> bool:
    """Whether a text of 40 bytes or more says the same again and again: it packs to less than a quarter."""
    content = text.encode("utf-8", "surrogatepass")
    return len(content) >= 40 and len(zlib.compress(content, 9)) - 11 < len(content) / 4
