"""Prints the table of differences after the tests that fill it."""

import sys


def pytest_terminal_summary(terminalreporter):
    tests = sys.modules.get("tests.distribute.test_exactness")
    if tests is None or not tests.table:
        return
    terminalreporter.section("largest difference of a weight from one device, 24 steps")
    terminalreporter.write_line(f"| {'':22} | " + " | ".join(tests.TOPOLOGIES) + " |")
    terminalreporter.write_line("|---" * (len(tests.TOPOLOGIES) + 1) + "|")
    for name in dict.fromkeys(name for name, _ in tests.table):
        found = (tests.table.get((name, topology)) for topology in tests.TOPOLOGIES)
        cells = ("-" if value is None else f"{value:.1e}" for value in found)
        terminalreporter.write_line(f"| {name:22} | " + " | ".join(cells) + " |")
