"""`example://english-german`: translations without a network.

The sentences are made by rule from some seventy words, so that they say little. What has to be learned is the words and
the grammar: the gender of a noun, the accusative, the verb in second place, and the participle or the infinitive at the
end. Nothing beyond these words can be translated by what learns from them.

6,000 sentences, of which 5 % by their own text are for the test.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import NamedTuple

from modelyard_workloads.data.corpus import is_held_out

_SENTENCES = 6000
_HELD_OUT = 0.05
_PROMPT = "Translate into German:\n\n"


class _Noun(NamedTuple):
    english: str
    german: str
    gender: str  # m, f, n


def _nouns(text: str) -> list[_Noun]:
    return [_Noun(*entry.split()) for entry in text.split(",")]


_PERSONS = _nouns(
    "man Mann m,woman Frau f,child Kind n,girl Mädchen n,mother Mutter f,father Vater m,king König m,queen Königin f,"
    "brother Bruder m,sister Schwester f,uncle Onkel m,aunt Tante f,baker Bäcker m,doctor Arzt m"
)
_THINGS = _nouns(
    "dog Hund m,cat Katze f,horse Pferd n,bird Vogel m,house Haus n,book Buch n,car Auto n,table Tisch m,lamp Lampe f,"
    "tree Baum m,flower Blume f,letter Brief m,clock Uhr f,picture Bild n,key Schlüssel m,bag Tasche f,boat Boot n,"
    "ball Ball m,door Tür f,chair Stuhl m"
)
# English: infinitive, third person, participle; then German
_VERBS = """
see sees seen sehen sieht gesehen
find finds found finden findet gefunden
hear hears heard hören hört gehört
buy buys bought kaufen kauft gekauft
seek seeks sought suchen sucht gesucht
love loves loved lieben liebt geliebt
paint paints painted malen malt gemalt
carry carries carried tragen trägt getragen
forget forgets forgotten vergessen vergisst vergessen
clean cleans cleaned putzen putzt geputzt
sell sells sold verkaufen verkauft verkauft
bring brings brought bringen bringt gebracht
"""
_ADJECTIVES = {
    "old": "alt", "small": "klein", "big": "groß", "new": "neu", "young": "jung", "beautiful": "schön", "red": "rot",
}  # fmt: skip
_MODALS = [("wants to", "want to", "will"), ("can", "can", "kann"), ("must", "must", "muss")]
_TIMES = [("today", "heute"), ("often", "oft"), ("sometimes", "manchmal"), ("in summer", "im Sommer"),
          ("in the evening", "am Abend")]  # fmt: skip
# (definite, accusative) -> gender -> article and the adjective's ending
_DECLENSION = {
    (True, False): {"m": ("der", "e"), "f": ("die", "e"), "n": ("das", "e")},
    (True, True): {"m": ("den", "en"), "f": ("die", "e"), "n": ("das", "e")},
    (False, False): {"m": ("ein", "er"), "f": ("eine", "e"), "n": ("ein", "es")},
    (False, True): {"m": ("einen", "en"), "f": ("eine", "e"), "n": ("ein", "es")},
}


def write(directory: Path) -> None:
    """Write train.jsonl and test.jsonl: {prompt, answer}."""
    random = Random(20)
    pairs: dict[str, str] = {}
    while len(pairs) < _SENTENCES:
        english, german = _sentence(random)
        pairs[english] = german
    with (
        (directory / "train.jsonl").open("w", encoding="utf-8") as train,
        (directory / "test.jsonl").open("w", encoding="utf-8") as test,
    ):
        for english, german in pairs.items():
            file = test if is_held_out(english, _HELD_OUT) else train
            file.write(json.dumps({"prompt": f"{_PROMPT}{english}", "answer": german}, ensure_ascii=False) + "\n")


def _sentence(random: Random) -> tuple[str, str]:
    """One sentence in both languages: present, perfect or with a modal verb; told or asked."""
    subject, subject_german = _phrase(random, random.choice(_PERSONS), accusative=False)
    thing, thing_german = _phrase(random, random.choice(_THINGS), accusative=True)
    words = random.choice(_VERBS.strip().splitlines()).split()
    infinitive, third, participle, infinitive_german, third_german, participle_german = words
    asked = random.random() < 0.25
    match random.choice(("present", "perfect", "modal")):
        case "present":
            first, verb, plain = "does", infinitive, third
            finite, end = third_german, ""
        case "perfect":
            first, verb, plain = "has", participle, f"has {participle}"
            finite, end = "hat", participle_german
        case _:
            told, asking, finite = random.choice(_MODALS)
            first, verb = (asking, infinitive) if asking == told else ("does", f"{asking} {infinitive}")
            plain, end = f"{told} {infinitive}", infinitive_german
    if asked:
        return _written("?", first, subject, verb, thing), _written("?", finite, subject_german, thing_german, end)
    if random.random() < 0.4:
        time, time_german = random.choice(_TIMES)
        german = _written(".", time_german, finite, subject_german, thing_german, end)  # the verb comes second
        return _written(".", time, subject, plain, thing), german
    return _written(".", subject, plain, thing), _written(".", subject_german, finite, thing_german, end)


def _phrase(random: Random, noun: _Noun, *, accusative: bool) -> tuple[str, str]:
    definite = random.random() < 0.5
    article, ending = _DECLENSION[definite, accusative][noun.gender]
    if random.random() < 0.4:
        adjective, stem = random.choice(list(_ADJECTIVES.items()))
        words, german = f"{adjective} {noun.english}", f"{article} {stem}{ending} {noun.german}"
    else:
        words, german = noun.english, f"{article} {noun.german}"
    indefinite = "an" if words[0] in "aeiou" else "a"
    return f"{'the' if definite else indefinite} {words}", german


def _written(end: str, *parts: str) -> str:
    sentence = " ".join(part for part in parts if part)
    return f"{sentence[0].upper()}{sentence[1:]}{end}"
