"""Recordings: every kind of file, the user's folders, splits that do not leak, batches."""

import io
import json
import os
import pathlib
import shutil
import struct
import tempfile
import tracemalloc

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from bigmodels.commands.train import train
from bigmodels.data import AudioAugmentation, audio, clean_transcript, load_audio
from bigmodels.data.notes import Notes
from bigmodels.data.readers.audio_files import audio_folder, list_recordings
from bigmodels.data.readers.recordings import decode_audio, read_audio, resampled

RATE = 8000
NOISE = np.random.default_rng(0).integers(-9000, 9000, 2400).astype("int16")


def wav(
    samples=NOISE, rate=RATE, channels=1, bits=16, coding=1, claimed=None, before=b"", more=b""
):
    """A WAV file's bytes, of which the header may lie."""
    data = samples if isinstance(samples, bytes) else samples.tobytes()
    width = channels * bits // 8
    form = struct.pack("<HHIIHH", coding, channels, rate, rate * width, width, bits) + more
    size = len(data) if claimed is None else claimed
    parts = before + b"fmt " + struct.pack("<I", len(form)) + form
    parts += b"data" + struct.pack("<I", size) + data + bytes(len(data) % 2)
    return b"RIFF" + struct.pack("<I", min(4 + len(parts), 2**32 - 1)) + b"WAVE" + parts


EXTENSIBLE = struct.pack("<HHI", 22, 16, 4)
WAV = wav()
BAD_WAVS = {
    "empty": (b"", "it is empty"),
    "text": (b"not a recording", "it is not a WAV"),
    "mp3": (b"ID3\x04" + bytes(40), "soundfile cannot read it: Format not recognised"),
    "m4a": (b"\0\0\0\x20ftypM4A " + bytes(40), "it is MPEG-4 (.m4a, .mp4), which is not read"),
    "avi": (b"RIFF" + bytes(4) + b"AVI " + bytes(40), "it is a RIFF file, but not WAV"),
    "webp": (b"RIFF" + bytes(4) + b"WEBPVP8 " + bytes(40), "it is a RIFF file, but not WAV"),
    "riff": (WAV[:10], "it ends too early (truncated)"),
    "head": (WAV[:30], "it ends too early (truncated)"),
    "no data": (WAV[:36], "it contains no samples"),
    "no frames": (wav(b""), "it contains no samples"),
    "cut": (WAV[:-100], "it claims 4,800 bytes of samples, but has 4,700"),
    "1 GB": (wav(claimed=2**30), "it claims 1,073,741,824 bytes of samples, but has 4,800"),
    "piped, nothing": (wav(b"", claimed=2**32 - 1), "it contains no samples"),
    "odd": (wav(NOISE.tobytes()[:-1]), "its last sample is cut off"),
    "0 bits": (wav(bits=0), "its samples have 0 bits"),
    "12 bits": (wav(bits=12), "its samples have 12 bits, expected 8, 16, 24 or 32"),
    "other": (wav(coding=99), "its samples are of coding 99, and soundfile cannot read it"),
    "NaN": (wav(np.float32([0.1, np.nan]).tobytes(), bits=32, coding=3), "go up to nan"),
    "not to 1": (wav(np.float32([0.1, 900]).tobytes(), bits=32, coding=3), "go up to 900"),
    "long float": (wav(bytes(4 * 61 * RATE), bits=32, coding=3), "it lasts 61.0 s"),
    "six floats": (wav(bytes(480), bits=32, coding=3, channels=6), "it has 6 channels"),
    "extensible cut": (wav(coding=0xFFFE), "it ends too early (truncated)"),
    "no channels": (wav(channels=0), "it has 0 channels"),
    "six channels": (wav(channels=6), "it has 6 channels, expected one or two"),
    "no rate": (wav(rate=0), "it claims 0 samples per second"),
    "rate": (wav(rate=2**32 - 1 >> 4), "it claims 268435455 samples per second"),
    "long": (wav(bytes(2 * 61 * RATE)), "it lasts 61.0 s, more than 60"),
    "data first": (b"RIFF" + bytes(4) + b"WAVEdata" + bytes(40), "come before their format"),
    "endless part": (
        wav(before=b"LIST" + struct.pack("<I", 2**32 - 1)),
        "it ends too early (truncated)",
    ),
}


@pytest.mark.parametrize("name", BAD_WAVS)
def test_a_bad_wav_is_named_with_the_reason(name, tmp_path):
    content, reason = BAD_WAVS[name]
    path = tmp_path / "bad.wav"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(ValueError) as error:
        read_audio(path)
    assert tracemalloc.get_traced_memory()[1] < 1e6 + 4 * len(content)
    tracemalloc.stop()
    message = str(error.value)
    assert message.startswith(f"audio: {str(path)!r} cannot be read: ") and reason in message
    assert "\n" not in message


def test_good_wavs_of_every_kind_are_read():
    """The checks above are not simply against everything."""
    samples, rate, remarks = decode_audio(WAV)
    assert not remarks
    assert rate == RATE and samples.dtype == np.int16
    np.testing.assert_array_equal(samples, NOISE)
    extensible = wav(coding=0xFFFE, more=EXTENSIBLE + struct.pack("<H", 1) + bytes(14))
    odd_part = wav(before=b"LIST" + struct.pack("<I", 3) + b"abc\0") + b"more"
    for content in (extensible, odd_part):
        np.testing.assert_array_equal(decode_audio(content)[0], NOISE)
    eight, rate, _ = decode_audio(wav(bytes([0, 128, 255]), rate=44_100, bits=8))
    assert eight.tolist() == [-32768, 0, 127 * 256] and rate == 44_100
    stereo = np.array([[32767, 32767], [-32768, -32768], [100, 200], [-3, 0]], "int16")
    assert decode_audio(wav(stereo, channels=2))[0].tolist() == [32767, -32768, 150, -2]
    # TensorFlow reads the same.
    floats, _ = tf.audio.decode_wav(WAV)
    np.testing.assert_array_equal(floats[:, 0] * 32768, NOISE)


def encoded(samples, form, subtype=None):
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format=form, subtype=subtype)
    return file.getvalue()


SINE = np.rint(20_000 * np.sin(np.arange(4000) / 7)).astype("int16")


@pytest.mark.parametrize(
    ("form", "subtype", "tolerance"),
    [
        ("WAV", "PCM_24", 0),
        ("WAV", "PCM_32", 0),
        ("WAV", "FLOAT", 0),
        ("WAV", "DOUBLE", 0),
        ("WAV", "ULAW", 800),
        ("WAV", "ALAW", 800),
        ("WAVEX", "PCM_16", 0),
        ("WAVEX", "PCM_24", 0),
        ("WAVEX", "FLOAT", 0),
        ("FLAC", "PCM_16", 0),
        ("FLAC", "PCM_24", 0),
        ("AIFF", "PCM_16", 0),
        ("OGG", "VORBIS", 2000),
        ("MP3", "MPEG_LAYER_III", 2000),
    ],
)
def test_other_formats_are_read(form, subtype, tolerance):
    samples, rate, remarks = decode_audio(encoded(SINE / 32768, form, subtype))
    assert rate == RATE and samples.dtype == np.int16 and len(samples) >= 4000
    middle = slice(500, 3500)
    assert np.abs(samples[middle].astype(int) - SINE[middle]).max() <= tolerance
    deep = subtype in ("PCM_24", "PCM_32", "FLOAT", "DOUBLE")
    assert remarks == ["more than 16 bits, which are converted to 16"] * deep
    stereo = np.stack([SINE, np.zeros_like(SINE)], 1) / 32768
    samples, _, remarks = decode_audio(encoded(stereo, form, subtype))
    assert remarks[-1] == "two channels, which are averaged"
    assert np.abs(samples[middle] - SINE[middle] / 2).max() <= tolerance + 1


def test_what_is_too_loud_is_clipped_and_said():
    loud = encoded(np.float64([0.5, -1.5, 1.5]), "WAV", "FLOAT")
    samples, _, remarks = decode_audio(loud)
    assert samples.tolist() == [16384, -32768, 32767]
    assert "samples beyond -1 and 1, which are clipped" in remarks


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0xFFFFFFFF])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_a_header_written_into_a_pipe_claims_nothing(size, subtype):
    content = bytearray(encoded(SINE / 32768, "WAV", subtype))
    place = content.index(b"data") + 4
    for at in (4, place):
        content[at : at + 4] = struct.pack("<I", size)
    samples, _, remarks = decode_audio(bytes(content))
    np.testing.assert_array_equal(samples[:4000], SINE)
    assert "a header that does not say how long they are: they are read to the end" in remarks


def test_no_samples_and_more_behind_them_are_no_pipe():
    content = wav(b"") + b"LIST" + struct.pack("<I", 4) + b"abcd"
    content = content[:4] + struct.pack("<I", len(content) - 8) + content[8:]
    with pytest.raises(ValueError, match="it contains no samples"):
        decode_audio(content)


def test_a_cut_flac_is_named():
    with pytest.raises(ValueError, match=r"soundfile cannot read it|it ends too early"):
        decode_audio(encoded(NOISE, "FLAC")[:2000])


@pytest.mark.parametrize("name", ["a.flac", "a.mp3", "a.wav"])
def test_without_soundfile_the_extra_is_named(tmp_path, monkeypatch, name):
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    form = {"a.flac": "FLAC", "a.mp3": "MP3", "a.wav": "WAV"}[name]
    subtype = "PCM_24" if form == "WAV" else None
    (tmp_path / name).write_bytes(encoded(SINE / 32768, form, subtype))
    with pytest.raises(ValueError, match=rf'{name}.*pip install "bigmodels\[speech\]"'):
        read_audio(tmp_path / name)
    (tmp_path / "b.wav").write_bytes(WAV)
    np.testing.assert_array_equal(read_audio(tmp_path / "b.wav")[0], NOISE)


def test_what_is_no_regular_file_is_named(tmp_path):
    def refused(name, reason):
        with pytest.raises(ValueError) as error:
            read_audio(tmp_path / name)
        assert str(error.value) == f"audio: {str(tmp_path / name)!r} cannot be read: {reason}"

    (tmp_path / "folder.wav").mkdir()
    refused("folder.wav", "it is not a regular file")
    os.mkfifo(tmp_path / "pipe.wav")  # To open it would wait for ever.
    refused("pipe.wav", "it is not a regular file")
    (tmp_path / "zero.wav").symlink_to("/dev/zero")
    refused("zero.wav", "it is not a regular file")
    (tmp_path / "gone.wav").symlink_to("nowhere")
    refused("gone.wav", "No such file or directory")
    with open(tmp_path / "large.wav", "wb") as file:
        file.truncate(1 << 30)
    refused("large.wav", "it has more than 268,435,456 bytes")


def test_what_may_not_be_read_is_named():
    with tempfile.TemporaryDirectory() as where:  # Not pytest's own, which is for its user alone.
        os.chmod(where, 0o755)
        path = pathlib.Path(where) / "a.wav"
        path.write_bytes(WAV)
        path.chmod(0)
        user = os.geteuid()
        try:
            if user == 0:  # Whom no permission stops.
                os.seteuid(65534)
            with pytest.raises(ValueError, match="cannot be read: Permission denied"):
                read_audio(path)
        finally:
            os.seteuid(user)


def test_resampling_keeps_a_tone():
    time = np.arange(16_000) / 16_000
    tone = (10_000 * np.sin(2 * np.pi * 440 * time)).astype("int16")
    found = resampled(tone, 16_000, 8000)
    wanted = 10_000 * np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)
    assert found.dtype == np.int16 and len(found) == 8000
    np.testing.assert_allclose(found[100:-100], wanted[100:-100], atol=60)
    assert resampled(tone, 8000, 8000) is tone
    # What is loudest stays in range.
    assert resampled(np.tile(np.int16([32767, -32768]), 500), 8000, 22_050).min() >= -32768


def noise(rng, count=2400):
    return rng.integers(-9000, 9000, count).astype("int16")


@pytest.fixture
def folder(tmp_path, rng):
    """Twenty recordings of each of two words."""
    for word in ("go", "stop now"):
        (tmp_path / "words" / word).mkdir(parents=True)
        for i in range(20):
            path = tmp_path / "words" / word / f"{i:02}.wav"
            path.write_bytes(wav(noise(rng, 2000 + 40 * i)))
    return tmp_path / "words"


@pytest.fixture
def table(tmp_path, rng):
    """Twenty recordings as LJSpeech has them."""
    (tmp_path / "lj" / "wavs").mkdir(parents=True)
    lines = []
    for i in range(20):
        (tmp_path / "lj" / "wavs" / f"LJ-{i:02}.wav").write_bytes(wav(noise(rng)))
        lines.append(f"LJ-{i:02}|Ab {i}!|Ab {'x' * (i % 3)}")
    (tmp_path / "lj" / "metadata.csv").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path / "lj"


def refused(folder, **arguments):
    with pytest.raises(ValueError) as error:
        load_audio(f"audio:{folder}", 8, **arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_folder_per_word(folder):
    data = load_audio(f"audio:{folder}", 8)
    assert data.sizes == {"train": 32, "validation": 4, "test": 4} and data.sample_rate == RATE
    for split in data.sizes:  # Every word keeps its share.
        assert sorted(set(data.transcripts[split])) == ["go", "stop now"]
        assert data.transcripts[split].count("go") == data.sizes[split] // 2
    assert data.vocabulary.characters == tuple(" gnopstw")
    for name, text in zip(data.names["test"], data.transcripts["test"], strict=True):
        assert pathlib.Path(name).parent.name == text


def test_a_table_of_transcripts(table):
    data = load_audio(f"audio:{table}", 8)
    assert data.sizes == {"train": 16, "validation": 2, "test": 2}
    said = {n: t for s in data.sizes for n, t in zip(data.names[s], data.transcripts[s])}  # noqa: B905
    assert said[str(table / "wavs" / "LJ-05.wav")] == "ab xx"  # The last column, cleaned.
    assert said[str(table / "wavs" / "LJ-03.wav")] == "ab"
    text = "\ufeff" + (table / "metadata.csv").read_text().replace("|Ab", ".wav|Ab", 1)
    (table / "metadata.csv").write_text(text.replace("\n", "\r\n") + "\r\n\r\n")
    shutil.move(table / "wavs" / "LJ-00.wav", table)
    again = load_audio(f"audio:{table}", 8)
    assert again.transcripts == data.transcripts


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("LJ-00", "line 21: 1 columns, expected ID|transcript"),
        ("a|b|c|d", "line 21: 4 columns"),
        ("LJ-03|again", "line 21: 'LJ-03' is a duplicate of line 4"),
        ("LJ-99|hello", "line 21: there is no"),
        ("../x|hello", "line 21: '../x' is not the name of a file below the directory"),
        ("/etc/x|hello", "line 21: '/etc/x' is not the name of a file"),
        ("|hello", "line 21: '' is not the name of a file"),
        ("a\0b|hello", "line 21: NUL character"),
        ("x" * 5000 + "|hello", "line 21: there is no"),
    ],
)
def test_a_bad_line_is_named(table, line, message):
    with open(table / "metadata.csv", "a") as file:
        file.write("\n" + line)
    found = refused(table)
    assert found.startswith(f"audio: {str(table / 'metadata.csv')!r}, ") and message in found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        ("a|b".encode("utf-16"), "is UTF-16, expected UTF-8"),
        (b"LJ-00|caf\xe9", "line 1: byte 0xe9 is not UTF-8"),
        (b"LJ-00|a", "has 1 recordings; at least 10 are needed"),
        (b"\x89PNG\r\n\x1a\n\0\0", "line 1: byte 0x89 is not UTF-8"),
    ],
)
def test_a_bad_table_is_named(table, content, message):
    (table / "metadata.csv").write_bytes(content)
    found = refused(table)
    assert message in found and str(table) in found


def test_what_a_table_does_not_hold_is_named(table):
    (table / "metadata.csv").unlink()
    assert "has no metadata.csv and 1 folders, expected one per word" in refused(table)
    (table / "metadata.csv").mkdir()
    assert "metadata.csv' is not a file" in refused(table)
    assert "is not a directory" in refused(table / "nothing")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (wav(np.zeros(900, "int16")), "is silent: all its samples are 0"),
        (wav(NOISE[:800]), "lasts 0.10 s, which are 5 steps of the model; its transcript of 8"),
        (wav(rate=16_000), "has 16000 samples per second but"),
        (BAD_WAVS["12 bits"][0], "its samples have 12 bits"),
    ],
)
def test_a_recording_that_does_not_fit_is_named(folder, content, message):
    (folder / "stop now" / "07.wav").write_bytes(content)
    found = refused(folder)
    assert message in found and "stop now/07.wav" in found


def test_folders_that_do_not_fit_are_named(folder, tmp_path):
    (folder / "empty").mkdir()
    assert "empty' contains no recording ('.wav'" in refused(folder)
    (folder / "empty").rmdir()
    (folder / " ").mkdir()
    (folder / " " / "a.wav").write_bytes(WAV)
    assert "has an empty transcript" in refused(folder)
    shutil.rmtree(folder / " ")
    os.mkdir(os.fsencode(folder) + b"/\xff")
    assert "the folder's name is not UTF-8" in refused(folder)


RNG = np.random.default_rng(7)


def write(root, *names, content=None):
    """Recordings that all differ, at these places."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content or wav(noise(RNG, 4000)))


def said(data, text):
    """The lines of notes that hold a text."""
    return [line for line in data.notes.lines if text in line]


WORDS = ("no", "yes")


def test_folders_of_splits_are_no_words(tmp_path):
    names = {"Train": 10, "dev": 2, "TEST_SET": 3}
    write(
        tmp_path, *(f"{s}/{w}/{i}.wav" for s, n in names.items() for w in WORDS for i in range(n))
    )
    data = load_audio(f"audio:{tmp_path}", 8)
    assert data.sizes == {"train": 20, "validation": 4, "test": 6}
    assert set(sum(data.transcripts.values(), [])) == {"no", "yes"}
    assert said(data, "2 words by their folders: no, yes, in train, validation, test.")
    shutil.rmtree(tmp_path / "dev")
    data = load_audio(f"audio:{tmp_path}", 8)
    assert data.sizes == {"train": 18, "validation": 2, "test": 6}
    assert said(data, "a tenth of train is split off for validation.")
    shutil.move(tmp_path / "TEST_SET", tmp_path / "yes")
    assert "folders of splits (Train) and others beside them (yes)" in refused(tmp_path)
    shutil.move(tmp_path / "yes", tmp_path / "training")
    assert "has two folders of train: Train, training" in refused(tmp_path)


def test_splits_without_words_are_no_words(tmp_path):
    write(tmp_path, *(f"{s}/{i}.wav" for s in ("train", "test") for i in range(20)))
    assert "are test, train, which are splits, not words" in refused(tmp_path)


def test_a_test_without_words_is_no_split(tmp_path):
    write(tmp_path, *(f"train/audio/{w}/{i}.wav" for w in WORDS for i in range(20)))
    write(tmp_path, *(f"test/{i}.wav" for i in range(3)))
    data = load_audio(f"audio:{tmp_path}", 8)
    assert data.sizes == {"train": 32, "validation": 4, "test": 4}
    assert said(data, "test' contains no folders of words: it is not a split.")
    assert data.notes.left_out == {"recordings without a word or a table": 3}


@pytest.mark.parametrize(
    ("form", "which"),
    [
        ("speaker{i}/{w}/a.wav", "last"),
        ("{w}/p{i:03}/a.wav", "first"),
        ("train/s{i}/{w}/a.wav", "last"),
    ],
)
def test_speakers_are_no_words(tmp_path, form, which):
    write(tmp_path, *(form.format(w=w, i=i) for w in WORDS for i in range(20)))
    data = load_audio(f"audio:{tmp_path}", 8)
    assert sum(data.sizes.values()) == 40 and len(data.speakers["train"]) > 10
    assert set(sum(data.transcripts.values(), [])) == {"no", "yes"}
    assert said(data, f"the {which} is the word.")


def test_folders_in_folders_that_could_be_either_are_refused(tmp_path):
    people = ("ann", "bob", "eve")
    write(tmp_path, *(f"{p}/{w}/{i}.wav" for p in people for w in WORDS for i in range(5)))
    message = refused(tmp_path)
    assert (
        "such as 'ann/no'" in message
        and "Set data.word_folder=first or data.word_folder=last" in message
    )
    data = load_audio(f"audio:{tmp_path}", 8, word_folder="last", split="speaker:eve")
    assert data.sizes["test"] == 10 and set(data.transcripts["test"]) == {"no", "yes"}
    data = load_audio(f"audio:{tmp_path}", 8, word_folder="first")
    assert set(data.transcripts["train"]) == set(people)


def test_folders_that_are_all_named_like_speakers_are_refused(tmp_path):
    write(tmp_path, *(f"speaker{s}/{i}.wav" for s in range(3) for i in range(5)))
    assert "are named like speakers (speaker0, speaker1, speaker2)" in refused(tmp_path)
    data = load_audio(f"audio:{tmp_path}", 8, word_folder="first")
    assert set(data.transcripts["train"]) == {"speaker0", "speaker1", "speaker2"}


def test_speech_commands_with_its_noise_and_its_lists(tmp_path):
    write(tmp_path, *(f"{w}/{i:08x}_nohash_0.wav" for w in WORDS for i in range(20)))
    write(tmp_path, "_background_noise_/white.wav", content=wav(bytes(2 * 90 * RATE)))
    (tmp_path / "README.md").touch()
    (tmp_path / ".DS_Store").touch()
    write(tmp_path, "__MACOSX/yes/._a.wav", content=b"junk")
    data = load_audio(f"audio:{tmp_path}", 8)
    assert data.sizes == {"train": 32, "validation": 4, "test": 4}
    assert set(data.transcripts["train"]) == {"no", "yes"}
    assert data.notes.left_out["recordings in folders of noise"] == 1
    assert "README.md" in said(data, "not named like recordings")[0]
    testing = [f"yes/{i:08x}_nohash_0.wav" for i in range(3)]
    (tmp_path / "testing_list.txt").write_text("\n".join(testing) + "\n")
    (tmp_path / "validation_list.txt").write_text("no/00000005_nohash_0.wav\n")
    data = load_audio(f"audio:{tmp_path}", 8)
    assert data.sizes == {"train": 36, "validation": 1, "test": 3}
    assert data.speakers["test"] == ["00000000", "00000001", "00000002"]
    assert data.names["validation"] == [str(tmp_path / "no" / "00000005_nohash_0.wav")]
    with open(tmp_path / "testing_list.txt", "a") as file:
        file.write("yes/gone.wav\n")
    assert "testing_list.txt', line 4: there is no" in refused(tmp_path)
    skipped = load_audio(f"audio:{tmp_path}", 8, skip_bad_files=True)
    assert skipped.notes.left_out["listed files that do not exist"] == 1
    assert skipped.sizes == data.sizes


def test_common_voices_tables(tmp_path):
    write(tmp_path, *(f"clips/c{i}.wav" for i in range(30)))
    header = "client_id\tpath\tsentence\tup_votes\n"
    rows = [f'id{i % 3}\tc{i}.wav\tSay "{i}", please\t2\n' for i in range(30)]
    (tmp_path / "validated.tsv").write_text(header + "".join(rows[:28]))
    data = load_audio(f"audio:{tmp_path}", 8)
    assert sum(data.sizes.values()) == 28 and data.speakers["train"] == ["id0", "id1", "id2"]
    assert data.notes.left_out["recordings without a word or a table"] == 2
    for name, part in {"train": rows[:20], "dev": rows[20:24], "test": rows[24:]}.items():
        (tmp_path / f"{name}.tsv").write_text(header + "".join(part))
    data = load_audio(f"audio:{tmp_path}", 8)
    assert data.sizes == {"train": 20, "validation": 4, "test": 6}
    assert data.transcripts["validation"][0] == 'say "20", please'
    assert said(data, "dev.tsv, test.tsv, train.tsv are read, not validated.tsv.")
    with open(tmp_path / "dev.tsv", "a") as file:
        file.write("id0\tgone.mp3\tNot there\t2\n")
    assert f"dev.tsv', line 6: there is no {str(tmp_path / 'clips' / 'gone.mp3')!r}" in refused(
        tmp_path
    )
    data = load_audio(f"audio:{tmp_path}", 8, skip_bad_files=True)
    assert data.notes.left_out["listed files that do not exist"] == 1


def test_hugging_faces_tables(tmp_path):
    write(tmp_path, *(f"data/h{i}.wav" for i in range(20)))
    rows = [(f"data/h{i}.wav", f"Hello, {i}") for i in range(20)]
    table = tmp_path / "metadata.csv"
    table.write_text("file_name,transcription\n" + "".join(f'{n},"{t}"\n' for n, t in rows))
    data = load_audio(f"audio:{tmp_path}", 8)
    assert sum(data.sizes.values()) == 20 and "hello, 3" in sum(data.transcripts.values(), [])
    table.write_text("file_name,label\n" + "".join(f'{n},"{t}"\n' for n, t in rows))
    assert "no column transcription or transcript, but file_name, label" in refused(tmp_path)
    table.write_text("file_name,text\ndata/h1.wav,too,many\n")
    assert "metadata.csv', line 2: 3 columns, expected 2" in refused(tmp_path)
    table.unlink()
    lines = [json.dumps({"file_name": name, "text": text, "speaker": "me"}) for name, text in rows]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    again = load_audio(f"audio:{tmp_path}", 8)
    assert again.transcripts == data.transcripts and again.speakers["test"] == ["me"]
    for split in ("train", "validation"):  # A table in each split's folder.
        write(tmp_path / "each", *(f"{split}/{i}.wav" for i in range(12)))
        lines = "".join(f"{i}.wav,say {i}\n" for i in range(12))
        (tmp_path / "each" / split / "metadata.csv").write_text("file_name,text\n" + lines)
    data = load_audio(f"audio:{tmp_path / 'each'}", 8)
    assert data.sizes == {"train": 10, "validation": 12, "test": 2}


def test_bad_recordings_are_left_out_and_counted_when_asked(folder):
    write(folder, "go/cut.wav", content=WAV[:-7])
    write(folder, "go/silent.wav", content=wav(np.zeros(900, "int16")))
    write(folder, "stop now/short.wav", content=wav(NOISE[:300]))
    write(folder, "go/voice.m4a", content=b"\0\0\0\x20ftypM4A ")
    assert "cut.wav' cannot be read" in refused(folder)
    data = load_audio(f"audio:{folder}", 8, skip_bad_files=True)
    assert sum(data.sizes.values()) == 40
    assert data.notes.left_out == {
        "bad files": 1,
        "invalid recordings": 2,
        "files that are not named like recordings": 1,
    }
    assert "voice.m4a" in said(data, "not named like recordings")[0]
    shutil.rmtree(folder / "go")
    assert "1 folders, expected one per word" in refused(folder, skip_bad_files=True)


def test_what_is_changed_is_said(folder):
    shutil.move(folder / "go", folder / "GO")
    write(folder, "GO/00.wav", content=wav(np.repeat(NOISE, 2), rate=2 * RATE))
    write(folder, "GO/01.wav", content=wav(np.append(NOISE, np.zeros(99, "int16"))))
    write(folder, "GO/02.wav", content=wav(np.stack([NOISE, NOISE[::-1]], 1), channels=2))
    copy = load_audio(f"audio:{folder}", 8, sample_rate=RATE).names["test"][0]
    for i in range(100, 140):  # Some of which would fall into each split.
        shutil.copy(copy, pathlib.Path(copy).parent / f"{i}.wav")
    data = load_audio(f"audio:{folder}", 8, sample_rate=RATE)
    assert said(data, "1 recordings are resampled to 8,000 samples per second")
    assert said(data, "1 recordings end in zeros, which are cut off")
    assert said(data, "1 recordings have two channels, which are averaged")
    assert said(data, "transcripts are converted to lower case")
    count = data.notes.left_out["recordings that are a copy of one in another split"]
    assert sum(data.sizes.values()) + count == 80 and count > 0


def test_a_training_sees_a_bad_file_before_it_writes_anything(folder, tmp_path):
    (folder / "go" / "cut.wav").write_bytes(WAV[:-7])
    with pytest.raises(ValueError, match=r"cut\.wav' cannot be read: it claims 4,800 bytes"):
        train("speech_recognition", tmp_path / "run", {"dataset": f"audio:{folder}"}, verbose=0)
    assert not (tmp_path / "run").exists()


def test_rates_are_brought_to_one_when_asked(folder):
    (folder / "go" / "00.wav").write_bytes(wav(np.repeat(NOISE, 2), rate=16_000))
    data = load_audio(f"audio:{folder}", 64, sample_rate=4000)
    assert data.sample_rate == 4000
    lengths = [(row != 0).nonzero()[0][-1] + 1 for x, _ in data.test for row in x.numpy()]
    assert max(lengths) <= 1400
    assert "sample_rate: 3000, expected from 4000" in refused(folder, sample_rate=3000)


def test_splits_are_disjoint_and_do_not_depend_on_the_seed(folder):
    one, other = (load_audio(f"audio:{folder}", 8, seed=seed) for seed in (0, 5))
    assert one.names == other.names
    names = [set(one.names[split]) for split in one.names]
    assert not names[0] & names[1] and not names[1] & names[2] and not names[0] & names[2]


def test_a_copy_of_a_test_recording_is_not_trained_on(folder):
    (test, *_) = load_audio(f"audio:{folder}", 8).names["test"]
    for i in range(100, 140):  # Some of which would fall into each split.
        shutil.copy(test, pathlib.Path(test).parent / f"{i}.wav")
    data = load_audio(f"audio:{folder}", 8)
    where = {
        split
        for split in data.names
        for name in data.names[split]
        if pathlib.Path(name).read_bytes() == pathlib.Path(test).read_bytes()
    }
    assert len(where) == 1


def test_batches_hold_the_recordings_and_zeros_behind_them(folder):
    data = load_audio(f"audio:{folder}", 3)
    rows = [row for x, _ in data.test for row in x.numpy()]
    ids = [row for _, y in data.test for row in y.numpy()]
    for name, text, row, target in zip(
        data.names["test"], data.transcripts["test"], rows, ids, strict=True
    ):
        samples, _ = read_audio(pathlib.Path(name))
        np.testing.assert_array_equal(row[: len(samples)] * 32768, samples)
        assert not row[len(samples) :].any() and len(row) % 2000 == 0
        assert data.vocabulary.decode(target) == text and not target[len(text) :].any()


def test_an_epoch_is_a_function_of_its_number(folder):
    vary = AudioAugmentation(speed=0.1, noise=0.1, shift=0.1)

    def epochs(seed, first, count):
        data = load_audio(f"audio:{folder}", 8, augmentation=vary, seed=seed)
        return [x.numpy() for x, _ in data.train_from(first).take(4 * count)]

    whole, second = epochs(1, 0, 2), epochs(1, 1, 1)
    for a, b in zip(whole[4:], second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(a.shape != b.shape or (a != b).any() for a, b in zip(whole[:4], second, strict=True))
    assert any(
        a.shape != b.shape or (a != b).any() for a, b in zip(whole, epochs(2, 0, 2), strict=True)
    )


def _lengths(samples):
    return np.array([np.flatnonzero(row)[-1] + 1 for row in np.asarray(samples)])


def test_augmentation_is_what_it_says():
    rng = np.random.default_rng(0)
    count, seed = 64, tf.constant([3, 4], "int64")
    samples = np.zeros((count, 4000), "float32")
    lengths = rng.integers(1000, 4000, count).astype("int32")
    for row, length in zip(samples, lengths, strict=True):
        row[:length] = 0.5 * np.sin(np.arange(length) / 5 + 0.3)
    least = np.where(np.arange(count) % 2, 1, lengths).astype("int32")

    def vary(**kinds):
        return AudioAugmentation(**kinds)(samples, lengths, least, RATE, seed).numpy()

    assert AudioAugmentation()(samples, lengths, least, RATE, seed) is samples
    faster = _lengths(vary(speed=0.2)) / lengths
    assert (faster[::2] >= 1).all()  # No sample of theirs can be spared.
    same = [(a[:4000] == b).all() for a, b in zip(vary(speed=0.2)[::2], samples[::2], strict=True)]
    assert 10 < sum(same) < 22
    assert 0.82 < faster.min() < 0.9 and 1.15 < faster.max() < 1.26
    # A straight line between samples 0.2 rad apart: what is faster is the same wave, faster.
    row, ratio = vary(speed=0.2)[1], lengths[1] / _lengths(vary(speed=0.2))[1]
    wanted = 0.5 * np.sin(np.arange(900) * ratio / 5 + 0.3)
    np.testing.assert_allclose(row[:900], wanted, atol=0.02)
    later = _lengths(vary(shift=0.1)) - lengths
    assert later.min() >= 0 and 500 < later.max() <= 800
    added = vary(noise=0.1) - samples
    assert not any(row[length:].any() for row, length in zip(added, lengths, strict=True))
    levels = [row[:length].std() for row, length in zip(added, lengths, strict=True)]
    assert 0.03 < max(levels) < 0.04 and min(levels) < 0.005  # A tenth of the sine's 0.35.


def test_a_recording_keeps_its_length_though_it_ends_in_silence():
    count, seed = 300, tf.constant([0, 1], "int64")
    samples = np.zeros((count, 2000), "float32")
    samples[:, :1000] = 0.5
    samples[:, 1999] = 2.0**-15
    lengths, least = np.full(count, 2000, "int32"), np.ones(count, "int32")
    # What is faster may step over the last sample.
    found = AudioAugmentation(speed=0.1)(samples, lengths, least, RATE, seed)
    assert _lengths(found).min() > 1800


def test_the_embedded_recordings():
    data = load_audio("spoken_characters", 32)
    assert sum(data.sizes.values()) == 1000 and data.sample_rate == RATE
    assert len(data.vocabulary) == 2 + 36 + 1
    again = load_audio("spoken_characters", 32)
    a, b = next(iter(data.test)), next(iter(again.test))
    np.testing.assert_array_equal(a[0], b[0])
    assert {len(text) for text in data.transcripts["test"]} == {1, 3, 5}
    assert data.speakers["test"] == ["one synthetic voice"]


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "captcha", None)
    with pytest.raises(ValueError, match=r'captcha.*pip install "bigmodels\[speech\]"'):
        load_audio("spoken_characters")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "text:x"}, "'text:x' is not recordings; give audio:DIR or a name"),
        ({"name": "digits"}, "'digits' is not recordings"),
        ({"name": "spoken_digits"}, "did you mean spoken_digit"),
        ({"name": "audio:/nowhere"}, "audio: '/nowhere' is not a directory"),
        ({"batch_size": 0}, "batch_size: 0"),
        ({"stack": 0}, "stack: 0"),
        ({"split": "half"}, "data.split: 'half', expected random or speaker:NAME"),
        ({"split": "speaker:theo"}, "speakers of 'spoken_characters' are one synthetic voice"),
        (
            {"split": "speaker:one synthetic voice"},
            "data.split: 'speaker:one synthetic voice' leaves 0 recordings to train on",
        ),
    ],
)
def test_errors_name_argument_and_value(arguments, message):
    with pytest.raises(ValueError) as error:
        load_audio(**arguments)
    assert message in str(error.value)


def test_clean_transcript():
    assert clean_transcript("  CAFE\N{COMBINING ACUTE ACCENT}\t  Zürich\n") == "café zürich"


def test_steps_that_ctc_needs():
    assert audio._steps("three") == 6 and audio._steps("aaa") == 5 and audio._steps("a") == 1
    assert audio._least("three", 160) == 801  # The sixth step has begun.


def test_files_to_predict(tmp_path):
    (tmp_path / "b" / "c.WAV").parent.mkdir()
    (tmp_path / "b" / "c.WAV").write_bytes(WAV)
    (tmp_path / "a.wav").write_bytes(WAV)
    (tmp_path / "notes.txt").touch()
    assert [path.name for path in list_recordings(tmp_path)] == ["a.wav", "c.WAV"]
    assert list_recordings(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]
    with pytest.raises(ValueError, match=r"input: '/nowhere' does not exist"):
        list_recordings("/nowhere")


@pytest.mark.real_data
def test_spoken_digit_from_tfds(tfds_dir):
    data = load_audio("spoken_digit", 64, data_dir=tfds_dir)
    assert data.sizes == {"train": 2000, "validation": 250, "test": 250}
    assert {"zero", "seven"} < set(data.transcripts["test"])
    assert len(data.speakers["train"]) == len(data.speakers["test"]) == 5
    alone = load_audio("spoken_digit", 64, data_dir=tfds_dir, split="speaker:theo")
    assert alone.sizes == {"train": 1800, "validation": 200, "test": 500}
    assert alone.speakers["test"] == ["theo"]
    for split in ("train", "validation"):
        assert "theo" not in alone.speakers[split]
        assert not any("_theo_" in name for name in alone.names[split])
    with pytest.raises(ValueError, match="the speakers of 'spoken_digit' are george, jackson"):
        load_audio("spoken_digit", data_dir=tfds_dir, split="speaker:nobody")


def test_columns_that_are_not_read_are_said(tmp_path):
    write(tmp_path, "wavs/a.wav", "b.wav")
    (tmp_path / "metadata.csv").write_text("a|Hello|speaker1\n")
    notes = Notes()
    audio_folder(tmp_path, notes=notes)
    assert "the last column is the transcript: 'speaker1'." in notes.lines[0]
    (tmp_path / "metadata.csv").write_text("file,start,text\nb.wav,0.5,Hello\n")
    notes = Notes()
    audio_folder(tmp_path, notes=notes)
    assert "the columns 'file', 'text' are read, not 'start'." in notes.lines[0]


def test_a_listed_file_of_another_kind_is_named_as_such(tmp_path):
    (tmp_path / "a.m4a").write_bytes(BAD_WAVS["m4a"][0])
    (tmp_path / "metadata.csv").write_text("file_name,text\na.m4a,Hello\n")
    with pytest.raises(ValueError, match=r"a\.m4a' cannot be read: it is MPEG-4"):
        audio_folder(tmp_path)


@pytest.mark.parametrize("name", ["19/198/19-198.trans.txt", "19/198/19-198-0000.txt"])
def test_transcripts_beside_recordings_are_refused(tmp_path, name):
    write(tmp_path, "19/198/19-198-0000.wav", "26/495/26-495-0000.wav")
    (tmp_path / name).write_text("19-198-0000 NORTHANGER ABBEY\n")
    with pytest.raises(ValueError, match="seems to contain transcripts of recordings beside it"):
        audio_folder(tmp_path)
