"""The ISIC archive: what isic-cli downloads, pictures beside their metadata.csv."""

from __future__ import annotations

from typing import Any

from data.reading.fields import Row
from data.reading.rows import RowError
from data.reading.values import class_of
from data.sources.public.public_tables import Layout, PublicTable

# From the most specific level to the least; the first, diagnosis_1, says only Benign, Malignant or Indeterminate.
LEVELS = ("diagnosis_5", "diagnosis_4", "diagnosis_3", "diagnosis", "diagnosis_2")
LICENCE = "ISIC archive"

ISIC_LAYOUT = Layout(
    name="isic",
    help="ISIC archive: what isic-cli downloads, by patient and lesion",
    epilog="""CSV is the metadata.csv that isic-cli writes beside the pictures; every picture has terms of its
own (CC-0, CC-BY or CC-BY-NC, in the record's licence with whom to name). The diagnosis is the most specific
level that the taxonomy knows; pictures of which the archive says only benign or malignant are refused. A
lesion is a case.

You download with isic-cli (a program of the archive) and accept the terms of use of the archive.

  isic image download --search 'diagnosis_3:"Basal cell carcinoma"' downloads/isic
  python -m data.prepare isic downloads/isic/metadata.csv
  python -m data.split runs/data/isic/all.jsonl --out-dir runs/data/isic""",
    licence=LICENCE,
    image="isic_id",
    disease=LEVELS,
    fitzpatrick="fitzpatrick_skin_type",
    texts={"body_site": "anatom_site_general"},
    identifiers={"patient_id": "patient_id", "case_id": "lesion_id"},
    own={
        **{f"x_{level}": level for level in (*LEVELS, "diagnosis_1")},
        "x_copyright": "copyright_license", "x_attribution": "attribution", "x_age": "age_approx", "x_sex": "sex",
        "x_image_type": "image_type", "x_confirmed_by": "diagnosis_confirm_type",
    },
    optional=("fitzpatrick_skin_type", "patient_id", "lesion_id"),
)  # fmt: skip


class Isic(PublicTable):
    """The archive's table, whose diagnoses have levels and whose pictures have terms of their own."""

    def fields(self, row: Row) -> dict[str, Any]:
        """What a row's values say, as keys of a record.

        Raises:
            RowError: the archive says only benign or malignant.
        """
        names = [name for level in LEVELS if (name := row.text(f"x_{level}"))]
        if not names:
            raise RowError("no_label", "has no diagnosis beyond benign, malignant or indeterminate")
        disease = next((name for name in names if class_of(name)), names[0])
        fields = super().fields(Row({**row.values, "disease": disease}, row.blanks, row.remarks))
        terms = [text for key in ("x_copyright", "x_attribution") if (text := fields.pop(key))]
        known = {key: value for key, value in fields.items() if not key.startswith("x_diagnosis") or value}
        return {**known, "licence": ", ".join([LICENCE, *terms])}


ISIC = Isic(ISIC_LAYOUT)
