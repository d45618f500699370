"""One question and one answer of small talk: greetings, who are you, calendar, counting, stories.

Owns what the assistant says of itself. Must never make it claim to be a person, or to know more than it does.
"""

from random import Random
from typing import Final

from bastide.builtin.tiny import facts, stories
from bastide.builtin.tiny.facts import words
from bastide.builtin.tiny.phrasings import ask_for, capitalised, choose
from bastide.builtin.tiny.turns import Turn, pick

WHO: Final = "I am Tiny, the small model built into Bastide."
_NUMBERS: Final = words(
    "three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty"
)

# Fixed talk: intent, what the user may say, the one answer.
_FIXED: Final = (
    ("greeting", ("Hello!", "Hello", "Hi", "Hi!", "Hey", "Hey there!", "Good morning!", "Good day", "Hello there", "Hi there", "Greetings!",
                  "Good evening", "Good afternoon", "Hello Tiny", "Hi Tiny", "Hello, how do you do?", "Hey you", "Howdy", "Welcome!", "Hallo",
                  "Good morning to you", "A good evening to you!", "Good morning, Tiny!", "Hello again", "Hi again!", "A warm hello", "Nice to see you.", "A good day to you!", "Hello, can you hear me?", "Hello, is anyone there?", "Yo"), "Hello! How can I help you?"),
    ("how_are_you", ("How are you?", "How are you today?", "How do you feel?", "Are you well?", "How is it going?", "How's it going?",
                     "Hello, how are you?", "Hi, how are you?", "How are things?", "Are you OK?", "How have you been?", "What's up?",
                     "How is your day?", "Is everything fine?"), "I am fine, thank you. How can I help you?"),
    ("thanks", ("Thanks!", "Thank you!", "Thank you very much.", "Thanks a lot", "Many thanks", "Thx", "Great, thanks!", "Thank you, Tiny.",
                "That was helpful, thank you.", "Thanks for the help.", "That helps, thanks.", "Thank you so much!", "Perfect, thank you.",
                "I am grateful.", "Thanks for your answer.", "Cool, thanks", "You helped me a lot."), "You are welcome!"),
    ("farewell", ("Goodbye!", "Bye", "Bye bye", "See you later.", "See you!", "Good night", "Farewell", "I have to go.", "Until tomorrow!",
                  "See you tomorrow.", "See you soon!", "See you on Monday!", "See you next time!", "See you in a week", "See you next month", "Until next week!", "Until Friday!", "I will come back later.", "I must leave, bye!", "That is all, goodbye.", "Talk to you later", "Good bye", "I am leaving now.", "Take care!",
                  "Have a nice day!", "So long!", "I am done for today."), "Goodbye! Have a nice day."),
    ("who_are_you", ("Who are you?", "What are you?", "What is your name?", "What's your name?", "Who am I talking to?", "Tell me about yourself.",
                     "Introduce yourself.", "Are you a model?", "Which model are you?", "Do you have a name?", "Your name?", "Who is this?",
                     "What should I call you?", "Are you ChatGPT?", "What kind of model are you?", "Who is Tiny?", "Describe yourself.",
                     "What model am I using?", "May I ask who you are?", "Please say who you are.", "Tell me who you are.", "Can you tell me your name?", "I would like to know your name.", "Who is speaking?", "Let me know who you are.", "Are you an AI?", "How are you called?", "Say who you are."), WHO),
    ("are_you_human", ("Are you a human?", "Are you a person?", "Are you a robot?", "Are you real?", "Are you alive?", "Is there a human here?",
                       "Am I talking to a person?", "Are you a machine?", "Do you have feelings?", "Do you have a body?"),
     "I am not a person. I am a small language model."),
    ("who_made_you", ("Who made you?", "Who built you?", "Who trained you?", "Where do you come from?", "How were you made?", "Who created you?",
                      "How were you trained?", "What were you trained on?", "Who is your maker?", "Who wrote you?", "Where are you from?"),
     "I was trained by the Bastide project, on text that the project made itself."),
    ("what_can_you_do", ("What can you do?", "What can you help me with?", "Help", "Help me", "What do you know?", "How can you help me?",
                         "What are you good at?", "What can I ask you?", "What should I ask?", "What questions can you answer?",
                         "Can you help me?", "What are your skills?", "What topics do you know?", "I need help.", "What are you able to do?"),
     "I can name capitals, opposites, plurals and colours, explain simple words, tell short stories and answer questions about Bastide."),
    ("how_big", ("How big are you?", "How many parameters do you have?", "How large are you?", "What is your size?", "Are you a big model?",
                 "Are you small?", "How small are you?", "Why are you so small?"),
     "I am very small: about three million parameters."),
    ("joke", ("Tell me a joke.", "Do you know a joke?", "Make me laugh.", "Say something funny.", "A joke, please.", "Tell a joke",
              "Can you tell me a joke?", "I want to hear a joke.", "Joke"),
     "Why did the book go to the doctor? Because it had too many pages to turn!"),
    ("praise", ("You are great!", "Good job!", "Well done!", "You are smart.", "I like you.", "Nice!", "That is right.", "Correct!", "Very good.",
                "You are funny.", "Excellent!", "Wonderful!", "That was good."), "Thank you, that is kind of you."),
    ("blame", ("That is wrong.", "You are wrong.", "That is not right.", "You made a mistake.", "No, that is false.", "You are stupid.",
               "I do not believe you.", "That was bad.", "You are not very smart.", "Wrong!"),
     "I am sorry. I am a very small model and I make mistakes."),
    ("agree", ("OK", "Okay", "Yes", "Sure", "I see.", "Fine", "All right.", "Alright", "Good", "Got it.", "I understand.", "Aha"),
     "Good. What else would you like to know?"),
    ("refuse", ("No", "Nothing", "No, nothing.", "Not now.", "Never mind.", "Forget it.", "Stop", "No, that is all."),
     "All right. I am here when you need me."),
    ("days", ("Name the days of the week.", "What are the days of the week?", "List the days of the week.", "Tell me the days of the week.",
              "Which days are in a week?", "Days of the week?", "Say all the days.", "Write down the days of the week.", "All days of the week"),
     f"The days of the week are {', '.join(facts.DAYS[:-1])} and {facts.DAYS[-1]}."),
    ("months", ("Name the months.", "What are the months of the year?", "List the months.", "Tell me the months of the year.",
                "Which months are in a year?", "Months of the year?", "Say all the months.", "Write down the twelve months.", "All months"),
     f"The months are {', '.join(facts.MONTHS[:-1])} and {facts.MONTHS[-1]}."),
    ("alphabet", ("Say the alphabet.", "What is the alphabet?", "Write the alphabet.", "Tell me the alphabet.", "List the letters.",
                  "Recite the alphabet.", "Can you say the alphabet?", "What are the letters of the alphabet?", "All letters of the alphabet"),
     "A B C D E F G H I J K L M N O P Q R S T U V W X Y Z"),
)  # fmt: skip


WHO_QUESTIONS: Final = next(questions for intent, questions, _ in _FIXED if intent == "who_are_you")


def fixed(random: Random) -> Turn:
    intent, questions, answer = pick(random, _FIXED)
    return Turn(
        intent,
        pick(random, questions),
        answer,
        wrapped=random.random() < 0.4 and intent not in {"greeting", "farewell", "agree", "refuse"},
    )


def calendar(random: Random) -> Turn:
    """What comes after or before a day or a month, which one is the third, how long a month is."""
    names, unit, whole = (facts.DAYS, "day", "week") if random.random() < 0.5 else (facts.MONTHS, "month", "year")
    at = int(random.random() * len(names))
    name, next_name, previous_name = names[at], names[(at + 1) % len(names)], names[at - 1]
    way = random.random()
    if way < 0.4:
        user = choose(
            random,
            f"What {unit} comes after {name}?",
            f"Which {unit} comes after {name}?",
            f"What is the {unit} after {name}?",
            f"Which {unit} follows {name}?",
            f"What comes after {name}?",
            f"After {name} comes?",
            f"What {unit} is after {name}?",
            f"Tell me the {unit} after {name}.",
            f"{name} is followed by which {unit}?",
            f"Next {unit} after {name}?",
            f"The {unit} after {name} is",
            f"If this is {name}, what is the next {unit}?",
        )
        return Turn("calendar", user, f"{next_name} comes after {name}.", next_name)
    if way < 0.7:
        user = choose(
            random,
            f"What {unit} comes before {name}?",
            f"Which {unit} comes before {name}?",
            f"What is the {unit} before {name}?",
            f"What comes before {name}?",
            f"Before {name} comes?",
            f"Which {unit} is before {name}?",
            f"Tell me the {unit} before {name}.",
            f"The {unit} before {name} is",
            f"Which {unit} is just before {name}?",
            f"If this is {name}, what was the last {unit}?",
        )
        return Turn("calendar", user, f"{previous_name} comes before {name}.", previous_name)
    if way < 0.9 or unit == "day":
        order = facts.ORDINALS[at] if at < len(names) - 1 or random.random() < 0.5 else "last"
        user = choose(
            random,
            f"What is the {order} {unit} of the {whole}?",
            f"Which {unit} is the {order} of the {whole}?",
            f"What is the {order} {unit}?",
            f"Name the {order} {unit} of the {whole}.",
            f"{capitalised(order)} {unit} of the {whole}?",
            f"Which is the {order} {unit} of the {whole}?",
            f"Tell me the {order} {unit} of the {whole}.",
        )
        return Turn("calendar", user, f"The {order} {unit} of the {whole} is {name}.", name)
    user = choose(
        random,
        f"How many days does {name} have?",
        f"How many days are in {name}?",
        f"How long is {name}?",
        f"Days in {name}?",
        f"How many days does the month of {name} have?",
        f"Does {name} have 30 or 31 days?",
        f"{name} has how many days?",
        f"In {name} there are how many days?",
        f"How many days has {name}?",
        f"Tell me how many days {name} has.",
        f"The number of days in {name}?",
    )
    return Turn("calendar", user, f"{name} has {facts.MONTH_DAYS[name]} days.", facts.MONTH_DAYS[name])


def counting(random: Random) -> Turn:
    at = int(random.random() * len(_NUMBERS))
    number = at + 3
    shown = str(number) if random.random() < 0.5 else _NUMBERS[at]
    user = choose(
        random,
        f"Count to {shown}.",
        f"Count to {shown}.",
        f"Count from 1 to {number}.",
        f"Can you count to {shown}?",
        f"Count up to {shown}.",
        f"Please count from one to {_NUMBERS[at]}.",
        f"Say the numbers from 1 to {number}.",
        f"List the numbers up to {shown}.",
        f"Write the numbers from 1 to {number}.",
        f"I want you to count to {shown}.",
    )
    return Turn("counting", user, ", ".join(str(one) for one in range(1, number + 1)) + ".")


def sums(random: Random) -> Turn:
    """Any sum: a model of this size would get it wrong, so it says so."""
    left, right = (int(10 ** (random.random() * 3)) for _ in range(2))
    sign, word = choose(random, "+ plus", "- minus", "* times", "x times", "/ divided by").split(" ", 1)
    user = choose(
        random,
        f"What is {left} {sign} {right}?",
        f"How much is {left} {word} {right}?",
        f"{left}{sign}{right}",
        f"{left} {sign} {right} = ?",
        f"What's {left} {word} {right}?",
        f"Calculate {left} {sign} {right}.",
        f"Add {left} and {right}.",
        f"Multiply {left} by {right}.",
        f"Can you calculate {left} {sign} {right}?",
        f"Subtract {left} from {right}.",
        "Can you do sums?",
        "Are you good at maths?",
        f"What is the sum of {left} and {right}?",
        f"Divide {left} by {right}.",
        "Can you calculate?",
        "Do a sum for me.",
    )
    return Turn("sums", user, "I am too small for sums. Please use a calculator.")


def story(random: Random) -> Turn:
    return Turn("story", *stories.request(random))


def number_of_month(random: Random) -> Turn:
    at = int(random.random() * 12)
    user = ask_for(
        random, choose(random, f"the month number {at + 1}", f"month {at + 1}", f"the {facts.ORDINALS[at]} month")
    )
    return Turn(
        "calendar", user, f"The {facts.ORDINALS[at]} month of the year is {facts.MONTHS[at]}.", facts.MONTHS[at]
    )
