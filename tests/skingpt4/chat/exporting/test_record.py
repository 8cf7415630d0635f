"""The record of a consultation: hashes, what it says of the model, and its way through JSON."""

import hashlib
import io
import json

import pytest
from PIL import Image

from skingpt4.chat.exporting.record import (
    Consultation,
    ConsultationError,
    Exchange,
    ShownPicture,
    from_json,
    jpeg_bytes,
)
from skingpt4.checkpoints import checkpoint
from skingpt4.checkpoints.identity import DEMONSTRATION, UNTRAINED, model_identity
from skingpt4.config.load import to_dict
from skingpt4.config.schema import Config, LanguageConfig
from skingpt4.support.cli import DISCLAIMER
from tests.support.tiny import make_picture


def photograph() -> bytes:
    """A JPEG with a description and a place in its EXIF data."""
    picture, out = make_picture(1), io.BytesIO()
    exif = picture.getexif()
    exif[0x010E] = "taken at home"
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)
    picture.save(out, "JPEG", exif=exif)
    return out.getvalue()


def full_record() -> Consultation:
    return Consultation(
        model={"checkpoint": "run/1", "caution": DEMONSTRATION},
        pictures=[ShownPicture.of(photograph(), "close", {"score": 0.4, "problems": []}, overridden=True)],
        history={"site": "forearm"},
        turns=[
            Exchange("What is it?", "Größe 3 µm, αβγ", True, {"seed": 7}, 1.5, 12, "Forearm. What is it?")
        ],
        differential={"ranked": [], "confident": False},
    )


def test_a_picture_has_the_hash_of_its_file_and_no_metadata():
    data = photograph()
    shown = ShownPicture.of(data)
    assert shown.sha256 == hashlib.sha256(data).hexdigest()
    assert (shown.width, shown.height, shown.hash_of) == (64, 48, "file")
    assert dict(shown.picture.getexif()) == {}
    url = shown.to_dict(with_picture=True)["picture"]
    assert url.startswith("data:image/jpeg;base64,")
    assert "picture" not in shown.to_dict()
    pixels = [ShownPicture.of(make_picture(seed)) for seed in (1, 1, 2)]
    assert pixels[0].hash_of == "pixels"
    assert pixels[0].sha256 == pixels[1].sha256 != pixels[2].sha256
    turned = ShownPicture.of(Image.new("RGB", (20, 10))), ShownPicture.of(Image.new("RGB", (10, 20)))
    assert turned[0].sha256 != turned[1].sha256, "the same bytes in another shape are another picture"


def test_a_shown_picture_is_the_reduced_copy_that_an_export_has():
    image = Image.effect_noise((1500, 1000), 60).convert("RGB")
    out = io.BytesIO()
    image.save(out, "PNG")
    shown = ShownPicture.of(out.getvalue())
    assert (shown.width, shown.height, shown.picture.size) == (1500, 1000, (1200, 800))
    assert jpeg_bytes(shown.picture) == jpeg_bytes(image)
    decoded = ShownPicture.of(out.getvalue(), image=image)
    assert decoded == shown
    assert decoded.picture.tobytes() == shown.picture.tobytes()


@pytest.mark.parametrize("with_pictures", [False, True])
def test_json_holds_everything_and_comes_back(with_pictures):
    record = full_record()
    text = record.to_json(with_pictures)
    assert json.loads(text)["format"] == "skingpt4.consultation/1"  # as in exports of earlier versions
    assert "Größe 3 µm, αβγ" in text
    assert json.loads(text)["disclaimer"] == DISCLAIMER
    assert json.loads(text)["not_a_diagnosis"] is True
    again = from_json(text)
    assert again == record
    assert (again.pictures[0].picture is not None) == with_pictures
    assert full_record().id != record.id


@pytest.mark.parametrize(
    "text",
    ["", "[]", "[1]", '"x"', "{}", '{"format": "other/2"}', '{"format": "skingpt4.consultation/1"}'],
)
def test_what_is_not_a_consultation_is_refused_in_a_sentence(text):
    with pytest.raises(ConsultationError, match=r"^x\.json: is "):
        from_json(text, "x.json")


def test_the_model_is_named_without_paths_outside_the_working_folder(tmp_path, monkeypatch):
    config = Config(step="step2", output_dir="o", language=LanguageConfig(model="weights/tiny"))
    assert model_identity(config, None)["caution"] == UNTRAINED
    config.data.train = ["runs/phantoms/step2/manifest.jsonl", "/home/anna/private/real.jsonl"]
    card = {"step": "step2", "iteration": 200, "config": to_dict(config)}
    monkeypatch.chdir(tmp_path)
    folder = checkpoint.save(tmp_path / "run/checkpoints/200", {}, card)
    facts = model_identity(config, "run")
    assert facts == {
        "checkpoint": "run/checkpoints/200",
        "sha256": hashlib.sha256((folder / checkpoint.TENSORS).read_bytes()).hexdigest(),
        "step": "step2",
        "iteration": 200,
        "trained_on": ["runs/phantoms/step2/manifest.jsonl", "private/real.jsonl"],
        "demonstration": True,
        "language_model": "tiny",
        "template": "vicuna",
        "caution": DEMONSTRATION,
    }
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert model_identity(config, tmp_path / "run")["checkpoint"] == "run/checkpoints/200"


@pytest.mark.parametrize(
    "change",
    [
        {"pictures": [1]},
        {"turns": [{}]},
        {"pictures": [{"picture": "x"}]},
        {"differential": {"x": float("nan")}},
    ],
)
def test_a_damaged_consultation_is_refused_in_a_sentence(change):
    text = json.dumps(json.loads(full_record().to_json()) | change)
    with pytest.raises(ConsultationError, match=r"^x\.json: is damaged"):
        from_json(text, "x.json")
