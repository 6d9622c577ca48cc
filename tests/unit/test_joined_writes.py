import asyncio

from app.http.joined_writes import JoiningTransport

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class Wire:
    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes) -> None:
        assert not self.is_closed
        self.written.append(data)

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed


def joining() -> tuple[Wire, JoiningTransport]:
    wire = Wire()
    return wire, JoiningTransport(wire, asyncio.get_running_loop())


async def test_a_head_goes_with_what_follows_it():
    wire, transport = joining()
    for data in (HEAD, b"body", b"more", HEAD, b"next"):
        transport.write(data)
    await asyncio.sleep(0)
    assert wire.written == [HEAD + b"body", b"more", HEAD + b"next"]


async def test_a_head_that_nothing_follows_goes_by_itself():
    wire, transport = joining()
    transport.write(HEAD)
    assert wire.written == []
    await asyncio.sleep(0)
    assert wire.written == [HEAD]
    transport.write(b"late")
    assert wire.written == [HEAD, b"late"]


async def test_two_heads_are_two_answers_in_order():
    wire, transport = joining()
    transport.write(HEAD)
    transport.write(HEAD)
    await asyncio.sleep(0)
    assert b"".join(wire.written) == HEAD * 2


async def test_closing_loses_nothing():
    wire, transport = joining()
    transport.write(HEAD)
    transport.close()
    await asyncio.sleep(0)
    assert wire.written == [HEAD]
    assert transport.is_closing()
