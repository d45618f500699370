"""The world facts that the built-in model is taught: one table per kind of fact.

Owns plain data, written by hand for this project. Must never hold phrasings, chance, or anything taken from a data set.
"""

from typing import Final


def words(text: str) -> list[str]:
    """The words of a text, in order: a short way to write a long list."""
    return text.split()


def _pairs(text: str) -> dict[str, str]:
    """Read ``key=value; key=value`` into a dictionary; the order of the text is kept."""
    entries = (entry.split("=", 1) for entry in text.replace("\n", " ").split(";") if entry.strip())
    return {key.strip(): value.strip() for key, value in entries}


CAPITALS: Final = _pairs("""
France=Paris; Germany=Berlin; Italy=Rome; Spain=Madrid; Portugal=Lisbon; Greece=Athens; Austria=Vienna;
Belgium=Brussels; the Netherlands=Amsterdam; Denmark=Copenhagen; Sweden=Stockholm; Norway=Oslo; Finland=Helsinki;
Iceland=Reykjavik; Ireland=Dublin; the United Kingdom=London; Poland=Warsaw; Hungary=Budapest; Romania=Bucharest;
Bulgaria=Sofia; Croatia=Zagreb; Serbia=Belgrade; Slovenia=Ljubljana; Slovakia=Bratislava; Ukraine=Kyiv; Russia=Moscow;
Turkey=Ankara; Estonia=Tallinn; Latvia=Riga; Lithuania=Vilnius; Malta=Valletta; Japan=Tokyo; China=Beijing;
India=New Delhi; South Korea=Seoul; Thailand=Bangkok; Vietnam=Hanoi; Indonesia=Jakarta; Nepal=Kathmandu;
Mongolia=Ulaanbaatar; Pakistan=Islamabad; Iran=Tehran; Iraq=Baghdad; Jordan=Amman; Egypt=Cairo; Morocco=Rabat;
Tunisia=Tunis; Algeria=Algiers; Kenya=Nairobi; Ethiopia=Addis Ababa; Ghana=Accra; Senegal=Dakar; Nigeria=Abuja;
Australia=Canberra; New Zealand=Wellington; Canada=Ottawa; the United States=Washington; Mexico=Mexico City;
Cuba=Havana; Brazil=Brasilia; Argentina=Buenos Aires; Chile=Santiago; Peru=Lima; Colombia=Bogota; Uruguay=Montevideo;
Ecuador=Quito; Venezuela=Caracas
""")

CONTINENTS: Final = {
    "Europe": words(
        "France Germany Italy Spain Portugal Greece Austria Belgium Denmark Sweden Norway Finland Iceland Ireland "
        "Poland Hungary Romania Bulgaria Croatia Serbia Ukraine Estonia Latvia Lithuania"
    ),
    "Asia": words("Japan China India Thailand Vietnam Indonesia Nepal Mongolia Pakistan Iran Iraq Jordan"),
    "Africa": words("Egypt Morocco Tunisia Algeria Kenya Ethiopia Ghana Senegal Nigeria"),
    "North America": words("Canada Mexico Cuba"),
    "South America": words("Brazil Argentina Chile Peru Colombia Uruguay Ecuador Venezuela"),
}

OPPOSITES: Final = _pairs("""
hot=cold; big=small; tall=short; fast=slow; up=down; left=right; day=night; black=white; light=dark; open=closed;
happy=sad; rich=poor; old=young; hard=soft; wet=dry; full=empty; strong=weak; early=late; near=far; high=low;
good=bad; clean=dirty; loud=quiet; sweet=sour; thick=thin; wide=narrow; deep=shallow; heavy=weightless; begin=end;
push=pull; win=lose; buy=sell; give=take; love=hate; laugh=cry; inside=outside; above=below; always=never;
before=after; first=last; true=false; easy=difficult; brave=cowardly; sharp=blunt; smooth=rough; noisy=silent;
awake=asleep; alive=dead; cheap=expensive; ancient=modern; simple=complicated; safe=dangerous; polite=rude;
north=south; east=west; summer=winter; friend=enemy; question=answer; success=failure; arrive=leave; remember=forget
""")

DEFINITIONS: Final = _pairs("""
apple=a round fruit that grows on trees; banana=a long yellow fruit with a soft inside;
bridge=a structure that carries a road over water or a valley; book=a set of pages with words to read;
bread=a food baked from flour and water; butter=a soft yellow food made from milk;
camera=a device that takes pictures; candle=a stick of wax that burns to give light;
castle=a large old building with thick walls; chair=a seat for one person; clock=a device that shows the time;
cloud=a mass of tiny water drops in the sky; compass=a tool that points to the north;
computer=a machine that follows instructions to work on data; desert=a dry place where little rain falls;
doctor=a person who helps sick people get well; door=a panel that opens and closes the way into a room;
ear=the part of the body that hears; eye=the part of the body that sees; farm=a place where food is grown;
fire=the heat and light of something that burns; flower=the colourful part of a plant;
forest=a large area full of trees; garden=a piece of land where plants are grown;
glacier=a slow river of ice; glass=a clear hard material used for windows;
hammer=a tool for hitting nails; heart=the organ that pumps blood through the body;
honey=a sweet food made by bees; hospital=a place where sick people are treated;
ice=water that is frozen; island=a piece of land with water all around it; key=a small tool that opens a lock;
kitchen=a room where food is cooked; lake=a body of water with land all around it; lamp=a device that gives light;
library=a place where books are kept and lent; lighthouse=a tower with a bright lamp that guides ships;
map=a drawing that shows where places are; market=a place where people buy and sell things;
mirror=a smooth surface that shows your reflection; moon=the round body that circles the Earth;
mountain=a very high hill of rock; museum=a place where interesting old things are shown;
needle=a thin sharp tool for sewing; ocean=a very large body of salt water; orchestra=a large group of musicians;
planet=a large round body that circles a star; poem=a short piece of writing with rhythm;
rain=water that falls from clouds; rainbow=an arc of colours seen when the sun shines through rain;
river=a long stream of water that flows to the sea; school=a place where children learn;
ship=a large boat that crosses the sea; shoe=a cover for the foot; snow=soft white flakes of frozen water;
star=a huge ball of hot gas far away in space; sun=the star that gives the Earth light and heat;
teacher=a person who helps others learn; telescope=a tool that makes far things look near;
thunder=the loud sound that follows lightning; train=a line of carriages that runs on rails;
tree=a tall plant with a trunk and branches; umbrella=a cover that keeps rain off you;
valley=a low area between hills; village=a small group of houses in the country;
volcano=a mountain that can throw out hot melted rock; water=a clear liquid that all living things need;
wheel=a round part that turns so that things can roll; wind=air that moves; window=an opening in a wall that lets in light;
bicycle=a vehicle with two wheels that you pedal; piano=a musical instrument with black and white keys;
guitar=a musical instrument with strings; baker=a person who makes bread; pilot=a person who flies a plane;
dictionary=a book that explains words; thermometer=a tool that measures how hot something is
""")

# Mass nouns and things of which there is one: no article, or "the".
WITHOUT_ARTICLE: Final = frozenset(words("bread butter fire glass honey ice rain snow thunder water wind"))
WITH_THE: Final = frozenset(words("moon sun"))

COLOURS: Final = _pairs("""
the sky=blue; grass=green; snow=white; coal=black; a banana=yellow; a lemon=yellow; a tomato=red; a strawberry=red;
an orange=orange; a carrot=orange; blood=red; milk=white; chocolate=brown; the sun=yellow; a frog=green; a pumpkin=orange;
a flamingo=pink; a polar bear=white; a crow=black; an elephant=grey; a leaf=green; salt=white; a cucumber=green;
a raspberry=red; a violet=purple; a plum=purple; a cherry=red; a swan=white
""")

ANIMAL_SOUNDS: Final = _pairs("""
dog=barks; cat=meows; cow=moos; sheep=bleats; horse=neighs; pig=oinks; duck=quacks; lion=roars; wolf=howls; bee=buzzes;
snake=hisses; frog=croaks; owl=hoots; mouse=squeaks; rooster=crows; donkey=brays; goose=honks; crow=caws
""")

ANIMAL_YOUNG: Final = _pairs("""
dog=puppy; cat=kitten; cow=calf; sheep=lamb; horse=foal; pig=piglet; duck=duckling; lion=cub; goat=kid; hen=chick;
kangaroo=joey; deer=fawn; goose=gosling; swan=cygnet; frog=tadpole; elephant=calf; bear=cub; owl=owlet; rabbit=kit
""")

ANIMAL_LEGS: Final = _pairs("""
dog=four; cat=four; cow=four; horse=four; spider=eight; ant=six; bee=six; bird=two; chicken=two; snake=no; fish=no;
butterfly=six; octopus=no; human=two; elephant=four; duck=two; frog=four; worm=no; beetle=six
""")

ANIMAL_FOOD: Final = _pairs("""
cow=grass; rabbit=grass and leaves; lion=meat; panda=bamboo; bee=nectar; koala=eucalyptus leaves; squirrel=nuts;
horse=grass and hay; giraffe=leaves; shark=fish; owl=mice; spider=insects; penguin=fish; monkey=fruit
""")

PLURALS: Final = _pairs("""
child=children; mouse=mice; foot=feet; tooth=teeth; goose=geese; man=men; woman=women; person=people; ox=oxen;
leaf=leaves; knife=knives; wolf=wolves; life=lives; wife=wives; half=halves; loaf=loaves; shelf=shelves; sheep=sheep;
fish=fish; deer=deer; cat=cats; dog=dogs; house=houses; box=boxes; fox=foxes; bus=buses; glass=glasses; church=churches;
dish=dishes; brush=brushes; city=cities; baby=babies; berry=berries; story=stories; lady=ladies; party=parties; toy=toys;
day=days; key=keys; monkey=monkeys; potato=potatoes; tomato=tomatoes; hero=heroes; piano=pianos; photo=photos;
cactus=cacti; book=books; tree=trees; car=cars; star=stars; bird=birds; apple=apples; table=tables; watch=watches;
bench=benches; country=countries; family=families; thief=thieves; calf=calves
""")

DAYS: Final = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS: Final = words("January February March April May June July August September October November December")
ORDINALS: Final = words("first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth")
MONTH_DAYS: Final = dict(zip(MONTHS, words("31 28 31 30 31 30 31 31 30 31 30 31"), strict=True))

SIMPLE_FACTS: Final = _pairs("""
How many days are in a week?=There are seven days in a week.;
How many months are in a year?=There are twelve months in a year.;
How many hours are in a day?=There are 24 hours in a day.;
How many minutes are in an hour?=There are 60 minutes in an hour.;
How many seconds are in a minute?=There are 60 seconds in a minute.;
How many days are in a year?=There are 365 days in a year, and 366 in a leap year.;
How many continents are there?=There are seven continents.;
How many letters are in the alphabet?=The English alphabet has 26 letters.;
What are the four seasons?=The four seasons are spring, summer, autumn and winter.;
What are the primary colours?=The primary colours are red, yellow and blue.;
What colours are in the rainbow?=The rainbow has red, orange, yellow, green, blue, indigo and violet.;
What is the largest ocean?=The largest ocean is the Pacific Ocean.;
What is the largest planet?=The largest planet is Jupiter.;
What planet do we live on?=We live on the planet Earth.;
What is the highest mountain?=The highest mountain is Mount Everest.;
What is the largest animal?=The largest animal is the blue whale.;
What is the fastest land animal?=The fastest land animal is the cheetah.;
What is the tallest animal?=The tallest animal is the giraffe.;
At what temperature does water boil?=Water boils at 100 degrees Celsius.;
At what temperature does water freeze?=Water freezes at 0 degrees Celsius.;
Where does the sun rise?=The sun rises in the east.;
Where does the sun set?=The sun sets in the west.;
What do bees make?=Bees make honey.;
What do plants need to grow?=Plants need light, water and air to grow.;
What do we breathe?=We breathe air.;
Which planet is closest to the sun?=The planet closest to the sun is Mercury.;
Which planet is called the red planet?=The red planet is Mars.
""")

OTHER_WORDINGS: Final = {
    question: [wording.strip() for wording in wordings.split("/")]
    for question, wordings in _pairs("""
How many days are in a week?=How long is a week in days? / A week has how many days? / Days in a week? / Does a week have seven days?;
How many months are in a year?=A year has how many months? / Months in a year? / How long is a year in months?;
How many hours are in a day?=A day has how many hours? / How long is a day in hours? / How many hours does one day have?;
How many minutes are in an hour?=An hour has how many minutes? / How long is an hour in minutes? / How many minutes does one hour have?;
How many seconds are in a minute?=A minute has how many seconds? / How long is a minute in seconds? / How many seconds does a minute have?;
How many days are in a year?=A year has how many days? / How long is a year in days? / How many days does a year have?;
How many continents are there?=What is the number of continents? / How many continents does the Earth have? / Count the continents.;
How many letters are in the alphabet?=How long is the alphabet? / How many letters does the alphabet have? / The number of letters?;
What are the four seasons?=Name the seasons. / Which seasons are there? / List the four seasons. / What seasons does a year have?;
What is the largest ocean?=Which ocean is the largest? / Name the biggest ocean. / Which is the biggest ocean?;
What is the largest planet?=Which planet is the largest? / Name the biggest planet. / Which is the biggest planet?;
What is the highest mountain?=Which mountain is the highest? / Name the highest mountain. / Which mountain is higher than all others?;
What is the largest animal?=Which animal is the largest? / Name the biggest animal. / Which animal is bigger than all others?;
What is the fastest land animal?=Which animal runs fastest? / Which animal is the fastest? / Name the fastest animal on land.;
What is the tallest animal?=Which animal is the tallest? / Name the tallest animal. / Which animal has the longest neck?;
At what temperature does water boil?=How hot is boiling water? / When does water boil? / What is the boiling point of water? / How hot must water be to boil? / Water boils at what temperature?;
At what temperature does water freeze?=How cold is freezing water? / When does water freeze? / What is the freezing point of water? / How cold must water be to freeze? / Water freezes at what temperature?;
Where does the sun rise?=In which direction does the sun rise? / Where does the sun appear in the morning? / On which side does the sun rise? / The sun rises where? / Where does the sun go up?;
Where does the sun set?=In which direction does the sun set? / Where does the sun go down? / On which side does the sun set? / The sun sets where? / Where is the sun in the evening?;
What do bees make?=What is made by bees? / Bees make what? / What do we get from bees?
""").items()
}
