"""Counts of manifests and of the sources' bare tables, and the paper's tables beside them."""

import csv
import hashlib
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from data.counting.against_paper import compare_classes, compare_concepts, exact_classes
from data.counting.counts import count_annotations, count_file_list, count_manifests
from data.stats import main
from skingpt4.taxonomy.published import class_counts, concept_counts, published
from skingpt4.taxonomy.taxonomy import CLASSES, CONCEPTS, dermnet_folders

FLAG = "Do not consider this image"
HIGHER = ("Plaque", "Papule", "Brown(Hyperpigmentation)")


def image_name(half, number):
    if half == "ddi":
        return f"{number + 1:06d}.png"
    return hashlib.md5(str(number).encode()).hexdigest() + ".jpg"


def write_annotations(path, half, counts, valid, flagged=None):
    """A file in SKINCON's shape whose valid rows have exactly `counts`; `flagged` None: the first release."""
    rng = np.random.default_rng(0)
    marks = np.zeros((valid + (flagged or 0), len(CONCEPTS)), dtype=int)
    for column, name in enumerate(CONCEPTS):
        marks[rng.choice(valid, counts.get(name, 0), replace=False), column] = 1
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["", "ImageID", *CONCEPTS] + ([] if flagged is None else [FLAG]))
        for row, values in enumerate(marks.tolist()):
            last = [] if flagged is None else [int(row >= valid)]
            table.writerow([row, image_name(half, row), *values, *last])
    return path


def write_file_list(path, lost=0):
    """A list with the real numbers of files in every folder; `lost` of them repeat a name already there."""
    total = sum(folder.train + folder.test for folder in dermnet_folders())
    number = 0
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["split", "folder", "filename"])
        for folder in dermnet_folders():
            for split, count in (("train", folder.train), ("test", folder.test)):
                for _ in range(count):
                    table.writerow([split, folder.name, f"x-{number % (total - lost)}.jpg"])
                    number += 1
    return path


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Both annotation files with the real files' numbers and their three deviations from the paper."""
    folder = tmp_path_factory.mktemp("real")
    counts = {name: count + (name in HIGHER) for name, count in concept_counts().items()}
    return [
        write_annotations(folder / "f.csv", "fitzpatrick17k", counts, 3230, 460),
        write_annotations(folder / "d.csv", "ddi", {"Papule": 300, "Nodule": 9}, 636, 20),
    ]


# --- Table 1 -------------------------------------------------------------------------------------------


def test_annotations_with_exactly_the_papers_counts(tmp_path):
    path = write_annotations(tmp_path / "a.csv", "fitzpatrick17k", concept_counts(), 3230)
    counts = count_annotations([path])
    assert counts.total("concept") == {name: concept_counts()[name] for name in CONCEPTS}
    comparison = compare_concepts(counts)
    assert [row.difference for row in comparison.rows] == [0] * 48
    assert {row.why for row in comparison.rows} == {"equal"}
    assert comparison.remarks[0] == "48 of 48 concepts equal the paper's."
    assert not any("higher" in remark for remark in comparison.remarks)


def test_the_public_files_deviations_are_explained(real):
    comparison = compare_concepts(count_annotations(real))
    assert Counter(row.difference for row in comparison.rows) == {0: 45, 1: 3}
    for row in comparison.rows:
        assert row.why == ("known: one higher in the public file" if row.name in HIGHER else "equal")
    assert comparison.basis == "3,230 records with concepts of fitzpatrick17k"
    text = " ".join(comparison.remarks)
    assert "45 of 48 concepts equal" in text
    assert "Plaque, Papule, Brown(Hyperpigmentation) are one higher in the public file" in text
    assert (
        "3,230 + 636 = 3,866; printed 3,886 = 3,230 + 656: the paper filtered Fitzpatrick17k but not DDI"
        in text
    )


def test_other_differences_are_left_open(tmp_path):
    counts = {**concept_counts(), "Plaque": 1968, "Wheal": 22}
    path = write_annotations(tmp_path / "a.csv", "fitzpatrick17k", counts, 3230, 460)
    comparison = compare_concepts(count_annotations([path]))
    rows = {row.name: row for row in comparison.rows}
    assert (rows["Plaque"].difference, rows["Plaque"].why) == (2, "")
    assert (rows["Wheal"].difference, rows["Wheal"].why) == (1, "")  # one higher, but not where it is known
    assert comparison.remarks[0] == "46 of 48 concepts equal the paper's."
    assert not any("one higher" in remark for remark in comparison.remarks)
    assert "needs both halves" in comparison.remarks[-1]


def test_the_first_release_shows_the_missing_twenty(tmp_path):
    paths = [
        write_annotations(tmp_path / "f.csv", "fitzpatrick17k", concept_counts(), 3230),
        write_annotations(tmp_path / "d.csv", "ddi", {"Papule": 5}, 636),
    ]
    remarks = " ".join(compare_concepts(count_annotations(paths)).remarks)
    assert "printed 3,886, which is 20 more" in remarks


def test_flagged_rows_are_counted_apart(real):
    counts = count_annotations(real)
    assert counts.records == {"fitzpatrick17k": 3230, "ddi": 636}
    assert counts.facts["fitzpatrick17k", "rows"] == 3690
    assert counts.facts["fitzpatrick17k", "flagged"] == 460
    assert counts.facts["ddi", "flagged"] == 20
    assert counts.total("concept", "ddi")["Papule"] == 300
    assert counts.total("concept", "ddi")["Burrow"] == 0


# --- Table 2 -------------------------------------------------------------------------------------------


def test_nine_classes_are_exact():
    exact = exact_classes()
    assert set(exact) == {
        "acne_and_rosacea", "bullous_disease", "light_diseases", "connective_tissue_diseases", "fungal_infections",
        "infestations_and_bites", "urticaria_hives", "herpes", "others",
    }  # fmt: skip
    assert all(class_counts()[name] == count for name, count in exact.items())


def test_a_file_list_with_dermnets_numbers(tmp_path):
    counts = count_file_list(write_file_list(tmp_path / "files.csv", lost=703))
    assert counts.total("split") == {"train": 15557, "test": 4002}
    assert counts.facts["dermnet", "distinct bare names"] == 18856
    comparison = compare_classes(counts)
    rows = {row.name: row for row in comparison.rows}
    assert {name for name, row in rows.items() if row.difference == 0} == set(exact_classes())
    assert rows["fungal_infections"].why == "exact: the sum of its 2 folders in train"
    assert rows["herpes"].why == "exact: its folder in train"
    assert rows["bacterial_infections"].difference == 60
    assert rows["bacterial_infections"].why == "by name; the paper prints fewer than Dermnet's train has"
    assert rows["(no class)"].ours == 606 + 416 + 1086
    assert "Warts Molluscum" in rows["(no class)"].why
    text = " ".join(comparison.remarks)
    assert "9 of 16 rows equal" in text
    assert "These are the 9 rows whose grouping" in text
    assert (
        "18,856 distinct bare names, which is the paper's Dermnet size: keyed on the bare name 703 files"
        in text
    )
    assert "5,407 samples of Table 2 are neither theirs" in text


def test_another_number_of_names_is_not_called_the_papers(tmp_path):
    comparison = compare_classes(count_file_list(write_file_list(tmp_path / "files.csv")))
    assert "19,559 distinct bare names; the paper's Dermnet size is 18,856" in comparison.remarks[-1]


def test_repeated_names_by_hand(tmp_path):
    path = tmp_path / "files.csv"
    path.write_text(
        "split,folder,filename\n"
        "train,Eczema Photos,a.jpg\n"
        "test,Eczema Photos,a.jpg\n"  # same folder, both splits
        "train,Atopic Dermatitis Photos,b.jpg\n"
        "train,Eczema Photos,b.jpg\n"  # another folder of the same class
        "train,Vascular Tumors,c.jpg\n"
        "train,Systemic Disease,c.jpg\n"  # one class against none
        "train,Vasculitis Photos,d.jpg\n"
        "train,Systemic Disease,d.jpg\n"  # two folders without a class
        "train,urticaria_hives,e.jpg\n"
    )
    counts = count_file_list(path)
    assert {name: value for (_, name), value in counts.facts.items()} == {
        "files": 9,
        "distinct bare names": 5,
        "files lost if keyed on the bare name": 4,
        "repeated names": 4,
        "repeated names in folders of different classes": 2,
        "names in both train and test": 1,
    }
    assert counts.total("class")["urticaria_hives"] == 1
    assert counts.total("class")["unknown"] == 3


# --- manifests -----------------------------------------------------------------------------------------


def record(number, **fields):
    return {"image": f"{number}.jpg", **fields}


def write_manifest(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def manifests(tmp_path):
    step1 = [
        record(0, source="fitzpatrick17k", split="train", concepts=["Plaque", "Scale"], fitzpatrick=2),
        record(1, source="fitzpatrick17k", split="test", concepts=[], fitzpatrick=6),
        record(2, source="ddi", split="train", concepts=["Plaque"], fitzpatrick=56),
        record(3, source="ddi", split="train"),
    ]
    step2 = [
        record(4, source="dermnet", split="train", **{"class": "herpes"}),
        record(5, source="dermnet", split="test", **{"class": "herpes"}),
        record(6, source="dermnet", split="train"),
        record(7, source="clinic", **{"class": "others"}),
        record(8, split="train", **{"class": "dermatitis"}),
    ]
    return [write_manifest(tmp_path / "1.jsonl", step1), write_manifest(tmp_path / "2.jsonl", step2)]


def test_manifests_are_counted_together(manifests):
    counts = count_manifests(manifests)
    assert counts.records == {"fitzpatrick17k": 2, "ddi": 2, "dermnet": 3, "clinic": 1, "unknown": 1}
    assert {k: v for k, v in counts.total("concept").items() if v} == {"Plaque": 2, "Scale": 1}
    assert list(counts.total("concept")) == list(CONCEPTS)
    assert {k: v for k, v in counts.total("class").items() if v} == {
        "dermatitis": 1, "herpes": 2, "others": 1, "unknown": 5,
    }  # fmt: skip
    assert list(counts.total("class"))[:15] == list(CLASSES)
    assert counts.total("split") == {"train": 6, "test": 2, "unknown": 1}
    assert counts.total("fitzpatrick") == {"2": 1, "6": 1, "56": 1, "unknown": 6}
    assert counts.with_concepts == {"fitzpatrick17k": 2, "ddi": 1}  # an empty list is known, null is not


def test_table_1_looks_at_fitzpatrick17k_and_table_2_at_what_is_left(manifests):
    counts = count_manifests(manifests)
    concepts, classes = compare_concepts(counts), compare_classes(counts)
    assert concepts.basis == "2 records with concepts of fitzpatrick17k"
    assert {row.name: row.ours for row in concepts.rows}["Plaque"] == 1
    rows = {row.name: row.ours for row in classes.rows}
    assert (rows["herpes"], rows["others"], rows["dermatitis"], rows["(no class)"]) == (1, 1, 1, 1)
    assert classes.basis == "Dermnet's train split and 2 records of other sources"


@pytest.mark.parametrize("number", [1, 40_000])
def test_a_large_manifest_counts_like_a_plain_loop(tmp_path, number):
    rng = np.random.default_rng(3)
    rows = [
        record(
            i,
            source=["a", "b", None][rng.integers(3)],
            concepts=[None, [], [str(c) for c in rng.choice(CONCEPTS, 2, replace=False)]][rng.integers(3)],
            **{"class": [*CLASSES, None][rng.integers(16)]},
        )
        for i in range(number)
    ]
    counts = count_manifests([write_manifest(tmp_path / "m.jsonl", rows)])
    assert counts.records == Counter(row["source"] or "unknown" for row in rows)
    plain = Counter((row["source"] or "unknown", c) for row in rows for c in row["concepts"] or ())
    assert counts.of["concept"] == plain
    plain = Counter((row["source"] or "unknown", row["class"] or "unknown") for row in rows)
    assert counts.of["class"] == plain


# --- the command ---------------------------------------------------------------------------------------


def test_the_command_writes_a_table_and_a_picture(real, tmp_path, capsys):
    paths = [str(path) for path in real]
    assert main(["--annotations-only", *paths, "--against-paper", "--out-dir", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "Plaque                    1,967  1,966          +1  known: one higher in the public file" in out
    with (tmp_path / "out/counts.csv").open() as file:
        rows = list(csv.DictReader(file))
    plaque = next(
        row for row in rows if row["name"] == "Plaque" and row["dimension"] == "concept against paper"
    )
    assert (plaque["count"], plaque["paper"], plaque["difference"]) == ("1967", "1966", "1")
    papule = next(r for r in rows if (r["dimension"], r["source"], r["name"]) == ("concept", "ddi", "Papule"))
    assert papule["count"] == "300"
    with Image.open(tmp_path / "out/counts.png") as image:
        assert image.width > 700
        assert image.height > 1200  # 48 readable rows
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["counts.csv", "counts.png"]


def test_manifests_without_the_paper(manifests, tmp_path, capsys):
    assert main([*map(str, manifests), "--out-dir", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("9 records, 3 with known concepts\n")
    assert "paper" not in out
    assert (tmp_path / "out/counts.png").is_file()


def test_nothing_to_compare(tmp_path, capsys):
    path = write_manifest(tmp_path / "m.jsonl", [record(0, note="Dry skin.")])
    assert main([str(path), "--against-paper", "--out-dir", str(tmp_path / "out")]) == 0
    assert "Nothing here is in Table 1 or 2" in capsys.readouterr().out


def damaged(text, kind):
    """The annotation file with one thing wrong."""
    lines = text.splitlines()
    first = lines[1].split(",")
    if kind == "header":
        lines[0] = lines[0].replace("Dome-shaped", "Dome shape")
    elif kind == "name":
        lines[1] = ",".join([first[0], "photo.jpg", *first[2:]])
    elif kind == "value":
        lines[1] = ",".join([*first[:2], "2", *first[3:]])
    elif kind == "fields":
        lines[1] = ",".join(first[:-1])
    elif kind == "mixed":
        lines[2] = ",".join(["1", "000655.png", *lines[2].split(",")[2:]])
    elif kind == "empty":
        lines = lines[:1]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("header", "no column 'Dome-shaped'; it has 'Dome shape'"),
        ("name", "row 2: 'ImageID' is 'photo.jpg'; SKINCON's pictures are called like"),
        ("value", "row 2: 'Vesicle' is '2'; expected 0 or 1"),
        ("fields", "row 2: 'Do not consider this image' is ''; expected 0 or 1"),
        ("mixed", "row 3: a picture of ddi in a file that begins with fitzpatrick17k"),
        ("empty", "has a header but no rows"),
    ],
)
def test_damaged_annotations_are_refused_in_one_sentence(tmp_path, capsys, kind, message):
    path = write_annotations(tmp_path / "a.csv", "fitzpatrick17k", {"Papule": 2}, 4, 1)
    path.write_text(damaged(path.read_text(), kind))
    assert main(["--annotations-only", str(path), "--out-dir", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("split,folder,filename\ntrain,Ekzema Photos,a.jpg\n", "row 2: 'Ekzema Photos' is none of Dermnet's"),
        ("split,folder,filename\ntrain,Ekzema Photos,a.jpg\n", "folders; the nearest is 'Eczema Photos'"),
        ("split,folder,filename\nvalid,Eczema Photos,a.jpg\n", "row 2: 'split' is 'valid'; expected train or test"),
        ("split,dir,filename\ntrain,Eczema Photos,a.jpg\n", "no column 'folder'"),
        ("split,folder,filename\n", "has a header but no rows"),
        ("", "is empty"),
    ],
)  # fmt: skip
def test_damaged_file_lists_are_refused_in_one_sentence(tmp_path, capsys, content, message):
    path = tmp_path / "files.csv"
    path.write_text(content)
    assert main(["--file-list", str(path), "--out-dir", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [[], ["m.jsonl", "--file-list", "x.csv"]])
def test_exactly_one_kind_of_input(capsys, arguments):
    assert main(arguments) == 1
    assert "give one of: manifests, --annotations-only CSV..., --file-list CSV" in capsys.readouterr().err


def test_missing_files_and_places_that_cannot_be_written(tmp_path, capsys):
    assert main([str(tmp_path / "no.jsonl")]) == 1
    assert "no such manifest" in capsys.readouterr().err
    assert main(["--file-list", str(tmp_path / "no.csv")]) == 1
    assert "no such file" in capsys.readouterr().err
    path = write_manifest(tmp_path / "m.jsonl", [record(0)])
    (tmp_path / "file").write_text("")
    assert main([str(path), "--out-dir", str(tmp_path / "file")]) == 1
    assert "cannot be written to" in capsys.readouterr().err


# --- the printed numbers -------------------------------------------------------------------------------


def test_the_printed_numbers_are_whole():
    data = published()
    assert set(concept_counts()) == set(CONCEPTS)
    assert set(class_counts()) == {*CLASSES, "others"}
    table1, table2 = data["table1"], data["table2"]
    assert table1["total"] == 3230 + 656
    assert (
        sum(class_counts().values())
        == table2["total"]
        == table2["dermnet_images"] + table2["in_house_images"]
    )
    assert all("where" in topic for topic in data.values())
    ratings = data["questionnaire"]
    assert all(len(e["agree_or_strongly"]) == len(ratings["items"]) for e in ratings["percent"].values())
