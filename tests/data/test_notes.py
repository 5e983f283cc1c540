from bigmodels.data.notes import Notes


def test_a_line_says_what_how_many_and_which_first(capsys):
    notes = Notes()
    notes.leave_out("images", "files", {"a\nb": "is empty", "c\udcff": "", 3: "", 4: "", 5: ""})
    notes.leave_out("images", "files", ["d"])
    notes.leave_out("images", "rows", [])
    notes.say("csv: once.")
    notes.say("csv: once.")
    first = "images: left out 5 files: 'a\\nb' is empty; 'c\\udcff'; 3, and 2 more."
    assert notes.lines == [first, "images: left out files (1): 'd'.", "csv: once."]
    assert notes.left_out == {"files": 6}
    assert capsys.readouterr().err.splitlines() == notes.lines
