"""Series: what is read from files, where they are cut, and what is filled in."""

import datetime
import os

import numpy as np
import pytest
from hypothesis import example
from hypothesis import strategies as st

from bigmodels.data import load_series
from bigmodels.data.notes import Notes
from bigmodels.data.readers import embedded
from bigmodels.data.readers.csv_series import read_csv
from bigmodels.data.readers.timeline import Timeline
from bigmodels.data.series import last_window
from tests.test_fuzz import Refused, ask, fuzz, mutated

HOURS = [datetime.datetime(2020, 2, 28, 20) + datetime.timedelta(hours=i) for i in range(100)]


def write(path, rows, header="time,a,b"):
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


@pytest.fixture
def file(tmp_path):
    """A hundred hours of two variables, the number of the row and its negative half."""
    return write(tmp_path / "mine.csv", [(t, i, -i / 2) for i, t in enumerate(HOURS)])


def load(file, **options):
    return load_series(f"csv:{file}", 4, **{"length": 5, "horizon": 3} | options)


def rows(data, split):
    """First and last row number of every window, and of what follows, as the model sees them."""
    scale, mean = data.scales[0], data.means[0]
    for x, y in getattr(data, split).as_numpy_iterator():
        for window, target in zip(x, y, strict=True):
            yield [
                round(float(v) * scale + mean) for v in (*window[[0, -1], 0], *target[[0, -1], 0])
            ]


def test_splits_are_in_order_and_what_is_forecast_lies_in_one(file):
    data = load(file)
    assert data.borders == {"train": (0, 70), "validation": (70, 80), "test": (80, 100)}
    assert data.sizes == {"train": 63, "validation": 8, "test": 18}
    for split, (begin, end) in data.borders.items():
        found = list(rows(data, split))
        assert len(found) == data.sizes[split]
        for first, last, target, final in found:
            assert (last - first, target - last, final - target) == (4, 1, 2)
            assert begin <= target and final < end and first >= 0
        assert {f[2] for f in found} == set(range(max(begin, 5), end - 2))
    sample = list(rows(data, "train_sample"))
    assert sample == sorted(rows(data, "train"))[-8:]
    x, y = data.windows(data.starts("validation"))
    batches = list(data.validation.as_numpy_iterator())
    np.testing.assert_allclose(np.concatenate([b[0] for b in batches]), x, atol=1e-6)
    np.testing.assert_allclose(np.concatenate([b[1] for b in batches]), y, atol=1e-6)


def test_statistics_are_of_the_training_rows(file):
    data = load(file, split=(40, 20, 30))
    np.testing.assert_allclose(data.means, [19.5, -9.75])
    np.testing.assert_allclose(data.scales, np.array([1, 0.5]) * np.arange(40).std())
    assert data.borders["test"] == (60, 90)  # Ten rows are left over.
    changed = write(
        file.parent / "changed.csv", [(t, i if i < 40 else 7, i) for i, t in enumerate(HOURS)]
    )
    assert load(changed, split=(40, 20, 30)).means[0] == data.means[0]


def test_epochs_differ_in_order_alone_and_by_seed(file):
    epochs = [list(rows(load(file, seed=seed), "train")) for seed in (1, 1, 2)]
    assert epochs[0] == epochs[1] != epochs[2] and sorted(epochs[0]) == sorted(epochs[2])


def test_usual_windows_follow_from_the_season(file):
    data = load_series(f"csv:{file}", length=20, split=(50, 25, 25))
    assert (data.season, data.horizon) == (24, 24)
    for name, season, rows in (("co2", 52, 2284), ("sunspots", 11, 309), ("elnino", 12, 732)):
        data = load_series(name)
        assert (data.season, data.length, data.horizon) == (season, 4 * season, season)
        assert len(data.values) == rows and min(data.sizes.values()) > 0
    assert data.variables == ("temperature",)


def test_settings_for_files_are_not_for_embedded_series():
    data = load_series("sunspots", time="when", missing=("-1",))
    assert data.notes.lines == [
        "data.time: 'when' is for files; 'sunspots' is not a file.",
        "data.missing: ('-1',) is for files; 'sunspots' is not a file.",
    ]
    with pytest.raises(
        ValueError, match=r"data\.targets: \('a',\), but 'sunspots' has one variable"
    ):
        load_series("sunspots", targets=("a",))


def test_missing_statsmodels_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "statsmodels", None)
    with pytest.raises(ValueError, match=r"'co2' needs.*statsmodels.*\[time_series\]"):
        embedded.co2()


def test_what_is_missing_is_named_or_filled_in(tmp_path):
    times = [0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13]
    values = [0, 1, "", 3, 6, "nan", 8, "NA", 100, 100, 100, 140]
    file = write(tmp_path / "gaps.csv", zip(times, values, range(12), strict=True))
    options = {"length": 2, "horizon": 1, "split": (8, 3, 3)}
    with pytest.raises(ValueError, match=r"line 4: no value in column 'a'; data\.fill=linear"):
        load(file, **options)
    with pytest.raises(ValueError, match=r"line 6: 2 rows before it are missing; data\.fill"):
        load(file, targets=("b",), **options)
    linear, previous = (load(file, fill=fill, **options) for fill in ("linear", "previous"))
    for data in (linear, previous):
        values = (data.values * data.scales + data.means)[:, 0]
        nan = np.nan
        np.testing.assert_allclose(
            values, [0, 1, nan, 3, nan, nan, 6, nan, 8, nan, 100, 100, 100, 140], atol=1e-9
        )
        assert data.imputed == {"train": 6, "validation": 1, "test": 0}
        # Rows 4 and 5 are missing in both variables, row 2 and 7 in one.
        assert data.starts("train").tolist() == [2, 3, 6, 7]
        assert data.notes.left_out == {
            "windows of train that no value follows within data.horizon, by their time": 2
        }
        said = "line 4: no value in column 'a'; 7 of 28 values are missing (6 train, 1 validation"
        assert any(said in line for line in data.notes.lines)
    # What comes next belongs to the future: behind the last value it is repeated.
    window = [linear.windows([each])[0][0, :, 0] * linear.scales[0] for each in (7, 8, 10)]
    np.testing.assert_allclose(np.array(window) + linear.means[0], [[5, 6], [6, 6], [8, 8]])
    window = [previous.windows([each])[0][0, :, 0] * previous.scales[0] for each in (7, 8, 10)]
    np.testing.assert_allclose(np.array(window) + previous.means[0], [[3, 6], [6, 6], [8, 8]])


@pytest.fixture
def gaps(tmp_path, rng):
    """A series in which each value may be missing, but for a whole stretch of `b`."""
    rows = [[t, *rng.normal(5, 2, 2).round(3)] for t in range(200)]
    for i in range(200):
        for column in (1, 2):
            if rng.random() < 0.4 or (column == 2 and i < 9):
                rows[i][column] = ""
    return write(tmp_path / "gaps.csv", rows)


def test_what_was_not_measured_has_no_weight_and_counts_for_nothing(gaps):
    data = load(gaps, fill="linear")
    table = read_csv(gaps).values
    begin, end = data.borders["train"]
    measured = table[begin:end]
    np.testing.assert_allclose(data.means, np.nanmean(measured, 0))
    np.testing.assert_allclose(data.scales, np.nanstd(measured, 0))
    for split, batches in (("train_sample", data.train_sample), ("test", data.test)):
        x, y, weights = map(np.concatenate, zip(*batches.as_numpy_iterator(), strict=True))
        starts = data.starts("train")[-len(x) :] if split == "train_sample" else data.starts(split)
        windows, targets = data.windows(starts)
        np.testing.assert_allclose(x, windows, atol=1e-6)
        known = np.isfinite(targets)
        np.testing.assert_allclose(y[known], targets[known], atol=1e-6)
        np.testing.assert_array_equal(weights > 0, known)
        np.testing.assert_allclose(weights[known], 1 / known.mean(), rtol=1e-6)
        assert known.any((1, 2)).all()
    epoch = list(data.train_from(0).take(int(data.train.cardinality())).as_numpy_iterator())
    weights = np.concatenate([weights for *_, weights in epoch])
    assert len(weights) == data.sizes["train"] and weights.mean() == pytest.approx(1)


def test_a_window_needs_a_value_of_each_variable_before_its_end(gaps):
    data = load(gaps, fill="previous")
    first = np.flatnonzero(np.isfinite(data.values[:, 1]))[0]
    assert first >= 9 and data.starts("train")[0] == first + 1
    what = "windows of train that end before each variable has a value, by their time"
    assert data.notes.left_out[what] == first + 1 - 5
    assert any(f"{what}: '5'; '6'; '7', and" in line for line in data.notes.lines)


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        (range(70, 80), "'a' has no value at all in validation"),
        (range(72, 80), "'a' of .* has no value 3 rows after any window of validation"),
    ],
)
def test_forecasts_that_nothing_can_be_held_against_are_refused(tmp_path, gone, message):
    rows = [(t, "" if t in gone else t % 7, t) for t in range(100)]
    with pytest.raises(ValueError, match=message):
        load(write(tmp_path / "t.csv", rows), fill="linear")


@pytest.mark.parametrize(
    ("times", "after", "spacing"),
    [
        (["2020-01-31", "2020-02-29", "2020-03-31"], "2020-04-30", "1 month"),
        (["2020-01-15 06:00", "2020-02-15 06:00", "2020-03-15 06:00"], None, "1 month"),
        (["2000-03-01", "2001-03-01", "2002-03-01", "2003-03-01"], "2004-03-01", "12 months"),
        (["2020-02-27", "2020-02-28", "2020-02-29"], "2020-03-01", "1 day"),
        (["2020-02-28T23:00+01:00", "2020-02-28T23:00Z", "2020-02-29T00:00Z"], None, "1:00:00"),
        (["0.1", "0.2", "0.30000001"], 0.4, "0.1"),
        (["1998", "1999", "2000"], 2001, "1"),
    ],
)
def test_times_go_on_after_the_last(tmp_path, times, after, spacing):
    table = read_csv(write(tmp_path / "t.csv", [(t, 1, 2) for t in times]))
    assert table.timeline.spacing() == spacing
    if after is not None:
        assert table.timeline.text(len(times)) == pytest.approx(after)
    assert str(table.timeline.text(0))[:4] == times[0][:4]


def test_times_keep_their_form(tmp_path):
    file = write(tmp_path / "t.csv", [(f"0{d}.12.1999 x", d) for d in range(1, 5)], "day,a")
    line = read_csv(file, time_format="%d.%m.%Y x").timeline
    assert line.text(0) == "01.12.1999 x" and line.text(31) == "01.01.2000 x"
    with pytest.raises(ValueError, match=r"line 2: '01.12.1999 x' in column 'day' is not a time"):
        read_csv(file)


def test_the_column_of_dates_is_found_and_columns_are_chosen(tmp_path):
    lines = [(i, f"2020-01-0{i}", 10 * i, "text") for i in range(1, 6)]
    file = write(tmp_path / "t.csv", lines, "number,when,a,note")
    table = read_csv(file, targets=("a", "number"))
    assert table.timeline.text(5) == "2020-01-06" and table.variables == ("a", "number")
    np.testing.assert_array_equal(table.values[1], [20, 2])
    table = read_csv(file, time="number", targets=("a",))
    assert table.timeline.text(5) == 6
    with pytest.raises(ValueError, match="line 2: 'text' in column 'note' is not a number"):
        read_csv(file)


def test_separators_quotes_and_marks(tmp_path):
    file = tmp_path / "t.csv"
    file.write_bytes('\ufeff"time; of day";"a ""x"""\r\n\r\n1;"2"\r\n2; 3\r\n\r\n3;4\r\n'.encode())
    table = read_csv(file)
    assert table.variables == ('a "x"',) and table.values[:, 0].tolist() == [2, 3, 4]


def read(tmp_path, text, **options):
    """What a file of a text is read as, and what was noted, without its path."""
    file, notes = tmp_path / "t.csv", Notes()
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    table = read_csv(file, notes=notes, **options)
    return table, [line.replace(f"csv: {str(file)!r}", "FILE") for line in notes.lines]


def column(values, times=None):
    """A file of a time and one variable."""
    times = range(len(values)) if times is None else times
    return "\n".join(["time;a", *(f"{t};{v}" for t, v in zip(times, values, strict=True))])


@pytest.mark.parametrize(
    ("times", "first", "after", "spacing", "season"),
    [
        ("1949-11 1949-12 1950-01", "1949-11", "1950-02", "1 month", 12),
        ("2019-07 2019-10 2020-01", "2019-07", "2020-04", "3 months", 4),
        ("2019-Q3 2019-Q4 2020-Q1", "2019-07-01", "2020-04-01", "3 months", 4),
        ("2019-03-31 2019-06-30 2019-09-30", "2019-03-31", "2019-12-31", "3 months", 4),
        ("2018-01 2019-01 2020-01", "2018-01", "2021-01", "12 months", 1),
        ("2020-W52 2020-W53 2021-W01", "2020-W52", "2021-W02", "7 days", 52),
        ("2020-W53-6 2020-W53-7 2021-W01-1", "2020-W53-6", "2021-W01-2", "1 day", 7),
        ("2020W536 2020W537 2021W011", "2021-01-02", "2021-01-05", "1 day", 7),
        ("2020-365 2020-366 2021-001", "2020-365", "2021-002", "1 day", 7),
        ("2020365 2020366 2021001", "2020365", "2021002", "1 day", 7),
        ("20200228 20200229 20200301", "20200228", "20200302", "1 day", 7),
        ("202011 202012 202101", "202011", "202102", "1 month", 12),
        ("2020123122 2020123123 2021010100", "2020123122", "2021010101", "1:00:00", 24),
        ("20200101T22 20200101T23 20200102T00", "2020-01-01 22:00:00", None, "1:00:00", 24),
        ("2020-366T23:00Z 2021-001T00:00Z 2021-001T01:00Z", None, None, "1:00:00", 24),
        ("2020-01-01T23:00 2020-01-01T24:00 2020-01-02T01:00", None, None, "1:00:00", 24),
        ("2020-01-01T2300 2020-01-01T2400 2020-01-02T0100", None, None, "1:00:00", 24),
        # A fraction belongs to the last that is written, be it hours, minutes or seconds.
        ("2020-01-01T10.5Z 2020-01-01T11,0Z 2020-01-01T11.5Z", None, None, "0:30:00", 48),
        ("2020-01-01T10:00.5 2020-01-01T10:01,0 2020-01-01T10:01.5", None, None, "0:00:30", 120),
        ("2020-01-01T10:00:00,5 2020-01-01T10:00:01.0 2020-01-01T10:00:01.500000000",
         "2020-01-01 10:00:00.500000", "2020-01-01 10:00:02", "0:00:00.500000", 120),
        ("2020-03-29T01:00+01:00 2020-03-29T03:00+0200 2020-03-29T04:00+02",
         "2020-03-29 00:00:00+00:00", "2020-03-29 03:00:00+00:00", "1:00:00", 24),
    ],
)  # fmt: skip
def test_iso_8601_in_all_its_forms(tmp_path, times, first, after, spacing, season):
    table, notes = read(tmp_path, column([1, 4, 2], times.split()))
    line = table.timeline
    assert (line.spacing(), line.season(), len(table.values)) == (spacing, season, 3)
    assert first is None or line.text(0) == first
    assert after is None or line.text(3) == after
    digits = times.split()[0].isdecimal()
    assert ["in column 'time' is taken for the date 2020-" in n for n in notes] == [True] * digits


def test_numbers_that_are_no_dates_stay_numbers(tmp_path):
    for times in (["2001", "2002", "2003"], ["20000030", "20000031", "20000032"]):
        table, notes = read(tmp_path, column([1, 4, 2], times))
        assert table.timeline.unit == "number" and not notes
    table, _ = read(tmp_path, column([1, 4, 2], ["0,1", "0,2", "0,3"]))
    assert table.timeline.text(3) == pytest.approx(0.4)


def test_rows_are_put_in_order_of_time(tmp_path):
    days = [f"2020-01-0{day}" for day in (4, 3, 2, 1)]
    table, notes = read(tmp_path, column([8, 3, 5, 2], days))
    assert table.values[:, 0].tolist() == [2, 5, 3, 8] and table.timeline.text(0) == days[-1]
    assert notes == ["FILE, line 3: the rows go back in time; they were sorted."]
    table, notes = read(tmp_path, column([8, 3, "", 5], [days[i] for i in (3, 1, 2, 0)]))
    np.testing.assert_array_equal(table.values[:, 0], [8, np.nan, 3, 5])
    assert notes == ["FILE, line 4: the rows are not in order of time; they were sorted."]
    assert table.first_missing.endswith("line 4: no value in column 'a'")
    with pytest.raises(ValueError, match=r"line 5: the time '2020-01-04 .* that of line 2, but is"):
        read(tmp_path, column([8, 3, 2, 5], [days[i] for i in (0, 1, 2, 0)]))


@pytest.mark.parametrize(
    ("text", "options", "first", "after", "variables"),
    [
        ("date,time,a\n2020-01-01,22:00,1\n2020-01-01,23:00,5\n2020-01-02,00:00,2", {},
         "2020-01-01 22:00:00", "2020-01-02 01:00:00", ("a",)),
        ("time,date,a\n8:00:00,20200101,1\n9:00:00,20200101,5\n10:00:00,20200101,2", {},
         "2020-01-01 08:00:00", "2020-01-01 11:00:00", ("a",)),
        ("date,time,a\n2020-01-01,12:00,1\n2020-01-02,12:00,5\n2020-01-03,12:00,2", {},
         "2020-01-01 12:00:00", "2020-01-04 12:00:00", ("a",)),
        ("x,d,t\n1,2020-01-01,22:00\n5,2020-01-01,23:00\n2,2020-01-02,00:00", {"time": "d,t"},
         "2020-01-01 22:00:00", "2020-01-02 01:00:00", ("x",)),
        ("Tag;Uhr;x\n1.1.2020;22:00;1\n1.1.2020;23:00;5\n2.1.2020;0:00;2",
         {"time_format": "%d.%m.%Y"}, "01.01.2020 22:00", "02.01.2020 01:00", ("x",)),
        ("Tag;Uhr;x\n1.1.2020;22:00;1\n1.1.2020;23:00;5\n2.1.2020;0:00;2",
         {"time_format": "%d.%m.%Y %H:%M"}, "01.01.2020 22:00", "02.01.2020 01:00", ("x",)),
        ("Day,Clock,x\n1/31/2020,10:30 PM,1\n1/31/2020,11:30 PM,5\n2/1/2020,12:30 AM,2",
         {"time_format": "%m/%d/%Y"}, "01/31/2020 10:30 PM", "02/01/2020 01:30 AM", ("x",)),
        ("pm,Year,Month,Day,Hour\n3,2020,1,1,22\n1,2020,1,1,23\n7,2020,1,2,0", {},
         "2020-01-01 22:00:00", "2020-01-02 01:00:00", ("pm",)),
        ("year,month,pm\n2020,11,4\n2020,12,2\n2021,1,5", {}, "2020-11", "2021-02", ("pm",)),
    ],
)  # fmt: skip
def test_times_in_several_columns(tmp_path, text, options, first, after, variables):
    table, notes = read(tmp_path, text, **options)
    assert (table.timeline.text(0), table.timeline.text(3)) == (first, after)
    assert table.variables == variables
    assert [note.endswith("make the times together.") for note in notes] == [True]


def test_a_clock_time_beside_unique_dates_is_a_column_of_its_own(tmp_path):
    text = "day,a,sunrise\n2020-01-01,2,8:01\n2020-01-02,5,8:00\n2020-01-03,3,7:59\n"
    table, _ = read(tmp_path, text, targets=("a",))
    assert table.timeline.text(3) == "2020-01-04"
    with pytest.raises(ValueError, match="line 2: '8:01' in column 'sunrise' is not a number"):
        read(tmp_path, text)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_index_columns_separators_comments_and_units(tmp_path, delimiter):
    def lines(*rows):
        return "\n".join(delimiter.join(row) for row in rows) + "\n"

    days = [[f"2020-01-0{i}", str(i * i)] for i in (1, 2, 3, 4)]
    for header, index in (("", "0123"), ("Unnamed: 0", "3210"), ("index", "0247")):
        rows = [[number, *day] for number, day in zip(index, days, strict=True)]
        table, notes = read(tmp_path, lines([header, "date", "a"], *rows))
        assert table.variables == ("a",) and table.values[:, 0].tolist() == [1, 4, 9, 16]
        assert notes == [
            "FILE: left out columns without a name of their own that number the rows (1): "
            f"{header!r}."
        ]
    table, notes = read(tmp_path, lines(["", "a"], *days))
    assert table.timeline.text(4) == "2020-01-05" and table.variables == ("a",) and not notes
    # Separators at the ends of lines divide nothing.
    for header, more in ((["date", "a"], [""]), (["date", "a", "", ""], ["", ""])):
        table, notes = read(tmp_path, lines(header, *([*day, *more] for day in days)))
        assert table.variables == ("a",) and not notes
    text = "# of X\n" + lines(["date", "a"], ["", "deg C"]) + "% here\n" + lines(*days)
    table, notes = read(tmp_path, text)
    assert table.values[:, 0].tolist() == [1, 4, 9, 16] and notes == [
        "FILE: left out 2 lines of comments: 1; 4.",
        "FILE: left out lines below the header that look like units (1): 3 ['', 'deg C'].",
    ]
    table, notes = read(tmp_path, "# of X\n# " + lines(["date", "a"], *days))
    assert table.variables == ("a",) and notes == ["FILE: left out lines of comments (1): 1."]
    table, _ = read(tmp_path, f"sep={delimiter}\n" + lines(["date", "a"], *days))
    assert table.variables == ("a",)


def test_columns_that_say_nothing_are_named(tmp_path):
    text = "date,id,a,b\n2020-01-01,1,3,\n2020-01-02,2,1,NA\n2020-01-03,3,2,-\n"
    table, notes = read(tmp_path, text)
    assert table.variables == ("id", "a") and notes == [
        "FILE: column 'id' numbers the rows, and is taken for a variable; data.targets chooses "
        "variables.",
        "FILE: left out columns without any value (1): 'b'.",
    ]
    table, notes = read(tmp_path, text, targets=("a",))
    assert notes == ["FILE: left out 2 columns that are not asked for: 'id'; 'b'."]
    with pytest.raises(ValueError, match="the name '' is empty"):
        read(tmp_path, ",date,a\n0.5,2020-01-01,3\n1,2020-01-02,1\n3,2020-01-03,2\n")
    with pytest.raises(ValueError, match="has no value in any column"):
        read(tmp_path, column(["", "NA", "-"]))


@pytest.mark.parametrize(
    ("values", "wanted", "said"),
    [
        (["1,5", "2", "-3,25"], [1.5, 2, -3.25], None),
        (["1.001,5", "2", "999"], [1001.5, 2, 999], None),
        (["1,001.5", "2", "999"], [1001.5, 2, 999], None),
        (["1.001.000", "2", "999"], [1001000, 2, 999], None),
        (["0.950", "1.000", "1.050"], [0.95, 1, 1.05], None),
        (["1,5e3", "2", "3"], [1500, 2, 3], None),
        (["998", "999", "1.000"], [998, 999, 1000], "'1.000' in column 'a' is read as 1000"),
        (["-999", "1.000", "+1.050"], [-999, 1000, 1050], "'1.000' in column 'a' is read as 1000"),
        (["1.234", "2.345", "9.999"], [1.234, 2.345, 9.999], "'1.234' in column 'a' is read with"),
        (["1,234", "2,345", "9,999"], [1.234, 2.345, 9.999], "'1,234' in column 'a' is read with"),
        (["1234", "2.345", "9"], [1234, 2.345, 9], "'2.345' in column 'a' is read with decimals"),
    ],
)  # fmt: skip
def test_decimal_marks_and_thousands(tmp_path, values, wanted, said):
    table, notes = read(tmp_path, column(values))
    np.testing.assert_allclose(table.values[:, 0], wanted)
    assert len(notes) == (said is not None) and all(said in note for note in notes)


def test_a_mark_that_may_be_either_is_refused_or_set(tmp_path):
    text = column(["998", "999", "1,000"])
    with pytest.raises(
        ValueError, match=r"line 4: '1,000' .*: set data.decimal=, or data.decimal=\."
    ):
        read(tmp_path, text)
    for mark, value in ((",", 1.0), (".", 1000.0)):
        table, notes = read(tmp_path, text, decimal=mark)
        assert table.values[2, 0] == value and not notes
    table, notes = read(tmp_path, 'time,a\n1,"1,000"\n2,"2,345"\n3,999\n')
    assert table.values[:, 0].tolist() == [1000, 2345, 999]
    assert ["is read as 1000" in note for note in notes] == [True]
    table, notes = read(tmp_path, "time,a\n1,1.000\n2,2.345\n3,9.999\n")
    assert table.values[:, 0].tolist() == [1, 2.345, 9.999] and not notes
    with pytest.raises(ValueError, match=r"line 3: '2\.5' in column 'a' is not a number"):
        read(tmp_path, column(["1,5", "2.5", "3"]))


def test_codes_for_missing_values_are_named_or_set(tmp_path):
    values = [20 + i % 7 + i / 100 for i in range(60)]
    values[4] = values[9] = -9999
    text = column(values)
    table, notes = read(tmp_path, text)
    assert table.values[4, 0] == -9999 and len(notes) == 1
    said = "FILE, line 6: column 'a' contains -9999 in 2 rows of 60, far from all others (20 to "
    assert notes[0].startswith(said) and "data.missing=-9999 makes them" in notes[0]
    for missing in (("-9999",), (-9999,), "-9999", -9999, "-1,-9999.0"):
        table, notes = read(tmp_path, text, missing=missing)
        assert np.flatnonzero(np.isnan(table.values[:, 0])).tolist() == [4, 9]
        unused = ["FILE: data.missing=-1 does not occur in the variables."]
        assert notes == (unused if missing == "-1,-9999.0" else [])
    assert table.first_missing.endswith("line 6: no value in column 'a'")
    values[5], values[6] = 9999, "Bad"
    with pytest.raises(ValueError, match="line 8: 'Bad' in column 'a' is not a number"):
        read(tmp_path, column(values))
    table, notes = read(tmp_path, column(values), missing=("bad",))
    assert "contains -9999 in 2 rows and 9999 in 1 rows of 60" in notes[0]
    assert np.isnan(table.values[6, 0])


def test_what_lies_among_the_others_is_no_code(tmp_path, rng):
    for values in (
        rng.integers(0, 100, 300),  # 99 is a percentage.
        rng.exponential(10, 300).round(3),
        rng.normal(0, 1, 300).round(4),
        rng.choice([0, 500], 300),
        [*rng.normal(5, 1, 299).round(2), 60],  # One measurement of a storm.
    ):
        assert read(tmp_path, column(list(values)))[1] == []


def test_words_for_missing_values(tmp_path):
    words = ["NA", "null", "-", "", "n/a", "NaN", "#N/A", "<NA>", "None", "?", "."]
    table, _ = read(tmp_path, column([1, 2.5, *words, 3]))
    assert np.isnan(table.values[2:-1]).all() and table.values[-1, 0] == 3


def test_another_encoding_is_refused_or_set(tmp_path):
    text = column([1, 4, 2]).replace("a", "Größe, °C")
    for encoding in ("latin-1", "utf-16", "gb18030"):
        content = text.replace("ö", "o").encode(encoding, "replace")
        table, _ = read(tmp_path, content, encoding=encoding)
        assert table.values[:, 0].tolist() == [1, 4, 2]
    with pytest.raises(ValueError, match="line 1: byte 0x"):
        read(tmp_path, text.encode("latin-1"))
    for encoding, message in (
        ("utf-8", "line 1: byte 0xf6 is not utf-8"),
        ("klingon", "data.encoding: 'klingon' is not a text encoding"),
        ("hex", "data.encoding: 'hex' is not a text encoding"),
    ):
        with pytest.raises(ValueError, match=message):
            read(tmp_path, text.encode("latin-1"), encoding=encoding)
    with pytest.raises(ValueError, match="is not a file"):
        read_csv(tmp_path, encoding="latin-1")


def test_quoted_thousands_and_headers_with_another_separator_are_read(tmp_path):
    rows = "".join(f'2020-01-0{i + 1},"{v}"\n' for i, v in enumerate(("1,000", "2,345", "3,456")))
    table, _ = read(tmp_path, f"time,a\n{rows}")
    assert table.values[:, 0].tolist() == [1000, 2345, 3456]
    rows = "".join(f"2020-01-0{i + 1};{v}\n" for i, v in enumerate(("1,5", "2,25", "3,5")))
    table, _ = read(tmp_path, f"Date;Temp, C\n{rows}")
    assert table.values[:, 0].tolist() == [1.5, 2.25, 3.5] and table.variables == ("Temp, C",)


@pytest.mark.parametrize("field", ["1 234", "12 %", "12%", "3 m/s", "12 °C", "$5", "0x10"])
def test_what_is_more_than_a_number_is_refused_by_line(tmp_path, field):
    with pytest.raises(ValueError, match=r"line 3: .* in column 'a' is not a number"):
        read(tmp_path, column([1, field, 2]))


GOOD = "time,a\n2020-01-01,1\n2020-01-02,2\n2020-01-03,3\n2020-01-04,4\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (GOOD.encode("utf-16"), "is UTF-16"),
        (b"\x89PNG\r\n\x1a\n\0\0", "line 1: byte 0x89 is not UTF-8"),
        (b"time,a\n1,\xff\n", "line 2: byte 0xff"),
        (b"time,a\n1,2\0\n", "line 2: NUL"),
        ("time,a\n", "has 0 rows below its header"),
        ("time,a\n1,1\n2,2\n", "has 2 rows"),
        ("time\n1\n2\n3\n", "line 1: one column 'time'"),
        ("1,2\n2,3\n3,4\n4,5\n", "line 1: ['1', '2'] are not names: the file has no header"),
        ("2020-01-01,2\n2020-01-02,3\n", "the file has no header"),
        ("time,a,a\n1,1,1\n", "line 1: the name 'a' is empty or a duplicate"),
        ("time,a,\n1,1,1\n", "line 1: the name '' is empty"),
        (GOOD + "2020-01-05\n", "line 6: 1 fields, expected 2"),
        (GOOD + "2020-01-05,5,6\n", "line 6: 3 fields, expected 2"),
        (GOOD + "2020-01-05,five\n", "line 6: 'five' in column 'a' is not a number"),
        (GOOD + "2020-01-05,1_000\n", "line 6: '1_000'"),
        (GOOD + "2020-01-05,inf\n", "line 6: 'inf'"),
        (GOOD + "2020-01-05,1e300\n", "line 6: '1e300' in column 'a' is not a number up to 1e+18"),
        (GOOD + "05.01.2020,5\n", "line 6: '05.01.2020' in column 'time' is not a time like those"),
        (GOOD + "2020-01-04,5\n", "line 6: the time '2020-01-04 00:00:00' does not come after"),
        (GOOD + "2019-01-04,5\n", "with a step of 1 day, 361 of 366 rows are missing, more than"),
        (GOOD + "2020-01-05 07:00,5\n", "line 6: the time '2020-01-05 07:00:00' does not fit the"),
        (GOOD + "2020-01-05T00:00Z,5\n", "line 6: '2020-01-05 00:00:00+00:00': some times have"),
        (GOOD + "9999-01-05,5\n", "line 6: 2,914,270 rows before it are missing; with a step of 1"),
        (GOOD + '"2020-01-05,5\n', "line 6: unexpected end of data"),
        (GOOD + '"2020"-01-05,5\n', "line 6: ',' expected after '\"'"),
        (GOOD + "x" * 200_000, "line 6: field larger than field limit"),
        ("time,a\n5e-324,1\n1e-323,1\n1e14,2\n2e14,2\n3e14,4\n", "does not fit the step"),
        ("time,a\n0,1\n1e-300,1\n2e-300,2\n1,2\n", "does not fit the step"),
    ],
)
def test_bad_files_are_refused_by_line(tmp_path, content, message):
    path = tmp_path / "bad.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError) as error:
        read_csv(path)
    said = str(error.value)
    assert message in said and said.startswith(f"csv: {str(path)!r}") and len(said) < 1000


def test_what_is_no_file_is_refused(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")  # To open it would take for ever.
    os.symlink(tmp_path / "loop", tmp_path / "loop")
    for name in ("nowhere", "pipe", "loop", "", "a\0b"):
        with pytest.raises(ValueError, match="csv: "):
            read_csv(tmp_path / name)
    large = tmp_path / "large.csv"
    large.write_text(GOOD)
    os.truncate(large, 1 << 40)  # Takes no room.
    with pytest.raises(ValueError, match="has 1,099,511,627,776 bytes"):
        read_csv(large)


def test_too_many_columns_are_refused(tmp_path):
    names = ",".join(f"v{i}" for i in range(1001))
    file = write(tmp_path / "wide.csv", [(i, *range(1001)) for i in range(3)], f"time,{names}")
    with pytest.raises(ValueError, match=r"has 1,001 variables.*data\.targets"):
        read_csv(file)
    assert read_csv(file, targets=("v7",)).values.shape == (3, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": (80, 10, 20)}, r"data\.split: \(80, 10, 20\), but 'csv:.*' has 100 rows"),
        ({"split": (0.8, 0.2)}, r"data\.split: \(0\.8, 0\.2\), expected TRAINING,VALIDATION,TEST"),
        ({"split": (80, 2, 10)}, r"has 2 rows for validation, too few.*data\.horizon=3"),
        ({"length": 69}, r"has 70 rows for train, too few for a window of data\.length=69"),
        ({"time": "when"}, r"data\.time: 'when' is not a column"),
        ({"time": "a", "targets": ("a",)}, r"data\.targets: 'a' is not a variable"),
        ({"targets": ("c",)}, r"data\.targets: 'c' is not a variable of \['a', 'b'\]"),
        ({"targets": ("a", "a")}, r"data\.targets: \('a', 'a'\) has a duplicate"),
    ],
)
def test_settings_that_do_not_fit_the_file_are_named(file, options, message):
    with pytest.raises(ValueError, match=message):
        load(file, **options)


def test_a_variable_that_never_changes_is_named(tmp_path):
    file = write(tmp_path / "t.csv", [(i, 5, i) for i in range(60)])
    with pytest.raises(ValueError, match=r"'a' of 'csv:.*' is constant in the training rows"):
        load(file)
    load(file, targets=("b",))


def test_other_data_is_refused():
    with pytest.raises(ValueError, match="'digits' is not a series; give csv:FILE or co2"):
        load_series("digits")


def test_the_last_window_of_a_file(file, tmp_path, capsys):
    options = {"fill": "none", "time": "", "time_format": ""}
    window, line, after = last_window(file, ("b", "a"), 4, "1:00:00", **options)
    np.testing.assert_array_equal(window, [[-i / 2, i] for i in range(96, 100)])
    assert line.text(after) == "2020-03-04 00:00:00"
    wide = file.parent / "wide.csv"
    lines = file.read_text().splitlines()
    wide.write_text("\n".join(f"{line},{i}" for i, line in enumerate(lines)))
    window, *_ = last_window(wide, ("b", "a"), 4, "1:00:00", **options)
    np.testing.assert_array_equal(window, [[-i / 2, i] for i in range(96, 100)])
    said = capsys.readouterr().err
    assert f"input: {str(wide)!r}: left out columns that are not asked for (1): '0'." in said
    for change, message in (
        (
            {"variables": ("c", "a", "d")},
            r"fit the model: 'c', 'd' are not variables of \['a', 'b'",
        ),
        ({"spacing": "1 day"}, "has a step of 1:00:00, but the model was trained on 1 day"),
        ({"length": 101}, "has 100 rows, the model needs 101"),
        ({"variables": ("c",)}, "'c' is not a variable"),
        ({"path": tmp_path / "no"}, r"input: '.*no' is not a file"),
    ):
        asked = {"path": file, "variables": ("a",), "length": 4, "spacing": "1:00:00"} | change
        with pytest.raises(ValueError, match=message):
            last_window(**asked, **options)


def test_the_last_window_is_filled_in_as_the_last_of_a_training(gaps, capsys):
    rows = len(gaps.read_text().splitlines()) - 1
    for fill in ("linear", "previous"):
        window, _, after = last_window(gaps, ("a", "b"), 5, "1", fill=fill)
        data = load(gaps, fill=fill)
        wanted = data.known.windows(np.array([rows]), 5)[0] * data.scales + data.means
        np.testing.assert_allclose(window, wanted)
        assert after == rows
    assert f"input: {str(gaps)!r}, line 2: no value in column" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"no value in column '.'; data\.fill=linear or"):
        last_window(gaps, ("a", "b"), 5, "1", fill="none")


def test_no_date_after_the_last_year():
    with pytest.raises(ValueError, match="after the year 9999"):
        Timeline("month", 12 * 9999, 1).at(12)


ORIGINALS = (
    GOOD.encode(),
    b"t;x;y\n2020-01-31;1;2\n2020-02-29;;4\n2020-03-31;5;6\n2020-05-31;7;8\n",
    b"# of X\n;date;time;v;w\n;;;m3;-\n1;2020-01-02;0:00;1.000,5;NA\n0;2020-01-01;12:00;-9999;3\n"
    b"2;2020-01-02;12:00;7;2,5\n3;2020-01-03;0:00;1,5;4;\n4;2020-01-03;12:00;1,5;4\n",
    b"year|month|v|w\n2020|11|1.234|5\n2020|12|999|4\n2021|1|9.876|2\n2021|2|1|3\n2021|3|5|9\n",
    b'n,"v"\n0.5,1e3\n1,2\n1.5,-3\n2,4\n2.5,5\n',
)


@fuzz(150, content=mutated(*ORIGINALS), fill=st.sampled_from(["none", "linear", "previous"]))
@example(content=b"t,x\n1,2\n2,3\n1e14,4\n", fill="linear")
def test_whatever_stands_in_a_file(where, content, fill):
    """Numbers on a timeline and times that go on, or one line that names the file."""
    path = where / "f.csv"
    path.write_bytes(content)
    options = {"length": 1, "horizon": 1, "split": (3, 1, 1), "fill": fill}
    try:
        table = ask(read_csv, path, naming=str(path))
        assert np.isnan(table.values).any() == bool(table.first_missing)
        table.timeline.text(len(table.values) - 1)
        data = ask(
            load_series, f"csv:{path}", 2, naming=(str(path), "data.", "dataset: "), **options
        )
    except Refused:
        return
    assert len(data.values) == len(table.values)
    for part in ("train", "test"):
        x, y = data.windows(data.starts(part))
        assert np.isfinite(x).all() and np.isfinite(y).any((1, 2)).all()
