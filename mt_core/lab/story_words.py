"""The words of the stories in `data/`: one table of rules. Does not tell or read (see `story_grammar.py`).

`<rule>` chooses here, `<slot=rule>` chooses and remembers, `{slot}` recalls, `/tag` at the end of an option is a
silent mark, `_` is a space that opens an option and `$` the end of the story. Options stand likeliest first. The
fixed words that open an option never open another option of the same rule, and a test holds that.
"""

from mt_core.lab.story_grammar import END


def _words(text: str) -> tuple[str, ...]:
    """Options from one text, separated by commas."""
    return tuple(" ".join(word.split()) for word in text.split(","))


def _lines(text: str) -> tuple[str, ...]:
    """Options from one text, one a line."""
    lines = (" ".join(line.split()) for line in text.strip().splitlines())
    return tuple((" " + line[1:] if line.startswith("_") else line).replace("$", END) for line in lines)


def _a(words: tuple[str, ...]) -> tuple[str, ...]:
    """The same options with their article, "a" or "an"."""
    return tuple(("an " if word[0] in "aeiou" else "a ") + word for word in words)


_NATURES = _words(
    """shy, brave, kind, old, quiet, merry, young, bold, tiny, clever, sleepy, proud, gentle, lonely, round, tall,
    polite, hungry, tired, sad, wise, cheerful"""
)
_TRAITS = _words(
    """silver, blue, old, little, golden, striped, wooden, green, crooked, red, painted, shiny, white, broken,
    heavy, dusty, yellow, empty, secret, black, strange, iron"""
)
_SIGHTS = _words(
    """old, quiet, green, little, windy, white, blue, crooked, lonely, empty, broken, grey, strange, secret, red,
    sleepy, narrow, misty, tall, sunny, hidden, black"""
)
_BRIGHT = _words("happy, proud, merry, free, safe, wise, rich")
_GOOD = _words("glad, warm, calm, rested, content, at home, full of hope, at ease")
_WEARY = _words("tired, hungry, poor, wet, sore, muddy, late")
_FLAVOURS = _words("honey, apple, plum, ginger, nut, berry, onion, pear, cheese")

RULES: dict[str, tuple[str, ...]] = {
    # ---- the shape of a story: an opening, one of six plots, an evening, perhaps a last word ----
    "story": ("<opening><plot><evening><last>",),
    "opening": _lines(
        """
        Once upon a time, <nature> <who=who> named <hero=name> lived <near> <sight=sight> <home=land_{who.tag}>.
        Once there was <nature> <who=who> called <hero=name>, who lived <near> <sight=sight> <home=land_{who.tag}>.
        Long ago, <nature> <who=who>, <hero=name> by name, lived <near> <sight=sight> <home=land_{who.tag}>.
        Everyone <knew> <hero=name>, <nature> <who=who> who lived <near> <sight=sight> <home=land_{who.tag}>.
        This is the <kind> tale of <hero=name>, <nature> <who=who> who lived <near> <sight=sight> <home=land_{who.tag}>.
        """
    ),
    "plot": _lines(
        """
        _{hero.They} owned <trait=trait> <thing=thing> from {hero.their} <nature_bare> <kin>. One <when>, \
        <loss>.<seek><find>
        _{hero.They} had promised <friend=name>, {hero.their} <nature_bare> <bond>, <trait=trait> <thing=thing> \
        before <deadline>.<road><give>
        _One <when>, {hero.they} heard <cry> <place>.<stuck><rescue><repay>
        _Every <season>, {hero.they} <made> <food=food> for <friend=name>, {hero.their} <nature_bare> \
        <bond>.<trade><feast>
        _Walking <place> one <when>, {hero.they} found <trait=trait> <thing=thing>.<ask><owner>
        _In a dream {hero.they} saw <trait=trait> <thing=thing> <spot=spot_{thing.tag}>.<doubt><proof>
        """
    ),
    "evening": _lines(
        """
        _That <night>, {hero} <rest> <place>, <content>.
        _Back at the {sight.bare} {home}, {hero.they} <rest>, <content>.
        _{hero} went home and <rest>, <content>.
        _And so the {who} <rest> and was <content>.
        """
    ),
    "last": _lines(
        """
        $
        _As they say, <moral>.$
        _And the {trait.bare} {thing}? <fate>.$
        """
    ),
    # ---- plot 1: something is lost, and a hint turns out to be true ----
    "loss": _lines(
        """
        it was gone
        the wind took it
        it was stolen by <mood> thief
        {hero.they} lost it <place>
        """
    ),
    "seek": _lines(
        """
        _{hero} asked <mood> <helper=who>. "Look <spot_{thing.tag}>," said the {helper}.
        _{hero.They} <looked> all day. Then <mood> <helper=who> said, "I saw it <spot_{thing.tag}>."
        _"Why so <fear>?" asked <mood> <helper=who>. "Look <spot_{thing.tag}>!"
        """
    ),
    "find": _lines(
        """
        _And there the {trait.bare} {thing} was, <state>.<thanks>
        _{hero.They} <went> off and found it, <state>.<thanks>
        _Soon the {thing} was found, <state>.<thanks>
        """
    ),
    "thanks": _lines(
        """
        _{hero} gave the {helper} <food>.
        _The {helper} asked only for <wish>.
        _They shared <food> and <wish>.
        """
    ),
    # ---- plot 2: a promise, kept in spite of the road ----
    "road": _lines(
        """
        _On the way <trouble>. <luck> <mood> <helper=who> <aid>.
        _{hero} <went> off <early>, but <trouble>. <luck> <mood> <helper=who> <aid>.
        _Near the <land>, <trouble>. "<worry>!" cried {hero}. Then <mood> <helper=who> <aid>.
        """
    ),
    "give": _lines(
        """
        _So the {trait.bare} {thing} came in time. {friend} <joy>.
        _When {friend} saw the {trait.bare} {thing}, {friend.they} <joy>.
        _"You kept your word," said {friend}, and <joy>.
        """
    ),
    # ---- plot 3: a kindness comes back ----
    "stuck": _lines(
        """
        _It was <mood> <helper=who>, <fix>.
        _There sat <mood> <helper=who>, <fix>.
        """
    ),
    "rescue": _lines(
        """
        _{hero} brought <trait=trait> <thing=thing> and <food>.
        _"Do not be <fear>," said {hero}, and lent it <trait=trait> <thing=thing>.
        _{hero.They} shared <food> and gave the {helper} <trait=trait> <thing=thing>.
        """
    ),
    "repay": _lines(
        """
        _And <later>, the {helper} came back with the {trait.bare} {thing}.
        _But <later>, when <hardship>, who <aid>? The {helper}!
        """
    ),
    # ---- plot 4: a feast, a sacrifice, and a friend who notices ----
    "trade": _lines(
        """
        _But now <lack>, so {hero.they} gave <mood> <helper=who> <trait=trait> <thing=thing> for <little>.
        _This time <lack>. {hero} <went> to <mood> <helper=who> and sold <trait=trait> <thing=thing> for <little>.
        """
    ),
    "feast": _lines(
        """
        _{friend} tasted it, <joy>, and bought the {trait.bare} {thing} back.
        _"Where is your {trait.bare} {thing}?" asked {friend}, and bought it back.
        _The {helper} came too, ate the {food.bare}, <joy>, and gave back the {thing}.
        """
    ),
    # ---- plot 5: something is found, and its owner looked for ----
    "ask": _lines(
        """
        _"Is this yours?" {hero.they} asked <mood> <helper=who>. "No," said the {helper}, "mine is <trait> one."
        _{hero} showed it to <mood> <helper=who>. "<guess>," said the {helper}.
        _{hero.They} <looked> <place> for its owner.
        """
    ),
    "owner": _lines(
        """
        _At last came <friend=name>, {hero.their} <nature_bare> <bond>. "My {trait.bare} {thing}!" cried \
        {friend}, and <joy>.
        _It was <friend=name>, {hero.their} <nature_bare> <bond>, who had lost the {trait.bare} {thing}. \
        {friend.They} <joy>.
        """
    ),
    # ---- plot 6: a dream that nobody believes ----
    "doubt": _lines(
        """
        _"<guess>," said <mood> <helper=who>. Even <friend=name>, {hero.their} <nature_bare> <bond>, <joy>.
        _{hero} told <friend=name>, {hero.their} <nature_bare> <bond>, who <joy>. "<guess>," said <mood> <helper=who>.
        """
    ),
    "proof": _lines(
        """
        _But {spot}, <state>, lay the {trait.bare} {thing}. {hero} gave it to {friend}.
        _Still {hero.they} <looked>, and found the {trait.bare} {thing}, <state>. The {helper} <joy>.
        """
    ),
    # ---- people ----
    "name": _words(
        """Mira/she, Tom/he, Nell/she, Robin/they, Finn/he, Ada/she, Otto/he, Lily/she, Hugo/he, Ivy/she, Ben/he,
        Wren/they, Rosa/she, Emil/he, Sky/they, Tilda/she, Leo/he, Juno/she, Oscar/he, Freya/she, Bruno/he, Clara/she,
        Kit/they, Ned/he, Anna/she, Milo/he, Noor/she, Kim/they"""
    ),
    "nature": _a(_NATURES),
    "nature_bare": _NATURES,
    "mood": _a(_NATURES),
    "who": _words(
        """fox/wood, fisher/sea, shepherd/hill, baker/town, hedgehog/wood, tailor/town, otter/sea, goat/hill,
        badger/wood, sailor/sea, donkey/hill, cat/town, mouse/wood, painter/town, seal/sea, hare/hill,
        squirrel/wood, miller/town, gull/sea, weaver/hill, owl/wood, goose/town, crab/sea, crow/hill,
        bear/wood, sparrow/town, heron/sea, eagle/hill"""
    ),
    "bond": _words("friend, cousin, neighbour, teacher, twin, rival"),
    "kin": _words("sister, brother, mother, father, cousin, teacher, friend, neighbour"),
    # ---- places: a home by land, a hiding place by thing ----
    "place": ("<near> the <sight_bare> <land>",),
    "spot_high": ("<at_high> the <sight_bare> <high>",),
    "spot_dark": ("<at_dark> the <sight_bare> <dark>",),
    "spot_small": ("<at_small> the <sight_bare> <small>",),
    "spot_wet": ("<at_wet> the <sight_bare> <wet>",),
    "at_high": _words("on, above, near, behind, beside"),
    "at_dark": _words("in, under, behind, near, beside"),
    "at_small": _words("in, under, behind, by, near"),
    "at_wet": _words("in, near, behind, beside, by"),
    "near": _words("near, behind, beside, above, by, below"),
    "land": _words(
        """bridge, oak, harbour, meadow, mill, pond, beach, castle, market, stream, pier, valley, tower, grove, island,
        lake, inn, well, cliff, hill, fountain, cave"""
    ),
    "land_sea": _words("harbour, beach, pier, island, cliff, bay, dune, reef"),
    "land_wood": _words("oak, pond, stream, grove, well, log, hollow, birch"),
    "land_hill": _words("meadow, castle, valley, lake, hill, cave, wall, pass"),
    "land_town": _words("bridge, mill, market, tower, inn, fountain, shop, school"),
    "high": _words("tower, oak, roof, cliff, castle, wall, mill, shelf"),
    "dark": _words("cave, well, cellar, chest, log, oven, barrel, hollow"),
    "small": _words("boot, jar, bed, log, pot, wall, basket, nest"),
    "wet": _words("pond, stream, boat, lake, bucket, fountain, bay, harbour"),
    # ---- things ----
    "sight_bare": _SIGHTS,
    "sight": _a(_SIGHTS),
    "trait": _a(_TRAITS),
    "thing": _words(
        """lantern/dark, key/small, kite/high, ring/small, boat/wet, bell/high, drum/dark, hat/high, cup/wet,
        whistle/small, map/dark, basket/wet, button/small, flute/high, mirror/dark, coin/small, flag/high, shell/wet,
        pearl/small, box/dark, feather/high, spoon/wet, book/dark, clock/high"""
    ),
    "food": ("<flavour> <dish>",),
    "flavour": _a(_FLAVOURS),
    "dish": _words("cake, pie, soup, tart, bun, stew"),
    # ---- when ----
    "when": ("<weather> <time>",),
    "weather": _words("windy, rainy, foggy, cold, bright, stormy, snowy, warm, grey, golden, dusty, quiet"),
    "time": _words("morning, evening, night, afternoon, day, Sunday, noon"),
    "season": _words("autumn, spring, winter, summer"),
    "deadline": _words("sunset, winter, supper, the <season> fair, midnight, Sunday, {friend} left, spring"),
    "early": _words("at dawn, at noon, in good time, at once, alone, with a song, in the rain"),
    "later": _words("a year later, the next <season>, soon after, long after, one <weather> day"),
    "night": _words("night, evening, winter, Sunday, spring, summer"),
    # ---- what happens ----
    "knew": _words("knew, liked, loved, trusted, teased"),
    "kind": _words("true, short, sad, merry, old, strange, quiet"),
    "went": _words("walked, ran, hurried, climbed, crept, marched, rode"),
    "looked": _words("looked, searched, asked, waited, called, dug"),
    "state": _words(
        "safe, wet, dusty, warm from the sun, full of sand, under the snow, whole, cold, as bright as ever"
    ),
    "wish": _words("a song, a story, a kind word, a dance, a promise, a joke, the truth"),
    "trouble": _words(
        """the bridge broke, fog came, the river rose, night fell, a storm broke, the boat was gone, snow fell,
        the road ended, a giant lay there, thieves came"""
    ),
    "luck": _words("Luckily, Just then, By and by, At last, By chance, Soon"),
    "aid": _words(
        """knew a way, lit a fire, found a rope, sang, told jokes, dug a hole, opened <trait> door, made <food>,
        called for help"""
    ),
    "worry": _words("I am late, All is lost, What now, I gave my word, Oh no"),
    "joy": _words("laughed, wept, danced, sang, smiled, clapped, blushed, jumped, whistled, cheered"),
    "cry": _words("a cry, a sob, a knock, a bell, a song, a crash, a whisper, a sigh, a small voice"),
    "fix": _words(
        "lost and hungry, stuck in the mud, caught in a net, cold and wet, far from home, upside down, ill, in tears"
    ),
    "fear": _words("afraid, sad, shy, cross"),
    "hardship": _words(
        """food was short, {hero} was ill, {hero} was lost, the roof broke, snow fell, the well was empty,
        {hero} was alone"""
    ),
    "made": _words("made, saved, bought, carried, promised"),
    "lack": _words("the flour was gone, money was short, the oven broke, mice came, the honey was gone, snow fell"),
    "little": _words("some eggs, flour, sugar, salt, butter, milk"),
    "guess": _words("Not mine, Ask the moon, I never saw it, Keep looking, How odd, Wait and see, Who knows, Oh no"),
    # ---- how it ends ----
    "rest": _words(
        """slept, read, sat by the fire, told stories, drank tea, watched the moon, wrote a letter, whistled, sang,
        danced, ate <food>"""
    ),
    # "proud and warm", "tired but glad": the first word says which
    "content": (*(f"{word} and <good>" for word in _BRIGHT), *(f"{word} but <good>" for word in _WEARY)),
    "good": _GOOD,
    "moral": _words(
        """kindness comes back, small things matter, a promise is a promise, a friend is worth gold,
        ask and you may find, the wind brings gifts, every door has a key, nobody is too small"""
    ),
    "fate": _lines(
        """
        Ask {hero}
        Nobody lost it again
        It is still loved
        Some say it sings at night
        Only the {who} knows
        It saw the <land> one <season>
        """
    ),
}
