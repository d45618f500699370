"""How well the built-in model answers what it was never trained on, through the engine that serves it.

Owns the asking and the counting; the questions are in `heldout.py`. Must never look at the training text.
Run: `python -m bastide.builtin.tiny.evaluate [--weights FILE | --url URL]`; it fails under 90 %.
"""

import argparse
import contextlib
import json
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bastide.builtin.tiny import weights_path
from bastide.builtin.tiny.fresh import FRESH
from bastide.builtin.tiny.heldout import QUESTIONS
from bastide.builtin.tiny.phrasings import bare
from bastide.builtin.tiny.questions import Question

Message = dict[str, str]
Ask = Callable[[list[Message]], str]
REQUIRED: Final = 0.90
_ANSWER_TOKENS: Final = 160
# How each question is typed: as written, and as a hurried person would.
FORMS: Final[dict[str, Callable[[str], str]]] = {"as written": str, "bare": bare}


@dataclass(frozen=True, slots=True)
class Outcome:
    """One question asked in one form."""

    question: Question
    form: str
    answer: str

    @property
    def right(self) -> bool:
        """Whether an accepted word is in the answer, in any case."""
        return any(word.lower() in self.answer.lower() for word in self.question.accepted)


@dataclass(frozen=True, slots=True)
class Score:
    """All outcomes, and the shares of right answers among them."""

    outcomes: tuple[Outcome, ...]

    @property
    def questions(self) -> int:
        """How many questions were asked, each form counted."""
        return len(self.outcomes)

    @property
    def overall(self) -> float:
        """Share of right answers, 0 to 1, rounded to four places."""
        return _share(self.outcomes)

    def shares(self) -> dict[str, float]:
        """Share of right answers per category."""
        names = dict.fromkeys(outcome.question.category for outcome in self.outcomes)
        return {name: _share([one for one in self.outcomes if one.question.category == name]) for name in names}

    def shares_by_form(self) -> dict[str, float]:
        """Share of right answers per way of typing."""
        return {name: _share([one for one in self.outcomes if one.form == name]) for name in FORMS}


def _share(outcomes: list[Outcome] | tuple[Outcome, ...]) -> float:
    return round(sum(outcome.right for outcome in outcomes) / len(outcomes), 4) if outcomes else 0.0


def evaluate(ask: Ask) -> Score:
    """Ask every held-out question in every form; earlier turns of a conversation get the model's own answers."""
    outcomes = []
    for question in QUESTIONS + FRESH:
        for form, typed in FORMS.items():
            messages: list[Message] = [{"role": "system", "content": question.system}] if question.system else []
            for earlier in question.before:
                messages.append({"role": "user", "content": typed(earlier)})
                messages.append({"role": "assistant", "content": ask(messages)})
            messages.append({"role": "user", "content": typed(question.text)})
            outcomes.append(Outcome(question, form, ask(messages)))
    return Score(tuple(outcomes))


def table(score: Score) -> str:
    """The shares as lines of text, then every wrong answer."""
    counts = {name: sum(one.question.category == name for one in score.outcomes) for name in score.shares()}
    lines = [f"{name:<14}{share:7.1%}  of {counts[name]}" for name, share in score.shares().items()]
    lines += [f"{name:<14}{share:7.1%}" for name, share in score.shares_by_form().items()]
    lines.append(f"{'overall':<14}{score.overall:7.1%}  of {score.questions}")
    wrong = [one for one in score.outcomes if not one.right]
    return "\n".join([*lines, *(f"  wrong ({one.form}): {one.question.text} -> {one.answer}" for one in wrong)])


def asker(url: str) -> Ask:
    """Ask an OpenAI-compatible server at `url` (without `/v1`), always the likeliest token."""

    def ask(messages: list[Message]) -> str:
        body = json.dumps(
            {"model": "tiny", "messages": messages, "temperature": 0, "max_tokens": _ANSWER_TOKENS}
        ).encode()
        request = urllib.request.Request(f"{url}/v1/chat/completions", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.load(response)["choices"][0]["message"]["content"]
        return str(answer or "")

    return ask


@contextlib.contextmanager
def engine(weights: Path) -> Iterator[Ask]:
    """Run the `xllamacpp` engine on these weights inside this process, on a port that the system chooses."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(weights)
    parameters.n_ctx = 1024
    parameters.n_parallel = 1
    parameters.cpuparams.n_threads = 1
    parameters.port = 0
    parameters.verbosity = 0
    server = xllamacpp.Server(parameters)
    try:
        yield asker(server.listening_address)
    finally:
        # The engine stops when its last reference goes.
        del server


def main() -> int:
    """Print the table; 0 when enough answers are right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=None)
    parser.add_argument("--url", default=None, help="a running server, such as http://127.0.0.1:8080")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        ask = asker(given.url) if given.url else stack.enter_context(engine(given.weights or weights_path()))
        score = evaluate(ask)
    print(table(score))
    return 0 if score.overall >= REQUIRED else 1


if __name__ == "__main__":
    raise SystemExit(main())
