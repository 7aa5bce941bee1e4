"""Records that cross to trio together, and what there is of each until something goes wrong.

Nearly every event is decoded, handled and done. All that it needs then is a `RecordDelivery`:
receipt, origin and settlement in one small object. What handlers, retries and dead letters may want
to know beside is made when it is asked for; a record that is tried again gets a delivery
like any other event's, for which this one goes on standing in the mailbox.

What is done is told to the loop by a deque of the partition: nothing is sent for each record.
"""

from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from ...supervisors.delivery.event import FacedDelivery
from ...supervisors.delivery.intake import Inbound, Way
from ...supervisors.delivery.record import DeadLetter
from .ledger import Partition
from .message import KafkaReceived

if TYPE_CHECKING:
    from .bridge import KafkaBridge

__all__ = ["Chunk", "RecordDelivery"]


class Chunk:
    """Records of one partition, in order; none of them may have been run before.

    Made on the loop, then trio's. `make` makes a message of a record, `settled` tells the
    loop that there is room again.
    """

    __slots__ = (
        "bridge",
        "counted",
        "deliveries",
        "left",
        "life",
        "make",
        "partition",
        "records",
        "settled",
    )

    def __init__(
        self,
        partition: Partition,
        records: list[Any],
        make: Callable[[Any], KafkaReceived],
        settled: Callable[[], object],
    ) -> None:
        self.partition = partition
        self.records = records
        self.make = make
        self.settled = settled
        self.left = self.counted = len(records)
        self.deliveries: list[RecordDelivery] = []
        self.bridge: KafkaBridge
        self.life = 0

    def let_go(self) -> None:
        """It was not handed over: all of it is left to whoever comes next."""
        for record in self.records:
            self.partition.settle_not(record.offset)

    def less(self) -> None:
        """One record less is in flight."""
        self.left -= 1
        if self.left in (0, len(self.records) // 2):
            self.bridge.tell(self)

    def in_hand(self, offset: int) -> "RecordDelivery | None":
        """The delivery of a record, if it is not finished."""
        for delivery in self.deliveries:
            if delivery.record.offset == offset:
                return delivery if delivery.open or delivery.full is not None else None
        return None


class RecordDelivery(msgspec.Struct, gc=False, eq=False):
    """One event on its way to its one handler: receipt, origin and settlement."""

    chunk: Chunk
    record: Any
    partition: Partition
    way: Way
    open: bool = True
    received: KafkaReceived | None = None
    full: FacedDelivery | None = None

    # -- as a receipt

    def succeeded(self, value: Any) -> None:
        if self.full is not None:
            self.full.succeeded(value)
        elif self.open:
            self.open = False
            self.partition.done.append(self.record.offset)
            chunk = self.chunk
            chunk.left = left = chunk.left - 1
            if not left or left == len(chunk.records) // 2:
                chunk.bridge.tell(chunk)

    async def ready(self) -> None:
        """Nobody takes the items of an event's handler, so there is always room."""

    def item(self, value: Any, *, last: bool) -> None:
        if last:
            self.succeeded(None)

    def failed(self, error: Exception) -> None:
        self._whole().failed(error)

    def crashed(self, error: BaseException, path: str, incarnation: int) -> None:
        self._whole().crashed(error, path, incarnation)

    def released(self, why: str) -> None:
        self._whole().released(why)

    def ran(self, times: int) -> None:
        self._whole().ran(times)

    # -- as a settlement of what it has become

    def acknowledge(self) -> None:
        self._end()
        self.partition.done.append(self.record.offset)
        self.chunk.less()

    def give_back(self) -> bool:
        received = self._facts()
        self._end()
        received.token = self.partition
        self.chunk.bridge.take_over(self.chunk)
        return self.chunk.bridge.back(received, 0.0)

    def bury(self, letter: DeadLetter, then: Callable[[], object]) -> None:
        self.chunk.bridge.aside.bury(self._facts(), letter, then)

    def postpone(self, inbound: Inbound, delay: float) -> bool:
        aside = self.chunk.bridge.aside
        if not aside.postpone(self._facts(), inbound, delay, self.acknowledge):
            return False
        self.open = False
        return True

    def _end(self) -> None:
        # Structs are not the garbage collector's: no circle may be left.
        self.open, self.full = False, None

    # -- as an origin

    @property
    def transport(self) -> str:
        return self._facts().transport

    @property
    def source(self) -> str:
        return self._facts().source

    @property
    def pattern(self) -> str:
        return self._facts().pattern

    @property
    def message_id(self) -> str:
        return self._facts().message_id

    @property
    def correlation_id(self) -> str | None:
        return self._facts().correlation_id

    @property
    def headers(self) -> Mapping[str, str]:
        return self._facts().headers

    @property
    def attempt(self) -> int:
        return self._facts().attempt if self.full is None else self.full.attempt

    @property
    def redelivered(self) -> bool:
        return self._facts().redelivered if self.full is None else self.full.redelivered

    @property
    def order_key(self) -> Hashable | None:
        return self.chunk.bridge.order_key(self.record, self.partition)

    # -- what is made when it is wanted

    def _facts(self) -> KafkaReceived:
        if self.received is None:
            self.received = self.chunk.make(self.record)
            self.received.bridge = self.chunk.bridge
        self.received.facts()
        return self.received

    def _whole(self) -> FacedDelivery:
        if self.full is None:
            self.full = self.way.faced(self._facts(), self, self)
            self.full.unsettled = self.open
        return self.full
