"""A cell's rules one by one: what an actor does unless told otherwise, and its corners."""

from understudy.actors.cell import CellOptions


def test_an_actor_that_says_nothing_waits_holds_and_is_never_passive() -> None:
    options = CellOptions()

    assert (options.mailbox, options.overflow, options.concurrency) == (1024, "wait", 1)
    assert (options.crash_grace, options.max_age) == (1.0, 3600.0)
    assert (options.sick_after, options.on_sick, options.blame) == (10, "hold", "message")
    assert (options.key, options.passivate_after, options.retry) == (None, None, None)
