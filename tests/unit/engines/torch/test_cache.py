import torch
from hypothesis import given
from hypothesis import strategies as st

from terascope.engines.torch.cache import BLOCK, BlockPool, LayerStore, blocks_for


def test_blocks_for() -> None:
    assert [blocks_for(tokens) for tokens in (0, 1, BLOCK, BLOCK + 1)] == [0, 1, 1, 2]


@given(st.lists(st.integers(1, 5), max_size=20))
def test_no_block_has_two_owners_and_none_is_lost(counts: list[int]) -> None:
    pool = BlockPool(16 * BLOCK)
    owned: list[list[int]] = []
    for count in counts:
        if count > pool.free:
            pool.give_back(owned.pop(0))
        if count <= pool.free:
            owned.append(pool.take(count))
        held = [block for blocks in owned for block in blocks]
        assert len(held) == len(set(held)) == pool.blocks - pool.free
        assert 0 not in held
        assert max(held, default=0) <= pool.blocks


def test_blocks_freed_last_are_used_first() -> None:
    pool = BlockPool(8 * BLOCK)
    blocks = pool.take(3)
    pool.give_back(blocks)
    assert pool.take(3) == blocks


def test_a_row_is_read_as_it_was_written() -> None:
    store = LayerStore(4)
    keys, values = torch.randn(2, BLOCK + 3, 8), torch.randn(2, BLOCK + 3, 4)
    places = torch.tensor([3 * BLOCK + i for i in range(BLOCK)] + [BLOCK + i for i in range(3)])
    store.write(places, keys, values)
    found_keys, found_values = store.read(torch.tensor([[3, 1]]))
    assert torch.equal(found_keys[:, 0, : BLOCK + 3], keys)
    assert torch.equal(found_values[:, 0, : BLOCK + 3], values)
    assert not found_keys[:, 0, BLOCK + 3 :].any()
    assert store.bytes_per_token() == (2 * 8 + 2 * 4) * 4


def test_clearing_leaves_other_blocks() -> None:
    store = LayerStore(2)
    store.write(torch.arange(BLOCK, 3 * BLOCK), torch.full((1, 2 * BLOCK, 2), torch.nan), torch.ones(1, 2 * BLOCK, 2))
    store.clear([1])
    keys, values = store.read(torch.tensor([[1, 2]]))
    assert not keys[0, 0, :BLOCK].any()
    assert not values[0, 0, :BLOCK].any()
    assert keys[0, 0, BLOCK:].isnan().all()


def test_half_numbers_keep_their_type() -> None:
    store = LayerStore(1)
    store.write(torch.tensor([BLOCK]), torch.ones(1, 1, 2, dtype=torch.bfloat16), torch.ones(1, 1, 2).bfloat16())
    keys, _ = store.read(torch.tensor([[1]]))
    assert keys.dtype == torch.bfloat16
    assert keys[0, 0, 0].tolist() == [1.0, 1.0]
    assert not keys[0, 0, 1:].any()
