"""The classes of `bigmodels.data` that are settings check their arguments by their fields."""

import pytest

from bigmodels.data import (
    AudioAugmentation,
    BoxAugmentation,
    Holes,
    Mixing,
    SteeringAugmentation,
)
from bigmodels.fields import check_value, fields


@pytest.mark.parametrize(
    ("made", "arguments", "message"),
    [
        (Mixing, {"kind": "mixpu"}, "^kind: 'mixpu' is not one of none, mixup, .* mean mixup"),
        (Mixing, {"alpha": 0}, "^alpha: 0, expected a positive number"),
        (BoxAugmentation, {"zoom": 1.0}, "^zoom: 1.0, expected a share"),
        (SteeringAugmentation, {"brightness": -0.1}, "^brightness: -0.1, expected a share"),
        (AudioAugmentation, {"speed": 0.6}, "^speed: 0.6, expected from 0 to 0.5"),
        (Holes, {"share": (0.3, 0.2)}, r"^share: \(0.3, 0.2\), expected SMALLEST,LARGEST"),
        (Holes, {"count": 9}, "^count: 9, expected 1 to 8"),
    ],
)
def test_a_bad_argument_is_named(made, arguments, message):
    with pytest.raises(ValueError, match=message):
        made(**arguments)


@pytest.mark.parametrize("made", [AudioAugmentation, BoxAugmentation, Mixing, SteeringAugmentation])
def test_every_argument_is_a_setting(made):
    for name, about in fields(made).items():
        assert about["help"].endswith("."), name
        check_value(name, getattr(made(), name), about)
