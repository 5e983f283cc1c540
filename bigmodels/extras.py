"""Optional dependencies: the extras of setup.cfg."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def require_extra(what: str, extra: str) -> Iterator[None]:
    """Turn an `ImportError` in the body into a message that says which extra to install.

    Args:
        what: The feature that needs the extra, beginning with the argument that asked for it.
        extra: Name of the extra in setup.cfg.

    Raises:
        ValueError: if the body imports a package that is not installed.

    Example:

    >>> with require_extra("task: translation", "translation"):
    ...     import no_such_package
    Traceback (most recent call last):
    ValueError: task: translation needs more packages (No module named 'no_such_package'); ...
    """
    try:
        yield
    except ImportError as error:
        raise ValueError(
            f'{what} needs more packages ({error}); pip install "bigmodels[{extra}]"'
        ) from None
