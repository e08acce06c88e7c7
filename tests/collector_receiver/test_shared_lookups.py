"""What many ask for at the same time, the database is asked once."""

import asyncio

import pytest

from collector_receiver.shared_lookups import SharedLookups
from collector_receiver.translation import Destination

pytestmark = pytest.mark.anyio


class Database:
    """Knows one more project with each query, and answers the first one when it is told to."""

    def __init__(self):
        self.asked, self.queries = asyncio.Event(), []
        self.go_on = asyncio.Event()

    async def query(self, texts):
        self.queries.append(list(texts))
        answer = Destination(project_id=str(len(self.queries)))
        self.asked.set()
        await self.go_on.wait()
        return dict.fromkeys(texts, answer)


async def test_who_asks_while_the_same_is_being_looked_up_has_an_answer_that_is_newer_than_the_question():
    # Given a query under way
    database = Database()
    lookups = SharedLookups(database.query)
    first = asyncio.create_task(lookups.of(["shop"]))
    async with asyncio.timeout(20):
        await database.asked.wait()

        # When two others ask for the same
        others = [asyncio.create_task(lookups.of(["shop"])) for _ in range(2)]
        await asyncio.sleep(0)
        database.go_on.set()
        answers = await asyncio.gather(first, *others)

    # Then one more query answers both
    assert [answer["shop"].project_id for answer in answers] == ["1", "2", "2"]
    assert database.queries == [["shop"]] * 2
