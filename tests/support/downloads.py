"""Small public downloads in exactly their real shapes, with images that are drawn here."""

import csv
import hashlib
import io

import numpy as np
from PIL import Image

# The column order of the real files, typed here again so that a slip in the package is noticed.
SKINCON_CONCEPTS = [
    "Vesicle", "Papule", "Macule", "Plaque", "Abscess", "Pustule", "Bulla", "Patch", "Nodule", "Ulcer", "Crust",
    "Erosion", "Excoriation", "Atrophy", "Exudate", "Purpura/Petechiae", "Fissure", "Induration", "Xerosis",
    "Telangiectasia", "Scale", "Scar", "Friable", "Sclerosis", "Pedunculated", "Exophytic/Fungating",
    "Warty/Papillomatous", "Dome-shaped", "Flat topped", "Brown(Hyperpigmentation)", "Translucent",
    "White(Hypopigmentation)", "Purple", "Yellow", "Black", "Erythema", "Comedo", "Lichenification", "Blue",
    "Umbilicated", "Poikiloderma", "Salmon", "Wheal", "Acuminate", "Burrow", "Gray", "Pigmented", "Cyst",
]  # fmt: skip
FLAG = "Do not consider this image"
_REST = "label,nine_partition_label,three_partition_label,qc,url,url_alphanum"
NEW_HEADER = f"md5hash,fitzpatrick_scale,fitzpatrick_centaur,{_REST}"
FIRST_HEADER = f",md5hash,fitzpatrick,{_REST}"


def image_bytes(seed, size=(40, 32), mode="RGB", format="JPEG"):
    """The bytes of an image file that no other seed gives."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    if mode == "RGBA":
        coarse.putalpha(200)
    buffer = io.BytesIO()
    coarse.convert(mode).save(buffer, format)
    return buffer.getvalue()


def write_csv(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def annotations(path, names, flagged=(), release=2):
    """A SKINCON file: row n has concepts n and n + 1; flagged rows have none."""
    header = ["", "ImageID", *SKINCON_CONCEPTS, *([FLAG] if release == 2 else [])]
    rows = []
    for n, name in enumerate(names):
        if name in flagged and release == 1:
            continue
        marks = [int(name not in flagged and k in (n % 48, (n + 1) % 48)) for k in range(48)]
        rows.append([n, name, *marks, *([int(name in flagged)] if release == 2 else [])])
    return write_csv(path, header, rows)


def write_skincon(folder, count=4, release=2, header=NEW_HEADER):
    """Both halves: `count` rows each, the second flagged, one stray in DDI, an unlabelled Fitzpatrick17k image."""
    fitzpatrick, ddi = folder / "fitzpatrick17k", folder / "ddi"
    fitzpatrick.mkdir(parents=True)
    ddi.mkdir()
    hashes = []
    for n in range(count + 1):
        data = image_bytes(n)
        hashes.append(hashlib.md5(data).hexdigest())
        (fitzpatrick / f"{hashes[n]}.jpg").write_bytes(data)
    names = [f"{digest}.jpg" for digest in hashes[:count]]
    annotations(folder / "annotations_fitzpatrick17k.csv", names, names[1:2], release)
    columns = header.split(",")
    scale = next(c for c in columns if c in ("fitzpatrick_scale", "fitzpatrick"))
    labels = ["psoriasis", "acne", "basal cell carcinoma", "granuloma pyogenic"]
    rows = [
        {
            "md5hash": digest,
            scale: [3, 6, -1, 1][n % 4],
            "label": labels[n % 4],
            "": n,
            "url": "http://x/a.jpg",
        }
        for n, digest in enumerate(hashes)
    ]
    write_csv(folder / "fitzpatrick17k.csv", columns, [[row.get(c, "") for c in columns] for row in rows])

    files = [f"{n:06d}.png" for n in range(1, count + 1)]
    for n, name in enumerate(files):
        (ddi / name).write_bytes(image_bytes(100 + n, (163, 79), ["RGB", "RGBA"][n % 2], "PNG"))
    (ddi / "000349(1).png").write_bytes(image_bytes(199, format="PNG"))
    annotations(folder / "annotations_ddi.csv", files, files[1:2], release)
    rows = [
        [n, n + 1, name, [12, 34, 56][n % 3], ["FALSE", "TRUE"][n % 2], "melanoma-in-situ"]
        for n, name in enumerate(files)
    ]
    write_csv(ddi / "ddi_metadata.csv", ["", "DDI_ID", "DDI_file", "skin_tone", "malignant", "disease"], rows)
    return folder


def skincon_arguments(folder, metadata=True):
    arguments = ["skincon"]
    for half, csv_name in (("fitzpatrick17k", "fitzpatrick17k.csv"), ("ddi", "ddi/ddi_metadata.csv")):
        arguments += [
            f"--{half}",
            str(folder / f"annotations_{half}.csv"),
            f"--{half}-images",
            str(folder / half),
        ]
        arguments += [f"--{half}-metadata", str(folder / csv_name)] if metadata else []
    return arguments


DERMNET = {
    "train/Acne and Rosacea Photos": ("acne-cystic-1.jpg", "07Acne081101.jpg"),
    "train/Actinic Keratosis Basal Cell Carcinoma and other Malignant Lesions": (
        "basal-cell-carcinoma-nose-2.jpg",
    ),
    "train/Psoriasis pictures Lichen Planus and related diseases": ("psoriasis-palms-soles-3.jpg",),
    "train/Vasculitis Photos": ("vasculitis-1.jpg",),
    "test/Acne and Rosacea Photos": ("acne-cystic-1.jpg",),
    "test/Herpes HPV and other STDs Photos": ("acne-cystic-1.jpg",),
}


def write_dermnet(folder):
    """The Kaggle layout: one name is in three folders, for different images."""
    for n, (place, names) in enumerate(DERMNET.items()):
        (folder / place).mkdir(parents=True)
        for k, name in enumerate(names):
            (folder / place / name).write_bytes(image_bytes(300 + 10 * n + k))
    return folder
