"""Questions of the evaluation that nobody has looked at the answers of while the training text was written.

Owns the honest part of the score. Must never be used to improve the text: once it was, word a new set.
"""

from typing import Final

from bastide.builtin.tiny.questions import Question, rows

FRESH: Final[tuple[Question, ...]] = (
    *rows(
        "fresh",
        """
        Could I trouble you for the capital of Hungary? | Budapest
        I always mix it up: what is Turkey's capital again? | Ankara
        Say, the capital of Brazil is which city? | Brasilia
        Where would I find Nairobi? | Kenya
        Is Japan in Asia or in Europe? | Asia
        Quick, the opposite of early! | late
        What do we call the opposite of north? | south
        Which antonym does cheap have? | expensive
        My child wants to know what a rainbow is. | arc of colours
        Would you explain to me what honey is? | bees
        Please describe for me what a hammer does. | nails
        What does one understand by a desert? | rain
        Do you have any idea what colour a carrot is? | orange
        What might be the colour of milk? | white
        How many legs would an ant have? | six
        Do you remember what a baby frog is called? | tadpole
        What noise do I hear when a wolf is near? | howl
        The word is knife. What is its plural? | knives
        What would I write for more than one woman? | women
        Which day do we have after Thursday? | Friday
        What was the month before May? | April
        How many minutes make up an hour? | 60
        Which planet is the red one? | Mars
        Hey, nice to meet you! | help you / nice
        Thanks, you did that very well. | welcome / kind of you
        Are you made of flesh and blood? | not a person / small
        I have no clue how to deploy a service. | bastide deploy
        How does one go about waking a service? | bastide wake
        Where can I see the tokens that I have used? | bastide usage
        Something is broken on my machine, which command helps? | bastide doctor
        What on earth is Bastide? | AI cloud
        Explain to me what an instance is in Bastide. | running copy
        Which of the rungs is the lowest? | off
        What might the capital of Grelvonia be? | do not know
        Which opposite does plimmish have? | do not know
        Who scored in the final? | do not know
        How do I build a shed? | do not know
        What would 14 plus 29 be? | calculator
        Would you count to six for me? | 1, 2, 3, 4, 5, 6
        How about a story with a bear? | bear
        """,
    ),
)
