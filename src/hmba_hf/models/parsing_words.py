"""Find the words of a label in English text, in every form, and hide them."""

import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

# All forms of verbs that have irregular ones; those in -s and -ing are regular, and left out.
_VERBS = """
arise arose arisen; awake awoke awoken; be am is are was were been; bear bore borne born; beat beat beaten;
become became; befall befell befallen; begin began begun; bend bent; bet; bid bade bidden; bind bound;
bite bit bitten; bleed bled; blow blew blown; break broke broken; breed bred; bring brought; broadcast; build built;
burn burnt burned; burst; buy bought; cast; catch caught; choose chose chosen; cling clung; come came; cost;
creep crept; cut; deal dealt; dig dug; dive dove dived; do does did done; draw drew drawn; dream dreamt dreamed;
drink drank drunk; drive drove driven; dwell dwelt dwelled; eat ate eaten; fall fell fallen; feed fed; feel felt;
fight fought; find found; flee fled; fling flung; fly flew flown; forbid forbade forbidden; forget forgot forgotten;
forgive forgave forgiven; freeze froze frozen; get got gotten; give gave given; go goes went gone; grind ground;
grow grew grown; hang hung hanged; have has had; hear heard; hide hid hidden; hit; hold held; hurt; keep kept;
kneel knelt kneeled; knit knitted; know knew known; lay laid; lead led; lean leant leaned; leap leapt leaped;
learn learnt learned; leave left; lend lent; let; lie lay lain lied; light lit lighted; lose lost; make made;
mean meant; meet met; melt melted molten; mow mowed mown; overcome overcame; pay paid; plead pled pleaded;
prove proved proven; put; quit quitted; read; rid; ride rode ridden; ring rang rung; rise rose risen; run ran;
saw sawed sawn; say said; see saw seen; seek sought; sell sold; send sent; set; sew sewed sewn; shake shook shaken;
shave shaved shaven; shear sheared shorn; shed; shine shone shined; shoot shot; show showed shown; shred shredded;
shrink shrank shrunk shrunken; shut; sing sang sung; sink sank sunk sunken; sit sat; slay slew slain; sleep slept;
slide slid; sling slung; slit; smell smelt smelled; sow sowed sown; speak spoke spoken; speed sped speeded;
spell spelt spelled; spend spent; spill spilt spilled; spin spun; spit spat; split; spoil spoilt spoiled; spread;
spring sprang sprung; stand stood; steal stole stolen; stick stuck; sting stung; stink stank stunk;
strew strewed strewn; stride strode; strike struck stricken; string strung; strive strove striven; swear swore sworn;
sweep swept; swell swelled swollen; swim swam swum; swing swung; take took taken; teach taught; tear tore torn;
tell told; think thought; throw threw thrown; thrust; tread trod trodden; understand understood; upset;
wake woke woken; wear wore worn; weave wove woven; weep wept; wet wetted; win won; wind wound winded;
withdraw withdrew withdrawn; withhold withheld; wring wrung; write wrote written
"""
# Nouns with irregular plurals; all others have a regular one, too.
_NOUNS = """
man men; woman women; child children; person people persons; foot feet; tooth teeth; goose geese; mouse mice;
louse lice; ox oxen; die dice; penny pence; knife knives; life lives; wife wives; leaf leaves; loaf loaves;
shelf shelves; half halves; calf calves; wolf wolves; thief thieves; scarf scarves; sheaf sheaves; hoof hooves;
elf elves; self selves; wharf wharves; chilli chillies chilies; fungus fungi; cactus cacti; radius radii;
bacterium bacteria
"""
# Words that follow a verb, at once or behind its object, and have one form.
PARTICLES = frozenset(
    """
    about across against along apart around aside at away back by down for from in inside into of off on onto open out
    outside over through to together toward towards under up with
    """.split()
)
_WIDEST_OBJECT = 4  # words between a verb and its particle
_VOWELS = "aeiou"
_WORD = re.compile(r"[^\W_]+(?:[\u0300-\u036f]+[^\W_]*)*")
_JOINS = re.compile(r"[\s\-\u2010\u2011\u2013_:/]*")  # what may stand between the words of one name
_ENDS = re.compile(r"[.?!;]")
Span = tuple[int, int]


class _Token(NamedTuple):
    """A word of a text in small letters, and where it stands."""

    word: str
    first: int
    last: int


def _read_irregular(*tables: str) -> dict[str, list[str]]:
    """Return the irregular forms by the word that they are of."""
    forms: dict[str, list[str]] = {}
    for entry in ";".join(tables).split(";"):
        word, *others = entry.split()
        forms.setdefault(word, []).extend(others)
    return forms


def _with_prefixes(verbs: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return the irregular forms of verbs such as "rebuild" and "overeat"; many of these do not exist."""
    forms = {}
    for prefix in ("fore", "mis", "out", "over", "pre", "re", "un", "under"):
        for verb, others in verbs.items():
            forms[prefix + verb] = [prefix + form for form in others]
    return forms


_IRREGULAR_VERBS = _read_irregular(_VERBS)
_IRREGULAR = _with_prefixes(_IRREGULAR_VERBS) | _read_irregular(_VERBS, _NOUNS)


@cache
def forms_of(word: str) -> frozenset[str]:
    """Return all forms of a word in small letters, as a verb and as a noun, and those of the words it is a form of.

    The forms of `"knives"` are those of `"knife"`, and `"topping"` has those of `"top"`, too. Some of them do not
    exist, such as `"scissored"`, and hide nothing.
    """
    word = _plain(word)
    forms = {word} | _inflected(word)
    for base in _possible_bases(word):
        inflected = _inflected(base)
        if word in inflected:
            forms |= {base} | inflected
    return frozenset(forms)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()


def _inflected(word: str) -> set[str]:
    """Return the forms of a word that is not inflected itself, by the rules of English spelling."""
    return {*_IRREGULAR.get(word, ()), *_in_s(word), *_in_ing(word), *_in_ed(word)}


def _in_s(word: str) -> set[str]:
    forms = {word + "s"}
    if word.endswith(("s", "x", "z", "ch", "sh", "o")):
        forms.add(word + "es")
    if word.endswith(("s", "z")):
        forms.update(stem + "es" for stem in _stems(word))
    if _ends_in_consonant_and_y(word):
        forms.add(word[:-1] + "ies")
    return forms


def _in_ing(word: str) -> set[str]:
    if word.endswith("ie"):
        return {word[:-2] + "ying"}
    if word.endswith("e") and not word.endswith(("ee", "oe", "ye")):
        return {word[:-1] + "ing"}
    return {stem + "ing" for stem in _stems(word)}


def _in_ed(word: str) -> set[str]:
    if word in _IRREGULAR_VERBS:
        return set()
    if word.endswith("e"):
        return {word + "d"}
    if _ends_in_consonant_and_y(word):
        return {word[:-1] + "ied"}
    return {stem + "ed" for stem in _stems(word)}


def _stems(word: str) -> list[str]:
    """Return what -ing and -ed are added to: the last consonant is doubled, or may be in a word of several syllables.

    "plan" must not become "planed", which is a form of "plane".
    """
    if word.endswith("c"):
        return [word, word + "k"]
    sound = word.replace("qu", "qw")
    if not re.search(rf"[^{_VOWELS}][{_VOWELS}][^{_VOWELS}wxy]$", sound):
        return [word]
    doubled = word + word[-1]
    syllables = re.findall(rf"[{_VOWELS}]+|y(?![{_VOWELS}])", sound)
    return [doubled] if len(syllables) == 1 else [word, doubled]


def _ends_in_consonant_and_y(word: str) -> bool:
    return len(word) > 2 and word.endswith("y") and word[-2] not in _VOWELS


def _possible_bases(word: str) -> set[str]:
    """Return what a word may be a form of; most of it is none, which `_inflected` decides."""
    bases = {base for base, forms in _IRREGULAR.items() if word in forms}
    if word in _IRREGULAR_VERBS:
        return bases
    if word.endswith("s") and not word.endswith("ss"):
        bases |= {word[:-1], word[:-2], word[:-3], word[:-3] + "y"}
    for ending in ("ed", "ing"):
        if word.endswith(ending):
            stem = word.removesuffix(ending)
            bases |= {stem, stem + "e", stem[:-1], stem[:-1] + "y", stem[:-1] + "ie"}
    return {base for base in bases if base in _IRREGULAR or len(base) > 2 and re.search(rf"[{_VOWELS}y]", base)}


def spoken(name: str) -> str:
    """Return the name of a class as it is said: `"put-down"` as "put down", `"board:chopping"` as "chopping board"."""
    parts = [" ".join(_WORD.findall(part)) for part in reversed(name.split(":"))]
    return " ".join(part for part in parts if part)


def hide_words(text: str, names: Iterable[str], mask: str) -> str:
    """Put a mask in place of every occurrence of names in a text, in any case and form.

    A name of several words stands in the text as such, with spaces or hyphens, or as one word. If particles end it, as
    in `"put-down"`, an object may stand before them: "puts it down" has two masks. In `"board:chopping"` the first
    part names the thing: it is hidden alone, and together with the others in any order.

    Args:
        text: English.
        names: of classes, or any words.
        mask: what takes their place; where the text holds it already, it stays.

    Raises:
        ValueError: if a name holds neither letters nor digits.
    """
    tokens = _tokens(text, mask)
    spans: list[Span] = []
    for name in names:
        spans += _find(name, text, tokens)
    hidden = ""
    end = 0
    for first, last in _joined(spans):
        hidden += text[end:first] + mask
        end = last
    return hidden + text[end:]


def _tokens(text: str, mask: str) -> list[_Token]:
    """Return the words of a text; masks are none."""
    masks = [found.span() for found in re.finditer(re.escape(mask), text)]
    tokens = []
    for found in _WORD.finditer(text):
        first, last = found.span()
        if not any(start < last and first < end for start, end in masks):
            tokens.append(_Token(_plain(found.group()), first, last))
    return tokens


def _find(name: str, text: str, tokens: list[_Token]) -> list[Span]:
    """Return where a name stands in a text."""
    parts = [_WORD.findall(_plain(part)) for part in name.split(":")]
    parts = [part for part in parts if part]
    if not parts:
        raise ValueError(f"a word to hide must have letters or digits, got {name!r}")
    spans = _find_in_order(parts[0], text, tokens)
    if len(parts) == 1:
        return spans
    others = {form for part in parts[1:] for word in part for form in forms_of(word)}
    return [_widened(span, others, text, tokens) for span in spans]


def _widened(span: Span, words: set[str], text: str, tokens: list[_Token]) -> Span:
    """Return a span with the words of a set that stand directly before and behind it."""
    first, last = span
    for token in reversed(tokens):
        if token.last <= first and token.word in words and _JOINS.fullmatch(text, token.last, first):
            first = token.first
    for token in tokens:
        if token.first >= last and token.word in words and _JOINS.fullmatch(text, last, token.first):
            last = token.last
    return first, last


def _find_in_order(words: list[str], text: str, tokens: list[_Token]) -> list[Span]:
    """Return where words stand one behind the other, as one word, or parted by the object of a verb."""
    as_one = forms_of("".join(words))
    spans = [(token.first, token.last) for token in tokens if token.word in as_one]
    if len(words) == 1:
        return spans
    forms = [forms_of(words[0])]
    for word in words[1:]:
        forms.append(frozenset([word]) if word in PARTICLES else forms_of(word))
    widest = _WIDEST_OBJECT if PARTICLES.issuperset(words[1:]) else 0
    for place, head in enumerate(tokens):
        if head.word not in forms[0]:
            continue
        for start in range(place + 1, place + 2 + widest):
            rest = tokens[start : start + len(words) - 1]
            if not _is_run(rest, forms[1:], text):
                continue
            between = text[head.last : rest[0].first]
            if _JOINS.fullmatch(between):
                spans.append((head.first, rest[-1].last))
                break
            if start > place + 1 and not _ENDS.search(between):
                spans += [(head.first, head.last), (rest[0].first, rest[-1].last)]
                break
    return spans


def _is_run(tokens: list[_Token], forms: list[frozenset[str]], text: str) -> bool:
    """Whether words have these forms, each, and nothing stands between them that parts a name."""
    if len(tokens) != len(forms):
        return False
    if not all(token.word in known for token, known in zip(tokens, forms, strict=True)):
        return False
    pairs = zip(tokens[:-1], tokens[1:], strict=True)
    return all(_JOINS.fullmatch(text, left.last, right.first) for left, right in pairs)


def _joined(spans: list[Span]) -> list[Span]:
    """Return spans in order, those that overlap as one."""
    joined: list[Span] = []
    for first, last in sorted(spans):
        if joined and first < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return joined
