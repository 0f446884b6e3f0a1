"""What a feature can be labelled as: classes of words that were written down before any SAE was.

A class is label and test in one. Its words find it in a text, whatever the SAE says, so that a
label can be held against text that it was not taken from, and against answers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Final

from pilothouse.demo.repetition import is_degenerate

Span = tuple[int, int]
SHORT: Final = 2


@dataclass(frozen=True)
class Concept:
    """A class of words.

    Args:
        name: the label.
        words: of which it is made, with `_` for a space; longer ones also with an `s` behind them.
        pattern: a regular expression that finds more of it.
    """

    name: str
    words: str
    pattern: str = ""

    @cached_property
    def _found(self) -> re.Pattern[str]:
        words = [re.escape(each).replace("_", r"\s") for each in self.words.split()]
        # "is" is no plural of "i".
        each = "|".join(word + "s?" * (len(word) > SHORT) for word in words)
        parts = [rf"\b(?:{each})\b"] if each else []
        return re.compile("|".join([*parts, self.pattern] if self.pattern else parts), re.I | re.M)

    def spans(self, text: str) -> list[Span]:
        """Return where in a text the class stands, in characters."""
        return [each.span() for each in self._found.finditer(text)]

    def count(self, answer: str) -> float:
        """Return how many different words of the class an answer has.

        An answer that repeats itself has none: no edit shows a label by stammering it.
        """
        if is_degenerate(answer):
            return 0.0
        return float(len({each.group().casefold() for each in self._found.finditer(answer)}))


def _of(*concepts: Concept) -> Mapping[str, Concept]:
    return MappingProxyType({each.name: each for each in concepts})


CONCEPTS: Final[Mapping[str, Concept]] = _of(
    Concept(
        "music",
        "music musical musician song singer sang sing sung singing album band guitar "
        "piano drum orchestra melody concert lyric jazz opera choir violin composer vocal",
    ),
    Concept(
        "film and television",
        "film movie television tv episode series actor actress director "
        "cinema screenplay sitcom season starred starring premiere broadcast character cast",
    ),
    Concept(
        "sport",
        "football soccer basketball baseball hockey tennis cricket rugby league team "
        "player coach championship tournament goal match score athlete referee stadium olympic "
        "sport game touchdown inning",
    ),
    Concept(
        "war and army",
        "war army military soldier battle troop weapon navy invasion regiment "
        "combat infantry artillery missile bomb commander tank rifle gun enemy defeated",
    ),
    Concept(
        "law and courts",
        "law court judge legal jury lawyer attorney trial statute plaintiff "
        "defendant verdict lawsuit prosecutor illegal constitution amendment convicted felony "
        "legislation justice",
    ),
    Concept(
        "government and politics",
        "government president congress senate parliament election "
        "vote minister political party republican democrat senator candidate governor policy "
        "federal elected democracy mayor",
        r"\bpolitic\w*",
    ),
    Concept(
        "medicine and health",
        "medicine medical doctor patient disease symptom treatment "
        "hospital clinical surgery therapy diagnosis drug health infection cancer blood "
        "physician nurse pain vaccine dose illness",
    ),
    Concept(
        "food and cooking",
        "food cook cooking eat meal bread cheese meat sauce sugar butter "
        "recipe flavor flavour dish restaurant soup rice salad bake baked dinner kitchen "
        "ingredient chicken vegetable fruit chocolate cake egg",
    ),
    Concept(
        "money and business",
        "money business company bank price cost tax pay paid dollar "
        "market financial investment income profit loan budget economy economic sale customer "
        "fund revenue stock credit insurance",
        r"\$\s?\d[\d,.]*",
    ),
    Concept(
        "science and research",
        "science scientist scientific research researcher experiment "
        "theory study hypothesis laboratory physics chemistry biology evidence data analysis",
    ),
    Concept(
        "religion",
        "religion religious god church jesus christ christian bible pray prayer "
        "faith holy priest pope islam muslim jewish buddhist hindu temple worship sin saint "
        "divine gospel catholic",
    ),
    Concept(
        "family",
        "family mother father mom dad son daughter brother sister parent child "
        "children wife husband uncle aunt cousin baby grandmother grandfather marriage married "
        "sibling twin",
    ),
    Concept(
        "animals",
        "animal dog cat horse bird fish lion tiger bear wolf snake insect species "
        "mammal cow pig sheep rabbit mouse mice elephant monkey whale shark puppy zoo pet",
    ),
    Concept(
        "plants and gardens",
        "plant tree flower garden leaf leaves seed root forest grass "
        "soil branch crop weed bloom petal lawn wood",
    ),
    Concept(
        "body parts",
        "hand head foot feet leg arm eye face hair finger mouth nose ear skin "
        "neck shoulder knee tooth teeth chest stomach bone heart brain back",
    ),
    Concept(
        "clothes",
        "clothes clothing shirt dress shoe hat coat wear wearing wore pants jacket "
        "skirt sock fabric fashion jean uniform suit boot glove scarf cotton",
    ),
    Concept(
        "colours",
        "red blue green yellow black white brown pink purple orange gray grey "
        "colour color golden silver",
    ),
    Concept(
        "weather",
        "weather rain snow storm wind cloud sunny temperature hurricane tornado "
        "humidity climate frost thunder lightning fog rainy cold hot heat",
    ),
    Concept(
        "water and sea",
        "water sea ocean river lake beach coast swim boat ship wave island "
        "shore bay flood harbor harbour port sail",
    ),
    Concept(
        "travel and transport",
        "travel trip car road train bus flight airport vehicle drive "
        "driver driving highway passenger traffic plane aircraft bicycle bike truck railway "
        "station journey hotel tourist",
    ),
    Concept(
        "computers and software",
        "computer software internet website online app user digital "
        "program code data file server windows google email password smartphone browser "
        "hardware download device technology",
    ),
    Concept(
        "school and education",
        "school student teacher university college class education "
        "degree exam grade classroom teach taught campus graduate homework course learn lesson "
        "professor academic",
    ),
    Concept(
        "books and writing",
        "book novel author writer story poem chapter wrote written write "
        "literature fiction publisher published poet reader library magazine newspaper",
    ),
    Concept(
        "art",
        "art artist painting paint painter sculpture museum gallery drawing portrait "
        "draw sketch canvas artistic",
    ),
    Concept(
        "love and romance",
        "love loved romance romantic kiss marry wedding boyfriend "
        "girlfriend affair heart date dating lover relationship fell_in_love valentine",
    ),
    Concept(
        "death",
        "death dead die dies died dying kill killed murder murdered funeral grave "
        "corpse suicide buried coffin killer",
    ),
    Concept(
        "crime and police",
        "police crime criminal prison jail arrest arrested officer thief "
        "robbery murder suspect detective victim gang stolen fbi guilty sheriff theft",
    ),
    Concept(
        "fear and danger",
        "fear afraid scared danger dangerous threat risk terrified horror "
        "panic frightened warning safety unsafe emergency",
    ),
    Concept(
        "joy",
        "happy happiness joy fun enjoy enjoyed delighted glad smile laugh laughter "
        "celebrate wonderful exciting excited pleasure cheerful fantastic amazing",
    ),
    Concept(
        "sadness and anger",
        "sad sadness angry anger cry cried crying upset tear grief hate "
        "frustrated furious lonely sorrow depressed disappointed rage",
    ),
    Concept(
        "months and dates",
        "january february march april june july august september october november december",
        r"\b(?:1[5-9]|20)\d\d\b",
    ),
    Concept(
        "days and times",
        "monday tuesday wednesday thursday friday saturday sunday morning "
        "afternoon evening night hour minute noon midnight o'clock weekend week",
        r"\b\d{1,2}(?::\d\d)?\s?[ap]\.?m\b\.?",
    ),
    Concept("numerals", "", r"\b\d+(?:[.,]\d+)*\b"),
    Concept(
        "number words",
        "two three four five six seven eight nine ten twelve twenty thirty "
        "fifty hundred thousand million billion dozen",
    ),
    Concept(
        "units of measure",
        "percent mile kilometer kilometre km mi metre meter foot feet inch "
        "pound kilogram kg ounce gallon litre liter cm mm degree acre celsius fahrenheit mph "
        "gram",
        r"\d\s?%",
    ),
    Concept(
        "ordinals",
        "first second third fourth fifth sixth seventh eighth ninth tenth",
        r"\b\d+(?:st|nd|rd|th)\b",
    ),
    Concept(
        "comparison",
        "more less most least better best worse worst larger largest bigger "
        "biggest smaller smallest higher highest lower lowest greater greatest longer longest",
    ),
    Concept(
        "negation",
        "not no never none nothing neither nor cannot nobody without",
        r"\b\w+n['\u2019]t\b",
    ),
    Concept(
        "first person",
        "i me my mine myself we us our ours ourselves",
        r"\bI['\u2019](?:m|ve|ll|d)\b",
    ),
    Concept("second person", "you your yours yourself", r"\byou['\u2019](?:re|ve|ll|d)\b"),
    Concept("she and her", "she her hers herself woman women girl lady"),
    Concept("he and him", "he him his himself man men boy"),
    Concept("they and them", "they them their theirs themselves"),
    Concept("question words", "what who where when why how which whose", r"\?"),
    Concept("possibility", "may might could would should possibly perhaps maybe probably likely"),
    Concept(
        "cause and reason",
        "because therefore thus reason cause caused result due since hence consequently",
    ),
    Concept(
        "contrast",
        "but however although though while whereas despite yet instead unlike nevertheless",
    ),
    Concept(
        "examples and lists",
        "example for_example such_as including include includes namely",
        r"^\s*(?:[-*\u2022]|\d+[.)])\s",
    ),
    Concept(
        "America",
        "united_states america american usa california texas new_york florida "
        "washington chicago ohio hollywood",
        r"\bU\.S\.",
    ),
    Concept(
        "Britain",
        "united_kingdom britain british england english london uk scotland scottish "
        "wales welsh ireland irish",
    ),
    Concept(
        "continental Europe",
        "france french paris germany german berlin italy italian rome "
        "spain spanish europe european dutch swedish greek greece russian russia poland",
    ),
    Concept(
        "Asia",
        "china chinese japan japanese india indian korea korean asia asian tokyo "
        "vietnam thailand pakistan beijing singapore indonesia",
    ),
    Concept(
        "cities and streets",
        "city town street avenue village downtown neighborhood square "
        "capital urban district suburb",
    ),
    Concept(
        "houses and rooms",
        "house home room kitchen bedroom door window wall floor roof "
        "apartment building bathroom garage furniture table chair bed",
    ),
    Concept(
        "royalty",
        "king queen prince princess royal throne kingdom crown emperor empire duke monarch palace",
    ),
    Concept(
        "magic and monsters",
        "magic magical witch wizard dragon monster ghost vampire fairy "
        "spell demon curse zombie werewolf supernatural",
    ),
    Concept(
        "space",
        "space planet star moon earth sun galaxy solar universe astronaut orbit nasa "
        "rocket mars telescope asteroid",
    ),
    Concept(
        "energy and chemistry",
        "energy electricity electric gas oil carbon oxygen hydrogen "
        "atom molecule acid chemical nuclear battery fuel reaction metal iron gold",
    ),
    Concept(
        "history",
        "history historical ancient century era medieval age dynasty civilization "
        "revolution colonial",
    ),
    Concept(
        "work and jobs",
        "job work worker employee employer career manager office boss hired "
        "salary wage staff labor labour colleague",
    ),
    Concept(
        "alcohol and drinks",
        "drink drank beer wine alcohol coffee tea bar whiskey vodka "
        "bottle cocktail juice milk drunk",
    ),
    Concept(
        "games and play",
        "game play played card chess dice toy puzzle video_game nintendo xbox playstation player",
    ),
    Concept("sleep and dreams", "sleep slept asleep dream bed wake woke awake nap nightmare tired"),
    Concept(
        "exercise",
        "exercise gym workout muscle run running jump weight fitness yoga stretch "
        "push-up training walk jog",
    ),
    Concept(
        "cleaning and repair",
        "clean wash soap dirt dust wipe brush repair fix tool screw hammer nail scrub paint glue",
    ),
    Concept(
        "speech",
        "said say says told tell tells spoke speak talk talking asked ask replied "
        "answered shout whispered",
    ),
    Concept(
        "thinking and knowing",
        "think thought know knew known believe understand understood "
        "remember realize realized decide decided idea mind forget",
    ),
    Concept("instructions", "step first next then add mix place make sure remove put use turn"),
)
"""The concepts by name; a word can be of several."""
