"""Pictures as a viewer shows them, whatever depth, orientation and transparency their file has; folders with odd things in them."""

from __future__ import annotations

import io
import os
import resource
import socket
import struct
import time
import unicodedata
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from fractionate.data.own_pictures import PictureFolder, pictures
from fractionate.data.own_texts import texts
from fractionate.data.picture_files import DEVIATION, MEAN, PictureEncoding
from fractionate.errors import ConfigError, DamagedError, FractionateError

SIDE = 24
RAMP = np.add.outer(np.arange(24), np.arange(24)).astype(np.uint8) * 5  # no two turns of it are alike once it is marked
RAMP[:6, :12] = 250


def written(picture, kind, **more):
    file = io.BytesIO()
    picture.save(file, kind, **more)
    file.seek(0)
    return file


def middle(picture, side):
    """No scaling, so that what is compared are the pixels of the file."""
    assert picture.mode == "RGB" and picture.size == (side, side)
    return picture


def pixels_of(file, side=SIDE):
    deviation, mean = (torch.tensor(v).view(3, 1, 1) for v in (DEVIATION, MEAN))
    return (
        ((PictureEncoding((), side).read(file, view=middle, name="it") * deviation + mean) * 255)
        .round()
        .byte()
        .permute(1, 2, 0)
        .numpy()
    )


GREY = Image.fromarray(RAMP)
COLOUR = Image.merge("RGB", (GREY, GREY.transpose(0), GREY.transpose(1)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_turned_picture_is_read_as_it_is_shown(kind, orientation):
    how = {1: (), 2: (0,), 3: (3,), 4: (1,), 5: (5,), 6: (4,), 7: (6,), 8: (2,)}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    more = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    shown = COLOUR
    for each in how:
        shown = shown.transpose(each)
    apart = np.abs(pixels_of(written(COLOUR, kind, exif=exif, **more)).astype(int) - np.asarray(shown)).max()
    assert apart <= (9 if kind == "JPEG" else 0), "a turn that is not heeded is 200 off"
    assert np.abs(np.asarray(COLOUR).astype(int) - np.asarray(shown)).max() > 150 or orientation == 1


def sixteen(kind, order="<", **more):
    return written(Image.fromarray((RAMP.astype(np.uint16) * 257).astype(f"{order}u2")), kind, **more)


CASES = {
    "grey of 16 bits": (lambda: sixteen("PNG"), RAMP),
    "TIFF of 16 bits": (lambda: sixteen("TIFF"), RAMP),
    "TIFF of 16 bits, the high byte first": (lambda: sixteen("TIFF", ">"), RAMP),
    "grey of 8 bits": (lambda: written(GREY, "PNG"), RAMP),
    "colours of a palette": (lambda: written(GREY.convert("P"), "GIF"), RAMP),
    "black and white": (lambda: written(GREY.point(lambda v: 255 * (v > 120)).convert("1"), "PNG"), 255 * (RAMP > 120)),
    "fax, where 0 is white": (
        lambda: written(GREY.point(lambda v: 255 * (v > 120)).convert("1"), "TIFF", compression="group4"),
        255 * (RAMP > 120),
    ),
    "cyan, magenta, yellow, black": (lambda: written(COLOUR.convert("CMYK"), "TIFF"), np.asarray(COLOUR)),
}


@pytest.mark.parametrize("name", CASES)
def test_any_depth_and_colours_are_read_as_they_are_shown(name):
    make, shown = CASES[name]
    shown = shown if shown.ndim == 3 else np.repeat(shown[:, :, None], 3, 2)
    assert np.abs(pixels_of(make()).astype(int) - shown).max() <= 1


def png(colour_type, depth, rows, *chunks, size=None):
    """A PNG file by hand: Pillow writes no 16 bits a colour, and no colour that stands for transparent in all modes."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = size or rows.shape[:2]
    body = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    parts = [
        chunk(b"IHDR", head),
        *(chunk(*each) for each in chunks),
        chunk(b"IDAT", zlib.compress(body)),
        chunk(b"IEND", b""),
    ]
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def test_sixteen_bits_a_colour_are_the_same_as_eight():
    deep = np.asarray(COLOUR).astype(">u2") * 257
    assert np.array_equal(pixels_of(png(2, 16, deep.astype(">u2"))), np.asarray(COLOUR))


def holed():
    alpha = np.full((24, 24), 255, np.uint8)
    alpha[4:9, 4:9] = 0
    return Image.fromarray(alpha)


def on_white():
    shown = np.asarray(COLOUR).copy()
    shown[4:9, 4:9] = 255
    return shown


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_what_is_transparent_is_white_whatever_colour_lies_behind(kind):
    clear = COLOUR.copy()
    clear.putalpha(holed())
    more = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    assert np.array_equal(pixels_of(written(clear, kind, **more)), on_white())


def test_transparent_greys_palettes_and_colours_are_white():
    grey = GREY.copy()
    grey.putalpha(holed())
    assert np.array_equal(pixels_of(written(grey, "PNG"))[4:9, 4:9], np.full((5, 5, 3), 255))
    palette = Image.fromarray(np.where(np.asarray(holed()) == 0, 0, 1).astype(np.uint8), "P")
    palette.putpalette([0, 0, 0, 9, 9, 9])
    for kind in ("GIF", "PNG"):
        found = pixels_of(written(palette, kind, transparency=0))
        assert found[5, 5].tolist() == [255] * 3 and found[0, 0].tolist() == [9] * 3
    dark = np.where(np.asarray(holed()) == 0, 7, 90).astype(np.uint8)
    eight = png(0, 8, dark, (b"tRNS", struct.pack(">H", 7)))
    deep = png(0, 16, (dark.astype(np.uint16) * 257).astype(">u2"), (b"tRNS", struct.pack(">H", 7 * 257)))
    colours = png(2, 8, np.repeat(dark[:, :, None], 3, 2), (b"tRNS", struct.pack(">HHH", 7, 7, 7)))
    for file in (eight, deep, colours):
        found = pixels_of(file)
        assert found[5, 5].tolist() == [255] * 3 and found[0, 0].tolist() == [90] * 3
    half = Image.new("RGBA", (24, 24), (0, 0, 0, 128))
    assert abs(int(pixels_of(written(half, "PNG"))[0, 0, 0]) - 127) <= 1


def animation(kind):
    return written(GREY, kind, save_all=True, append_images=[GREY.transpose(0), GREY.transpose(1)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: written(Image.fromarray(RAMP.astype(np.float32) / 255), "TIFF"), "numbers of 32 bits"),
        (lambda: written(Image.fromarray(RAMP.astype(np.int32) * 1000), "TIFF"), "numbers of 32 bits"),
        *((lambda kind=kind: animation(kind), "multiple frames or pages") for kind in ("GIF", "WEBP", "PNG", "TIFF")),
        *(
            (lambda kind=kind: io.BytesIO(written(COLOUR, kind).getvalue()[:-200]), "")  # a download that broke off
            for kind in ("PNG", "JPEG", "WEBP", "TIFF")
        ),
    ],
)
def test_what_no_viewer_shows_as_one_picture_is_refused(make, message):
    with pytest.raises(DamagedError, match=rf"it cannot be read as a picture(.|\n)*{message}"):
        pixels_of(make())


def test_a_photo_with_a_preview_behind_it_is_a_photo():
    file = written(COLOUR, "MPO", save_all=True, append_images=[COLOUR.resize((8, 8))], quality=100, subsampling=0)
    assert np.abs(pixels_of(file).astype(int) - np.asarray(COLOUR)).max() <= 9


def test_a_narrow_strip_does_not_unfold(tmp_path):
    """To enlarge a strip of one pixel would take gigabytes, of which the middle alone is wanted."""
    for name, size in (("a", (1, 40_000)), ("b", (40_000, 1))):
        (tmp_path / name).mkdir()
        Image.new("RGB", size, (200, 0, 0)).save(tmp_path / name / "0.png")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert len(pictures(tmp_path, side=64).examples) == 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 200 * 1024  # KiB


@pytest.mark.parametrize("side", [10_000, 13_000, 60_000])
def test_bombs_are_refused_by_their_head(side):
    """Pillow alone refuses from 179 million pixels on; from half of that it warns, and unfolds."""
    begun = time.process_time()
    bomb = png(2, 8, np.zeros((1, side, 3), np.uint8), size=(side, side))
    with pytest.raises(DamagedError, match="bomb"):
        pixels_of(bomb)
    assert time.process_time() - begun < 5


# --- what lies in folders of classes


def photo(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    ImageOps.colorize(GREY, (value, 0, 0), "white").save(path)


@pytest.fixture
def photos(tmp_path):
    for name in ("cat", "dog"):
        for place in range(3):
            photo(tmp_path / "photos" / name / f"{place}.png", 10 * place)
    return tmp_path / "photos"


def test_what_systems_leave_behind_is_neither_a_class_nor_worth_a_word(photos):
    for name in (
        "__MACOSX/cat",
        "@eaDir",
        ".ipynb_checkpoints",
        "lost+found",
        "$RECYCLE.BIN",
        ".Trash-1000",
        "cat/@eaDir/0.png",
    ):
        (photos / name).mkdir(parents=True)
    (photos / "cat" / "@eaDir" / "0.png" / "SYNOPHOTO_THUMB_M.png").write_bytes(b"thumbnail")
    for name in (
        "cat/._0.png",
        "cat/.DS_Store",
        "dog/Thumbs.db",
        "dog/desktop.ini",
        ".DS_Store",
        "__MACOSX/cat/._0.png",
    ):
        (photos / name).write_bytes(b"\0\5\x16\7")
    found = pictures(photos, side=8).examples
    assert found.class_names == ("cat", "dog") and len(found) == 6


def test_what_is_not_read_is_counted_and_named(photos, tmp_path):
    (photos / "cat" / "raw.heic").write_bytes(b"x")
    (photos / "cat" / "raw2.HEIC").write_bytes(b"x")
    (photos / "dog" / "notes").write_text("x")
    photo(photos / "dog" / ".hidden.png")
    photo(photos / ".owl" / "0.png")
    photo(photos / "nobody.png")
    photo(tmp_path / "outside" / "0.png")
    (photos / "dog" / "away.png").symlink_to(tmp_path / "outside" / "0.png")
    (photos / "dog" / "nowhere.png").symlink_to("nothing")
    (photos / "dog" / "same.png").symlink_to("0.png")  # within the folder: read
    (photos / "cat" / "round").symlink_to(photos / "cat")
    os.mkfifo(photos / "cat" / "pipe.png")
    with pytest.warns(UserWarning, match="not read") as warned:
        found = pictures(photos, side=8).examples
    assert len(found) == 7 and found.class_names == ("cat", "dog")
    (text,) = (str(one.message) for one in warned)
    for part in (
        "10 entries are not read", "2 .heic (cat/raw.heic, cat/raw2.HEIC)", "1 no ending (dog/notes)", "dog/.hidden.png", ".owl",
        "1 next to the class folders (nobody.png)", "1 links that lead out of the folder (dog/away.png)", "links=True",
        "1 a link that leads nowhere (dog/nowhere.png)", "1 linked folders (cat/round)", "1 a pipe (FIFO) (cat/pipe.png)",
    ):  # fmt: skip
        assert part in text, text
    with pytest.warns(UserWarning, match="9 entries"):
        assert len(pictures(photos, side=8, links=True).examples) == 8


def test_sockets_and_devices_with_the_name_of_a_picture_are_not_opened(photos):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(photos / "cat" / "s.png"))
        (photos / "cat" / "zero.png").symlink_to("/dev/zero")
        with pytest.warns(UserWarning, match=r"1 a device(.|\n)*1 a socket"):
            assert len(pictures(photos, side=8, links=True).examples) == 6
    for path in ("/dev/zero", photos, photos / "cat" / "s.png", photos / "none.png"):
        with pytest.raises(ConfigError):
            pictures(photos.parent, side=8) if path == photos else PictureEncoding((), 8).read(
                photos / path, view=middle
            )


def test_folders_that_are_links_are_refused_unless_allowed(photos, tmp_path):
    photo(tmp_path / "outside" / "owl" / "0.png")
    (photos / "owl").symlink_to(tmp_path / "outside" / "owl")
    with pytest.raises(ConfigError, match=r"links that lead out of it(.|\n)*owl(.|\n)*links=True"):
        pictures(photos, side=8)
    assert pictures(photos, side=8, links=True).examples.class_names == ("cat", "dog", "owl")
    (tmp_path / "named").symlink_to(photos)  # what is named may itself be a link
    assert len(pictures(tmp_path / "named", side=8, links=True).examples) == 7


def test_folders_within_classes_are_read_with_a_word(photos):
    photo(photos / "cat" / "2021" / "may" / "0.png")
    photo(photos / "dog" / "2021" / "0.png")
    with pytest.warns(UserWarning, match="2 pictures lie in folders within the class folders(.|\n)*cat/2021, dog/2021"):
        found = pictures(photos, side=8).examples
    assert len(found) == 8 and "cat/2021/may/0.png" in found.ids


def test_a_class_without_pictures_is_an_error_with_its_name(photos):
    (photos / "owl").mkdir()
    with pytest.raises(ConfigError, match="classes without pictures: owl"):
        pictures(photos, side=8)
    (photos / "owl" / "0.heic").write_bytes(b"x")
    for read in (lambda: pictures(photos, side=8), lambda: PictureFolder(photos, 8)):
        with pytest.raises(ConfigError, match=r"classes without pictures: owl(.|\n)*unread: 1 .heic"):
            read()
    with pytest.warns(UserWarning, match="heic"):
        assert PictureFolder(photos, 8, allow_empty=True).classes == ("cat", "dog", "owl")


def test_a_folder_for_training_alone_is_a_part_and_not_a_class(photos, tmp_path):
    photos.rename(tmp_path / "train")
    parts = pictures(tmp_path, side=8).parts(validation=1, test=1)
    assert parts.transfer.class_names == ("cat", "dog")
    photo(tmp_path / "unlabelled" / "0.png")
    with pytest.raises(ConfigError, match=r"divided in no clear way(.|\n)*train, unlabelled"):
        pictures(tmp_path, side=8)


def test_a_test_part_may_lack_a_class(photos, tmp_path):
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            photo(tmp_path / "d" / part / name / "0.png")
            photo(tmp_path / "d" / part / name / "1.png")
    for file in (tmp_path / "d" / "test" / "dog").iterdir():
        file.unlink()
    assert pictures(tmp_path / "d", side=8, repeats=True).parts(validation=1).test.labels.tolist() == [0, 0]


def test_names_that_would_be_shown_alike_are_refused(photos):
    for end in "ab":
        photo(photos / ("x" * 100 + end) / "0.png")
    with pytest.raises(ConfigError, match="classes share a name"):
        pictures(photos, side=8)


def test_a_name_with_accents_is_one_class_however_they_are_spelt(tmp_path):
    """A Mac writes the names of folders decomposed, and whoever unpacks its archive gets them so."""
    for part, form in (("train", "NFD"), ("test", "NFC")):
        for name in ("caf\u00e9", "cr\u00e8me", "zoo"):
            photo(tmp_path / part / unicodedata.normalize(form, name) / "0.png")
            photo(tmp_path / part / unicodedata.normalize(form, name) / "1.png")
    found = pictures(tmp_path, side=8, repeats=True).parts(validation=1)
    assert found.transfer.class_names == found.test.class_names == ("caf\u00e9", "cr\u00e8me", "zoo")
    assert found.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    photo(tmp_path / "train" / "caf\u00e9" / "0.png")
    with pytest.raises(ConfigError, match=r"classes share a name(.|\n)*caf\u00e9"):
        pictures(tmp_path, side=8)


@pytest.mark.parametrize("most", [0, -1, 1.5])
def test_most_is_a_number_of_pictures(photos, most):
    with pytest.raises(ConfigError, match="most is a number"):
        pictures(photos, side=8, most=most)


def test_text_folders_go_by_the_same_rules(tmp_path):
    for name in ("ham", "spam"):
        (tmp_path / name / "2021").mkdir(parents=True)
        (tmp_path / name / "0.txt").write_text(f"some {name}")
        (tmp_path / name / "2021" / "1.txt").write_text(f"more {name}")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "ham" / "._0.txt").write_bytes(b"\0\5\x16\7")
    (tmp_path / "ham" / "2.md").write_text("unread")
    with (
        pytest.warns(UserWarning, match="1 entries are not read: 1 .md"),
        pytest.warns(UserWarning, match="2 texts lie in folders within"),
    ):
        found = texts(tmp_path).examples
    assert found.class_names == ("ham", "spam") and len(found) == 4
    (tmp_path / "eggs").mkdir()
    with pytest.raises(ConfigError, match="classes without texts: eggs"):
        texts(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"II*\0" + b"\xff" * 60, b"MM\0*\0\0\0\x08" + b"\xff" * 40, b"GIF89a" + b"\xff" * 40]
)
def test_bytes_that_are_no_picture_are_typed_errors(photos, content):
    for ending in ("tif", "gif", "png"):
        (photos / "cat" / f"bad.{ending}").write_bytes(content)
        with pytest.raises(FractionateError, match="bad"):
            pictures(photos, side=8)
        (photos / "cat" / f"bad.{ending}").unlink()
