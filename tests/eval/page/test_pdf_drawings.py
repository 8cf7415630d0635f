from eval.page.parts import Document, Drawing, Figure, Section
from eval.page.pdf import svg_file, write_pdf


def test_letters_that_the_font_of_drawings_lacks(tmp_path):
    drawing = Drawing("0 0 100 40", "groups", '<text x="5" y="20" font-size="10">I–II 皮膚 naïve</text>')
    assert "I-II ?? naïve" in svg_file(drawing)
    write_pdf(
        Document("A run", [], [Section("groups", "Groups", [Figure(drawing, "By skin type")])]),
        tmp_path / "a.pdf",
    )
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
