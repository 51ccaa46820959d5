"""An A4 page with its notice, its number and fonts for names of many scripts.

DejaVu Sans Condensed has Latin, Greek, Cyrillic, Arabic and Hebrew letters; Droid Sans Fallback those of Chinese and
Japanese, Nanum Gothic those of Korean. A letter that none has is written as its number, as in \\u0e2a.
"""

import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from fpdf import FPDF
from fpdf.enums import XPos, YPos
from fpdf.fonts import TTFFont

from model import RESEARCH, __version__
from model.errors import shown

FONTS = Path(__file__).parent / "fonts"
TEXT = "text"
OTHERS = ("DroidSansFallbackFull", "NanumGothicCoding")  # read only where a letter needs them
MARGIN_MM, WIDTH_MM = 15.0, 180.0
BAND_MM, GAP_BELOW_MM = 9.0, 4.0  # of the notice
INK, GREY, RED = (29, 39, 51), (91, 104, 120), (122, 21, 18)
LABEL_MM, WIDE_LABEL_MM = 27.0, 42.0  # of labels beside the picture, and on a whole line
BODY = 8.5  # points
LINE = 1.25  # height of a line, in heights of its letters
MM_PER_POINT = 25.4 / 72
NO_DATE = datetime(1970, 1, 1, tzinfo=UTC)  # the same result gives the same bytes, whenever it is printed
RIGHT_TO_LEFT = ("R", "AL")


class Sheet(FPDF):
    """A document of such pages, all about one study."""

    def __init__(self, study: str) -> None:
        super().__init__(format="A4")
        self.study = study
        self.set_creation_date(NO_DATE)
        self.set_title(f"{study}: {RESEARCH}")
        self.set_producer(f"petct-lesion-segmentation {__version__}")
        self.add_font(TEXT, "", FONTS / "DejaVuSansCondensed.ttf")
        self.add_font(TEXT, "B", FONTS / "DejaVuSansCondensed-Bold.ttf")
        self.set_margins(MARGIN_MM, MARGIN_MM + BAND_MM / 2)
        self.set_auto_page_break(True, MARGIN_MM)
        self.add_page()

    def header(self) -> None:
        """The notice, across the page."""
        self.set_fill_color(*RED)
        self.rect(0, 0, self.w, BAND_MM, "F")
        self.use(9, bold=True, colour=(255, 255, 255))
        self.set_xy(MARGIN_MM, 0)
        self.cell(WIDTH_MM, BAND_MM, RESEARCH)
        self.set_xy(MARGIN_MM, BAND_MM + GAP_BELOW_MM)

    def footer(self) -> None:
        """The study, the software and the number of the page."""
        self.set_y(-MARGIN_MM + 4)
        self.use(7, colour=GREY)
        words = self.printable(self.study)
        self._shape_if_needed(words)
        while self.get_string_width(words) > WIDTH_MM * 0.55:
            words = "…" + words[2:]  # the end of a name, its hash, tells studies apart
        self.cell(WIDTH_MM * 0.6, 4, words)
        self.set_text_shaping(False)
        number = f"petct-lesion-segmentation {__version__}     page {self.page_no()} of {{nb}}"
        self.cell(WIDTH_MM * 0.4, 4, number, align="R")

    def use(self, points: float, bold: bool = False, colour: tuple[int, int, int] = INK) -> None:
        """The font, its size and colour from here on."""
        self.set_font(TEXT, "B" if bold else "", points)
        self.set_text_color(*colour)

    def printable(self, words: str) -> str:
        """Words that the fonts can write."""
        words = unicodedata.normalize("NFC", " ".join(words.split()))
        words = words if words.isprintable() else shown(words)
        readable = self._letters(TEXT)
        for file in OTHERS:
            if readable.issuperset(map(ord, words)):
                break
            if file.lower() not in self.fonts:
                self.add_font(file, "", FONTS / f"{file}.ttf")
            readable |= self._letters(file.lower())
        self.set_fallback_fonts([file for file in OTHERS if file.lower() in self.fonts], exact_match=False)
        return "".join(letter if ord(letter) in readable else _escape(letter) for letter in words)

    def title_line(self, words: str) -> None:
        """The title of the document."""
        self.use(15, bold=True)
        self.cell(WIDTH_MM, 8, words, new_x=XPos.LMARGIN, new_y=YPos.NEXT)

    def head(self, words: str, width: float = WIDTH_MM) -> None:
        """The head of a section, never alone at the end of a page."""
        self.ln(1.5)
        if self.will_page_break(16):
            self.add_page()
        self._write(words, width, 10, bold=True)

    def paragraph(self, words: str, points: float = BODY, width: float = WIDTH_MM) -> None:
        """Text over as many lines as it needs."""
        self._write(words, width, points)
        self.ln(0.7)

    def pairs(
        self,
        rows: Sequence[tuple[str, str]],
        width: float,
        points: float = BODY,
        colour: tuple[int, int, int] = INK,
    ) -> None:
        """Labels and what they say, one below the other."""
        label_mm = WIDE_LABEL_MM if width == WIDTH_MM else LABEL_MM
        for label, words in rows:
            if self.will_page_break(2 * points * LINE * MM_PER_POINT):
                self.add_page()
            top, page = self.get_y(), self.page
            self._write(label, label_mm, points, colour=GREY)
            bottom = self.get_y()
            self.set_xy(MARGIN_MM + label_mm, top)
            self._write(words, width - label_mm, points, colour=colour)
            self.set_xy(MARGIN_MM, max(self.get_y(), bottom) if self.page == page else self.get_y())

    def _write(
        self, words: str, width: float, points: float, bold: bool = False, colour: tuple[int, int, int] = INK
    ) -> None:
        """Words from here on in a column of this width; then the next line begins at the margin."""
        words = self.printable(words)
        self.use(points, bold, colour)
        self._shape_if_needed(words)
        self.multi_cell(width, points * LINE * MM_PER_POINT, words, align="L", new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        self.set_text_shaping(False)

    def _letters(self, family: str) -> set[int]:
        """The letters that a font has, as their numbers."""
        font = self.fonts[family]
        assert isinstance(font, TTFFont)
        return set(font.cmap)

    def _shape_if_needed(self, words: str) -> None:
        """Join Arabic letters and write from right to left where words need it; fpdf2 cannot number pages meanwhile."""
        self.set_text_shaping(any(unicodedata.bidirectional(letter) in RIGHT_TO_LEFT for letter in words))


def _escape(letter: str) -> str:
    return f"\\u{ord(letter):04x}" if ord(letter) < 0x10000 else f"\\U{ord(letter):08x}"
