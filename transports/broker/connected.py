"""The life of a bridge to a broker: connected, waiting for its broker, draining, ended.

Keeps a session alive for as long as the bridge lives. A lost broker is a state, not a
crash: the next session is tried again and again, and lifecycle notices say so. Only a broker that
refuses the very first connection fails the start, for waiting will not mend that.

Not owned here: what is received (`bridge.py`), and how one broker is spoken to (`Session`).
"""

from abc import ABC, abstractmethod

import trio

from ...actors.asyncio_queues import Inlet, Outlet
from ...actors.asyncio_thread import AsyncioThread, asyncio_thread
from ...actors.errors import ConnectionLost
from ...actors.incarnation import Incarnation
from ...actors.lifecycle import StateChanged
from ...actors.scopes import background
from ...supervisors.child import Wiring
from ...supervisors.strategy import Backoff
from ..complaints import Complaints
from .channels import Channels
from .message import Outgoing, Received
from .options import BrokerOptions
from .session import BrokerAway, BrokerRefused, Session

__all__ = ["BridgeSession", "Connected"]

BridgeSession = Session[Received, Outgoing]


class Connected(ABC):
    """What has a session with a broker, one after the other; a `Runnable` for its supervisor."""

    def __init__(self, where: str, options: BrokerOptions, wiring: Wiring) -> None:
        self.peer = where
        self.name = where.partition(":")[0]
        self.complaints = Complaints(f"understudy.transports.{self.name}", wiring.path)
        self.options = options
        self.registry = wiring.services.registry
        self.thread: AsyncioThread
        self._services = wiring.services
        self._session: BridgeSession | None = None
        self._session_number = 0
        self._connected = self._announced = self._stopping = False
        self._connecting = trio.CancelScope()
        self._connects = trio.Event()
        self._followed = -1
        self._incarnation: Incarnation
        self._inlet: Inlet[Received]
        self._outlet: Outlet[Outgoing]

    @abstractmethod
    def session(
        self, number: int, inlet: Inlet[Received], outlet: Outlet[Outgoing]
    ) -> BridgeSession:
        """A session that has not connected yet; it numbers what it receives with `number`."""

    def channels(self) -> Channels:
        """What to subscribe to, where a subscription for each pattern is needed."""
        return Channels(())

    @property
    def backlog(self) -> int:
        """How many received messages may wait for the bridge."""
        return self.options.in_flight

    @abstractmethod
    def _begin_life(self, incarnation: Incarnation) -> None:
        """An incarnation begins: forget what was counted before."""

    @abstractmethod
    async def _pump(self) -> None:
        """Take from the inlet, for ever."""

    @abstractmethod
    async def _finish_all(self) -> None:
        """Wait until everything received is finished; nothing more will come."""

    def open(self) -> None:  # noqa: B027  # not abstract: there is nothing to do
        """Nothing of a bridge outlives its incarnation but what the broker has."""

    def close(self, why: str) -> None:  # noqa: B027
        """Nothing of a bridge outlives its incarnation but what the broker has."""

    async def run(self, incarnation: Incarnation) -> None:
        """Serve until the stop is asked for, then finish and settle what was received.

        Raises `ConnectionLost` if the broker refuses the first connection for a reason that
        waiting will not mend.
        """
        self._incarnation = incarnation
        self._begin_life(incarnation)
        self._announced = self._stopping = False
        self.thread = asyncio_thread("brokers")
        self._inlet = Inlet(self.thread, self.backlog)
        self._outlet = Outlet(self.thread)
        try:
            async with background() as nursery:
                nursery.start_soon(self._pump)
                nursery.start_soon(self._stop_when_asked)
                nursery.start_soon(self._follow_patterns)
                await self._stay_connected()
        finally:
            self._inlet.close()
            self.complaints.close()

    async def _stay_connected(self) -> None:
        backoff = Backoff(minimum=0.1, maximum=max(0.1, self.options.reconnect_max))
        failures = 0
        while not self._stopping:
            began = trio.current_time()
            try:
                await self._live()
                return
            except BrokerAway as error:
                if isinstance(error, BrokerRefused) and not self._announced:
                    raise ConnectionLost(self.peer, error.why, sent=False) from error
                failures = 1 if trio.current_time() - began > backoff.quiet else failures + 1
                delay = max(error.pause, backoff.delay(failures + 1, self._services.random))
                self._state("waiting", f"{error.why}; tried again in {delay:.1f} s")
            if self._stopping:
                return
            with trio.CancelScope() as self._connecting:
                await trio.sleep(delay)

    async def _live(self) -> None:
        """One session, from its beginning to its end."""
        self._session_number += 1
        self._followed = self.registry.version
        self._session = self.session(self._session_number, self._inlet, self._outlet)
        try:
            with trio.CancelScope() as self._connecting:
                await self.thread.call(self._session.run, self._begun)
        finally:
            self._session = None
            self._connected = False
            if self._connects.is_set():  # never replaced while somebody waits for it
                self._connects = trio.Event()

    def _begun(self) -> None:
        self._connected = True
        self._connects.set()
        if not self._announced:
            self._announced = True
            self._incarnation.announce(self, self.peer)
        else:
            self._state("connected", "")

    async def _stop_when_asked(self) -> None:
        await self._incarnation.stop_asked()
        self._stopping = True
        session = self._session
        if session is None or not self._connected:
            # What is in hand cannot be answered nor settled: its broker delivers it again.
            self._connecting.cancel()
            return
        self._state("draining", "")
        await self.thread.call(session.stop_receiving)
        await self._finish_all()
        self._outlet.close()

    async def _follow_patterns(self) -> None:
        """Actors come and go: subscribe to what they handle."""
        while not self._stopping:
            session = self._session
            if self._followed == self.registry.version:
                await self.registry.change()
            elif session is None or not self._connected:
                await self._connects.wait()
            else:
                self._followed = self.registry.version
                await self.thread.call(session.follow_patterns, self.channels())

    def _state(self, state: str, why: str) -> None:
        life = self._incarnation
        notice = StateChanged(path=life.path, incarnation=life.number, state=state, why=why)
        self._services.bus.publish(notice)
