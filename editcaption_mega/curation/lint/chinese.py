"""Chinese instructions as clauses, without a segmenter: verbs and particles mark what is what."""

import re

from .clauses import Action, Clause, Thing

_VERBS: dict[Action, str] = {
    "keep": "保[持留]|维持",
    "remove": "移除|去[除掉]|删[除掉去]|擦[除掉]|[拿移取]走|消除|抹去|摘[掉下]",
    "add": "添加|加上|增加|加入|新增|插入|放置|放上|摆放|摆上|画上|贴上|换上|戴上|穿上|[加放画](?=[一两几三四五])",
    "change": "(?:替换|更换|改变|转变|转换|调整|修改|优化|变换|改|变|换|染|刷|涂|漆|设)(?:为|成|到|至)|"
    "替换|更换|改变|更改|修改|调整|优化|变(?=[^化])",
}
_VERB = {action: re.compile(pattern) for action, pattern in _VERBS.items()}
_FORBID = re.compile(r"(?:不要|不|别|勿|无需)(?:改变|更改|修改|变动|动|调整)(?P<thing>.+)")
_STAYS = re.compile(r"(?P<thing>.*?)(?:保持|维持)?(?:原样|不变|不动)$")
_SEGMENT = re.compile(r"[^，。；！？,.;!?\n]+")
_JOINED = re.compile(r"(?:并且|并|然后|接着|同时|但是|但|而且|且|再|请|，)+")
_JOINER = re.compile(
    r"(?:并且|并|然后|接着|同时|但是|但|而且|且)(?=把|将|在|让|使|给|保|维|不|移|去|删|擦|拿|取|添|加|增|新|插|放|摆|画|逆|顺|"
    r"抬|缩|拉|处|换|改|变|向|往)"
)
COUNTED = re.compile(
    r"^(?:所有|全部|那|这|该|[一两几三四五六七八九十数]|\d+)*(?:个|只|朵|把|盏|顶|架|辆|棵|张|幅|条|位|名|座|些|片|件|块|扇|艘|匹|头|"
    r"束|本|杯|双|副|株|支|对)?(?=.)"
)
_EMPTY = re.compile(r"^(?:旧的?|新的?|原来的|原有的|整个|整张)(?=.)")
_PLACE_ENDS = ("上", "里", "中", "内", "旁", "边", "下", "前", "后", "侧", "处", "面", "间", "角")
_SIDE_FIRST = re.compile("^([最靠]?[左右上下前后](?:边|侧|方|面|角)|[前背]景[中里])(?=[^的])")
_SAME_PLACE = re.compile(r"同一(?:位置|处|地方)|相同(?:位置|地方)|原(?:处|位|地)|原来的(?:位置|地方)|那里|该处|^换上")
_GOES = re.compile(r"(?:在|到|于)(?P<place>[^，。；]*?(?:上|里|中|内|旁|边|下|前|后|侧|处|间|角|方向|位置|那里))")
_TO_WHOM = re.compile(r"(?:给|为|替)(?P<whom>[^，。；]+)$")
_WEATHER = frozenset(["雪", "雨", "雾", "阳光", "烟", "云", "星星"])
_LONGEST_BARE = 3  # characters of a noun without description: 自行车


def chinese_clauses(text: str) -> list[Clause]:
    """text: lower case, quotes hidden."""
    clauses, place = [], ""
    for segment, start in segments(text):
        clause = _clause(place + segment, (start, start + len(segment)))
        place = segment if clause is None and segment.startswith("在") else ""  # 在门的左侧，添加..
        if clause:
            clauses.append(clause)
    return clauses


def segments(text: str) -> list[tuple[str, int]]:
    """The text cut at punctuation and at joiners before a verb, each with its place."""
    parts = []
    for match in _SEGMENT.finditer(text):
        at = match.start()
        for joiner in [*_JOINER.finditer(text, match.start(), match.end()), None]:
            end = match.end() if joiner is None else joiner.start()
            if text[at:end].strip():
                lead = _JOINED.match(text, at, end)
                begin = lead.end() if lead else at
                parts.append((text[begin:end], begin))
            at = end if joiner is None else joiner.end()
    return parts


def _clause(segment: str, span: tuple[int, int]) -> Clause | None:
    if match := _FORBID.search(segment):
        return Clause("keep", chinese_thing(match["thing"]), span)
    if segment.endswith(("不变", "原样", "不动")):
        match = _STAYS.match(segment)
        name = _VERB["keep"].sub("", re.sub("^(?:把|将|让|使)", "", match["thing"])) if match else ""
        return Clause("keep", chinese_thing(name), span)
    for action in ("remove", "add", "change", "keep"):
        if verb := _VERB[action].search(segment):
            return _read(action, segment, verb, span)
    return None


def _read(action: Action, segment: str, verb: re.Match[str], span: tuple[int, int]) -> Clause:
    before, after = segment[: verb.start()], segment[verb.end() :]
    taken = re.search(r"(?:把|将|让|使|令)(?P<thing>.+)$", before)
    if action == "change":
        if taken:
            name, result = taken["thing"], after
        elif before and verb.group()[-1] in "为成到至变":
            name, result = before, after
        else:
            name, _, result = after.partition("为") if "为" in after else after.partition("成")
        name = re.split("[由从]", name)[0]
        return Clause("change", chinese_thing(name), span, (result.strip(),) if result.strip() else ())
    name = taken["thing"] if taken else after
    goes, whom = _GOES.search(before), _TO_WHOM.search(before)
    named = chinese_thing(name)
    if goes or whom:
        where = goes["place"] if goes else whom["whom"] if whom else ""
        named = Thing(named.head, named.words, named.place | {where})
    if action == "add":
        same = bool(_SAME_PLACE.search(before)) or verb.group() == "换上"
        bare = not (goes or whom or taken or same) and not before.strip() and _is_bare(after)
        return Clause("add", named, span, at_same_place=same, is_bare=bare)
    is_whole = action != "keep" or not re.search("的(?:形状|颜色|位置|姿势|大小|构图|风格)$", name)
    return Clause(action, named, span, is_whole=is_whole)


def chinese_thing(name: str) -> Thing:
    """What a phrase names: 桌上的红色的苹果 is 苹果, of words 红色 and 苹果, at 桌上."""
    parts = [part for part in _SIDE_FIRST.sub(r"\1的", _plain(name.strip())).split("的") if part]
    if not parts:
        return Thing()
    head = _plain(parts[-1])
    place = {part for part in parts[:-1] if part.endswith(_PLACE_ENDS)}
    described = {_plain(part) for part in parts[:-1]} - place
    return Thing(head, frozenset({head} | described), frozenset(place))


def _plain(name: str) -> str:
    return _EMPTY.sub("", COUNTED.sub("", _EMPTY.sub("", name)))


def _is_bare(name: str) -> bool:
    noun = COUNTED.sub("", name.strip())
    return (
        bool(noun) and noun not in _WEATHER and len(noun) <= _LONGEST_BARE and "的" not in name and noun == _plain(name)
    )
