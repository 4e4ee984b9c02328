"""Values that no stage, client or setting should meet, drawn by hypothesis."""

from __future__ import annotations

from collections import UserDict

import numpy as np
import torch
from hypothesis import strategies as st

__all__ = ["ANY_TEXT", "NUMBERS", "OBJECTS", "SCALARS"]

ANY_TEXT = st.text(st.characters(exclude_categories=()))  # with lone surrogates
NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([10**400, -(10**4000), 2**63, 1e308, -0.0, True]),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, ANY_TEXT)

OBJECTS = st.recursive(
    st.one_of(
        SCALARS,
        st.binary(),
        st.builds(object),
        st.just(...),
        st.builds(lambda: (x for x in range(3))),
        st.builds(lambda: map(str, range(3))),
        st.sampled_from([int, len, UserDict]),
        st.builds(torch.zeros, st.integers(0, 3), st.integers(0, 2)),
        st.builds(torch.tensor, st.integers(0, 3)),
        st.builds(np.zeros, st.tuples(st.integers(0, 3)) | st.just(())),
        st.builds(complex),
        st.dates(),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(SCALARS, inner, max_size=4),
        st.dictionaries(st.text(max_size=3), inner, max_size=4).map(UserDict),
    ),
    max_leaves=6,
)
