"""Questions about words: opposites, meanings, plurals.

Owns how they are asked and answered; the facts are in `facts.py`. Must never draw chance but from the source given.
"""

from random import Random

from bastide.builtin.tiny import facts
from bastide.builtin.tiny.phrasings import ask_for, capitalised, choose
from bastide.builtin.tiny.turns import Turn, article, item, many


def opposite(random: Random) -> Turn:
    left, right = item(random, facts.OPPOSITES)
    if random.random() < 0.4 and right not in facts.OPPOSITES:
        left, right = right, left
    word = f'"{left}"' if random.random() < 0.12 else left
    if random.random() < 0.7:
        user = ask_for(
            random,
            choose(
                random,
                f"the opposite of {word}",
                f"the opposite of {word}",
                f"the opposite for {word}",
                f"an antonym of {word}",
                f"the antonym of {word}",
                f"the contrary of {word}",
                f"the reverse of {word}",
                f"the opposite word of {word}",
                f"a word that means the opposite of {word}",
            ),
        )
    else:
        user = choose(
            random,
            f"Which word is the opposite of {word}?",
            f"{word} opposite",
            f"What word means the opposite of {word}?",
            f"Opposite of {word}",
            f"What is opposite to {word}?",
            f"If it is not {word}, what is it?",
            f"The opposite of {word} is",
            f"Not {word} but?",
            f"Give me a word opposite to {word}.",
            f"Which word means the contrary of {word}?",
            f"What's the other way round from {word}?",
        )
    return Turn("opposite", capitalised(user), f"The opposite of {left} is {right}.", capitalised(right))


def definition(random: Random) -> Turn:
    noun, meaning = item(random, facts.DEFINITIONS)
    thing = article(noun)
    way = random.random()
    if way < 0.45:
        user = choose(random, f"What is {thing}?", f"What's {thing}?", f"What is {noun}?", f"What is {thing}, really?")
    else:
        user = choose(
            random,
            f"Define {noun}.",
            f"Define {thing}.",
            f"What does {noun} mean?",
            f"Explain {noun}.",
            f"Explain what {thing} is.",
            f"What does the word {noun} mean?",
            f"Tell me what {thing} is.",
            f"What do you mean by {noun}?",
            f"Describe {thing}.",
            f"Can you explain what {thing} is?",
            f"Meaning of {noun}",
            f"Definition of {noun}",
            f"Do you know what {thing} is?",
            f"What is meant by {noun}?",
            f"Give me a definition of {noun}.",
            f"Can you define {noun}?",
            f"Tell me about {thing}.",
            f"What is the meaning of {noun}?",
            f"What is the definition of {noun}?",
            f"I do not know the word {noun}.",
            f"How would you describe {thing}?",
            f"What kind of thing is {thing}?",
            f"{noun} means what?",
            f"What exactly is {thing}?",
            f"What are {many(noun)}?" if noun not in facts.WITHOUT_ARTICLE else f"What is {noun}?",
            f"Say what {thing} is.",
            f"I want to know what {thing} is.",
            f"Could you describe {thing}?",
            f"I read about {thing} today. What is it?",
            f"My friend talked about {thing}. What is that?",
            f"There is the word {noun}. Explain it.",
            f"The word {noun} is new to me.",
            f"They said {noun}. What do they mean?",
            f"What sort of object is {thing}?",
            f"What is {thing} in simple words?",
            f"{noun}: what is it?",
            f"How would you explain {thing}?",
            f"What is {thing} for?",
            f"What might {thing} be?",
            f"Somebody showed me {thing}. What is it?",
            f"Can you say what {noun} means?",
            f"What is known about {thing}?",
            f"Teach me the word {noun}.",
            f"What makes {thing} what it is?",
        )
    return Turn("definition", capitalised(user), f"{capitalised(thing)} is {meaning}.")


def plural(random: Random) -> Turn:
    one, many = item(random, facts.PLURALS)
    word = f'"{one}"' if random.random() < 0.12 else one
    if random.random() < 0.6:
        user = ask_for(
            random,
            choose(
                random,
                f"the plural of {word}",
                f"the plural of {word}",
                f"the plural form of {word}",
                f"the plural for {word}",
                f"the plural of the word {word}",
            ),
        )
    else:
        user = choose(
            random,
            f"One {one}, two what?",
            f"{word} plural",
            f"What is more than one {one} called?",
            f"Plural of {word}",
            f"How do you write {word} in the plural?",
            f"What do you say for more than one {one}?",
            f"How do you spell the plural of {word}?",
            f"If I have more than one {one}, I have many what?",
            f"One {one}, many?",
            f"Make {word} plural.",
            f"How is the plural of {word} spelled?",
            f"How is {word} written when there are several?",
            f"What is {word} in the plural?",
            f"I see one {one} and then another. I see two what?",
            f"Two or more of {word}?",
            f"Which word is the plural of {word}?",
            f"What does {word} turn into when there are many?",
            f"Put {word} into the plural.",
            f"The plural of {word} is",
            f"{article(one)}, but several?",
            f"Turn {word} into a plural.",
        )
    return Turn("plural", capitalised(user), f"The plural of {one} is {many}.", capitalised(many))
