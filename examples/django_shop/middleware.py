"""The Server-Timing header."""

from collections.abc import Awaitable, Callable

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponse
from django.utils.decorators import sync_and_async_middleware

from shop import timing

Response = HttpResponse | Awaitable[HttpResponse]


@sync_and_async_middleware
def server_timing(get_response: Callable[[HttpRequest], Response]) -> Callable[[HttpRequest], Response]:
    """Send the timings of each request."""

    def add_header(response: HttpResponse, timings: timing.Timings) -> HttpResponse:
        response.headers["Server-Timing"] = timings.header()
        return response

    async def answer_async(request: HttpRequest) -> HttpResponse:
        timings = timing.begin()
        return add_header(await get_response(request), timings)

    def answer(request: HttpRequest) -> HttpResponse:
        timings = timing.begin()
        return add_header(get_response(request), timings)

    return answer_async if iscoroutinefunction(get_response) else answer
