"""Words and phrases that are faults by themselves: leakage, measures that no one can check, vague terms."""

import re
from collections.abc import Iterator

from editcaption_mega.evaluation.rubric import forbidden_terms
from editcaption_mega.evaluation.rubric.flags import unverifiable_measures

from .findings import Finding

_PICTURE = "(?:image|picture|photo|photograph)"
_LEAKS = (
    rf"\bthe (?:second|other|target|edited|after|final|output|resulting|modified) {_PICTURE}\b"
    r"(?! (?:on|above|hanging|frame))",
    rf"\b{_PICTURE} (?:b|2|two)\b",
    r"\bthe target\b(?=\s*(?:$|[.,;!?]|(?:and|so|for|in|with)\b))",
    r"\bfinal result\b",
    r"\b(?:put|place|bring|set|add|hang)\b[^.;,\n]{0,60}?(?<!\bthe )(?<!\bits )\bback\b"
    r"(?! (?:of|side|wall|row|yard|door|leg)\b)",
    r"\breturn (?:the|a|his|her|its) [\w -]{1,40}? to\b",
    r"\brestore\b(?! (?:the |this |an? )?(?:old |damaged |faded )*(?:photo|image|picture|color|colour|painting))",
    rf"\bbefore and after {_PICTURE}s?\b",
)
_CHINESE_LEAKS = (
    "第二[张幅](?:图|照片)",
    "图[片像]?[2二b](?![0-9a-z])",
    "目标(?:图|照片)",
    "(?:编辑|修改)[后过]的?(?:图|照片)",
    "后[一面][张幅]?(?:图|照片)",
    "结果图",
    "[放移装挂摆]回",
    "恢复(?!照片|画质|色彩)",
    "复原|归位|回到?原[处位]",
)
_LEAK = re.compile("|".join((*_LEAKS, *_CHINESE_LEAKS)))

_NUMBER_WORD = (
    r"(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen|"
    r"(?:twen|thir|for|fif|six|seven|eigh|nine)ty(?:[- ](?:one|two|three|four|five|six|seven|eight|nine))?)"
)
_UNIT = r"(?:(?:centi|milli)?met(?:er|re)s?|inch(?:es)?|feet|foot|pixels?|degrees|percent)"
_SPELLED = re.compile(rf"\b(?!ninety degrees)(?:{_NUMBER_WORD}|half an?) {_UNIT}\b")
_CHINESE_MEASURE = re.compile(
    r"(?P<number>\d+(?:\.\d+)?|[一二两三四五六七八九十百半]+)\s*(?P<unit>厘米|毫米|公分|公尺|米(?!饭|色|粉)|英寸|英尺|像素|度(?!假|数)|%|％|°|cm|mm|px)|"
    r"[\d一二两三四五六七八九十]+个百分点|百分之[\d一二两三四五六七八九十百]+"
)
_QUARTER_TURNS = frozenset(["90", "180", "270", "360", "九十", "一百八十", "两百七十", "二百七十", "三百六十"])

_NOUN_BIT = re.compile(r"\ba bit(?= and\b)")  # of a bridle

_CHINESE_DEGREES = (
    r"适当|适度|合适|恰当|稍微|略微|稍稍|略(?=[高低大小亮暗深浅])|有点|有些|(?<=[大小亮暗高低长短宽窄深浅多少暖冷红])一[点些](?!钟)|"
    r"更?好看|更美观|更漂亮|更自然"
)
_CHINESE_VERBS = r"(?:调整|优化|处理|修改|完善|改善)(?![^，。；,;]*[为成至到由从])"
_CHINESE_REFERENCES = r"它们?|原图|原始图[像片]|(?:这|那)个?(?=$|[，。；改变换移])"
_CHINESE_VAGUE = re.compile(f"{_CHINESE_DEGREES}|{_CHINESE_VERBS}|{_CHINESE_REFERENCES}")


def wording_findings(text: str) -> Iterator[Finding]:
    """text: lower case, quotes hidden."""
    for match in _LEAK.finditer(text):
        message = f"“{match[0]}” points at the target, which whoever edits does not see"
        yield Finding("leakage", match.span(), message, "describe the change from the source alone")
    for span in _measures(text):
        message = f"“{text[slice(*span)]}” cannot be checked in the pictures"
        yield Finding("measure", span, message, "compare with something in the picture, or give a quarter turn")
    for term, span in _vague(text):
        yield Finding("vague", span, f"“{term}” leaves open what is wanted", "name the thing, or the state it ends in")


def _measures(text: str) -> list[tuple[int, int]]:
    spans, at = set(), 0
    for measure in unverifiable_measures(text):
        at = text.index(measure, at)
        spans.add((at, at + len(measure)))
    spans |= {match.span() for match in _SPELLED.finditer(text)}
    for match in _CHINESE_MEASURE.finditer(text):  # no word boundary stands between 高 and 30%
        inside = any(start <= match.start() < end for start, end in spans)
        if not inside and not (match["unit"] in ("度", "°") and match["number"] in _QUARTER_TURNS):
            spans.add(match.span())
    return sorted(spans)


def _vague(text: str) -> Iterator[tuple[str, tuple[int, int]]]:
    for term in forbidden_terms(_NOUN_BIT.sub("a piece", text)):
        stem = re.escape(term[:-1] if term[-1] in "ey" else term)
        match = re.search(rf"\b{stem}".replace(r"\ ", r"\s+") + r"\w*", text)
        yield term, match.span() if match else (0, len(text))
    for match in _CHINESE_VAGUE.finditer(text):
        yield match[0], match.span()
