"""What the model's thread has noted, as one launch of the driver."""

from hypothesis import given
from hypothesis import strategies as st

from prfaas.vllm_plugin.cuda_copies import Noted, flattened

NOTES = st.lists(
    st.builds(
        Noted,
        sources=st.lists(st.integers(0, 1 << 47), min_size=1, max_size=9),
        target=st.integers(0, 1 << 47),
        size=st.integers(1, 1 << 24),
    ),
    min_size=1,
    max_size=9,
)


@given(NOTES)
def test_every_source_has_its_place(noted: list[Noted]) -> None:
    wanted = [
        (note.target + at * note.size, source, note.size)
        for note in noted
        for at, source in enumerate(note.sources)
    ]
    targets, sources, sizes = flattened(noted)
    assert list(zip(targets.tolist(), sources.tolist(), sizes.tolist(), strict=True)) == wanted
