"""What the built-in model is taught about Bastide itself: how it is asked, and what is answered.

Owns plain data. Must never promise what Bastide's documentation does not: when a command or a word changes there, change it
here and rebuild the model.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Topic:
    """One thing to know: several ways to ask it, and the one answer."""

    questions: tuple[str, ...]
    answer: str


def _topic(answer: str, *questions: str) -> Topic:
    return Topic(questions, answer)


# A command: (what it is called, what the user wants to do, what it does, said of the command).
COMMANDS: Final = (
    (
        "bastide up",
        ("start Bastide", "turn Bastide on", "get Bastide running", "launch Bastide"),
        "starts Bastide on this machine",
    ),
    (
        "bastide deploy FILE",
        ("deploy a service", "deploy a model", "run a new model", "put a model into service", "deploy an app"),
        "deploys the services that the file declares",
    ),
    (
        "bastide ps",
        (
            "list my services",
            "see what is running",
            "list the instances",
            "show all services",
            "see the running models",
        ),
        "lists the services and their instances",
    ),
    (
        "bastide chat MODEL",
        ("chat with a model", "talk to a model", "try a model", "speak with a model"),
        "opens a chat with the model in the terminal",
    ),
    (
        "bastide logs",
        ("see the logs", "read the logs", "show the output of a service", "look at the log"),
        "shows the logs of a service",
    ),
    (
        "bastide scale",
        ("scale a service", "change the number of replicas", "add more instances", "run more copies of a service"),
        "changes how many instances a service has",
    ),
    (
        "bastide sleep",
        ("put a service to sleep", "make a model sleep", "free the memory of a model", "send a service to sleep"),
        "puts a service to sleep, so that its memory is free for others",
    ),
    (
        "bastide wake",
        ("wake a service", "wake a model up", "wake up a sleeping model", "bring a service back from sleep"),
        "wakes a sleeping service",
    ),
    (
        "bastide why",
        (
            "know why a service is in its state",
            "find out why something happened",
            "see the reason of a decision",
            "understand what Bastide decided",
            "learn why a service sleeps",
            "see why something was done",
            "ask for the reason",
        ),
        "prints the decisions about a service, with their reasons",
    ),
    (
        "bastide usage",
        ("see my usage", "know how many tokens I used", "see what was spent", "check the token counts"),
        "shows how many tokens were used, from the ledger",
    ),
    (
        "bastide keys create",
        ("create a key", "make an API key", "get a new key", "create an API key"),
        "creates an API key and shows it once",
    ),
    (
        "bastide doctor",
        ("check my machine", "find problems with my setup", "test whether everything is fine", "diagnose a problem"),
        "checks this machine and says what is wrong",
    ),
)

RUNGS: Final = {
    "awake": "Awake is the highest rung: the instance runs and answers at once.",
    "frozen": "Frozen is a rung where the processes are stopped but their memory is kept, so waking is very fast.",
    "light": "Light is a rung where the instance is frozen and its memory is paged out.",
    "deep": "Deep is a rung where the process is gone but its state is kept, such as prompt cache and weights.",
    "off": "Off is the lowest rung: nothing of the instance runs and nothing is kept in memory.",
}

NOUNS: Final = {
    "service": "In Bastide, a service is what you declare: a model or an app, with its scale, sleep and resources.",
    "instance": "In Bastide, an instance is one running copy of a service on a node.",
    "hold": "In Bastide, a hold is a request that waits at the gateway while its service wakes.",
    "ledger": "In Bastide, the ledger is the exact record of usage. It is only ever appended to.",
    "engine": "In Bastide, an engine is the program that serves a model, such as llama.cpp or vLLM.",
    "rung": "In Bastide, a rung says how awake an instance is: awake, frozen, light, deep or off.",
    "node": "In Bastide, a node is a machine that runs instances.",
    "project": "In Bastide, a project owns services, keys and budgets.",
    "route": "In Bastide, a route leads from a public model name to the services that answer for it.",
    "sandbox": "In Bastide, a sandbox is an isolated computer made on request, which dies with its lifetime.",
    "gateway": "In Bastide, the gateway takes the requests, holds them while a service wakes, and streams the answers.",
    "location": "In Bastide, a location is a site with its own machines and its own store.",
}

TOPICS: Final = (
    _topic(
        "Bastide is an AI cloud as one open Python package, for machines you own.",
        "What is Bastide?",
        "What's Bastide?",
        "Tell me about Bastide.",
        "Explain Bastide.",
        "Describe Bastide.",
        "What does Bastide do?",
        "What is Bastide for?",
        "Can you explain what Bastide is?",
        "Bastide?",
        "What is Bastide about?",
        "In short, what is Bastide?",
        "Say in one line what Bastide is.",
        "Sum up Bastide.",
        "What kind of thing is Bastide?",
        "Define Bastide.",
        "I have never heard of Bastide.",
        "Give me a short summary of Bastide.",
        "What can I do with Bastide?",
    ),
    _topic(
        "Install Bastide with pip install bastide, then run bastide up.",
        "How do I install Bastide?",
        "How can I install Bastide?",
        "How to install Bastide?",
        "I want to install Bastide.",
        "How do I get Bastide?",
        "How do I set up Bastide?",
        "Install Bastide.",
    ),
    _topic(
        "Run bastide up, then bastide deploy FILE, then bastide chat MODEL.",
        "How do I use Bastide?",
        "How do I get started with Bastide?",
        "How does one begin with Bastide?",
        "What are the first steps with Bastide?",
        "How can I start with Bastide?",
        "Show me how to use Bastide.",
        "I am new to Bastide.",
        "How to get started?",
    ),
    _topic(
        "Yes. Bastide is open source, under the Apache 2.0 licence.",
        "Is Bastide open source?",
        "Can I read the source of Bastide?",
        "Is it right that Bastide is free?",
        "Is Bastide free?",
        "What licence does Bastide have?",
        "Can I use Bastide for free?",
        "Is the code of Bastide open?",
        "Which licence is Bastide under?",
        "Is Bastide open?",
    ),
    _topic(
        "Bastide runs on machines you own, from a laptop to several locations.",
        "Where does Bastide run?",
        "What machines does Bastide run on?",
        "Can I run Bastide on my laptop?",
        "Does Bastide run on my own machines?",
        "Where can I run Bastide?",
        "Which hardware does Bastide need?",
    ),
    _topic(
        "A sleeping service wakes by itself when a request comes. The request is held until the service is awake.",
        "What happens when a request comes for a sleeping model?",
        "Does a sleeping service wake by itself?",
        "Who wakes a sleeping model?",
        "What happens to a request while a model sleeps?",
        "Can a model wake on its own?",
        "How does a service wake?",
    ),
    _topic(
        "A service that is idle steps down the rungs: awake, frozen, light, deep and off.",
        "What are the rungs?",
        "Which rungs are there?",
        "Name the rungs.",
        "List the rungs of Bastide.",
        "What rungs does Bastide have?",
        "How does a service go to sleep?",
        "Tell me the rungs.",
        "How many rungs are there?",
    ),
    _topic(
        "Use any OpenAI client: Bastide speaks the OpenAI API.",
        "Which API does Bastide speak?",
        "Can I use the OpenAI client with Bastide?",
        "Is Bastide compatible with OpenAI?",
        "How do I call a model on Bastide from my code?",
        "What API does Bastide have?",
    ),
    _topic(
        "The commands are up, deploy, ps, chat, logs, scale, sleep, wake, why, usage, keys and doctor.",
        "What commands does Bastide have?",
        "List the commands.",
        "Which commands are there?",
        "Show me the commands.",
        "What are the commands of Bastide?",
        "What are the Bastide commands?",
        "Name the commands of Bastide.",
    ),
    _topic(
        "Bastide was named after a kind of town that is built to a plan, with its own walls.",
        "Why is Bastide called Bastide?",
        "Where does the name Bastide come from?",
        "What does the word Bastide mean?",
        "What does the name Bastide mean?",
    ),
)
