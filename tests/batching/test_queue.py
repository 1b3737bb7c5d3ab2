"""The laws of the queue, for every order of events: nothing lost, doubled or reordered; limits kept; one answer."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from batching import Batch, Closed, DeadlinePassed, FlushCut, Limits, QueueFull, Submission, TooLarge
from batching.queue import Queue

LIMITS = Limits(batch_rows_max=5, batch_bytes_max=50, pending_rows_max=20, pending_bytes_max=200)
LANES = ("a", "b", "c")


class QueueLaws(RuleBasedStateMachine):
    """Anything that can happen to a queue, with a plain model beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = Queue(LIMITS)
        self.answers: Counter[int] = Counter()
        self.outcomes: dict[int, object] = {}
        self.waiting: dict[str, list[Submission]] = {lane: [] for lane in LANES}  # the model
        self.in_batches: list[Batch] = []
        self.numbers: dict[Submission, int] = {}
        self.turns_missed: Counter[str] = Counter()
        self.paused: dict[str, int] = {}
        self.failures: Counter[str] = Counter()
        self.on_trial: set[str] = set()
        self.clock = 0

    def _pending(self) -> list[Submission]:
        flying = [s for batch in self.in_batches for s in batch.submissions]
        return flying + [s for lane in self.waiting.values() for s in lane]

    @rule(
        lane=st.sampled_from(LANES),
        rows=st.integers(1, 3) | st.integers(1, 25),  # mostly such that several fit into a batch
        size=st.integers(0, 15) | st.integers(0, 250),
        deadline=st.integers(0, 100),
    )
    def put(self, lane: str, rows: int, size: int, deadline: int) -> None:
        number = len(self.numbers)

        def answer(outcome: object) -> None:
            self.answers[number] += 1
            self.outcomes[number] = outcome

        submission = Submission(b"x" * size, rows, deadline, answer)
        pending = self._pending()
        try:
            self.queue.put(lane, submission)
        except TooLarge:
            assert rows > LIMITS.pending_rows_max or size > LIMITS.pending_bytes_max
        except QueueFull:
            assert (
                sum(s.rows for s in pending) + rows > LIMITS.pending_rows_max
                or sum(len(s.payload) for s in pending) + size > LIMITS.pending_bytes_max
            )
        else:
            self.numbers[submission] = number
            self.waiting[lane].append(submission)

    @precondition(lambda self: len(self.in_batches) < 3)
    @rule()
    def take(self) -> None:
        batch = self.queue.take()
        held = self.paused.keys() | self.on_trial
        ready = {lane for lane, rest in self.waiting.items() if rest and lane not in held}
        if batch is None:
            assert not ready
            return
        assert batch.lane in ready, "no lane that pauses, no second batch of one that is on trial"
        assert batch.failures == self.failures[str(batch.lane)]
        if batch.failures:
            self.on_trial.add(str(batch.lane))
        lane = self.waiting[str(batch.lane)]
        taken = list(batch.submissions)
        assert taken
        assert lane[: len(taken)] == taken, "the oldest first, in order"
        assert batch.rows == sum(s.rows for s in taken)
        assert batch.size == sum(len(s.payload) for s in taken)
        fits = batch.rows <= LIMITS.batch_rows_max and batch.size <= LIMITS.batch_bytes_max
        assert fits or len(taken) == 1, "only what is too large alone may exceed a batch"
        del lane[: len(taken)]
        self.in_batches.append(batch)
        self.turns_missed[str(batch.lane)] = 0
        for other, rest in self.waiting.items():
            if rest and other != batch.lane and other not in held:
                self.turns_missed[other] += 1
                assert self.turns_missed[other] < 2 * len(LANES), "every lane has its turn"

    @precondition(lambda self: self.in_batches)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        batch = self.in_batches.pop(data.draw(st.integers(0, len(self.in_batches) - 1)))
        if batch.failures:
            self.on_trial.discard(str(batch.lane))
        self.failures[str(batch.lane)] = 0
        outcomes = [None if data.draw(st.booleans()) else ValueError() for _ in batch.submissions]
        self.queue.settle(batch, outcomes)
        for submission, outcome in zip(batch.submissions, outcomes, strict=True):
            assert self.outcomes[self.numbers[submission]] is outcome, "its own outcome and no other's"

    @precondition(lambda self: self.in_batches)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        batch = self.in_batches.pop(data.draw(st.integers(0, len(self.in_batches) - 1)))
        self.clock += 1
        pause = self.clock + 5 if data.draw(st.booleans()) else None
        self.queue.give_back(batch, ConnectionError(), pause)
        lane = str(batch.lane)
        if batch.failures:
            self.on_trial.discard(lane)
        self.failures[lane] = max(self.failures[lane], batch.failures) + 1
        self.paused.pop(lane, None)
        if pause is not None:
            self.paused[lane] = pause
        self.waiting[lane] = [*batch.submissions, *self.waiting[lane]]

    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        if not self.numbers:
            return
        submission = data.draw(st.sampled_from(list(self.numbers)))
        was_waiting = any(submission in lane for lane in self.waiting.values())
        assert self.queue.withdraw(submission) is was_waiting
        if was_waiting:
            for lane in self.waiting.values():
                if submission in lane:
                    lane.remove(submission)
            self.answers[self.numbers[submission]] += 1  # the withdrawal is its answer

    @rule(seconds=st.integers(0, 6))
    def resume(self, seconds: int) -> None:
        self.clock += seconds
        self.queue.resume(self.clock)
        self.paused = {lane: until for lane, until in self.paused.items() if until > self.clock}

    @rule(now=st.integers(0, 100))
    def expire(self, now: int) -> None:
        late = [s for lane in self.waiting.values() for s in lane if s.deadline <= now]
        assert self.queue.expire(now) == len(late)
        for submission in late:
            assert isinstance(self.outcomes[self.numbers[submission]], DeadlinePassed)
        for lane in self.waiting.values():
            lane[:] = [s for s in lane if s.deadline > now]

    @invariant()
    def an_empty_lane_is_forgotten_with_its_pause(self) -> None:
        self.paused = {lane: until for lane, until in self.paused.items() if self.waiting[lane]}
        for lane, rest in self.waiting.items():
            if not rest:
                self.failures[lane] = 0

    @invariant()
    def counts_are_those_of_the_model(self) -> None:
        statistics = self.queue.statistics()
        waiting = [s for lane in self.waiting.values() for s in lane]
        pending = self._pending()
        assert statistics.lanes == sum(1 for lane in self.waiting.values() if lane)
        assert statistics.waiting_submissions == len(waiting)
        assert statistics.waiting_rows == sum(s.rows for s in waiting)
        assert statistics.waiting_bytes == sum(len(s.payload) for s in waiting)
        assert statistics.pending_submissions == len(pending)
        assert statistics.pending_rows == sum(s.rows for s in pending) <= LIMITS.pending_rows_max
        assert statistics.pending_bytes == sum(len(s.payload) for s in pending) <= LIMITS.pending_bytes_max

    @invariant()
    def each_is_answered_once_and_not_before_its_end(self) -> None:
        pending = set(self._pending())
        for submission, number in self.numbers.items():
            assert self.answers[number] == (0 if submission in pending else 1)

    def teardown(self) -> None:
        """Whatever happened, finishing what is left answers everything."""
        self.queue.refuse_waiting(Closed)
        for batch in self.in_batches:
            self.queue.settle(batch, [None] * len(batch.submissions))
        assert set(self.answers.values()) <= {1}
        assert len(self.answers) == len(self.numbers)
        assert self.queue.statistics().pending_bytes == 0


TestQueueLaws = QueueLaws.TestCase
TestQueueLaws.settings = settings(max_examples=200, deadline=None)


def test_a_closed_queue_takes_nothing() -> None:
    """A stopping service must not accept what it will not write."""
    queue = Queue(LIMITS)
    queue.closed = True
    with pytest.raises(Closed):
        queue.put("a", Submission(b"", 1, 1, lambda _: None))
    assert queue.take() is None


def test_an_answer_that_raises_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """One lane's bug must not leave the other requests of the batch without an answer."""
    answered: list[object] = []

    def broken(_outcome: object) -> None:
        raise RuntimeError("a bug in whoever asked")

    queue = Queue(LIMITS)
    queue.put("a", Submission(b"", 1, 1, broken))
    queue.put("a", Submission(b"", 1, 1, answered.append))
    batch = queue.take()
    assert batch is not None
    queue.settle(batch, ["first", "second"])
    assert answered == ["second"]
    assert "a bug in whoever asked" in caplog.text


def test_a_sink_that_miscounts_leaves_nobody_waiting(caplog: pytest.LogCaptureFixture) -> None:
    """Each submission gets an answer even from a sink that forgot one: that nobody knows."""
    answered: list[object] = []
    queue = Queue(LIMITS)
    queue.put("a", Submission(b"", 1, 1, answered.append))
    queue.put("a", Submission(b"", 1, 1, answered.append))
    batch = queue.take()
    assert batch is not None
    queue.settle(batch, [None])
    assert [type(outcome) for outcome in answered] == [FlushCut, FlushCut]
    assert "1 outcomes for 2 submissions" in caplog.text


def test_an_answered_submission_holds_no_memory() -> None:
    """A client that keeps its request object must not keep its rows."""
    queue = Queue(LIMITS)
    submission = Submission(b"x" * 10, 1, 1, lambda _: None)
    queue.put("a", submission)
    batch = queue.take()
    assert batch is not None
    queue.settle(batch, [None])
    assert submission.payload == b""


def test_an_answer_may_withdraw_others() -> None:
    """Answers run foreign code, which may change the queue while it is being gone through."""
    queue = Queue(LIMITS)
    second = Submission(b"", 1, 1, lambda _: pytest.fail("it was withdrawn"))
    first = Submission(b"", 1, 1, lambda _: queue.withdraw(second))
    queue.put("a", first)
    queue.put("a", second)
    queue.expire(now=5)
    assert queue.statistics().pending_submissions == 0
