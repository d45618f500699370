"""Questions about colours, animals and simple facts of the world.

Owns how they are asked and answered; the facts are in `facts.py`. Must never draw chance but from the source given.
"""

from random import Random

from bastide.builtin.tiny import facts
from bastide.builtin.tiny.phrasings import capitalised, choose
from bastide.builtin.tiny.turns import Turn, article, item, many, pick


def colour(random: Random) -> Turn:
    thing, shade = item(random, facts.COLOURS)
    noun = thing.split()[-1] if thing.startswith(("a ", "an ")) and "polar" not in thing else thing
    user = choose(
        random,
        f"What colour is {thing}?",
        f"What colour is {thing}?",
        f"Which colour is {thing}?",
        f"What is the colour of {thing}?",
        f"Tell me the colour of {thing}.",
        f"Colour of {noun}?",
        f"What colour does {thing} have?",
        f"{capitalised(thing)} has what colour?",
        f"Do you know the colour of {thing}?",
        f"Which colour does {thing} have?",
        f"Name the colour of {thing}.",
        f"In what colour would you paint {thing}?",
        f"What colour is {noun}?",
        f"Can you tell me what colour {thing} is?",
        f"I want to know what colour {thing} is.",
        f"What is {thing}'s colour?",
        f"{capitalised(thing)} is what colour?",
    )
    return Turn("colour", user, f"{capitalised(thing)} is {shade}.", capitalised(shade))


def animal(random: Random) -> Turn:
    way = int(random.random() * 4)
    if way == 0:
        name, sound = item(random, facts.ANIMAL_SOUNDS)
        user = choose(
            random,
            f"What sound does {article(name)} make?",
            f"What does {article(name)} say?",
            f"Which noise does {article(name)} make?",
            f"How does {article(name)} sound?",
            f"What noise does the {name} make?",
            f"Tell me the sound of {article(name)}.",
            f"What sound do {many(name)} make?",
            f"The sound of {article(name)}?",
            f"What do you hear from {article(name)}?",
        )
        return Turn("animal", user, f"{capitalised(article(name))} {sound}.", capitalised(sound))
    if way == 1:
        name, young = item(random, facts.ANIMAL_YOUNG)
        user = choose(
            random,
            f"What is a baby {name} called?",
            f"What do you call a baby {name}?",
            f"What is the young of {article(name)} called?",
            f"What is the name for a young {name}?",
            f"A baby {name} is called what?",
            f"Name the young of {article(name)}.",
            f"What is a young {name}?",
            f"How is a baby {name} called?",
            f"Baby {name}?",
            f"What do we call a young {name}?",
        )
        return Turn("animal", user, f"A baby {name} is called a {young}.", capitalised(young))
    if way == 2:
        name, legs = item(random, facts.ANIMAL_LEGS)
        user = choose(
            random,
            f"How many legs does {article(name)} have?",
            f"How many legs do {many(name)} have?",
            f"How many legs has {article(name)} got?",
            f"The number of legs of {article(name)}?",
            f"Count the legs of {article(name)}.",
            f"Tell me how many legs {article(name)} has.",
            f"Does {article(name)} have legs?",
            f"On how many legs does {article(name)} walk?",
            f"{name} legs how many?",
        )
        answer = "eight arms and no legs" if name == "octopus" else f"{legs} legs"
        return Turn("animal", capitalised(user), f"{capitalised(article(name))} has {answer}.", capitalised(legs))
    name, food = item(random, facts.ANIMAL_FOOD)
    user = choose(
        random,
        f"What does {article(name)} eat?",
        f"What do {many(name)} eat?",
        f"What is the food of {article(name)}?",
        f"What does {article(name)} feed on?",
        f"Tell me what {article(name)} eats.",
        f"What do you feed {article(name)}?",
        f"What does {article(name)} like to eat?",
        f"What food does {article(name)} eat?",
        f"The food of {article(name)}?",
    )
    return Turn("animal", user, f"{capitalised(article(name))} eats {food}.", capitalised(food))


def simple_fact(random: Random) -> Turn:
    question, answer = item(random, facts.SIMPLE_FACTS)
    if question in facts.OTHER_WORDINGS and random.random() < 0.5:
        return Turn("simple_fact", pick(random, facts.OTHER_WORDINGS[question]), answer)
    body = question[:-1]
    lowered = body[0].lower() + body[1:]
    user = choose(
        random,
        question,
        question,
        question,
        f"Tell me, {lowered}?",
        f"Do you know {lowered}?",
        f"Can you tell me {lowered}?",
        f"I want to know: {lowered}?",
        body.replace("What is the", "Tell me the").replace("How many", "Number of"),
        body.replace("What is", "Which is").replace("What are", "Name"),
        body.replace("are in", "does it take to make"),
        body.replace("are in", "are there in").replace("What are", "Tell me"),
        body.replace("largest", "biggest").replace("highest", "tallest"),
        f"I wonder {lowered}.",
        body.replace("are in", "has").replace("What is", "Name"),
    )
    return Turn("simple_fact", user, answer)
