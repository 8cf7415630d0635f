"""What a DICOM file says of itself goes with the picture into the record and its exports, its names do not."""

import pytest

from skingpt4.chat.exporting.export import to_html
from skingpt4.chat.exporting.record import Consultation, ShownPicture, from_json
from tests.support.dicom_files import PERSON, photograph


@pytest.mark.parametrize("tag", ["YES", ""])
def test_burnt_in_text_is_warned_about_in_the_export(tag):
    shown = ShownPicture.of(photograph(BurnedInAnnotation=tag))
    record = Consultation({}, pictures=[shown])
    again = from_json(record.to_json(with_pictures=True))
    assert again.pictures[0].remarks == ["burnt_in_text" if tag else "burnt_in_unknown"]
    page = to_html(again)
    assert "burnt into this picture" in page
    assert PERSON not in page + record.to_json()


def test_nothing_is_said_where_the_file_says_no():
    assert ShownPicture.of(photograph()).remarks == []
