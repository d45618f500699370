"""The questions kept for the evaluation: none of them, in any case or punctuation, is ever trained on.

Owns the questions that showed where the training text was thin; those of `fresh.py` were worded after that. Must never be
read by anything that makes training text, but to leave these questions out.
"""

from typing import Final

from bastide.builtin.tiny.fresh import FRESH
from bastide.builtin.tiny.phrasings import bare
from bastide.builtin.tiny.questions import Question, rows

_UNKNOWN: Final = "do not know"
QUESTIONS: Final[tuple[Question, ...]] = (
    *rows(
        "capital",
        """
        Remind me what the capital of France is. | Paris
        Would you mind telling me the capital of Japan? | Tokyo
        I'm curious, what is Germany's capital? | Berlin
        Which town serves as Italy's capital? | Rome
        Any idea what the capital of Spain is? | Madrid
        As far as you know, what is the capital of Egypt? | Cairo
        I forgot what the capital of Canada is called. | Ottawa
        Which city do people call the capital of Australia? | Canberra
        In geography class they asked for the capital of Norway. | Oslo
        Kenya: which capital? | Nairobi
        How is the capital of Peru called? | Lima
        May I know the capital of Poland? | Warsaw
        What city would be Greece's capital? | Athens
        Of Sweden I need the capital. | Stockholm
        The United Kingdom has which city as its capital? | London
    """,
    ),
    *rows(
        "opposite",
        """
        Remind me what the opposite of hot is. | cold
        What would you say is the opposite of big? | small
        I'm looking for the word that is opposite to happy. | sad
        Any idea what the opposite of fast is? | slow
        Which word stands for the opposite of early? | late
        What is the contrary word to full? | empty
        If something is not open, then it is? | closed
        Would you mind giving me the antonym of strong? | weak
        The opposite of rich, what is it? | poor
        May I have the opposite of day? | night
        How do you call the opposite of wet? | dry
        Please find an antonym for loud. | quiet
        What is the exact opposite of clean? | dirty
    """,
    ),
    *rows(
        "definition",
        """
        Remind me what a volcano is. | melted rock
        Would you mind explaining what a library is? | books
        In simple words, what is a bridge? | road
        How do you define a compass? | north
        What would you say a glacier is? | ice
        Somebody said telescope, what is that? | far things
        I heard the word island. What does it mean? | water all around
        Help me understand what a lighthouse is. | ships
        What sort of thing is a museum? | old things
        Could you give a definition for umbrella? | rain
        In your words, explain thunder. | lightning
        What is an orchestra supposed to be? | musicians
        May I ask what a needle is? | sewing
    """,
    ),
    *rows(
        "colour",
        """
        What colour would you say grass is? | green
        Remind me of the colour of a lemon. | yellow
        Any idea which colour snow is? | white
        Coal, which colour is it? | black
        If you look at the sky, what colour is it? | blue
        Would you tell me the colour of a strawberry? | red
    """,
    ),
    *rows(
        "animal",
        """
        Any idea how many legs a spider has? | eight
        What kind of sound does a cow make? | moo
        If I meet a dog, how many legs will I see? | four
        A cat's baby is called what? | kitten
        What is the usual food of a panda? | bamboo
        Remind me what a young sheep is called. | lamb
        Which sound comes from a duck? | quack
        What would a rabbit like to eat? | grass
    """,
    ),
    *rows(
        "plural",
        """
        Any idea what the plural of mouse is? | mice
        What would be the right plural of child? | children
        One foot, but two? | feet
        Remind me how the plural of leaf is written. | leaves
        What does tooth become in the plural? | teeth
        How would you write more than one box? | boxes
        Would you tell me the plural of city? | cities
    """,
    ),
    *rows(
        "calendar",
        """
        Any idea which day comes after Monday? | Tuesday
        Which month do we have after March? | April
        Remind me which day is before Sunday. | Saturday
        When July is over, which month comes? | August
        Would you tell me the first month of the year? | January
        How many days are there in June? | 30
        List me all the days that a week has. | Monday
    """,
    ),
    *rows(
        "simple_fact",
        """
        How many days does a week have? | seven
        Any idea how many months are in one year? | twelve
        Remind me how many continents there are. | seven
        Which season names are there, all four? | spring
        What would be the largest planet? | Jupiter
        When water boils, how hot is it? | 100
        Where does the sun come up? | east
    """,
    ),
    *rows(
        "talk",
        """
        Hello hello! | help you
        A very good morning to you! | help you
        Hi, and how are you doing today? | fine
        Thank you kindly for that. | welcome
        Thanks ever so much, Tiny! | welcome
        I must go now, goodbye! | goodbye
        See you next week! | goodbye
        Could you tell me who you are? | Tiny
        Please tell me your name. | Tiny
        And what are you, exactly? | Tiny / model
        Are you by chance a human being? | not a person
        Which things can you do for me? | capitals
        Who was it that trained you? | Bastide project
    """,
    ),
    *rows(
        "unknown",
        """
        What is the capital of Zambia? | do not know
        What is the capital of Fiji? | do not know
        What is the capital of Blomvaria? | do not know
        What is the opposite of blorptastic? | do not know
        What is the opposite of geometric? | do not know
        What is a flimzorp? | do not know
        What does snurgle mean? | do not know
        Who won the game last night? | do not know
        What is the weather like in the mountains? | do not know
        What time is it now in my town? | do not know
        How do I bake a lasagne? | do not know
        Write a program that sorts a list. | do not know
        What is 23 + 48? | calculator
        How much is 6 times 9? | calculator
    """,
    ),
    *rows(
        "bastide",
        """
        What exactly is Bastide? | AI cloud
        In one sentence, what is Bastide about? | AI cloud
        Remind me how to start Bastide. | bastide up
        How would you deploy a model? | bastide deploy
        Which command shows what is running? | bastide ps
        With which command do I chat with a model? | bastide chat
        Where do I find the logs of my service? | bastide logs
        How could I scale my service? | bastide scale
        What is the way to put a service to sleep? | bastide sleep
        How might I wake up a model that sleeps? | bastide wake
        Which command tells me why something happened? | bastide why
        How do I find out how many tokens I used? | bastide usage
        Please help me create an API key. | bastide keys create
        Which command checks whether my machine is fine? | bastide doctor
        Tell me what the bastide ps command does. | lists
        What would bastide doctor do? | checks
        Remind me what the rungs of Bastide are. | frozen
        What does it mean when an instance is frozen? | memory is kept
        Which rung is deep? | state is kept
        When Bastide says hold, what is meant? | waits
        What role does the ledger have in Bastide? | usage
        What would an engine be in Bastide? | serves a model
        Is it true that Bastide is open source? | open source
        Which are the commands that Bastide knows? | deploy
        On which machines can Bastide run? | own
    """,
    ),
    *rows(
        "story",
        """
        Would you tell me a story about a dragon? | dragon
        I feel like hearing a story about a fox. | fox
        Could I have a story with a robot in it? | robot
        Let me hear a little story. | there was
    """,
    ),
    Question("memory", "So what was my name again?", ("Anna",), ("Hello, my name is Anna.",)),
    Question(
        "memory", "Can you tell me what my name is?", ("Peter",), ("My name is Peter.", "What is the capital of Italy?")
    ),
    Question(
        "memory",
        "And my favourite colour was?",
        ("green",),
        ("My favourite colour is green.", "What is the opposite of up?"),
    ),
    Question("memory", "Which city did I say I live in?", ("Vienna",), ("I live in Vienna.",)),
    Question(
        "memory",
        "Please tell me what my favourite animal is.",
        ("owl",),
        ("My favourite animal is the owl.", "Thank you!"),
    ),
    Question("memory", "Could you tell me what my name is?", ("have not told", _UNKNOWN), ("What is a bridge?",)),
    Question(
        "system", "Would you tell me the capital of Denmark?", ("Copenhagen",), (), "You are a helpful assistant."
    ),
    Question("system", "Any idea what the opposite of tall is?", ("short",), (), "You are a helpful assistant."),
    Question("system", "I ask you for the capital of Portugal.", ("Lisbon",), (), "Answer in one word."),
    Question("system", "Please tell me who you are.", ("Clara",), (), "You are Clara, a helpful assistant."),
)


def bare_questions() -> frozenset[str]:
    """Every held-out question in the form of `phrasings.bare`."""
    return frozenset(bare(question.text) for question in QUESTIONS + FRESH)
