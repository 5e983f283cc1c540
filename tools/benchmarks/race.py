"""Contestants that take turns, and what comes of it: ratios, and shares of the arithmetic limit."""

import argparse
import json
import pathlib
import sys
import time

import numpy as np

from bigmodels.commands import estimate


def arguments(description):
    """The flags of a table: `--rounds`, `--output`, `--only`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=pathlib.Path, help="JSON file to write")
    parser.add_argument("--only", default="", help="rows whose name begins so")
    return parser.parse_args()


def turns(names, rounds):
    """Whose turn it is: all of them in every round, which is told on stderr.

    Every other round goes backwards, so that nobody always runs after the same one.
    """
    for number in range(rounds):
        yield from list(names)[:: 1 if number % 2 else -1]
        print(f"round {number + 1} of {rounds}", file=sys.stderr)


def race(contestants, rounds):
    """How long each takes in every round.

    Args:
        contestants: `{name: function}`; each has done its first, slow call.
        rounds: How many.

    Returns:
        `(times, rates)`: `{name: array of seconds}`, and the machine's own rate in each round,
        floating-point operations a second.
    """
    times, rates = {name: [] for name in contestants}, []
    for name in turns([*contestants, None], rounds):
        if name is None:
            rates.append(estimate.product_rate())
            continue
        began = time.perf_counter()
        contestants[name]()
        times[name].append(time.perf_counter() - began)
    return {name: np.array(seconds) for name, seconds in times.items()}, np.array(rates)


class Table:
    """Rows of ratios, printed as they come, and written as JSON at the end.

    Args:
        given: From `arguments`.
    """

    def __init__(self, given):
        self.given, self.rows = given, []

    def wants(self, name):
        """Whether a row was asked for."""
        return name.startswith(self.given.only)

    def add(self, name, contestants, amount, unit, flops=None, **more):
        """Race and print a row.

        Args:
            name: Of the row.
            contestants: As for `race`; ours is the first.
            amount: What one call of each works off.
            unit: In which that is counted.
            flops: Floating point operations of a call, for the share of the machine's own rate.
            **more: Further shares that were measured, for the row.
        """
        times, rate = race(contestants, self.given.rounds)
        ours, *others = times
        row = {"row": name, "unit": f"{unit}/s"}
        row |= {who: float(amount / np.median(seconds)) for who, seconds in times.items()}
        line = f"{name:34} {row[ours]:10,.0f} {unit}/s"
        if flops:
            row["gemm_gflops"] = float(np.median(rate) / 1e9)
            row["share_of_gemm"] = float(np.median(flops / times[ours] / rate))
            line += f", {row['share_of_gemm']:.0%} of {row['gemm_gflops']:.0f} GFLOP/s"
        for what, share in more.items():
            row[what] = share
            line += f", {what} {share:.2%}"
        for who in others:
            low, middle, high = np.quantile(times[who] / times[ours], (0.25, 0.5, 0.75))
            row[f"ratio_to_{who}"] = [float(low), float(middle), float(high)]
            line += f"; {middle:.2f} x {who} ({low:.2f} to {high:.2f})"
        print(line, flush=True)
        self.rows.append(row)

    def finish(self):
        """Write the JSON file, or else a line of JSON."""
        text = json.dumps(self.rows)
        if self.given.output:
            self.given.output.write_text(text + "\n")
        print(text)


def optional(name):
    """A module that only comparisons need, or `None`, which is said."""
    try:
        return __import__(name)
    except ImportError:
        print(f"{name} is not installed; its columns are left out", file=sys.stderr)
        return None
