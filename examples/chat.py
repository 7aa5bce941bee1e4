"""A chat room for browsers: what one page says, all pages see.

    python -m examples.chat
    python -m http.server 8000 --bind 127.0.0.1 --directory examples

then open http://127.0.0.1:8000/chat.html, twice.
"""

from attrs import frozen

from understudy import Actor, MessageContext, Supervisor, child, message_pattern, run, serve
from understudy.transports.websocket.clients import Clients


@frozen
class Say:
    text: str


@frozen
class Said:
    who: str
    text: str


class Room(Actor):
    """Passes on what it hears."""

    def __init__(self, clients: Clients) -> None:
        self.clients = clients

    @message_pattern("say")
    def say(self, message: Say, context: MessageContext) -> None:
        self.clients.emit("said", Said(context.source, message.text))


clients = Clients()
PAGES = "http://127.0.0.1:8000,http://localhost:8000"
tree = Supervisor(
    "chat",
    [
        child(Room, clients),
        serve("ws://127.0.0.1:3001", dialect="gateway", clients=clients, origins=PAGES),
    ],
)

if __name__ == "__main__":
    run(tree)
