"""The notes of phantoms: the words for their features, and short sentences made of them."""

from collections.abc import Sequence

import numpy as np

from skingpt4.generation.questions import CLINICAL_PROMPTS

FOLLOWED = 0.5  # share of the dialogues that go on to a later prompt, for each of them
NOUNS: dict[str, tuple[str, ...]] = {
    "Bulla": ("large blister", "bulla"), "Wheal": ("wheal", "raised welt"), "Nodule": ("nodule", "lump"),
    "Plaque": ("plaque", "raised area"), "Patch": ("patch", "flat area"),
    "Vesicle": ("small blister", "vesicle"), "Pustule": ("pustule", "pus-filled spot"),
    "Papule": ("papule", "small bump"), "Macule": ("macule", "flat spot"),
    "Erosion": ("erosion", "raw area"), "Ulcer": ("ulcer", "open sore"), "Comedo": ("comedo", "blackhead"),
}  # fmt: skip
ADJECTIVES: dict[str, tuple[str, ...]] = {
    "Erythema": ("red", "erythematous", "inflamed"),
    "Brown(Hyperpigmentation)": ("brown", "hyperpigmented"), "White(Hypopigmentation)": ("pale", "white"),
    "Purple": ("purple", "violaceous"), "Black": ("black", "very dark"), "Blue": ("blue", "bluish"),
    "Yellow": ("yellow", "yellowish"), "Scale": ("scaly", "flaking"), "Crust": ("crusted", "scabbed"),
    "Warty/Papillomatous": ("warty", "rough"), "Dome-shaped": ("dome-shaped", "rounded"),
    "Flat topped": ("flat-topped",), "Translucent": ("pearly", "shiny"),
    "Umbilicated": ("dimpled", "umbilicated"), "Lichenification": ("thickened", "lichenified"),
    "Exudate": ("weeping", "oozing"),
}  # fmt: skip
EXTRAS: dict[str, tuple[str, ...]] = {
    "Excoriation": ("scratch marks", "excoriations"), "Xerosis": ("dry skin around", "surrounding dryness"),
    "Fissure": ("painful cracks", "fissures"), "Telangiectasia": ("fine visible vessels", "telangiectasia"),
    "Scar": ("scarring", "old scars"), "Atrophy": ("thinned skin", "central atrophy"),
    "Ulcer": ("an open sore",), "Erosion": ("raw areas", "erosions"),
    "Purpura/Petechiae": ("tiny purple dots", "petechiae"), "Burrow": ("fine burrows", "thin wavy tracks"),
    "Comedo": ("blackheads", "comedones"), "Pustule": ("pustules",), "Papule": ("small bumps", "papules"),
}  # fmt: skip
PLURALS = {"comedo": "comedones", "bulla": "bullae", "patch": "patches"}
AMOUNTS: dict[str, tuple[str, ...]] = {
    "few": ("a few", "some"), "many": ("many", "several"), "clustered": ("a group of", "clustered"),
    "linear": ("a row of", "a line of"),
}  # fmt: skip
SYMPTOMS: dict[str, tuple[str, ...]] = {
    "acne_and_rosacea": ("tender at times", "no itch"),
    "malignant_lesions": ("slowly growing", "bleeds easily"),
    "dermatitis": ("very itchy", "itchy at night"),
    "bullous_disease": ("itchy and sore", "skin feels tight"),
    "bacterial_infections": ("sore", "spreading"), "light_diseases": ("no itch", "worse in summer"),
    "connective_tissue_diseases": ("worse after sun", "slightly sore"),
    "benign_tumors": ("no pain", "slowly growing"),
    "melanoma_nevi_moles": ("has changed recently", "no pain"),
    "fungal_infections": ("itchy", "slowly spreading"),
    "psoriasis_and_lichen_planus": ("mildly itchy", "comes and goes"),
    "infestations_and_bites": ("itchy at night", "very itchy"),
    "urticaria_hives": ("very itchy", "comes and goes"), "vascular_tumors": ("no pain", "bleeds easily"),
    "herpes": ("burning", "tingling and sore"),
}  # fmt: skip
DURATIONS = ("for some time", "noticed recently", "for a while now", "not seen before", "duration unclear")
SKIN = (
    ("light", "fair"),
    ("medium", "olive or light brown"),
    ("dark", "brown"),
)  # types 1 and 2, 3 and 4, 5 and 6
CAPTIONS = (
    "a drawing of {what} on the {site}{extra}, on {skin} skin",
    "{skin} skin of the {site} with {what}{extra}",
    "the {site}, {skin} skin: {what}{extra}",
)
# A conversation, as MiniGPT-4's second stage has it. Cause and treatment cannot be seen. Of the sentences that say
# so, these are the likeliest for the language model by itself, so a few vectors can teach them.
FIRST_QUESTIONS = (
    "Describe this image in detail.", "What do you see in this image?", "Could you describe this image for me?",
)  # fmt: skip
SEEN, BESIDES = "I see {what}.", "The skin of the {site} is {skin}{extra}."
NO_CAUSE = "The cause of this skin disease should be explained by a doctor."
NO_TREATMENT = "Treatment and medication should be recommended by a doctor."
TEMPLATES = (
    "{what} on the {site}{extra}; {symptom}.",
    "{site_cap}: {what_low}{extra}. {symptom_cap}, {duration}.",
    "Patient shows {what_low} on the {site}{extra}, {duration}.",
    "{what} of the {site}{extra}.",
    "Presents with {what_low} on the {site}; {symptom}, {duration}.",
    "On the {site} there is skin change with {what_low}{extra}; {symptom}.",
)


def write_note(
    rng: np.random.Generator, name: str, concepts: Sequence[str], arrangement: str, site: str
) -> str:
    """One or two short sentences on site, features and complaint, with words for drawn concepts only."""
    what, more = _features(rng, concepts, arrangement, num_words=2)
    extra = f" with {more[rng.integers(len(more))]}" if more else ""
    symptom = str(rng.choice(SYMPTOMS[name]))
    return str(rng.choice(TEMPLATES)).format(
        what=what[0].upper() + what[1:], what_low=what, site=site, site_cap=site.capitalize(), extra=extra,
        symptom=symptom, symptom_cap=symptom.capitalize(), duration=str(rng.choice(DURATIONS)),
    )  # fmt: skip


def write_caption(
    rng: np.random.Generator, concepts: Sequence[str], arrangement: str, site: str, tone: int
) -> str:
    """What can be seen, and nothing else: all drawn concepts, their arrangement, the site and the skin type."""
    what, more = _features(rng, concepts, arrangement, num_words=len(concepts))
    extra = f" with {' and '.join(more)}" if more else ""
    skin = str(rng.choice(SKIN[(tone - 1) // 2]))
    return f"{str(rng.choice(CAPTIONS)).format(what=what, site=site, extra=extra, skin=skin)}."


def write_dialogue(
    rng: np.random.Generator, concepts: Sequence[str], arrangement: str, site: str, tone: int
) -> list[tuple[str, str]]:
    """(question, answer) pairs: what can be seen, then some of the later clinical prompts in their order.

    What the lesions are is said first; site, skin type and what lies beside the lesions belong to the second prompt.
    """
    what, more = _features(rng, concepts, arrangement, num_words=len(concepts))
    extra = f", with {' and '.join(more)}" if more else ""
    words = {"what": what, "site": site, "skin": str(rng.choice(SKIN[(tone - 1) // 2])), "extra": extra}
    later = zip(CLINICAL_PROMPTS[1:], (BESIDES.format(**words), NO_CAUSE, NO_TREATMENT), strict=True)
    chosen = rng.random(len(CLINICAL_PROMPTS) - 1) < FOLLOWED
    first = str(rng.choice(FIRST_QUESTIONS)), SEEN.format(**words)
    return [first, *(turn for turn, follows in zip(later, chosen, strict=True) if follows)]


def _features(
    rng: np.random.Generator, concepts: Sequence[str], arrangement: str, num_words: int
) -> tuple[str, list[str]]:
    """The lesions with at most `num_words` adjectives, such as "a group of red papules", and what is beside them."""
    main = next(n for n in NOUNS if n in concepts)
    noun = str(rng.choice(NOUNS[main]))
    known = [str(rng.choice(ADJECTIVES[c])) for c in concepts if c in ADJECTIVES]
    words = [known[i] for i in sorted(rng.permutation(len(known))[:num_words])]
    ringed = arrangement == "annular" and main in ("Plaque", "Patch")
    one = ringed or (arrangement == "single" and main != "Comedo")
    if ringed:
        words.insert(0, "ring-shaped")
    if one:
        article = "an" if (words or [noun])[0][0] in "aeiou" else "a"
        what = " ".join([article, ", ".join(words), noun] if words else [article, noun])
    else:
        amount = str(rng.choice(AMOUNTS.get(arrangement, ("several",))))
        what = " ".join(filter(None, [amount, ", ".join(words), PLURALS.get(noun, noun + "s")]))
    more = [str(rng.choice(EXTRAS[c])) for c in concepts if c in EXTRAS and c != main]
    return what, more
