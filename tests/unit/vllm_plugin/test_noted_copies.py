"""What the model's thread has noted, as one launch of the driver."""

from hypothesis import given
from hypothesis import strategies as st

from prfaas.vllm_plugin.cuda_copies import Noted, flattened

PAGE = 100
NOTES = st.lists(
    st.builds(
        Noted,
        sources=st.lists(
            st.integers(0, 12).map(lambda block: block * PAGE), min_size=1, max_size=9
        ),
        target=st.integers(0, 40).map(lambda page: (1 << 46) + page * PAGE),
        size=st.sampled_from([PAGE, PAGE // 2]),
    ),
    min_size=1,
    max_size=9,
)
"""Few places, so that copies often follow each other, on both sides or on one."""


@given(NOTES)
def test_every_source_has_its_place_and_neighbours_are_one_copy(noted: list[Noted]) -> None:
    wanted: list[tuple[int, int, int]] = []
    for note in noted:
        for at, source in enumerate(note.sources):
            target, size = note.target + at * note.size, note.size
            if wanted:
                last_target, last_source, last_size = wanted[-1]
                if (last_target + last_size, last_source + last_size) == (target, source):
                    target, source, size = last_target, last_source, last_size + size
                    wanted.pop()
            wanted.append((target, source, size))
    targets, sources, sizes = flattened(noted)
    assert list(zip(targets.tolist(), sources.tolist(), sizes.tolist(), strict=True)) == wanted
