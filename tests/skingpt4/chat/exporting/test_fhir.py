"""FHIR: bundles that the R4B model accepts, that name no patient, and that say what every export says."""

import base64
import hashlib
import json

import pytest
from fhir.resources.R4B.bundle import Bundle

from skingpt4.chat.exporting import fhir
from skingpt4.chat.exporting.record import Consultation, ConsultationError, ShownPicture
from skingpt4.cli import consultation_export
from skingpt4.support.cli import DISCLAIMER
from skingpt4.taxonomy.taxonomy import CLASSES
from tests.skingpt4.chat.exporting.test_export import full_record
from tests.support.dicom_files import PERSON, photograph


def resources(record, kind, with_pictures=False):
    entries = fhir.bundle(record, with_pictures)["entry"]
    return [entry["resource"] for entry in entries if entry["resource"]["resourceType"] == kind]


RECORDS = {
    "full": full_record(),
    "German": full_record(language="de"),
    "empty": Consultation({}),
    "DICOM": full_record(pictures=[ShownPicture.of(photograph(BurnedInAnnotation="YES"), "far")]),
    "many": full_record(pictures=[full_record().pictures[0]] * 3),
    "no differential": full_record(differential=None),
    "diseases": full_record(
        differential=full_record().differential
        | {
            "diseases": [{"name": "Psoriasis", "class_name": None, "probability": 0.25}],
            "calibration": "held out",
        }
    ),
    "trained": full_record(
        model={
            "checkpoint": "c",
            "sha256": "ab" * 32,
            "step": "step2",
            "iteration": 20,
            "trained_on": ["a", "b"],
        }
    ),
}


@pytest.mark.parametrize("with_pictures", [False, True])
@pytest.mark.parametrize("name", RECORDS)
def test_every_bundle_is_valid(name, with_pictures):
    data = fhir.to_fhir(RECORDS[name], with_pictures)
    assert fhir.validate(data)
    assert Bundle.model_validate_json(data).type == "collection"


def test_an_invalid_bundle_is_named_by_its_elements():
    bundle = fhir.bundle(full_record())
    bundle["entry"][0]["resource"]["issued"] = "yesterday"
    with pytest.raises(ConsultationError, match=r"not valid at .*issued"):
        fhir.validate(json.dumps(bundle).encode())


def test_there_is_an_observation_for_each_class_with_its_probability():
    record = full_record()
    found = {
        each["code"]["coding"][0]["code"]: each["valueQuantity"]
        for each in resources(record, "Observation")
        if "valueQuantity" in each
    }
    assert list(found) == list(CLASSES)
    expected = {row["class_name"]: row["probability"] for row in record.differential["ranked"]}
    assert {name: quantity["value"] for name, quantity in found.items()} == expected
    assert all(each["status"] == "preliminary" for each in resources(record, "Observation"))


def test_the_report_is_preliminary_and_says_what_every_export_says():
    (report,) = resources(full_record(), "DiagnosticReport")
    assert report["status"] == "preliminary"
    assert DISCLAIMER in report["conclusion"]
    assert DISCLAIMER in report["text"]["div"]
    page = base64.b64decode(report["presentedForm"][0]["data"]).decode()
    assert "Was ist das?" in page
    assert "<script>" not in page


def test_nobody_is_named_and_no_foreign_code_is_used():
    text = fhir.to_fhir(RECORDS["DICOM"], True).decode()
    for word in ("subject", "Patient/", "performer", "snomed", "loinc", "icd", PERSON):
        assert word not in text


def test_every_reference_leads_to_an_entry():
    bundle = fhir.bundle(RECORDS["many"])
    urls = [entry["fullUrl"] for entry in bundle["entry"]]
    assert len(set(urls)) == len(urls)

    def references(part):
        if isinstance(part, dict):
            yield from ([part["reference"]] if "reference" in part else [])
            part = list(part.values())
        if isinstance(part, list):
            for each in part:
                yield from references(each)

    led_to = set(references(bundle))
    assert led_to <= set(urls)
    assert set(urls) - led_to == {urls[0]}, "everything but the report itself is referred to"


def test_media_name_the_file_by_its_hash_and_hold_it_only_on_request():
    data = photograph()
    record = full_record(pictures=[ShownPicture.of(data)])
    (media,) = resources(record, "Media")
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
    assert media["identifier"][0]["value"] == f"ni:///sha-256;{digest}"
    assert "data" not in media["content"]
    (media,) = resources(record, "Media", with_pictures=True)
    assert base64.b64decode(media["content"]["data"]).startswith(b"\xff\xd8")


def test_the_device_is_the_model():
    (device,) = resources(RECORDS["trained"], "Device")
    assert device["identifier"][0]["value"] == "ab" * 32
    assert {version["type"]["text"] for version in device["version"]} == {"software", "checkpoint", "step"}


def test_the_same_consultation_has_the_same_identifiers():
    record = full_record()
    assert fhir.bundle(record)["entry"] == fhir.bundle(record)["entry"]


# ---- the command


def test_command(tmp_path, capsys):
    source, out = tmp_path / "c.json", tmp_path / "c.fhir.json"
    source.write_text(full_record().to_json(with_pictures=True), encoding="utf-8")
    assert consultation_export.main([str(source), "--fhir", str(out)]) == 0
    assert b"image/jpeg" not in out.read_bytes()
    assert consultation_export.main([str(source), "--fhir", str(out), "--with-pictures"]) == 0
    assert b"image/jpeg" in out.read_bytes()
    source.write_text(full_record(created="soon").to_json(), encoding="utf-8")
    assert consultation_export.main([str(source), "--fhir", str(tmp_path / "d.json")]) == 1
    assert "is not a time" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.fhir.json", "c.json"]


def batch_output(folder):
    """What `skingpt4 batch` writes about two pictures, of which one could not be read."""
    line = {
        "image": "Erika/knee.jpg", "sha256": "cd" * 32, "class": CLASSES[0], "confident": False,
        "probabilities": dict.fromkeys(CLASSES, 1 / 15), "concepts": {"Plaque": 0.7}, "calibration": "none",
        "quality": {"score": 0.9, "problems": []}, "text": "A plaque.", "flags": [], "seconds": 1.0,
    }  # fmt: skip
    lines = [
        line,
        {"image": "x.jpg", "error": "damaged", "message": "x.jpg: ..."},
        line | {"sha256": "ef" * 32},
    ]
    path = folder / "answers.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))
    meta = {
        "model": {"checkpoint": "c", "sha256": "ab" * 32},
        "questions": ["What?"],
        "generation": {"seed": 0},
    }
    path.with_name("answers.jsonl.meta.json").write_text(json.dumps(meta))
    return path


def test_a_batch_becomes_a_bundle_a_picture_and_a_second_run_repeats_nothing(tmp_path, capsys):
    path, out = batch_output(tmp_path), tmp_path / "bundles"
    assert consultation_export.main([str(path), "--fhir", str(out)]) == 0
    files = sorted(out.iterdir())
    assert len(files) == 2
    for file in files:
        assert fhir.validate(file.read_bytes())
        assert b"knee" not in file.read_bytes()
        assert b"Erika" not in file.read_bytes()
    before = {file: file.stat().st_mtime_ns for file in files}
    files[0].unlink()
    assert consultation_export.main([str(path), "--fhir", str(out)]) == 0
    assert "1 bundles written, 1 were there already" in capsys.readouterr().out
    assert sorted(out.iterdir()) == files
    assert files[1].stat().st_mtime_ns == before[files[1]]


@pytest.mark.parametrize("damage", ["meta", "line"])
def test_another_file_than_a_batchs_is_one_sentence(damage, tmp_path, capsys):
    path = batch_output(tmp_path)
    if damage == "meta":
        path.with_name("answers.jsonl.meta.json").unlink()
    else:
        path.write_text('{"image": 3}\n')
    assert consultation_export.main([str(path), "--fhir", str(tmp_path / "out")]) == 1
    assert "skingpt4 batch" in capsys.readouterr().err
    assert consultation_export.main([str(path), "--pdf", str(tmp_path / "a.pdf")]) == 1
    assert "--fhir FOLDER" in capsys.readouterr().err
