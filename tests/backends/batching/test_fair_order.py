"""Waiting requests are served by class, and in a class by what their callers have got."""

from __future__ import annotations

from collections import Counter

from backends.batching.fair_order import MAX_CALLERS, FairOrder
from backends.contract.sampling import SamplingParameters
from backends.contract.scheduling import Priority, Scheduling
from backends.engine import EngineRequest
from tests.support.engines import Recorder

NORMAL, HIGH, LOW = Priority.NORMAL, Priority.HIGH, Priority.LOW


def request(caller: str, priority: Priority = NORMAL, arrived: float = 0.0) -> EngineRequest:
    return EngineRequest(
        [1],
        SamplingParameters(),
        Recorder(),
        scheduling=Scheduling(priority, caller),
        arrived=arrived,
    )


def order_of(*requests: EngineRequest, ageing: float = 30.0) -> FairOrder:
    order = FairOrder(ageing)
    for each in requests:
        order.add(each)
    return order


def drained(order: FairOrder, now: float = 0.0, tokens: int = 0) -> list[EngineRequest]:
    """Take all requests out, each of which gets so many tokens."""
    taken = []
    while order:
        taken.append(order.pop(now))
        order.served(taken[-1].scheduling.caller, 0, tokens)
    return taken


def test_requests_of_one_caller_are_served_as_they_came() -> None:
    requests = [request("a", arrived=number) for number in range(5)]
    assert drained(order_of(*requests)) == requests


def test_callers_take_turns_however_many_requests_one_of_them_has() -> None:
    flood = [request("flood", arrived=number) for number in range(10)]
    others = [request("other", arrived=20 + number) for number in range(3)]
    callers = [r.scheduling.caller for r in drained(order_of(*flood, *others), tokens=10)]
    assert Counter(callers[:6]) == {"flood": 3, "other": 3}
    assert callers[6:] == ["flood"] * 7


def test_a_caller_of_long_answers_has_fewer_of_them() -> None:
    order = order_of(*(request(caller) for caller in "ab" for _ in range(40)))
    tokens = {"a": 30, "b": 10}
    served: Counter[str] = Counter()
    for _ in range(40):
        caller = order.pop(0.0).scheduling.caller
        order.served(caller, 0, tokens[caller])
        served[caller] += 1
    assert served["b"] == 3 * served["a"]


def test_tokens_of_answers_count_twice_those_of_prompts() -> None:
    order = order_of(request("prompts"), request("answers"))
    order.served("answers", 0, 10)
    order.served("prompts", 19, 0)
    assert order.first(0.0).scheduling.caller == "prompts"
    order.served("prompts", 2, 0)
    assert order.first(0.0).scheduling.caller == "answers"


def test_who_comes_back_has_no_credit_of_the_time_when_he_was_away() -> None:
    order = order_of(*(request("busy") for _ in range(6)))
    order.served("busy", 0, 1000)
    for number in range(6):
        order.add(request("back", arrived=1 + number))
    callers = [r.scheduling.caller for r in drained(order, tokens=10)]
    assert Counter(callers[:6]) == {"busy": 3, "back": 3}


def test_a_better_class_is_served_first() -> None:
    low, normal, high = request("a", LOW), request("b", NORMAL), request("c", HIGH)
    assert drained(order_of(low, normal, high)) == [high, normal, low]


def test_who_waits_becomes_of_a_better_class() -> None:
    low = request("patient", LOW, arrived=0.0)
    order = order_of(low, request("new", HIGH, arrived=59.0))
    assert order.first(59.0) is not low
    assert order.first(60.0) is low


def test_the_newest_of_the_worst_class_gives_its_place_to_a_better_one() -> None:
    low = [request("a", LOW, arrived=number) for number in range(2)]
    order = order_of(*low, request("b", NORMAL))
    assert order.displaced_by(request("c", NORMAL), 2.0) is low[1]
    assert order.displaced_by(request("c", LOW), 2.0) is low[1]
    assert order.displaced_by(request("a", LOW), 2.0) is None


def test_a_caller_with_many_requests_gives_a_place_to_one_with_few() -> None:
    flood = [request("flood") for _ in range(4)]
    order = order_of(*flood, request("few"))
    assert order.displaced_by(request("few"), 0.0) is flood[3]
    assert order.displaced_by(request("flood"), 0.0) is None
    assert order_of(*flood[:2], request("few")).displaced_by(request("few"), 0.0) is None


def test_a_request_that_has_begun_keeps_its_place() -> None:
    begun = request("flood")
    begun.started = True
    assert order_of(begun).displaced_by(request("few", HIGH), 0.0) is None


def test_those_ahead_are_better_classes_and_a_fair_part_of_others() -> None:
    order = order_of(
        *(request("flood") for _ in range(50)),
        *(request("vip", HIGH) for _ in range(3)),
        *(request("bulk", LOW) for _ in range(9)),
        request("me"),
    )
    assert order.count_ahead(request("me")) == 1 + 3 + 2
    assert order.count_ahead(request("new")) == 3 + 1 + 1


def test_counters_of_callers_who_are_gone_are_forgotten() -> None:
    order = FairOrder()
    for number in range(3 * MAX_CALLERS):
        order.add(request(str(number)))
        order.served(order.pop(0.0).scheduling.caller, 0, number)
    assert len(order._counters) <= MAX_CALLERS + 1
