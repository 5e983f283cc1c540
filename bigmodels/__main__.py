"""`python -m bigmodels`: the same as the command `bigmodels`."""

from bigmodels.cli.main import run

if __name__ == "__main__":
    run()
