"""The laws of the queue, for every order of events: nothing lost, doubled or reordered; limits kept; one answer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from batching import (
    Account,
    Batch,
    Closed,
    DeadlinePassed,
    Flush,
    FlushCut,
    Limits,
    Outcome,
    QueueFull,
    ShareFull,
    Statistics,
    Submission,
    TooLarge,
)
from batching.queue import Queue

LIMITS = Limits(
    batch_rows_max=5,
    batch_bytes_max=50,
    pending_rows_max=20,
    pending_bytes_max=200,
    small_rows_max=3,
    small_bytes_max=30,
    lanes_max=2,
)
LANES = ("a", "b", "c", "d")
SHARING = frozenset("abc")


def name_of(batch: Batch) -> str:
    """The model's name of the lane that a batch is from: "a", or "a!" for the troubled one beside it."""
    return f"{batch.lane}!" if batch.is_troubled else str(batch.lane)


def is_small(submissions: Sequence[Submission]) -> bool:
    """Whether they make up a small batch."""
    rows, size = sum(s.rows for s in submissions), sum(s.size for s in submissions)
    return rows <= LIMITS.small_rows_max and size <= LIMITS.small_bytes_max


class Told(Submission):
    """A submission that tells a function."""

    def __init__(
        self, payload: object, size: int, rows: int, deadline: float, told: Callable[[Outcome], object]
    ) -> None:
        super().__init__(payload, size, rows, deadline)
        self.told = told

    def answer(self, outcome: Outcome, _flush: Flush | None, /) -> None:
        """Tell it."""
        self.told(outcome)


class QueueLaws(RuleBasedStateMachine):
    """Anything that can happen to a queue, with a plain model beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = Queue(LIMITS, SHARING.__contains__)
        self.answers: Counter[int] = Counter()
        self.outcomes: dict[int, object] = {}
        self.waiting: dict[str, list[Submission]] = {name: [] for lane in LANES for name in (lane, lane + "!")}
        self.in_batches: list[Batch] = []
        self.numbers: dict[Submission, int] = {}
        self.turns_missed: Counter[str] = Counter()
        self.paused: dict[str, int] = {}
        self.failures: Counter[str] = Counter()
        self.on_trial: set[str] = set()
        self.soon_done: dict[str, bool] = {}
        self.clock = 0
        self.accounts = {"one": Account(8, 60, lambda: 0.0), "other": Account(12, 100, lambda: 0.0)}

    def _pending(self) -> list[Submission]:
        flying = [s for batch in self.in_batches for s in batch.submissions]
        return flying + [s for lane in self.waiting.values() for s in lane]

    @rule(
        lane=st.sampled_from(LANES),
        rows=st.integers(1, 3) | st.integers(1, 25),  # mostly such that several fit into a batch
        size=st.integers(0, 15) | st.integers(0, 250),
        deadline=st.integers(0, 100),
        producer=st.sampled_from(("one", "other", "")),
    )
    def put(self, lane: str, rows: int, size: int, deadline: int, producer: str) -> None:
        number = len(self.numbers)

        def answer(outcome: object) -> None:
            self.answers[number] += 1
            self.outcomes[number] = outcome

        submission = Told(b"x" * size, size, rows, deadline, answer)
        submission.account = account = self.accounts.get(producer)
        pending = self._pending()
        rows_max, bytes_max = (math.inf, math.inf) if account is None else (account.rows_max, account.bytes_max)
        try:
            self.queue.put(lane, submission)
        except TooLarge:
            assert rows > min(rows_max, LIMITS.pending_rows_max) or size > min(bytes_max, LIMITS.pending_bytes_max)
        except ShareFull:
            own = [s for s in pending if s.account is account]
            assert sum(s.rows for s in own) + rows > rows_max or sum(s.size for s in own) + size > bytes_max
        except QueueFull:
            assert (
                sum(s.rows for s in pending) + rows > LIMITS.pending_rows_max
                or sum(s.size for s in pending) + size > LIMITS.pending_bytes_max
            )
        else:
            self.numbers[submission] = number
            self.waiting[lane].append(submission)

    def _patient(self) -> set[str]:
        """Lanes that wait for a small batch that is being written, unless they were due before."""
        return {
            lane
            for lane, rest in self.waiting.items()
            if lane in self.soon_done and not self.failures[lane] and (self.soon_done[lane] or is_small(rest))
        }

    @precondition(lambda self: len(self.in_batches) < 6)
    @rule()
    def take(self) -> None:
        held = self.paused.keys() | self.on_trial
        ready = {lane for lane, rest in self.waiting.items() if rest and lane not in held}
        due = ready - self._patient()
        batches = self.queue.take()
        assert batches or not due
        lanes = [name_of(batch) for batch in batches]
        assert len({batch.lane for batch in batches}) == len(lanes) <= LIMITS.lanes_max
        if len(batches) > 1:
            assert all(lane in SHARING and not self.failures[lane] for lane in lanes)
            assert is_small([s for batch in batches for s in batch.submissions])
        for batch in batches:
            self._check_batch(batch, ready)
        for other, rest in self.waiting.items():
            if rest and other not in lanes and other in due and batches:
                self.turns_missed[other] += 1
                assert self.turns_missed[other] < 2 * len(self.waiting), "every lane has its turn"

    def _check_batch(self, batch: Batch, ready: set[str]) -> None:
        lane = name_of(batch)
        assert lane in ready, "no lane that pauses, no second batch of one that is on trial"
        assert batch.failures == self.failures[lane]
        if batch.failures:
            self.on_trial.add(lane)
        waiting = self.waiting[lane]
        taken = list(batch.submissions)
        assert taken
        assert waiting[: len(taken)] == taken, "the oldest first, in order"
        assert batch.rows == sum(s.rows for s in taken)
        assert batch.size == sum(s.size for s in taken)
        assert batch.deadline <= min(s.deadline for s in taken)
        fits = batch.rows <= LIMITS.batch_rows_max and batch.size <= LIMITS.batch_bytes_max
        assert fits or len(taken) == 1, "only what is too large alone may exceed a batch"
        del waiting[: len(taken)]
        if is_small(taken):
            self.soon_done[lane] = False
        self.in_batches.append(batch)
        self.turns_missed[lane] = 0

    def _land(self, batch: Batch) -> None:
        if batch.failures:
            self.on_trial.discard(name_of(batch))
        if is_small(batch.submissions):
            self.soon_done.pop(name_of(batch), None)

    def _failed(self, lane: str, batch: Batch, pause: int | None) -> None:
        self.failures[lane] = max(self.failures[lane], batch.failures) + 1
        self.paused.pop(lane, None)
        if pause is not None:
            self.paused[lane] = pause

    @precondition(lambda self: self.in_batches)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        batch = self.in_batches.pop(data.draw(st.integers(0, len(self.in_batches) - 1)))
        self._land(batch)
        if self.waiting[name_of(batch)]:
            self.failures[name_of(batch)] = 1 if batch.is_troubled else 0
        outcomes = [data.draw(st.sampled_from([None, ValueError(), ConnectionError()])) for _ in batch.submissions]
        again = {place: each for place, each in enumerate(outcomes) if isinstance(each, ConnectionError)}
        pause = self.clock + 5 if data.draw(st.booleans()) else None
        self.queue.settle(batch, outcomes, again, pause)
        for place, (submission, outcome) in enumerate(zip(batch.submissions, outcomes, strict=True)):
            if place not in again:
                assert self.outcomes[self.numbers[submission]] is outcome, "its own outcome and no other's"
        if again:
            trouble = f"{batch.lane}!"
            if batch.is_troubled or not self.waiting[trouble]:
                self._failed(trouble, batch, pause)
            self.waiting[trouble] += [batch.submissions[place] for place in again]

    @precondition(lambda self: self.in_batches)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        batch = self.in_batches.pop(data.draw(st.integers(0, len(self.in_batches) - 1)))
        self.clock += 1
        pause = self.clock + 5 if data.draw(st.booleans()) else None
        self.queue.give_back(batch, ConnectionError(), pause)
        lane = name_of(batch)
        self._land(batch)
        self._failed(lane, batch, pause)
        self.waiting[lane] = [*batch.submissions, *self.waiting[lane]]

    @precondition(lambda self: self.in_batches)
    @rule(data=st.data())
    def let_pass(self, data: st.DataObject) -> None:
        batch = data.draw(st.sampled_from(self.in_batches))
        self.queue.let_pass(batch)
        self._land(batch)

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
        self.soon_done = dict.fromkeys(self.soon_done, True)
        self.paused = {lane: until for lane, until in self.paused.items() if until > self.clock}

    @rule(now=st.integers(0, 100))
    def expire(self, now: int) -> None:
        late = [s for lane in self.waiting.values() for s in lane if s.deadline <= now]
        assert self.queue.expire(now) == len(late)
        for submission in late:
            outcome = self.outcomes[self.numbers[submission]]
            assert isinstance(outcome, DeadlinePassed)
            if submission in [s for name in self.waiting if name[-1] == "!" for s in self.waiting[name]]:
                assert isinstance(outcome.reason, ConnectionError), "told why"
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
        for account in self.accounts.values():
            own = [s for s in pending if s.account is account]
            assert (account.pending_rows, account.pending_bytes) == (sum(s.rows for s in own), sum(s.size for s in own))
        assert statistics.waiting_bytes == sum(s.size for s in waiting)
        assert all(0 <= due <= rest for due, rest in zip(self.queue.due(), self.queue.waiting(), strict=True))
        assert statistics.pending_submissions == len(pending)
        assert statistics.pending_rows == sum(s.rows for s in pending) <= LIMITS.pending_rows_max
        assert statistics.pending_bytes == sum(s.size for s in pending) <= LIMITS.pending_bytes_max

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
        assert self.queue.statistics() == Statistics(0, 0, 0, 0, 0, 0, 0)


TestQueueLaws = QueueLaws.TestCase
TestQueueLaws.settings = settings(max_examples=200, deadline=None)


def test_a_closed_queue_takes_nothing() -> None:
    """A stopping service must not accept what it will not write."""
    queue = Queue(LIMITS)
    queue.closed = True
    with pytest.raises(Closed):
        queue.put("a", Told(b"", 0, 1, 1, lambda _: None))
    assert queue.take() == []


def test_an_answer_that_raises_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """One lane's bug must not leave the other requests of the batch without an answer."""
    answered: list[object] = []

    def broken(_outcome: object) -> None:
        raise RuntimeError("a bug in whoever asked")

    queue = Queue(LIMITS)
    queue.put("a", Told(b"", 0, 1, 1, broken))
    queue.put("a", Told(b"", 0, 1, 1, answered.append))
    (batch,) = queue.take()
    queue.settle(batch, ["first", "second"])
    assert answered == ["second"]
    assert "a bug in whoever asked" in caplog.text


def test_a_sink_that_miscounts_leaves_nobody_waiting(caplog: pytest.LogCaptureFixture) -> None:
    """Each submission gets an answer even from a sink that forgot one: that nobody knows."""
    answered: list[object] = []
    queue = Queue(LIMITS)
    queue.put("a", Told(b"", 0, 1, 1, answered.append))
    queue.put("a", Told(b"", 0, 1, 1, answered.append))
    (batch,) = queue.take()
    queue.settle(batch, [None])
    assert [type(outcome) for outcome in answered] == [FlushCut, FlushCut]
    assert "1 outcomes for 2 submissions" in caplog.text


def test_a_lane_that_has_failed_is_written_alone() -> None:
    """Whatever is the matter with it must not be the matter of those that are written with it."""
    queue = Queue(LIMITS, SHARING.__contains__)
    for lane in "ab":
        queue.put(lane, Told(b"", 0, 1, 1, lambda _: None))
    both = queue.take()
    assert len(both) == 2
    for batch in both:
        queue.give_back(batch, OSError())
    assert [len(queue.take()) for _ in range(3)] == [1, 1, 0]


def test_nothing_waits_for_a_small_batch_that_is_let_pass() -> None:
    """A connection that was lost is not the lane's trouble: the other slot may go on with it."""
    queue = Queue(LIMITS)
    queue.put("a", Told(b"", 0, 1, 1, lambda _: None))
    (batch,) = queue.take()
    queue.put("a", Told(b"", 0, 1, 1, lambda _: None))
    assert not queue.take()
    queue.let_pass(batch)
    assert len(queue.take()) == 1


def test_an_answered_submission_holds_no_memory() -> None:
    """A client that keeps its request object must not keep its rows."""
    queue = Queue(LIMITS)
    submission = Told(b"x" * 10, 10, 1, 1, lambda _: None)
    queue.put("a", submission)
    (batch,) = queue.take()
    queue.settle(batch, [None])
    assert submission.payload is None


def test_an_answer_may_withdraw_others() -> None:
    """Answers run foreign code, which may change the queue while it is being gone through."""
    queue = Queue(LIMITS)
    second = Told(b"", 0, 1, 1, lambda _: pytest.fail("it was withdrawn"))
    first = Told(b"", 0, 1, 1, lambda _: queue.withdraw(second))
    queue.put("a", first)
    queue.put("a", second)
    queue.expire(now=5)
    assert queue.statistics().pending_submissions == 0
