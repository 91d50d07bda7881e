"""Starting Ray on this host; the cluster itself: tests/integration/rlaif/kill9."""

from __future__ import annotations

import pytest

from rlaif.distributed.fleet import FleetError, connected

ray = pytest.importorskip("ray")
SLOW = "The current node timed out during startup."


class SlowStarts:
    """In place of ray.init: a host on which a node starts too slowly so many times."""

    def __init__(self, slow: int) -> None:
        self._slow = slow
        self.asked = 0

    def __call__(self, **_: object) -> None:
        self.asked += 1
        if self.asked <= self._slow:
            raise Exception(SLOW)  # what Ray raises


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch):
    def install(slow: int) -> SlowStarts:
        start = SlowStarts(slow)
        monkeypatch.setattr(ray, "init", start)
        monkeypatch.setattr(ray, "shutdown", lambda: None)
        return start

    return install


def test_a_node_of_this_host_that_starts_too_slowly_is_started_again(starts) -> None:
    start = starts(slow=2)
    with connected("local") as found:
        assert found is ray
    assert start.asked == 3


def test_a_host_on_which_ray_never_starts_is_a_clear_error(starts) -> None:
    start = starts(slow=9)
    with pytest.raises(FleetError, match=r"no Ray cluster at local: .* close what else runs here"):
        connected("local").__enter__()
    assert start.asked == 3


def test_a_cluster_elsewhere_is_asked_once(starts) -> None:
    start = starts(slow=9)
    with pytest.raises(FleetError, match=r"no Ray cluster at auto: .*`ray start --head`"):
        connected("auto").__enter__()
    assert start.asked == 1
