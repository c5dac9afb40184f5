"""What nodes tell each other survives the way, and bytes that make no sense are refused with ValueError alone."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cluster.wire import (
    ScanRequest,
    decode_found,
    decode_keys,
    decode_scan,
    encode_found,
    encode_keys,
    encode_scan,
)
from app.profiles.requests import PLAIN, ReadOptions
from app.profiles.results import Scan, ServedBy

SHORT = st.binary(max_size=50)
FOUND = st.none() | st.tuples(st.binary(min_size=1, max_size=300), SHORT, SHORT, SHORT)
NUMBER = st.integers(0, 2**40)
ORIGIN = st.none() | st.builds(ServedBy, st.text(max_size=9), st.sampled_from(["owner", "standby"]), *[NUMBER] * 3)
Entry = tuple[bytes, bytes, bytes, bytes] | None


@given(st.lists(SHORT), st.lists(FOUND))
def test_batched_reads_survive_the_way(keys: list[bytes], entries: list[Entry]) -> None:
    """Keys in their order, and for each what was found or None."""
    assert decode_keys(encode_keys(keys)) == keys
    assert decode_found(encode_found(entries), len(entries)) == entries


@given(st.lists(st.tuples(st.binary(max_size=36), st.binary(max_size=99))), st.lists(st.integers(0, 999)), ORIGIN)
def test_scans_survive_the_way(rows: list[tuple[bytes, bytes]], partitions: list[int], origin: ServedBy | None) -> None:
    """Rows, the partitions that were looked at, and the origin."""
    assert decode_scan(encode_scan(Scan(rows, partitions, origin))) == Scan(rows, partitions, origin)


@pytest.mark.parametrize("options", [PLAIN, ReadOptions("strict", 1.5, "token", is_replica=True)])
def test_scan_requests_survive_the_way(options: ReadOptions) -> None:
    """With every option of a read."""
    request = ScanRequest([0, 7], b"74292b21-0fbb-4f1d-a18f-fa80f947fa5d\x00", 501, options)
    assert ScanRequest.decode(request.encode()) == request


@given(st.binary(max_size=200), st.integers(0, 5))
def test_bytes_that_make_no_sense_are_refused(data: bytes, count: int) -> None:
    """Whatever comes, nothing but ValueError comes of it."""
    for decode in (decode_keys, decode_scan, ScanRequest.decode, lambda data: decode_found(data, count)):
        with suppress(ValueError):
            decode(data)


def test_an_answer_that_is_cut_short_is_refused() -> None:
    """A batch of reads never gives one entry's bytes to another."""
    with pytest.raises(ValueError, match="keys"):
        decode_keys(encode_keys([b"a", b"bc"])[:-1])
    with pytest.raises(ValueError, match="scan"):
        decode_scan(encode_scan(Scan([(b"uid", b"body")], [0], None))[:-1])
    answer = encode_found([(b"body", b'"1"', b"a; hops=0", b"")])
    for end in range(1, len(answer)):
        with pytest.raises(ValueError, match="answers"):
            decode_found(answer[:end], 1)
    with pytest.raises(ValueError, match="answers"):
        decode_found(answer, 2)
