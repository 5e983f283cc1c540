"""Tokenizers: text to token ids and back."""

from typing import Any

from bigmodels.messages import check_choice
from bigmodels.tokenizers.byte_pairs import BytePairs
from bigmodels.tokenizers.bytes import Bytes
from bigmodels.tokenizers.characters import Vocabulary
from bigmodels.tokenizers.subwords import Subwords
from bigmodels.tokenizers.tokenizer import Tokenizer

__all__ = ["KINDS", "BytePairs", "Bytes", "Subwords", "Tokenizer", "Vocabulary", "from_config"]

# Tokenizers of language models, by the value of `data.tokens`.
KINDS = {cls.KIND: cls for cls in (Vocabulary, Bytes, BytePairs)}


def from_config(config: dict[str, Any]) -> Tokenizer:
    """Make the tokenizer that `Tokenizer.get_config` has described.

    Args:
        config: A dict with the key `kind` and the arguments of that kind.

    Returns:
        A `Tokenizer`.

    Raises:
        ValueError: if the kind or an argument is not valid.

    Example:

    >>> len(from_config({"kind": "characters", "characters": "abc"}))
    5
    """
    arguments = dict(config)
    kind = arguments.pop("kind", None)
    check_choice("tokenizer", kind, tuple(KINDS))
    try:
        return KINDS[kind](**arguments)
    except TypeError as error:
        raise ValueError(f"tokenizer: {error}") from None
