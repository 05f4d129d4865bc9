"""The opposite of an instruction: what a model that takes left for right would have written. English and Chinese.

Only words that are directions in an instruction are turned: "left" always, "in" and "out" only of a camera. So the two
texts differ in what the paper calls orientation and viewpoint and in nothing else, and a model that sees the pictures
prefers one of them.
"""

import re

_PAIRS = (
    ("left", "right"), ("leftward", "rightward"), ("leftwards", "rightwards"), ("leftmost", "rightmost"),
    ("up", "down"), ("upward", "downward"), ("upwards", "downwards"), ("upper", "lower"), ("top", "bottom"),
    ("above", "below"), ("horizontal", "vertical"), ("horizontally", "vertically"), ("clockwise", "counterclockwise"),
    ("closer", "farther"), ("nearer", "further"), ("forward", "backward"), ("forwards", "backwards"),
    ("in front of", "behind"), ("low-angle", "high-angle"),
)  # fmt: skip
_TURNED = {word: other for pair in _PAIRS for word, other in (pair, pair[::-1])}
_TURNED |= {"counter-clockwise": "clockwise", "anticlockwise": "clockwise", "anti-clockwise": "clockwise"}
_WORD = re.compile(rf"(?<![\w-])({'|'.join(sorted(map(re.escape, _TURNED), key=len, reverse=True))})(?![\w-])", re.I)
# "up" and "down" of verbs and of manner are no directions: clean up, upside down, light up, close-up, slow down.
_NO_DIRECTION = re.compile(
    r"\b(?:upside down|close up|(?:clean|light|brighten|touch|make|dress|fill|cover|sharpen|tidy|open|build|heat|warm|"
    r"break|set|mix|zip|wrap|liven|spice|blow|clear|smooth|wash|free|back|soften|dim)\w*(?: it| them| him| her)? up|"
    r"(?:calm|tone|slow|cool|shut|cut|water|sit|lie|scale|break|strip)\w*(?: it| them)? down|"
    r"(?:right (?:now|away|after|before)|right (?:amount|size|shade|color|colour|answer|one)|all right|left over|"
    r"(?:is|are|be|been|was|were|has|have) left (?!of)(?=alone|as|in|un)))\b",
    re.I,
)
_CAMERA = re.compile(
    r"\b((?:zoom|dolly|push|pull|move|track|crane)(?:s|es|ed|ing)?|magnif(?:y|ies|ied)|(?:a |the )?zoom)"
    r"((?:\s+(?:the|camera|shot|view|lens|slightly|further|it|back))*\s+)(in|out)\b",
    re.I,
)
_CHINESE_PAIRS = (
    ("左", "右"), ("上", "下"), ("水平", "垂直"), ("横向", "纵向"), ("逆时针", "顺时针"), ("拉近", "拉远"),
    ("推近", "拉远"), ("放大画面", "缩小画面"), ("前面", "后面"), ("前方", "后方"), ("靠近", "远离"),
    ("俯拍", "仰拍"), ("俯视", "仰视"),
)  # fmt: skip
_CHINESE = {word: other for pair in reversed(_CHINESE_PAIRS) for word, other in (pair, pair[::-1])}
_CHINESE_WORD = re.compile("|".join(sorted(_CHINESE, key=len, reverse=True)))
# Words in which 上 and 下 are no directions: "on the table", "under these circumstances", "put on", "keep up".
_CHINESE_NO_DIRECTION = re.compile(
    r"(?:戴|穿|加|配|换|涂|写|画|贴|铺|盖|补|染|添|附|合|关|带|挂|系|装)上|上(?:色|衣|装|演|传|班|学)|以上|以下|"
    r"(?:留|剩|脱|摘|放|取|躺|坐|落|拿|停)下|下(?:雨|雪|一)|(?<=[桌床墙地头身脸树水山天路背手面])上(?![下方部面])|之下|情况下|条件下|左右两侧|上下文"
)


def opposite(text: str) -> str | None:
    """The text with every direction turned; None where it names none."""
    kept = _spans(_NO_DIRECTION, text) + _spans(_CHINESE_NO_DIRECTION, text)

    def turn(match: re.Match[str]) -> str:
        if any(start <= match.start() < end for start, end in kept):
            return match[0]
        word = match[0]
        return _like(_TURNED.get(word.lower()) or _CHINESE[word], word)

    turned = re.sub(f"{_WORD.pattern}|{_CHINESE_WORD.pattern}", turn, text, flags=re.I)
    turned = _CAMERA.sub(lambda m: m[1] + m[2] + _like("out" if m[3].lower() == "in" else "in", m[3]), turned)
    return None if turned == text else turned


def _spans(pattern: re.Pattern[str], text: str) -> list[tuple[int, int]]:
    return [match.span() for match in pattern.finditer(text)]


def _like(word: str, model: str) -> str:
    if len(model) > 1 and model.isupper():
        return word.upper()
    return word.capitalize() if model[:1].isupper() else word
