"""Questions about countries: their capitals and continents.

Owns how they are asked and answered; the facts are in `facts.py`. Must never draw chance but from the source given.
"""

from random import Random

from bastide.builtin.tiny import facts
from bastide.builtin.tiny.phrasings import ask_for, capitalised, choose
from bastide.builtin.tiny.turns import Turn, item, pick


def capital(random: Random) -> Turn:
    country, city = item(random, facts.CAPITALS)
    plain = country.removeprefix("the ") if random.random() < 0.3 else country
    way = random.random()
    if way < 0.75:
        user = ask_for(
            random,
            choose(
                random,
                f"the capital of {plain}",
                f"the capital of {plain}",
                f"{plain}'s capital",
                f"the capital city of {plain}",
                f"{plain}'s capital city",
                f"the capital for {plain}",
                f"the main city and capital of {plain}",
            ),
        )
    else:
        user = choose(
            random,
            f"Which city is the capital of {plain}?",
            f"What city is the capital of {plain}?",
            f"{plain} capital?",
            f"Capital of {plain}",
            f"Which city is {plain}'s capital?",
            f"What is the capital city called in {plain}?",
            f"What capital does {plain} have?",
            f"Which is the capital of {plain}?",
            f"{plain} has which capital?",
            f"In {plain}, what is the capital?",
            f"Where is the capital of {plain}?",
            f"Where is the government of {plain}?",
            f"The capital of {plain} is",
            f"If I fly to the capital of {plain}, where do I land?",
        )
    return Turn("capital", capitalised(user), f"The capital of {country} is {city}.", city)


def country_of(random: Random) -> Turn:
    country, city = item(random, facts.CAPITALS)
    user = choose(
        random,
        f"{city} is the capital of which country?",
        f"Which country has the capital {city}?",
        f"What country is {city} the capital of?",
        f"In which country is {city}?",
        f"Where is {city}?",
        f"What country is {city} in?",
        f"Which country is {city} in?",
        f"Tell me where {city} is.",
        f"Which country does {city} belong to?",
        f"Of which country is {city} the capital?",
    )
    return Turn("country_of", user, f"{city} is the capital of {country}.", capitalised(country.removeprefix("the ")))


def continent(random: Random) -> Turn:
    name, countries = pick(random, list(facts.CONTINENTS.items()))
    country = pick(random, countries)
    user = choose(
        random,
        f"Which continent is {country} in?",
        f"On which continent is {country}?",
        f"What continent is {country} on?",
        f"In what part of the world is {country}?",
        f"{country} is on which continent?",
        f"Where is {country}?",
        f"Where in the world is {country}?",
        f"What is the continent of {country}?",
        f"Tell me where {country} is.",
        f"Which continent does {country} belong to?",
        f"What continent is {country} part of?",
    )
    return Turn("continent", user, f"{country} is in {name}.", name)
