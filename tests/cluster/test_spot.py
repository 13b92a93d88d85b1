"""Spot nodes are asked for first, on-demand ones while AWS refuses them: by Ray's own launcher and scheduler."""

import time
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.aws.node_provider import BOTO_CREATE_MAX_RETRIES, AWSNodeProvider
from ray.autoscaler._private.event_summarizer import EventSummarizer
from ray.autoscaler._private.node_launcher import BaseNodeLauncher
from ray.autoscaler._private.node_provider_availability_tracker import NodeProviderAvailabilityTracker
from ray.autoscaler._private.resource_demand_scheduler import ResourceDemandScheduler
from ray.autoscaler._private.util import ConcurrentCounter, prepare_config
from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import CloudResourceMonitor
from ray.core.generated.instance_manager_pb2 import Instance, InstanceUpdateEvent

from raycluster.cluster import spot

stub = pytest.importorskip("botocore.stub")
FILE = Path(__file__).parents[2] / "cluster.yaml"
WORK = {"GPU": 1.0, "CPU": 4.0}
REFUSED = "InsufficientInstanceCapacity"


class Scaler:
    """The parts of Ray's autoscaler, version 1, between what waits and what AWS is asked for."""

    def __init__(self):
        self.config = prepare_config(yaml.safe_load(FILE.read_text()))
        self.provider = AWSNodeProvider({"region": "us-east-1", "cache_stopped_nodes": False}, "raycluster")
        self.clock = time.time()
        self.tracker = NodeProviderAvailabilityTracker(timer=lambda: self.clock)
        self.types = self.config["available_node_types"]
        for node_type in self.types.values():
            node_type["node_config"]["SubnetIds"] = ["subnet-1"]

    def chosen(self, *work):
        scheduler = ResourceDemandScheduler(self.provider, self.types, 24, "head", 1.0)
        found, left = scheduler.get_nodes_to_launch([], {"head": 1}, list(work), {}, [], {}, [], self.tracker.summary())
        assert not left
        return {name: count for name, count in found.items() if name != "cpu"}

    def refuse(self, node_type):
        """Launch a node, while AWS has none."""
        pending = ConcurrentCounter()
        pending.inc(node_type, 1)
        launcher = BaseNodeLauncher(self.provider, pending, EventSummarizer(), self.tracker, node_types=self.types)
        with stub.Stubber(self.provider.ec2_fail_fast.meta.client) as aws:
            for _ in range(BOTO_CREATE_MAX_RETRIES):
                aws.add_client_error("run_instances", service_error_code=REFUSED, service_message="none to be had")
            assert not launcher.launch_node(self.config, 1, node_type)
            aws.assert_no_pending_responses()


@pytest.fixture
def scaler(monkeypatch):
    pytest.importorskip("boto3")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    monkeypatch.setenv("RAY_AUTOSCALER_UTILIZATION_SCORER", f"{spot.__name__}.{spot.score.__name__}")
    return Scaler()


def test_spot_is_asked_for_first(scaler):
    assert scaler.chosen(WORK) == {"gpu_spot": 1}


def test_where_spot_is_refused_a_node_on_demand_is_asked_for(scaler):
    scaler.refuse("gpu_spot")
    assert scaler.tracker.summary().node_availabilities["gpu_spot"].unavailable_node_information.category == REFUSED
    assert scaler.chosen(WORK, WORK) == {"gpu_on_demand": 2}


def test_spot_is_tried_again_after_half_an_hour(scaler):
    scaler.refuse("gpu_spot")
    scaler.clock += 31 * 60
    assert scaler.chosen(WORK) == {"gpu_spot": 1}


def test_where_both_are_refused_it_is_asked_for_nevertheless(scaler):
    scaler.refuse("gpu_spot")
    scaler.refuse("gpu_on_demand")
    assert scaler.chosen(WORK) == {"gpu_spot": 1}


def test_more_than_spot_may_have_goes_to_on_demand(scaler):
    most = scaler.types["gpu_spot"]["max_workers"]
    chosen = scaler.chosen(*[WORK | {"CPU": 16.0}] * (most + 2))
    assert chosen == {"gpu_spot": 5, "gpu_on_demand": 2}  # the first five of eight: Ray grows by steps


def test_work_without_a_gpu_takes_none_even_where_no_other_node_is_to_be_had(scaler):
    scaler.refuse("cpu")
    assert scaler.chosen(*[{"CPU": 16.0}] * 3) == {}


def test_rays_own_choice_asks_for_the_refused_type_again(scaler, monkeypatch):
    """Why `spot.score` is there: delete it when this fails."""
    monkeypatch.delenv("RAY_AUTOSCALER_UTILIZATION_SCORER")
    first = scaler.chosen(WORK)
    scaler.refuse(*first)
    assert scaler.chosen(WORK) == first


def test_version_2_takes_no_notice_of_a_refused_launch():
    """Why the files keep to version 1: look at version 2 again when this fails."""
    monitor = CloudResourceMonitor()
    refused = InstanceUpdateEvent(instance_type="gpu_spot", new_instance_status=Instance.ALLOCATION_FAILED)
    monitor.notify([refused])
    assert monitor.get_recoverable_resource_availabilities() == {}
    assert monitor.get_resource_availabilities() == {}
