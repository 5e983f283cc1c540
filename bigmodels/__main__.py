"""Run the command `bigmodels` as `python -m bigmodels`."""

from bigmodels.cli.main import run

if __name__ == "__main__":
    run()
