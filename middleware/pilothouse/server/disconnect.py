"""Whether the client of a request went away before it had its whole answer."""

from __future__ import annotations

from starlette.types import Message, Receive, Send

from pilothouse.telemetry.metrics import RequestAction


class Disconnect:
    """Stands between the server and the app, and remembers that the client has gone.

    vLLM goes on to answer a client that has gone, with `null` or an error that it met while it
    stopped: nobody reads that, and it says nothing about the request.
    """

    def __init__(self, receive: Receive, send: Send) -> None:
        self.status = 0
        """Of the answer, once it has begun."""
        self._gone = False
        self._receive = receive
        self._send = send
        self._answered = False

    async def receive(self) -> Message:
        """The server's next message; after a whole answer it tells of a disconnect, too."""
        message = await self._receive()
        if message["type"] == "http.disconnect" and not self._answered:
            self._gone = True
        return message

    async def send(self, message: Message) -> None:
        """Pass an answer on while there is a client."""
        if self._gone:
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self._answered = True
        await self._send(message)

    def outcome_or(self, outcome: RequestAction) -> RequestAction:
        """What became of the request: nothing of it counts where the client did not wait."""
        return "abort" if self._gone else outcome
