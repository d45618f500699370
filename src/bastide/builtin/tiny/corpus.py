"""The training text: conversations from one seed, the chat format, and digests that prove which text it was.

Owns the order and the number of conversations. Must never read a clock, a file or the network; standard library only.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from random import Random

from bastide.builtin.tiny.dialogues import Conversation, conversation

START = "<|im_start|>"
END = "<|im_end|>"
PADDING = "<|endoftext|>"

# ChatML in Jinja, as engines apply it to the messages of a request.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a rendered conversation; the loss counts only where `learned` is true."""

    text: str
    learned: bool


def segments(talk: Conversation) -> tuple[Segment, ...]:
    """The conversation in ChatML, cut where the assistant starts and stops speaking."""
    pieces: list[Segment] = []
    lead = f"{START}system\n{talk.system}{END}\n" if talk.system else ""
    for user, answer in talk.pairs:
        pieces.append(Segment(f"{lead}{START}user\n{user}{END}\n{START}assistant\n", False))
        pieces.append(Segment(f"{answer}{END}", True))
        lead = "\n"
    return tuple(pieces)


def conversations(seed: int, count: int) -> Iterator[Conversation]:
    """`count` conversations; the same seed gives the same ones, on every machine and Python."""
    random = Random(seed)
    for _ in range(count):
        yield conversation(random)


@dataclass(frozen=True, slots=True)
class DataManifest:
    """What the corpus was: its digest (SHA-256 of all rendered text, UTF-8), its bytes, and turns per intent."""

    sha256: str
    text_bytes: int
    conversations: int
    turns_by_intent: dict[str, int]


def data_manifest(talks: Iterable[Conversation]) -> DataManifest:
    """Describe these conversations; they are taken one at a time."""
    digest, size, count, intents = hashlib.sha256(), 0, 0, Counter[str]()
    for talk in talks:
        text = "".join(piece.text for piece in segments(talk)).encode()
        digest.update(text)
        size += len(text)
        count += 1
        intents.update(talk.intents)
    return DataManifest(digest.hexdigest(), size, count, dict(sorted(intents.items())))
