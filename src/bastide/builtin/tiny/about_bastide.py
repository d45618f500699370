"""Questions about Bastide: its commands, its words, and what it is.

Owns how they are asked and answered; what is true is in `product.py`. Must never draw chance but from the source given.
"""

from random import Random

from bastide.builtin.tiny import product
from bastide.builtin.tiny.phrasings import ask_how, capitalised, choose
from bastide.builtin.tiny.turns import Turn, article, item, pick


def about_bastide(random: Random) -> Turn:
    way = random.random()
    if way < 0.40:
        command, wishes, does = pick(random, product.COMMANDS)
        if random.random() < 0.7:
            return Turn("bastide_how", ask_how(random, pick(random, wishes)), f"Run {command}. It {does}.", command)
        if random.random() < 0.4:
            user = choose(
                random,
                f"Which command {does}?",
                f"What command {does}?",
                f"Is there a command that {does}?",
                f"Name the command that {does}.",
                f"Which of the commands {does}?",
            )
            return Turn("bastide_how", user, f"Run {command}. It {does}.", command)
        short = " ".join(word for word in command.split() if not word.isupper())
        user = choose(
            random,
            f"What does {short} do?",
            f"What is {short}?",
            f"Explain {short}.",
            f"What is the command {short} for?",
            f"What happens when I run {short}?",
            f"When do I use {short}?",
            f"Tell me about {short}.",
            f"What is {short} for?",
            f"What does the {short.removeprefix('bastide ')} command do?",
            f"Describe {short}.",
            f"{short}?",
            f"Why would I run {short}?",
        )
        return Turn(
            "bastide_command", capitalised(user) if random.random() < 0.5 else user, f"The command {short} {does}."
        )
    if way < 0.55:
        rung, answer = item(random, product.RUNGS)
        user = choose(
            random,
            f"What is the rung {rung}?",
            f"What does the rung {rung} mean?",
            f"What does {rung} mean in Bastide?",
            f"Explain the rung {rung}.",
            f"What is the {rung} rung?",
            f"Which state is {rung}?",
            f"Tell me about the {rung} rung.",
            f"What does {rung} mean for an instance?",
            f"My instance is {rung}, what does that mean?",
            f"Describe the rung {rung}.",
            f"What happens at the rung {rung}?",
            f"When is an instance {rung}?",
            f"What is {rung} in Bastide?",
        )
        return Turn("bastide_rung", user, answer)
    if way < 0.75:
        noun, answer = item(random, product.NOUNS)
        named = article(noun) if noun not in {"ledger", "gateway"} else f"the {noun}"
        user = choose(
            random,
            f"What is {named} in Bastide?",
            f"In Bastide, what is {named}?",
            f"What does {noun} mean in Bastide?",
            f"Explain {named} in Bastide.",
            f"What is a Bastide {noun}?",
            f"Define {noun} in Bastide.",
            f"What is {named}?",
            f"What do you call {named} in Bastide?",
            f"Tell me what {named} is in Bastide.",
            f"Bastide {noun}?",
            f"What's {named}?",
            f"Describe {named} in Bastide.",
            f"What is {named} for Bastide?",
            f"Explain {named}.",
            f"Tell me about the {noun}.",
        )
        return Turn("bastide_noun", user, answer)
    topic = pick(random, product.TOPICS)
    return Turn("bastide_topic", pick(random, topic.questions), topic.answer)
