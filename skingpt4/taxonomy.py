"""The closed vocabularies of the project: SKINCON's 48 concepts and the paper's 15 classes."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Column order of the SKINCON annotation files (Daneshjou et al. 2022, arXiv 2302.00785).
CONCEPTS: tuple[str, ...] = (
    "Vesicle", "Papule", "Macule", "Plaque", "Abscess", "Pustule", "Bulla", "Patch", "Nodule", "Ulcer",
    "Crust", "Erosion", "Excoriation", "Atrophy", "Exudate", "Purpura/Petechiae", "Fissure", "Induration",
    "Xerosis", "Telangiectasia", "Scale", "Scar", "Friable", "Sclerosis", "Pedunculated",
    "Exophytic/Fungating", "Warty/Papillomatous", "Dome-shaped", "Flat topped", "Brown(Hyperpigmentation)",
    "Translucent", "White(Hypopigmentation)", "Purple", "Yellow", "Black", "Erythema", "Comedo",
    "Lichenification", "Blue", "Umbilicated", "Poikiloderma", "Salmon", "Wheal", "Acuminate", "Burrow",
    "Gray", "Pigmented", "Cyst",
)  # fmt: skip

# Rows of Table 2 (Nature Communications 2024, 15:5649) without its 16th row, "others".
CLASSES: tuple[str, ...] = (
    "acne_and_rosacea", "malignant_lesions", "dermatitis", "bullous_disease", "bacterial_infections",
    "light_diseases", "connective_tissue_diseases", "benign_tumors", "melanoma_nevi_moles",
    "fungal_infections", "psoriasis_and_lichen_planus", "infestations_and_bites", "urticaria_hives",
    "vascular_tumors", "herpes",
)  # fmt: skip


def find_names(text: str, names: Iterable[str]) -> list[str]:
    """The names that stand in a text as whole words, in order of appearance; case does not matter.

    A longer name hides a shorter one inside it ("Warty/Papillomatous" is no "Papule").
    """
    found: list[tuple[int, str]] = []
    taken: list[range] = []
    for name in sorted(names, key=len, reverse=True):
        for match in re.finditer(rf"(?<!\w){re.escape(name)}(?!\w)", text, flags=re.IGNORECASE):
            if not any(match.start() in span for span in taken):
                found.append((match.start(), name))
                taken.append(range(*match.span()))
                break
    return [name for _, name in sorted(found)]


def find_concepts(text: str) -> list[str]:
    """SKINCON concepts that a text names, in SKINCON's order."""
    found = set(find_names(text, CONCEPTS))
    return [concept for concept in CONCEPTS if concept in found]
