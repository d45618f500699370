"""Whole conversations: turns in a row, with or without a system prompt, and what the user told earlier.

Owns how turns are joined. Must never let a question of `heldout.py` through, in whatever case or punctuation.
"""

from dataclasses import dataclass
from random import Random
from typing import Final

from bastide.builtin.tiny import heldout, talk
from bastide.builtin.tiny.facts import words
from bastide.builtin.tiny.intents import any_turn
from bastide.builtin.tiny.phrasings import bare, capitalised, choose, typed
from bastide.builtin.tiny.turns import pick


@dataclass(frozen=True, slots=True)
class Conversation:
    """A system prompt (or none) and question-answer pairs; `intents` has one entry per pair."""

    system: str | None
    pairs: tuple[tuple[str, str], ...]
    intents: tuple[str, ...]


_GENERAL_SYSTEMS: Final = (
    "You are a helpful assistant.", "You are a helpful assistant.", "You are a helpful AI assistant.", "You are Tiny, a helpful assistant.",
    "Be helpful and polite.", "You are a friendly chat assistant.", "You are a polite assistant. Answer the user.", "Help the user.",
    "You are an assistant that answers questions.", "Answer the questions of the user.", "You are a teacher.", "Be concise.",
    "You are a careful assistant. Do not make things up.", "You are an assistant for the users of Bastide.",
)  # fmt: skip
_BRIEF_SYSTEMS: Final = (
    "Answer in one word.", "Answer with one word.", "Answer with a single word.", "One word answers only.", "Reply with one word only.",
    "You are a helpful assistant. Answer in one word.", "Answer only with the answer itself, in one word.", "Use one word.",
)  # fmt: skip
_NAMES: Final = words(
    "Anna Ben Clara David Emma Felix Greta Hugo Ida Jonas Karl Lena Marie Noah Olivia Paul Quentin Ruth Simon Tina Ursula Victor "
    "Wanda Xenia Yara Zoe Alice Bob Carol Daniel Eva Frank Grace Henry Irene Jack Kate Leo Maria Nick Oscar Peter Rachel Sam Tara "
    "Uwe Vera Walter Yusuf Zara Amir Bela Chen Diego Elif Fatima Gina Hana Ivan Julia Kim Luis Mei Nina Omar Priya Ravi Sara Tariq"
)
_COLOURS: Final = words("red blue green yellow black white orange purple pink brown grey")
_ANIMALS: Final = words("dog cat horse owl fox bear lion rabbit wolf duck frog elephant penguin tiger mouse")
_CITIES: Final = words(
    "Paris Berlin Rome Madrid Lisbon Vienna Oslo London Tokyo Cairo Lima Dublin Prague Zurich Hamburg Lyon Milan"
)

# What can be remembered: values, ways to tell it, what is answered, ways to ask, the answer, the answer when it was never told.
_MEMORIES: Final = (
    ("name", _NAMES, ("My name is {v}.", "I am {v}.", "I'm {v}.", "Hello, my name is {v}.", "Hi, I am {v}.", "Call me {v}.", "You can call me {v}.",
                      "Hello, I'm {v}.", "They call me {v}.", "Hi Tiny, my name is {v}."), "Nice to meet you, {v}!",
     ("What is my name?", "What's my name?", "Who am I?", "Do you remember my name?", "Do you know my name?", "Tell me my name.", "Say my name.",
      "How am I called?", "What did I say my name was?", "Can you say what my name is?", "I forgot my name, what is it?", "Now, what is my name?", "What name did I tell you?", "Could you say my name?", "Please tell me my name.", "My name is?"), "Your name is {v}.", "I do not know your name. You have not told me."),
    ("colour", _COLOURS, ("My favourite colour is {v}.", "I like the colour {v}.", "The colour I like best is {v}.", "I love {v}, it is my colour.",
                          "{v} is my favourite colour."), "{v} is a nice colour.",
     ("What is my favourite colour?", "Which colour do I like?", "What colour do I like best?", "Do you remember my favourite colour?",
      "Tell me my favourite colour.", "What's my favourite colour?"), "Your favourite colour is {v}.",
     "I do not know your favourite colour. You have not told me."),
    ("animal", _ANIMALS, ("My favourite animal is the {v}.", "The animal I like best is the {v}.", "The {v} is my favourite animal.",
                          "I like one animal most: the {v}."), "The {v} is a fine animal.",
     ("What is my favourite animal?", "Which animal do I like?", "What animal do I like best?", "Do you remember my favourite animal?",
      "Tell me my favourite animal."), "Your favourite animal is the {v}.", "I do not know your favourite animal. You have not told me."),
    ("home", _CITIES, ("I live in {v}.", "My home is {v}.", "I am from {v}.", "I come from {v}.", "My home town is {v}.", "I'm from {v}."),
     "{v} must be a good place to live.",
     ("Where do I live?", "Where am I from?", "Which city do I live in?", "Do you remember where I live?", "What is my home town?",
      "Tell me where I live."), "You live in {v}.", "I do not know where you live. You have not told me."),
)  # fmt: skip
_HELD_OUT: Final = heldout.bare_questions()


def asked(random: Random, question: str) -> str:
    """This question as typed, drawn again while it is a held-out one."""
    while True:
        user = typed(random, question, wrapped=random.random() < 0.3)
        if bare(user) not in _HELD_OUT:
            return user


def _typed_turn(random: Random, *, brief: bool) -> tuple[str, str, str]:
    """Intent, question as typed, answer; drawn again while the question is a held-out one."""
    while True:
        turn = any_turn(random)
        user = typed(random, turn.user, wrapped=turn.wrapped)
        if bare(user) not in _HELD_OUT:
            return turn.intent, user, f"{turn.brief}." if brief and turn.brief else turn.assistant


def _told(random: Random) -> list[tuple[int, tuple[str, str, str]]]:
    """What the user tells and what is asked about it later, each with its order (0 told, 1 asked)."""
    kind, values, tells, reply, asks, answer, unknown = pick(random, _MEMORIES)
    value = pick(random, values)
    ask = asked(random, pick(random, asks))
    if random.random() < 0.15:
        return [(1, (f"recall_{kind}", ask, unknown))]
    tell = typed(random, capitalised(pick(random, tells).format(v=value)), wrapped=False)
    return [
        (0, (f"tell_{kind}", tell, capitalised(reply.format(v=value)))),
        (1, (f"recall_{kind}", ask, answer.format(v=value))),
    ]


def _length(random: Random) -> int:
    way = random.random()
    if way < 0.35:
        return 1
    if way < 0.80:
        return 2 + int(random.random() * 4)
    return 6 + int(random.random() * 7)


def conversation(random: Random) -> Conversation:
    """One conversation of 1 to about 14 turns."""
    way = random.random()
    brief = way < 0.07
    system = pick(random, _BRIEF_SYSTEMS) if brief else pick(random, _GENERAL_SYSTEMS) if way < 0.40 else None
    rows = [_typed_turn(random, brief=brief) for _ in range(_length(random))]
    if way > 0.95:
        name = pick(random, _NAMES)
        system = choose(
            random,
            f"You are {name}.",
            f"Your name is {name}.",
            f"You are {name}, a helpful assistant.",
            f"You are called {name}.",
        )
        question = pick(random, talk.WHO_QUESTIONS)
        rows[0] = ("persona", asked(random, question), f"I am {name}, a small assistant.")
        rows = [row for row in rows if row[0] != "who_are_you"]
    elif not brief and random.random() < 0.32:
        told = _told(random)
        places = sorted(int(random.random() * (len(rows) + 1)) for _ in told)
        for place, (_, row) in reversed(list(zip(places, told, strict=True))):
            rows.insert(place, row)
    return Conversation(
        system, tuple((user, answer) for _, user, answer in rows), tuple(intent for intent, _, _ in rows)
    )
