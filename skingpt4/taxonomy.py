"""The closed vocabularies of the project: SKINCON's 48 concepts and the paper's 15 classes."""

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
