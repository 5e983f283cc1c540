import numpy as np
import pytest

from bigmodels.tokenizers import Vocabulary


def test_round_trip_and_special_ids():
    vocabulary = Vocabulary.fit("héllo\n世界")
    assert len(vocabulary) == len(set("héllo\n世界")) + 2
    ids = vocabulary.encode("hé世z")
    assert ids.dtype == np.int32 and ids[-1] == Vocabulary.UNKNOWN and ids.min() >= 1
    assert vocabulary.decode(ids) == "hé世\N{REPLACEMENT CHARACTER}"
    assert vocabulary.decode([0, *ids[:2], 0]) == "hé"


def test_order_does_not_depend_on_the_text():
    assert Vocabulary.fit("cab").characters == Vocabulary.fit("bacca").characters == ("a", "b", "c")


@pytest.mark.parametrize("characters", [["ab"], ["a", "a"], [""]])
def test_errors(characters):
    with pytest.raises(ValueError, match="characters: "):
        Vocabulary(characters)
