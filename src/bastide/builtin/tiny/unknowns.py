"""Questions that the built-in model cannot answer, so that it learns to say so.

Owns the made-up words, the real words it was not taught, and the questions beyond it. Must never hold a word of `facts.py`.
"""

from random import Random
from typing import Final

from bastide.builtin.tiny.facts import words

ANSWER: Final = "I do not know that. I am a very small model."

_COUNTRIES: Final = words(
    "Bhutan Laos Cambodia Paraguay Bolivia Panama Honduras Guatemala Jamaica Haiti Angola Mali Niger Chad Sudan Uganda "
    "Rwanda Tanzania Mozambique Namibia Botswana Madagascar Libya Yemen Oman Qatar Kuwait Georgia Armenia Moldova "
    "Albania Cyprus Luxembourg Monaco Andorra Samoa Tonga Atlantis Narnia Mars Texas Bavaria Africa"
)
_NOUNS: Final = words(
    "quasar mitochondria algorithm inflation enzyme sonata parliament neutron tariff gearbox spatula trombone cathedral "
    "photon mortgage syntax tractor origami kayak vaccine tornado comet saxophone democracy fungus carburettor magnet "
    "satellite turbine helmet wallet saddle anchor pigeon walnut velvet marble harbour circus tunnel cellar ladder"
)
_ADJECTIVES: Final = words(
    "purple electric wooden mathematical seven banana Tuesday financial curly transparent legal magnetic French oval "
    "spicy medieval elastic carpet window musical chemical lunar"
)
_START: Final = words("bl br cl cr d dr f fl g gl h j k kl l m n p pl qu r s sk sn st t tr v w z zw")
_MIDDLE: Final = words("a e i o u ai ea oo ou y")
_END: Final = words("b ck d ff g lm mp n nd ng nt p rg rm rp sh sp st t x zz")
_BEYOND: Final = (
    "Who won the match yesterday?", "What is the weather today?", "What time is it?", "Who is the president?", "Will it rain tomorrow?",
    "What is the price of gold?", "How do I repair my car?", "Write a program in Python.", "Write me some code.", "What is the latest news?",
    "Who wrote this book?", "Translate this into German.", "How old is my brother?", "What is the meaning of life?", "Who invented the telephone?",
    "How do I cook pasta?", "What is the best restaurant here?", "How far is it to the moon?", "What did I eat yesterday?", "Who is my neighbour?",
    "Give me the recipe of a cake.", "Which team is the best?", "How tall is the tower?", "Solve this equation.", "What is quantum physics?",
    "Who painted this picture?", "When was the war?", "How much does a house cost?", "What is the stock price?", "Write an essay about history.",
    "Can you book a flight?", "Send an email to my boss.", "Play some music.", "Open the browser.", "What is my password?", "Where did I put my keys?",
    "What is the population of the world?", "Who is the king?", "How many people live in the city?", "What is the speed of light?",
    "Can you sing?", "Summarise this article.", "What will happen next year?", "Who was the first person in space?", "How do planes fly?",
    "Why is the sky so high?", "What language do they speak in Peru?", "How long does it take to learn the violin?", "What is the date today?",
    "Which film should I watch?", "How do I lose weight?", "Is it going to snow this week?", "What is the fastest car?", "Who sings this song?",
    "What is the square root of a number?", "How do I tie a tie?", "What year is it?", "Which phone should I buy?", "What are you wearing?",
)  # fmt: skip


def _pick(random: Random, items: tuple[str, ...] | list[str]) -> str:
    return items[int(random.random() * len(items))]


_THINGS: Final = words(
    "mountain river book king queen team garden film train city game song dog car house letter machine child town boat tree school"
)
_PLACES: Final = words(
    "garden city mountains village house forest north harbour school kitchen town valley office world family"
)
_DEEDS: Final = words(
    "paint repair sell cook clean build draw wash move bake fold plant carry print fix paste cut grow install-a-roof-on wrap"
)
_FRAMES: Final = (
    "Who won the {thing} race?", "Who built the first {thing}?", "What is the weather like in the {place}?", "How do I {deed} a {thing}?",
    "Who lives in the {place}?", "Is it raining in the {place}?", "What happened in the {place} last week?", "Where can I buy a {thing}?",
    "Who lost the game {when}?", "What did the {thing} cost {when}?", "When was the {thing} made?", "Write a program that counts a {thing}.",
    "Write code for a {thing}.", "Why did the {thing} break {when}?", "How old is the {thing}?", "What time does the {thing} open?",
    "How do you {deed} things in the {place}?", "Who will win {when}?", "What is on television {when}?", "How far is the {place}?",
    "Write an email about the {thing}.", "Which {thing} should I take?", "Who owns the {place}?", "How much is a {thing}?",
    "What is the name of the {thing} in the {place}?", "Where is the nearest {place}?", "Write a script that finds a {thing}.",
    "Can you {deed} my {thing}?", "How do I {deed} my {thing} at home?", "Did it snow in the {place} {when}?", "What time is it in the {place}?",
)  # fmt: skip
_WHEN: Final = words("yesterday today tomorrow tonight last-week last-year this-year next-week this-morning now")
_SUFFIXES: Final = ("ish", "ful", "less", "ic", "ous", "able", "ally", "tastic", "ing", "ed", "y", "")


def _beyond(random: Random) -> str:
    if random.random() < 0.4:
        return _pick(random, _BEYOND)
    parts = {"thing": _THINGS, "place": _PLACES, "deed": _DEEDS, "when": _WHEN}
    drawn = {name: _pick(random, items).replace("-", " ") for name, items in parts.items()}
    return _pick(random, _FRAMES).format(**drawn)


def made_up_word(random: Random) -> str:
    """A word that no language has, one to three syllables."""
    syllables = 1 + int(random.random() * 2.6)
    return "".join(_pick(random, _START) + _pick(random, _MIDDLE) for _ in range(syllables)) + _pick(random, _END)


def question(random: Random) -> str:
    """A question with no answer in `facts.py` or `product.py`."""
    way = random.random()
    if way < 0.22:
        place = (
            _pick(random, _COUNTRIES)
            if random.random() < 0.5
            else made_up_word(random).capitalize() + _pick(random, ["ia", "land", "stan", "o"])
        )
        return _pick(
            random,
            [
                f"What is the capital of {place}?",
                f"Capital of {place}?",
                f"Tell me the capital of {place}.",
                f"Which city is the capital of {place}?",
                f"Do you know the capital of {place}?",
                f"{place}'s capital?",
                f"What's the capital city of {place}?",
                f"Name the capital of {place}.",
            ],
        )
    if way < 0.42:
        word = _pick(random, _ADJECTIVES) if random.random() < 0.35 else made_up_word(random) + _pick(random, _SUFFIXES)
        return _pick(
            random,
            [
                f"What is the opposite of {word}?",
                f"Opposite of {word}?",
                f"Give me the opposite of {word}.",
                f"What's the antonym of {word}?",
                f"Tell me the opposite of {word}.",
                f"Do you know the opposite of {word}?",
            ],
        )
    if way < 0.68:
        word = _pick(random, _NOUNS) if random.random() < 0.5 else made_up_word(random)
        return _pick(
            random,
            [
                f"What is a {word}?",
                f"What does {word} mean?",
                f"Define {word}.",
                f"What is {word}?",
                f"Explain {word}.",
                f"Tell me what a {word} is.",
                f"What's a {word}?",
                f"Describe a {word}.",
                f"Do you know what a {word} is?",
            ],
        )
    return _beyond(random)
