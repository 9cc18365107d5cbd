"""What scenarios read from the requests that were made."""

from collections import Counter

from stage import percentile


def failed(requests):
    return [each for each in requests if each.outcome != "ok"]


def outcomes(requests):
    """How many of the requests failed, and how: `3 of 900 (502: 2, closed: 1)`."""
    counts = Counter(each.outcome for each in failed(requests))
    kinds = ", ".join(f"{kind}: {count}" for kind, count in counts.most_common())
    return f"{len(failed(requests))} of {len(requests):,}" + (f" ({kinds})" if kinds else "")


def delivered_twice(requests, arrived):
    """The POSTs that reached backends more than once."""
    return [each for each in requests if each.method == "POST" and len(arrived.get(each.identity, [])) > 1]


def longest_gap(requests):
    """The longest time without any answer that was right, in milliseconds."""
    ends = sorted(each.due + each.took for each in requests if each.outcome == "ok")
    return max((later - earlier for earlier, later in zip(ends, ends[1:])), default=0) * 1000


def versions_of(requests):
    """The version of each key, as far as one answered."""
    return {each.key: each.version for each in requests if each.version}


def moved(before, requests):
    """The keys that were answered by another version than before."""
    return {each.key for each in requests if each.version and before.get(each.key, each.version) != each.version}


def milliseconds(requests, share):
    """A percentile of how long requests took."""
    return percentile([each.took * 1000 for each in requests], share)


# A request that its load sends later than this, in seconds, was held up by the machine: no proxy had it yet.
LATE = 0.005


def on_time(requests):
    """The requests that were sent when they were due. For the others everything stood still, and not the proxy alone."""
    return [each for each in requests if each.late <= LATE]


def p99(requests):
    """Of those that were sent on time, and how many were not."""
    kept = on_time(requests)
    late = f" ({len(requests) - len(kept)} sent late)" if len(kept) < len(requests) else ""
    return f"{milliseconds(kept, 0.99):.1f} ms{late}"


# What `no_slower` asks for: the noise of this load is some milliseconds.
NO_SLOWER = "+10 %, or 5 ms"


def no_slower(control, fault):
    """Whether the p99 with the fault is that without it, within the noise; None: the machine was too busy to tell."""
    kept = [on_time(requests) for requests in (control, fault)]
    if any(len(some) < len(requests) * 0.95 for some, requests in zip(kept, (control, fault))):
        return None
    before, after = (milliseconds(requests, 0.99) for requests in kept)
    return after <= max(before * 1.1, before + 5)


def from_to(control, fault):
    """A figure of the control run and of the one with the fault."""
    return f"{control} → {fault}"
