"""Which blocks are found again: never one with other content, and never one that somebody still writes to."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from terascope.engines.torch.cache import BLOCK, BlockPool, Digests, blocks_for

BLOCKS = 12
Content = tuple[str, tuple[int, ...]]
tokens_of_blocks = st.lists(st.integers(0, 2), min_size=1, max_size=5)  # one number stands for a block full of it
scopes = st.sampled_from(["a", "b"])


@dataclass(eq=False)
class Holder:
    """A row as the pool sees it."""

    scope: str
    numbers: list[int]
    blocks: list[int]
    digests: Digests
    published: int = 0

    def content(self, block: int) -> Content:
        return self.scope, tuple(self.numbers[: block + 1])


@dataclass
class Model:
    """What the pool should hold, said as plainly as possible."""

    blank: list[int] = field(default_factory=lambda: list(range(1, BLOCKS + 1)))  # the first is taken first
    resting: list[int] = field(default_factory=list)  # the first goes first
    known: dict[Content, int] = field(default_factory=dict)

    def find(self, holder: Holder) -> list[int]:
        found: list[int] = []
        for at in range(len(holder.numbers)):
            if holder.content(at) not in self.known:
                break
            found.append(self.known[holder.content(at)])
        return found

    def take(self, count: int) -> list[int]:
        found = []
        for _ in range(count):
            if self.blank:
                found.append(self.blank.pop(0))
            else:
                found.append(self.resting.pop(0))
                self.known = {content: block for content, block in self.known.items() if block != found[-1]}
        return found


class Pool(RuleBasedStateMachine):
    """The pool beside its model, with what was written to every block."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(BLOCKS * BLOCK)
        self.model = Model()
        self.holders: list[Holder] = []
        self.written: dict[int, Content] = {}

    @rule(scope=scopes, numbers=tokens_of_blocks)
    def begin(self, scope: str, numbers: list[int]) -> None:
        holder = _holder(scope, numbers)
        found = self.pool.find(holder.digests.first(len(numbers)))
        assert found == self.model.find(holder)
        for at, block in enumerate(found):
            assert self.written[block] == holder.content(at)
        resting = [block for block in found if block in self.model.resting]
        assert self.pool.resting(found) == len(resting)
        needed = len(numbers) - len(found)
        if needed > self.pool.free - len(resting):
            return
        self.pool.share(found)
        self.model.resting = [block for block in self.model.resting if block not in found]
        self._own(holder, found, self.pool.take(needed))
        holder.published = len(found)
        self.holders.append(holder)

    def _own(self, holder: Holder, found: list[int], taken: list[int]) -> None:
        held = {block for other in self.holders for block in other.blocks}
        assert not held & set(taken)
        assert not set(found) & set(taken)
        assert taken == self.model.take(len(taken))
        holder.blocks = found + taken
        for at, block in enumerate(holder.blocks):
            self.written[block] = holder.content(at)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        holder = data.draw(st.sampled_from(self.holders))
        until = data.draw(st.integers(holder.published, len(holder.blocks)))
        for number, digest in holder.digests.between(holder.published, until):
            self.pool.publish(holder.blocks[number], digest)
            self.model.known.setdefault(holder.content(number), holder.blocks[number])
        holder.published = until

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        holder = self.holders.pop(data.draw(st.integers(0, len(self.holders) - 1)))
        blank = self.pool.give_back(holder.blocks)
        still = {block for other in self.holders for block in other.blocks}
        known = set(self.model.known.values())
        freed = [block for block in reversed(holder.blocks) if block not in still]
        assert blank == [block for block in freed if block not in known]
        self.model.blank = [*reversed(blank), *self.model.blank]
        self.model.resting += [block for block in freed if block in known]

    @invariant()
    def nothing_is_lost(self) -> None:
        self.pool.check()
        used = {block for holder in self.holders for block in holder.blocks}
        assert self.pool.free == BLOCKS - len(used)
        assert len(self.pool._by_digest) == len(self.model.known)


def _holder(scope: str, numbers: list[int]) -> Holder:
    return Holder(scope, numbers, [], Digests(scope, [one for one in numbers for _ in range(BLOCK)]))


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=30, deadline=None, derandomize=True)


def _published(pool: BlockPool, name: str, blocks: int) -> tuple[list[int], Digests]:
    digests = Digests(name, list(range(blocks * BLOCK)))
    taken = pool.take(blocks)
    for number, digest in digests.between(0, blocks):
        pool.publish(taken[number], digest)
    return taken, digests


def test_what_goes_first() -> None:
    """Blocks without content, then the row unused longest, its end before its beginning."""
    pool = BlockPool(6 * BLOCK)
    (old, old_digests), (young, young_digests) = _published(pool, "old", 2), _published(pool, "young", 2)
    blank = pool.take(2)
    pool.give_back(old)
    pool.give_back(young)
    assert pool.give_back(blank) == blank[::-1]
    assert pool.take(2) == blank
    assert pool.take(1) == [old[1]]
    assert pool.find(old_digests.first(2)) == old[:1]
    assert pool.take(2) == [old[0], young[1]]
    assert pool.find(old_digests.first(2)) == []
    assert pool.find(young_digests.first(2)) == young[:1]


def test_using_a_block_again_keeps_it() -> None:
    pool = BlockPool(4 * BLOCK)
    (first, first_digests), (second, _) = _published(pool, "first", 2), _published(pool, "second", 2)
    pool.give_back(first)
    pool.give_back(second)
    found = pool.find(first_digests.first(2))
    pool.share(found)
    pool.give_back(found)
    assert pool.take(2) == [second[1], second[0]]
    assert pool.find(first_digests.first(2)) == first


def test_a_block_of_several_users_rests_when_the_last_has_left() -> None:
    pool = BlockPool(2 * BLOCK)
    blocks, digests = _published(pool, "x", 1)
    pool.share(pool.find(digests.first(1)))
    pool.give_back(blocks)
    assert pool.resting(blocks) == 0
    assert pool.free == 1
    pool.give_back(blocks)
    assert pool.resting(blocks) == 1


def test_a_mistake_in_counting_is_seen() -> None:
    pool = BlockPool(2 * BLOCK)
    pool._blank.pop()
    with pytest.raises(RuntimeError, match="lost count"):
        pool.check()


tokens = st.lists(st.integers(0, 2**31), min_size=BLOCK, max_size=4 * BLOCK)


@settings(max_examples=50)
@given(tokens, scopes, st.data())
def test_digests_depend_on_everything_before(given_tokens: list[int], scope: str, data: st.DataObject) -> None:
    full = len(given_tokens) // BLOCK
    made = Digests(scope, given_tokens).first(full)
    assert len(set(made)) == full
    assert not set(made) & set(Digests(scope + "'", given_tokens).first(full))
    changed = data.draw(st.integers(0, full * BLOCK - 1))
    others = [*given_tokens[:changed], given_tokens[changed] + 1, *given_tokens[changed + 1 :]]
    block = changed // BLOCK
    found = Digests(scope, others).first(full)
    assert found[:block] == made[:block]
    assert not set(found[block:]) & set(made[block:])


@settings(max_examples=50)
@given(tokens, st.data())
def test_digests_depend_on_the_order(given_tokens: list[int], data: st.DataObject) -> None:
    full = len(given_tokens) // BLOCK
    mixed = data.draw(st.permutations(given_tokens[: full * BLOCK]))
    same = mixed == given_tokens[: full * BLOCK]
    assert (Digests("x", mixed).first(full) == Digests("x", given_tokens).first(full)) is same


def test_digests_of_tokens_that_come_later() -> None:
    growing = list(range(BLOCK))
    digests = Digests("x", growing)
    first = digests.first(1)
    growing += range(BLOCK, 3 * BLOCK)
    assert digests.first(1) == first
    assert list(digests.between(1, 3)) == list(enumerate(Digests("x", list(range(3 * BLOCK))).first(3)))[1:]
    assert blocks_for(len(growing)) == 3
