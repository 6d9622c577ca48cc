"""What the port promises, on each database."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.state.store import DatabaseStateStore
from domain.state import ResponseStatus
from tests.integration.state.samples import conversation, finished, item, unfinished


async def test_a_finished_response_is_returned_as_it_was_stored(store):
    stored = finished(
        "resp_1",
        input=[item("a"), item("b")],
        output=[item("c"), item("d")],
        previous_id="resp_0",
        is_background=True,
        body=b'{"any":"\xc3\xa9\x00bytes"}',
    )
    store.begin(unfinished("resp_1", input=stored.input, previous_id="resp_0", is_background=True))
    await store.finish(stored)
    assert await store.response("alice", "resp_1") == stored


async def test_an_unfinished_response_is_seen_at_once_and_without_output(store):
    stored = unfinished("resp_1", status=ResponseStatus.QUEUED)
    store.begin(stored)
    assert await store.response("alice", "resp_1") == stored
    assert await store.history("alice", "resp_1") is None


async def test_an_end_without_a_beginning_is_stored(store):
    await store.finish(finished("resp_1"))
    assert await store.response("alice", "resp_1") == finished("resp_1")


async def test_an_end_may_change_the_input(store):
    await store.begin_durably(unfinished("resp_1", input=[item("a"), item("b")]))
    stored = finished("resp_1", input=[item("c")])
    await store.finish(stored)
    assert await store.response("alice", "resp_1") == stored
    assert await store.items("alice", ["a", "b", "c"]) == {"c": item("c")}


@pytest.mark.parametrize("status", [ResponseStatus.FAILED, ResponseStatus.CANCELLED, ResponseStatus.INCOMPLETE])
async def test_every_end_is_stored_with_its_status(store, status):
    await store.begin_durably(unfinished("resp_1"))
    await store.finish(finished("resp_1", status=status, output=()))
    found = await store.response("alice", "resp_1")
    assert found is not None
    assert (found.status, list(found.output)) == (status, [])


async def test_a_response_that_was_deleted_meanwhile_stays_deleted(store):
    for is_durable in (True, False):
        if is_durable:
            await store.begin_durably(unfinished("resp_1"))
        else:
            store.begin(unfinished("resp_1"))
        store.append_events("resp_1", [(0, b"{}")])
        assert await store.delete_response("alice", "resp_1")
        store.append_events("resp_1", [(1, b"{}")])
        await store.finish(finished("resp_1"))
        assert await store.response("alice", "resp_1") is None
        assert await store.events("alice", "resp_1", after=-1) == []
        assert await store.items("alice", ["in-resp_1", "out-resp_1"]) == {}


async def test_a_response_that_is_discarded_leaves_nothing(store):
    await store.begin_durably(unfinished("resp_1"))
    await store.begin_durably(unfinished("resp_2"))
    await store.discard_response("alice", "resp_1")
    await store.discard_response("alice", "resp_3")
    assert await store.response("alice", "resp_1") is None
    assert await store.items("alice", ["in-resp_1"]) == {}
    assert store._access._responses._begun.keys() == {"resp_2"}


@pytest.mark.parametrize("owner", ["alice", "bob"])
async def test_a_response_that_is_deleted_before_its_end_keeps_no_memory(store, owner):
    await store.begin_durably(unfinished("resp_1"))
    begun = store._access._responses._begun
    is_deleted = await store.delete_response(owner, "resp_1")
    assert is_deleted == (owner == "alice")
    assert bool(begun["resp_1"]) == (not is_deleted)
    await store.finish(finished("resp_1"))
    assert (await store.response("alice", "resp_1") is None) == is_deleted
    assert not begun


async def test_a_deleted_response_is_gone_with_all_it_had(store):
    await store.begin_durably(unfinished("resp_1"))
    store.append_events("resp_1", [(0, b"{}")])
    await store.finish(finished("resp_1"))
    assert await store.delete_response("alice", "resp_1")
    assert not await store.delete_response("alice", "resp_1")
    assert await store.history("alice", "resp_1") is None
    assert await store.events("alice", "resp_1", after=-1) == []
    assert await store.items("alice", ["in-resp_1", "out-resp_1"]) == {}


async def test_a_history_has_all_links_oldest_first(store):
    names = [f"resp_{number}" for number in range(5)]
    for previous, name in zip([None, *names], names, strict=False):
        await store.finish(finished(name, previous_id=previous, input=[item(f"{name}-b"), item(f"{name}-a")]))
    found = await store.history("alice", "resp_4")
    assert found is not None
    assert [each.id for each in found] == [
        each for name in names for each in (f"{name}-b", f"{name}-a", f"out-{name}")
    ]
    assert len(await store.history("alice", "resp_0") or ()) == 3


async def test_a_history_with_a_missing_or_unfinished_link_is_none(store):
    store.begin(unfinished("resp_1"))
    await store.finish(finished("resp_2", previous_id="resp_1"))
    assert await store.history("alice", "resp_2") is None
    await store.finish(finished("resp_1"))
    assert await store.history("alice", "resp_2") is not None
    await store.delete_response("alice", "resp_1")
    assert await store.history("alice", "resp_2") is None
    assert await store.history("alice", "resp_3") is None


async def test_the_newest_of_items_with_one_id_is_returned(store):
    await store.finish(finished("resp_1", input=[item("a", "old")]))
    await store.create_conversation(conversation("conv_1"), [item("a", "newer")])
    assert await store.items("alice", ["a", "missing"]) == {"a": item("a", "newer")}
    await store.finish(finished("resp_2", input=[item("a", "newest")], output=[item("b")]))
    assert await store.items("alice", ["a", "b", "a"]) == {"a": item("a", "newest"), "b": item("b")}
    assert await store.items("alice", []) == {}


async def test_many_items_are_found_by_their_ids(store):
    many = [item(f"item-{number}") for number in range(1200)]
    await store.finish(finished("resp_1", input=many))
    assert list((await store.items("alice", [each.id for each in many])).values()) == many


async def test_events_are_returned_in_their_order_above_a_number(store):
    await store.begin_durably(unfinished("resp_1", is_background=True))
    store.append_events("resp_1", [(0, b"zero"), (1, b"one")])
    store.append_events("resp_1", [(2, b"two")])
    assert await store.events("alice", "resp_1", after=0) == [(1, b"one"), (2, b"two")]
    store.append_events("resp_1", [(2, b"again"), (3, b"three")])
    await store.finish(finished("resp_1"))
    assert await store.events("alice", "resp_1", after=-1) == [
        (0, b"zero"),
        (1, b"one"),
        (2, b"two"),
        (3, b"three"),
    ]


async def test_events_of_what_is_not_stored_are_not_stored(store):
    store.append_events("resp_1", [(0, b"zero")])
    assert await store.events("alice", "resp_1", after=-1) == []
    await store.finish(finished("resp_1"))
    assert await store.events("alice", "resp_1", after=-1) == []


async def test_events_that_follow_the_end_are_left_out(store):
    """They could follow lost ones, which are forgotten by then."""
    await store.begin_durably(unfinished("resp_1"))
    store._access.lose_events("resp_1")
    store.append_events("resp_1", [(0, b"zero")])
    await store.finish(finished("resp_1"))
    store.append_events("resp_1", [(1, b"one")])
    assert await store.events("alice", "resp_1", after=-1) == []
    store._access.lose_events("resp_1")
    assert not store._access._responses.events_lost


async def test_a_cancellation_is_asked_for_once_the_response_is_unfinished(store):
    assert not await store.request_cancel("alice", "resp_1")
    store.begin(unfinished("resp_1"))
    store.begin(unfinished("resp_2"))
    assert await store.request_cancel("alice", "resp_1")
    assert await store.cancel_requested(["resp_2", "resp_1", "resp_3"]) == ["resp_1"]
    assert await store.cancel_requested([]) == []
    await store.finish(finished("resp_1", status=ResponseStatus.CANCELLED))
    assert not await store.request_cancel("alice", "resp_1")
    assert await store.cancel_requested(["resp_1"]) == []


async def test_a_conversation_is_returned_as_it_was_stored(store):
    await store.create_conversation(conversation("conv_1"), [item("a"), item("b")])
    assert await store.conversation("alice", "conv_1") == conversation("conv_1")
    assert await store.conversation_items("alice", "conv_1") == [item("a"), item("b")]
    changed = conversation("conv_1", metadata={"é": "\0"})
    assert await store.update_conversation("alice", "conv_1", {"é": "\0"}) == changed
    assert await store.conversation("alice", "conv_1") == changed
    assert await store.update_conversation("alice", "conv_2", {}) is None


async def test_items_of_a_conversation_are_added_and_deleted(store):
    await store.create_conversation(conversation("conv_1"), [])
    assert await store.conversation_items("alice", "conv_1") == []
    assert await store.add_conversation_items("alice", "conv_1", [item("a"), item("b")])
    assert await store.add_conversation_items("alice", "conv_1", [item("c")])
    assert await store.delete_conversation_item("alice", "conv_1", "b")
    assert not await store.delete_conversation_item("alice", "conv_1", "b")
    assert not await store.delete_conversation_item("alice", "conv_2", "a")
    assert await store.conversation_items("alice", "conv_1") == [item("a"), item("c")]
    assert not await store.add_conversation_items("alice", "conv_2", [item("c")])
    assert await store.conversation_items("alice", "conv_2") is None


async def test_a_deleted_conversation_is_gone_with_its_items(store):
    await store.create_conversation(conversation("conv_1"), [item("a")])
    assert await store.delete_conversation("alice", "conv_1")
    assert not await store.delete_conversation("alice", "conv_1")
    assert await store.conversation("alice", "conv_1") is None
    assert await store.conversation_items("alice", "conv_1") is None
    assert await store.items("alice", ["a"]) == {}


@pytest.mark.parametrize("is_begun", [True, False])
async def test_a_finished_response_is_appended_to_its_conversation(store, is_begun):
    await store.create_conversation(conversation("conv_1"), [item("a")])
    for number in range(3):
        if is_begun:
            await store.begin_durably(unfinished(f"resp_{number}", conversation_id="conv_1"))
    # In one transaction, in the order of the calls.
    await asyncio.gather(
        *(store.finish(finished(f"resp_{number}", conversation_id="conv_1")) for number in range(3))
    )
    assert await store.add_conversation_items("alice", "conv_1", [item("z")])
    found = await store.conversation_items("alice", "conv_1")
    assert found is not None
    assert [each.id for each in found] == [
        "a",
        *(f"{kind}-resp_{number}" for number in range(3) for kind in ("in", "out")),
        "z",
    ]


@pytest.mark.parametrize(
    ("status", "is_appended"),
    [
        (ResponseStatus.COMPLETED, True),
        (ResponseStatus.INCOMPLETE, True),
        (ResponseStatus.FAILED, False),
        (ResponseStatus.CANCELLED, False),
    ],
)
async def test_only_what_has_an_answer_is_appended(store, status, is_appended):
    await store.create_conversation(conversation("conv_1"), [])
    await store.finish(finished("resp_1", conversation_id="conv_1", status=status))
    assert bool(await store.conversation_items("alice", "conv_1")) == is_appended


async def test_items_of_a_response_and_a_conversation_survive_deletion_of_either(store):
    for name in ("1", "2"):
        await store.create_conversation(conversation(f"conv_{name}"), [])
        await store.finish(finished(f"resp_{name}", conversation_id=f"conv_{name}"))
    both = [item("in-resp_1"), item("out-resp_1")]
    assert await store.delete_response("alice", "resp_1")
    assert await store.conversation_items("alice", "conv_1") == both
    assert await store.delete_conversation_item("alice", "conv_1", "in-resp_1")
    assert await store.items("alice", ["in-resp_1", "out-resp_1"]) == {"out-resp_1": both[1]}
    assert await store.delete_conversation_item("alice", "conv_2", "in-resp_2")
    assert await store.conversation_items("alice", "conv_2") == [item("out-resp_2")]
    assert await store.delete_conversation("alice", "conv_2")
    found = await store.response("alice", "resp_2")
    assert found == finished("resp_2", conversation_id="conv_2", created=found.created if found else 0)


async def test_a_response_of_a_conversation_that_is_gone_is_stored_alone(store):
    await store.create_conversation(conversation("conv_1", owner="bob"), [])
    for missing in ("conv_1", "conv_2"):
        await store.finish(finished(f"resp-{missing}", conversation_id=missing))
        assert await store.response("alice", f"resp-{missing}") is not None
        # Nor do its items belong to it.
        assert await store.delete_response("alice", f"resp-{missing}")
        assert await store.items("alice", [f"in-resp-{missing}"]) == {}
    assert await store.conversation_items("bob", "conv_1") == []


async def test_what_belongs_to_one_owner_is_invisible_to_others(store):
    await store.create_conversation(conversation("conv_1"), [item("a")])
    await store.begin_durably(unfinished("resp_1", is_background=True))
    store.append_events("resp_1", [(0, b"zero")])
    await store.finish(finished("resp_2"))
    for other in ("bob", "", "ALICE", "alice\0"):
        assert await store.response(other, "resp_1") is None
        assert await store.history(other, "resp_2") is None
        assert await store.items(other, ["a", "in-resp_1"]) == {}
        assert await store.events(other, "resp_1", after=-1) == []
        assert not await store.request_cancel(other, "resp_1")
        assert not await store.delete_response(other, "resp_1")
        assert await store.conversation(other, "conv_1") is None
        assert await store.update_conversation(other, "conv_1", {}) is None
        assert await store.conversation_items(other, "conv_1") is None
        assert not await store.add_conversation_items(other, "conv_1", [item("b")])
        assert not await store.delete_conversation_item(other, "conv_1", "a")
        assert not await store.delete_conversation(other, "conv_1")
        # A continued response of another owner is none.
        await store.finish(finished(f"resp-{other}", owner=other, previous_id="resp_2"))
        assert await store.history(other, f"resp-{other}") is None
    assert await store.conversation("alice", "conv_1") == conversation("conv_1")
    assert await store.conversation_items("alice", "conv_1") == [item("a")]
    assert await store.cancel_requested(["resp_1"]) == []
    assert await store.events("alice", "resp_1", after=-1) == [(0, b"zero")]


async def test_another_owner_can_not_replace_a_response(store):
    await store.finish(finished("resp_1"))
    await store.finish(finished("resp_1", owner="bob", body=b"{}"))
    found = await store.response("alice", "resp_1")
    assert found is not None
    assert found.body != b"{}"
    assert await store.response("bob", "resp_1") is None


@pytest.mark.parametrize("odd", ["", "\0", "a\0b", "\ud800", "é", "𝄞", "'; --", "%s %(a)s :b", "x" * 5000])
async def test_any_text_can_be_an_id_or_an_owner(store, odd):
    await store.create_conversation(conversation(odd, owner=odd), [item(odd)])
    await store.finish(finished(odd, owner=odd, input=[item("first")], output=[]))
    await store.finish(finished("next", owner=odd, previous_id=odd, conversation_id=odd, input=[item("a")]))
    assert [each.data for each in (await store.items(odd, [odd])).values()] == [item(odd).data]
    assert await store.response(odd, odd) is not None
    assert len(await store.history(odd, "next") or ()) == 3
    assert len(await store.conversation_items(odd, odd) or ()) == 3
    assert await store.delete_response(odd, odd)
    assert await store.delete_conversation(odd, odd)


async def test_what_was_stored_is_there_after_a_restart(open_store):
    first = await open_store(max_age_days=0)
    await first.finish(finished("resp_1", created=5))
    await first.create_conversation(conversation("conv_1"), [item("a")])
    await first.stop()
    second = await open_store(max_age_days=0)
    assert await second.response("alice", "resp_1") == finished("resp_1", created=5)
    assert await second.conversation_items("alice", "conv_1") == [item("a")]


OWNERS = st.sampled_from(["alice", "bob"])
IDS = st.integers(0, 3).map(str)
STEPS = st.one_of(
    st.tuples(st.just("finish"), OWNERS, IDS, st.lists(IDS, max_size=3), st.none() | IDS),
    st.tuples(st.just("delete"), OWNERS, IDS),
    st.tuples(st.just("create"), OWNERS, IDS, st.lists(IDS, max_size=3)),
    st.tuples(st.just("add"), OWNERS, IDS, st.lists(IDS, max_size=3)),
    st.tuples(st.just("remove"), OWNERS, IDS, IDS),
    st.tuples(st.just("drop"), OWNERS, IDS),
)


@settings(max_examples=25, deadline=None)
@given(steps=st.lists(STEPS, max_size=25))
def test_conversations_are_lists_whatever_happens_to_their_responses(tmp_path_factory, steps):
    """Against a model of lists, on SQLite, where a new database takes little time."""
    from adapters.state.provider import StateOptions
    from tests.integration.state.conftest import make_store

    async def run() -> None:
        store = make_store(StateOptions(folder=tmp_path_factory.mktemp("state")))
        await store.start()
        try:
            await compare(store, steps)
        finally:
            await store.stop()

    asyncio.run(run())


async def compare(store: DatabaseStateStore, steps: list[tuple[object, ...]]) -> None:
    conversations: dict[str, tuple[str, list[str]]] = {}
    stored: dict[str, tuple[str, list[str]]] = {}

    def own(owner: str, name: str) -> list[str] | None:
        found = conversations.get(name)
        return found[1] if found is not None and found[0] == owner else None

    for number, (kind, owner, name, *rest) in enumerate(steps):
        mine = own(owner, name)
        match kind, *rest:
            case "finish", names, into:
                response_id = f"resp_{number}"
                items = [item(each) for each in names]
                await store.finish(
                    finished(response_id, owner=owner, input=items[:1], output=items[1:], conversation_id=into)
                )
                stored[response_id] = (owner, names)
                if into is not None and (target := own(owner, into)) is not None:
                    target.extend(names)
            case ("delete",):
                for response_id in [each for each in stored if stored[each][0] == owner][: int(name)]:
                    assert await store.delete_response(owner, response_id)
                    del stored[response_id]
            case "create", names:
                if name not in conversations:
                    await store.create_conversation(conversation(name, owner=owner), [item(x) for x in names])
                    conversations[name] = (owner, list(names))
            case "add", names:
                is_added = await store.add_conversation_items(owner, name, [item(x) for x in names])
                assert is_added == (mine is not None)
                if mine is not None:
                    mine.extend(names)
            case "remove", which:
                is_there = mine is not None and which in mine
                assert await store.delete_conversation_item(owner, name, which) == is_there
                if mine is not None:
                    mine[:] = [each for each in mine if each != which]
            case ("drop",):
                assert await store.delete_conversation(owner, name) == (mine is not None)
                if mine is not None:
                    del conversations[name]
    for name, (owner, names) in conversations.items():
        found = await store.conversation_items(owner, name)
        assert [each.id for each in found or ()] == names
    for response_id, (owner, names) in stored.items():
        found = await store.history(owner, response_id)
        assert [each.id for each in found or ()] == names
    for owner in ("alice", "bob"):
        everything = [
            x for each in (conversations, stored) for own_, xs in each.values() if own_ == owner for x in xs
        ]
        assert set(await store.items(owner, list("0123"))) == set(everything)
