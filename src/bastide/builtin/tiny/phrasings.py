"""How people word a question: frames around a noun phrase, openers and closers, careless typing.

Owns the variation of the user's side. Must never change what is asked, nor touch the assistant's side, nor hold a phrasing of
`heldout.py`: those are kept for the evaluation.
"""

from random import Random
from typing import Final

from bastide.builtin.tiny.facts import words

# Frames around something that can be named, such as "the capital of France".
NOUN_FRAMES: Final = (
    "What is {np}?",
    "What is {np}?",
    "What is {np}?",
    "What's {np}?",
    "Tell me {np}.",
    "Name {np}.",
    "Do you know {np}?",
    "Can you tell me {np}?",
    "Could you tell me what {np} is?",
    "I want to know {np}.",
    "I would like to know {np}.",
    "Give me {np}.",
    "{np}?",
    "{np}",
    "{np} is what?",
    "What would be {np}?",
    "Do you happen to know {np}?",
    "Let me know {np}.",
    "I need {np}.",
    "Can you name {np}?",
    "Can you say what {np} is?",
    "I wonder what {np} is.",
    "Tell me what {np} is.",
    "Do you know what {np} is?",
    "I am looking for {np}.",
    "Help me find {np}.",
    "What do you call {np}?",
    "Explain what {np} is.",
    "Can I ask you {np}?",
    "Tell me about {np}.",
    "I have a question about {np}.",
    "Please say {np}.",
    "Have you heard what {np} is?",
    "And what is {np}?",
    "What is the name of {np}?",
    "Write {np}.",
    "{np} is called?",
    "Can somebody tell me {np}?",
    "Find {np}.",
    "{np}, what is it?",
    "I cannot remember {np}.",
    "Would you know {np}?",
    "Please help me with {np}.",
    "Which one is {np}?",
    "How do people call {np}?",
    "May I ask what {np} is?",
    "Is there a name for {np}?",
    "I was asked for {np}.",
    "What could be {np}?",
    "Let us talk about {np}.",
    "Teach me {np}.",
    "What did you say {np} was?",
    "Do tell me {np}.",
    "Show me {np}.",
    "I have to learn {np}.",
    "My teacher asks for {np}.",
)

# Frames around a whole clause, such as "how to start Bastide" or "a dog has four legs".
HOW_FRAMES: Final = (
    "How do I {verb}?",
    "How do I {verb}?",
    "How can I {verb}?",
    "How to {verb}?",
    "How to {verb}",
    "I want to {verb}.",
    "I need to {verb}.",
    "What command do I use to {verb}?",
    "Which command lets me {verb}?",
    "What is the command to {verb}?",
    "Tell me how to {verb}.",
    "Can you tell me how to {verb}?",
    "I would like to {verb}.",
    "Please show me how to {verb}.",
    "Which command should I run to {verb}?",
    "How does one {verb}?",
    "How do you {verb}?",
    "Command to {verb}?",
    "Can I {verb}?",
    "Explain how to {verb}.",
    "{verb}",
    "What do I type to {verb}?",
    "Is there a command to {verb}?",
    "What do I run in order to {verb}?",
    "How should I {verb}?",
    "How would I {verb} with Bastide?",
    "With Bastide, how do I {verb}?",
    "What do I do to {verb}?",
    "I do not know how to {verb}.",
)

FILLERS: Final = words(
    "really exactly just actually maybe again perhaps simply still even also now then there here please so well kindly quickly once "
    "quite in-fact you-say you-think I-mean let-us-say in-your-words by-the-way for-me to-me supposed-to-be would-be"
)

OPENERS: Final = (
    "I have heard a lot, but ",
    "I was asked: ",
    "In the quiz: ",
    "Somebody asked me: ",
    "My friend asks: ",
    "Can you help? ",
    "You know a lot. ",
    "Let me ask: ",
    "Tell me: ",
    "Question: ",
    "Would you say ",
    "As I said, ",
    "In one line: ",
    "In simple words: ",
    "Honestly, ",
    "Here is a question. ",
    "First of all, ",
    "I need this for a friend: ",
    "Be so kind: ",
    "It is late, but ",
    "Hey, ",
    "Hi, ",
    "OK, ",
    "So, ",
    "Please, ",
    "Hello! ",
    "Now, ",
    "Quick question: ",
    "One more thing: ",
    "Well, ",
    "Next: ",
    "Thanks. ",
    "Sorry, ",
    "Another question: ",
    "And now: ",
    "Good. ",
    "Excuse me, ",
    "Tiny, ",
    "I have a question. ",
    "For school: ",
    "Great. ",
    "Be quick: ",
    "Listen, ",
    "Right, ",
    "Help me: ",
    "Just wondering: ",
    "By the way, ",
)
CLOSERS: Final = (
    " please",
    " please?",
    " thanks",
    " thank you",
    " if you can",
    " for me",
    ", do you know?",
    " now",
    ", please",
    " again",
    " in short",
    ", can you help?",
    ", I forgot",
    " exactly",
    ", I wonder",
    " then",
    " today",
)

_AMERICAN: Final = (
    ("colour", "color"),
    ("Colour", "Color"),
    ("favourite", "favorite"),
    ("grey", "gray"),
    ("licence", "license"),
)
_DROPPABLE: Final = frozenset(words("what is the of a an do does you i to me can tell are my"))
_PUNCTUATION: Final = str.maketrans("", "", "?.!,:;'\"")


def choose(random: Random, *options: str) -> str:
    """One of the options, all as likely."""
    return options[int(random.random() * len(options))]


def capitalised(text: str) -> str:
    """The text with its first letter upper, the rest untouched."""
    return text[:1].upper() + text[1:]


def ask_for(random: Random, noun_phrase: str) -> str:
    """A question for a thing that has a name."""
    return capitalised(choose(random, *NOUN_FRAMES).format(np=noun_phrase))


def ask_how(random: Random, verb_phrase: str) -> str:
    """A question for how something is done."""
    return capitalised(choose(random, *HOW_FRAMES).format(verb=verb_phrase))


def bare(text: str) -> str:
    """Lower case, no punctuation, single spaces: two questions equal in this form are the same question."""
    return " ".join(text.lower().translate(_PUNCTUATION).split())


def _without_small_words(random: Random, text: str) -> str:
    kept = [word for word in bare(text).split() if word not in _DROPPABLE or random.random() < 0.5]
    return " ".join(kept) or text


def _with_other_words(random: Random, text: str) -> str:
    """One or two words more than needed, at any place, or one word less: nobody's wording is foreseen."""
    parts = text.split(" ")
    if len(parts) > 4 and random.random() < 0.25:
        del parts[int(random.random() * len(parts))]
        return " ".join(parts)
    for _ in range(1 + int(random.random() * 2)):
        parts.insert(int(random.random() * (len(parts) + 1)), choose(random, *FILLERS).replace("-", " "))
    return " ".join(parts)


def _with_slip(random: Random, text: str) -> str:
    """Two neighbouring letters swapped, or one left out, or one doubled."""
    if len(text) < 8:
        return text
    at = 1 + int(random.random() * (len(text) - 3))
    kind = random.random()
    if kind < 0.4:
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    if kind < 0.7:
        return text[:at] + text[at + 1 :]
    return text[:at] + text[at] + text[at:]


def typed(random: Random, text: str, *, wrapped: bool = True) -> str:
    """The question as a person may type it: with an opener or a closer, in any case, with or without punctuation.

    `wrapped=False` leaves out openers and closers, for texts that make no sense with them.
    """
    if wrapped and random.random() < 0.22:
        opener = choose(random, *OPENERS)
        text = opener + (text if random.random() < 0.5 or text.startswith("I ") else text[:1].lower() + text[1:])
    if wrapped and random.random() < 0.15:
        closer = choose(random, *CLOSERS)
        text = text.rstrip("?.!") + closer + ("?" if text.endswith("?") and not closer.endswith("?") else "")
    if wrapped and random.random() < 0.12:
        text = _with_other_words(random, text)
    if random.random() < 0.35:
        for british, american in _AMERICAN:
            text = text.replace(british, american)
    way = random.random()
    if way < 0.40:
        return text
    if way < 0.64:
        return bare(text)
    if way < 0.76:
        return text.lower()
    if way < 0.86:
        return text.rstrip("?.!")
    if way < 0.89:
        return text.upper()
    if way < 0.95:
        return _without_small_words(random, text)
    return _with_slip(random, text)
