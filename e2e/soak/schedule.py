"""Which events happen, in which order: singles and overlapping pairs, by a seed. Pure."""

import random

VERSIONS = ("rollout", "abort", "rollback")
CALM = ("server delete", "drain", "operator kill", "router delete", "router restart", "API outage")
# A pair begins with the first; the second comes some seconds later. Two events that both choose the version, or both the number of pods,
# would only wait for each other.
PAIRS = [(version, other) for version in VERSIONS for other in (*CALM, "scale")] + [
    ("scale", "server delete"), ("scale", "drain"), ("scale", "operator kill"), ("scale", "API outage"), ("scale", "router restart"),
    ("server delete", "router delete"), ("server delete", "API outage"), ("drain", "operator kill"), ("drain", "router restart"),
    ("drain", "API outage"), ("router restart", "operator kill"), ("router restart", "API outage"), ("router delete", "server delete"),
    ("operator kill", "API outage"),
]
SHORT_PAIRS = [("rollout", "API outage"), ("drain", "operator kill"), ("scale", "router restart")]
OUTAGE, LONG_OUTAGES = "API outage", 12
SCALES = ("scale up", "scale down")


def kinds():
    return (*VERSIONS, *SCALES, *CALM)


def slots(singles, pairs, seed):
    """These kinds alone and these pairs, mixed; each slot is a tuple of one or two kinds. The number of pods goes up and down in turn, and ends where it
    began."""
    chance = random.Random(seed)
    mixed = [(kind,) for kind in singles] + list(pairs)
    chance.shuffle(mixed)
    scalings = sum(slot.count("scale") for slot in mixed)
    if scalings % 2:
        mixed.append(("scale",))
    ups = iter(SCALES * (scalings // 2 + 1))
    return [tuple(next(ups) if kind == "scale" else kind for kind in slot) for slot in mixed]


def long(seed):
    """At least 200 events, 10 of each kind, 20 pairs. Outages take longest: so there are no more of them, alone and in pairs, than are needed."""
    chance = random.Random(seed)
    pairs = chance.sample(PAIRS, 24)
    outages = max(0, LONG_OUTAGES - sum(OUTAGE in pair for pair in pairs))
    quick = [kind for kind in (*VERSIONS, *CALM, "scale", "scale") if kind != OUTAGE]
    return slots(quick * 15 + [OUTAGE] * outages, pairs, seed)


def short(seed):
    """A few pairs, and alone what is in none of them."""
    paired = {kind for pair in SHORT_PAIRS for kind in pair}
    return slots([kind for kind in (*VERSIONS, *CALM) if kind not in paired], SHORT_PAIRS, seed)
