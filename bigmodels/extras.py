"""Packages that only some uses need: the extras of setup.cfg."""

import contextlib


@contextlib.contextmanager
def require_extra(what, extra):
    """Around an import of what an extra brings: without it the error says how to get it.

    Args:
        what: What cannot be had without, beginning with the argument that asked for it.
        extra: Name of the extra in setup.cfg.

    Raises:
        ValueError: if the body imports what is not installed.
    """
    try:
        yield
    except ImportError as error:
        raise ValueError(
            f'{what} needs more packages ({error}); pip install "bigmodels[{extra}]"'
        ) from None
