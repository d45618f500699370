"""Short stories on request, put together from parts.

Owns the story grammar. Must never need more than the random source given; every story ends well and within 200 words.
"""

from random import Random
from typing import Final

# A hero: (what it is, a name, where it lives).
HEROES: Final = (
    ("dog", "Rex", "in a small house by the river"), ("cat", "Mila", "in a quiet village"), ("bear", "Bruno", "in a deep forest"),
    ("fox", "Fina", "at the edge of the forest"), ("mouse", "Pip", "under an old library"), ("robot", "Bolt", "in a bright workshop"),
    ("dragon", "Ember", "on a high mountain"), ("girl", "Nora", "near the harbour"), ("boy", "Tom", "on a small farm"),
    ("owl", "Olga", "in a tall tree"), ("rabbit", "Hops", "in a green garden"), ("king", "Otto", "in a castle of stone"),
    ("princess", "Lina", "in a white tower"), ("sailor", "Jan", "on a little ship"), ("baker", "Rosa", "in a busy town"),
    ("wolf", "Grey", "in the cold north"), ("horse", "Star", "on a wide meadow"), ("duck", "Dora", "on a calm lake"),
)  # fmt: skip
_TIMES: Final = ("Once upon a time", "Long ago", "One day", "A long time ago")
_NATURES: Final = ("brave", "kind", "curious", "shy", "clever", "cheerful")
# A trouble, and how it ends: each first sentence has its second, third and last.
_PLOTS: Final = (
    ("One morning {name} found a small golden key in the grass.", "{name} asked everyone, but nobody knew the door.",
     "At last a little door opened behind the old well, and there was a garden full of light.", "From that day on, everyone was welcome in the garden."),
    ("One night a great storm came.", "{name} heard a small voice calling for help.",
     "{name} took a lamp, walked through the rain and found a lost bird.", "In the morning the sun came back, and the bird sang a song for {name}."),
    ("One day {name} wanted to see the sea.", "The way was long, and the hills were high.",
     "A friendly farmer showed {name} the path along the river.", "In the evening {name} stood on the beach and laughed with joy."),
    ("In winter the snow was deep, and there was little to eat.", "{name} had only one piece of bread.",
     "Still, {name} shared it with a hungry stranger.", "In spring the stranger came back with a cart full of apples."),
    ("One evening the big lamp of the town went dark.", "People were afraid, but {name} stayed calm.",
     "{name} climbed all the steps of the tower and lit the lamp again.", "The town gave a feast, and {name} danced until late."),
    ("{name} dreamed of flying like a bird.", "First the wings of paper broke, and then the wings of wood.",
     "Then {name} sewed wings of light cloth and jumped from a soft hill.", "For a moment {name} flew, and that was enough."),
    ("One day {name} lost the way in the fog.", "Every tree looked the same.",
     "{name} sat down, listened and heard the bell of the village far away.", "{name} followed the sound and was home before dark."),
    ("A loud noise woke {name} in the night.", "It came from the old mill, where nobody dared to go.",
     "{name} went in and found a family of tiny owls.", "They became good friends, and the mill was never lonely again."),
)  # fmt: skip
_MORALS: Final = ("And so {name} learned that small steps lead far.", "And so {name} learned that help is the best gift.",
                  "And so {name} learned to be patient.", "And {name} was happy.", "The end.")  # fmt: skip


def _pick(random: Random, items: tuple[str, ...]) -> str:
    return items[int(random.random() * len(items))]


def story(random: Random, kind: str | None = None) -> str:
    """One story, six or seven sentences, about a hero of this kind (any kind when `None`)."""
    fitting = [hero for hero in HEROES if kind is None or hero[0] == kind]
    what, name, where = fitting[int(random.random() * len(fitting))]
    nature = _pick(random, _NATURES)
    start = f"{_pick(random, _TIMES)} there was {'an' if nature[0] in 'aeiou' else 'a'} {nature} {what} called {name}, who lived {where}."
    plot = _PLOTS[int(random.random() * len(_PLOTS))]
    return " ".join([start, *(line.format(name=name) for line in plot), _pick(random, _MORALS).format(name=name)])


_REQUESTS: Final = (
    "Tell me a story about {what}.", "Tell me a story about {what}.", "Write a story about {what}.", "Tell a story about {what}.",
    "I want a story about {what}.", "Can you tell me a story about {what}?", "A story about {what}, please.", "Make up a story about {what}.",
    "Write a short story about {what}.", "Tell me a short story about {what}.", "Invent a story with {what}.", "Story about {what}",
    "Give me a story about {what}.", "I would like to hear a story about {what}.", "Do you know a story about {what}?",
)  # fmt: skip
_PLAIN_REQUESTS: Final = (
    "Tell me a story.", "Tell me a story.", "Write a story.", "Tell me a short story.", "Can you tell me a story?", "I want to hear a story.",
    "A story, please.", "Write a short story.", "Do you know a story?", "Make up a story.", "Story?", "Tell me a bedtime story.",
    "Please tell me something nice.", "Tell me a tale.", "Read me a story.", "I am bored. Tell me a story.", "Tell me another story.",
)  # fmt: skip


def request(random: Random) -> tuple[str, str]:
    """A request for a story, and the story."""
    if random.random() < 0.35:
        return _pick(random, _PLAIN_REQUESTS), story(random)
    kind = HEROES[int(random.random() * len(HEROES))][0]
    what = (("an " if kind[0] in "aeiou" else "a ") if random.random() < 0.9 else "the ") + kind
    return _pick(random, _REQUESTS).format(what=what), story(random, kind)
