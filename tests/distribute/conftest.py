"""Prints the table of differences after the tests that measure them."""


def pytest_terminal_summary(terminalreporter):
    table = {}
    for report in (r for reports in terminalreporter.stats.values() for r in reports):
        for key, value in getattr(report, "user_properties", ()):
            if key == "difference" and report.when == "call":
                name, topology, difference = value
                row = table.setdefault(name, {})
                row[topology] = max(difference, row.get(topology, 0))
    if not table:
        return
    topologies = list(dict.fromkeys(topology for row in table.values() for topology in row))
    terminalreporter.section("largest difference of a weight from one device, 24 steps")
    terminalreporter.write_line(f"| {'':22} | " + " | ".join(topologies) + " |")
    terminalreporter.write_line("|---" * (len(topologies) + 1) + "|")
    for name, row in table.items():
        cells = (f"{row[topology]:.1e}" if topology in row else "-" for topology in topologies)
        terminalreporter.write_line(f"| {name:22} | " + " | ".join(cells) + " |")
