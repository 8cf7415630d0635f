"""The tables of HAM10000, PAD-UFES-20, DDI, Fitzpatrick17k and SkinCAP."""

from __future__ import annotations

from data.sources.public.public_tables import Layout

HAM10000 = Layout(
    name="ham10000",
    help="HAM10000: dermatoscopic pictures of seven diagnoses, by lesion",
    epilog="""CSV is HAM10000_metadata.csv (or .tab); DIR holds its pictures, also in the folders of the archives.
Pictures of one lesion share `patient_id` (HAM10000 names no patients), so that data.split keeps them together.

You download the metadata and both archives of pictures from the Harvard Dataverse (doi 10.7910/DVN/DBW86T) and
accept its terms: not for commercial use.

  python -m data.prepare ham10000 downloads/ham10000/HAM10000_metadata.csv
  python -m data.split runs/data/ham10000/all.jsonl --out-dir runs/data/ham10000
  python -m eval.cases sample runs/data/ham10000/test.jsonl --task ham10000_7 --all --out cases.jsonl""",
    licence="HAM10000, Harvard Dataverse: not for commercial use; see its terms",
    image="image_id",
    disease="dx",
    texts={"body_site": "localization"},
    identifiers={"patient_id": "lesion_id"},
    own={"x_lesion_id": "lesion_id", "x_dx": "dx", "x_dx_type": "dx_type", "x_age": "age", "x_sex": "sex"},
)
PAD_UFES_20 = Layout(
    name="pad_ufes_20",
    help="PAD-UFES-20: phone pictures of six diagnoses, by patient",
    epilog="""CSV is metadata.csv; DIR holds imgs_part_1 to imgs_part_3 (or the pictures themselves).

You download the metadata and three archives of pictures from Mendeley Data (doi 10.17632/zr7vgbcyr2.1) and accept
its terms.

  python -m data.prepare pad_ufes_20 downloads/pad-ufes-20/metadata.csv
  python -m data.split runs/data/pad_ufes_20/all.jsonl --out-dir runs/data/pad_ufes_20
  python -m eval.cases sample runs/data/pad_ufes_20/test.jsonl --task pad_ufes_20_6 --all --out cases.jsonl""",
    licence="PAD-UFES-20, Mendeley Data; see its terms",
    image="img_id",
    disease="diagnostic",
    fitzpatrick=("fitspatrick", "fitzpatrick"),
    texts={"body_site": "region"},
    identifiers={"patient_id": "patient_id"},
    own={
        "x_lesion_id": "lesion_id", "x_diagnostic": "diagnostic", "x_biopsed": "biopsed", "x_age": "age",
        "x_sex": "gender",
    },
)  # fmt: skip
DDI = Layout(
    name="ddi",
    help="DDI: pictures of three groups of skin tones with malignancy",
    epilog="""CSV is ddi_metadata.csv; DIR holds 000001.png and so on. `x_malignant` is true or false.

You download from Stanford AIMI and accept the research use agreement: the pictures may not be passed on.

  python -m data.prepare ddi downloads/ddi/ddi_metadata.csv
  python -m eval.cases sample runs/data/ddi/all.jsonl --task ddi_malignancy --all --out cases.jsonl""",
    licence="Stanford's research use agreement for DDI; not to be shared",
    image="DDI_file",
    disease="disease",
    fitzpatrick="skin_tone",
    own={"x_malignant": "malignant"},
)
FITZPATRICK17K = Layout(
    name="fitzpatrick17k",
    help="Fitzpatrick17k: 114 labels with skin types (for its concepts see skincon)",
    epilog="""CSV is fitzpatrick17k.csv with either header; DIR holds MD5.jpg, which fitzpatrick17k-images downloads.

You download the table from its authors and accept CC BY-NC-SA 3.0 for the labels; the pictures' atlases have terms
of their own.

  python -m data.prepare fitzpatrick17k downloads/fitzpatrick17k.csv --images downloads/fitzpatrick17k
  python -m data.split runs/data/fitzpatrick17k/all.jsonl --out-dir runs/data/fitzpatrick17k
  python -m eval.cases sample runs/data/fitzpatrick17k/test.jsonl --task fitzpatrick17k_9 --out cases.jsonl""",
    licence="CC BY-NC-SA 3.0 (labels); the pictures belong to the atlases they come from",
    image="md5hash",
    disease="label",
    fitzpatrick=("fitzpatrick_scale", "fitzpatrick"),
    own={
        "x_nine_partition": "nine_partition_label", "x_three_partition": "three_partition_label", "x_qc": "qc",
    },
)  # fmt: skip
SKINCAP = Layout(
    name="skincap",
    help="SkinCAP: captions by dermatologists on pictures of Fitzpatrick17k and DDI",
    epilog="""CSV is SkinCAP's table; DIR holds its folder of pictures. The caption becomes the record's note (what
step 2 teaches) and x_references (what a written answer is compared with).

You download from the hub (joshuachou/SkinCAP) and accept its terms, and those of Fitzpatrick17k and DDI, whose
pictures these are.

  python -m data.prepare skincap downloads/skincap/skincap_v240623.csv
  python -m eval.cases sample runs/data/skincap/all.jsonl --task skincap_captions --all --out cases.jsonl""",
    licence="SkinCAP; see its terms, and those of Fitzpatrick17k and DDI",
    image="skincap_file_path",
    disease="disease",
    captions=("caption_zh_polish_en", "caption_en"),
)
LAYOUTS = (HAM10000, PAD_UFES_20, DDI, FITZPATRICK17K, SKINCAP)
