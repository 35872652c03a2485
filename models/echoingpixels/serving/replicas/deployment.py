"""Replicas on Ray Serve: started on this machine or on a cluster, chosen by clip, restarted when they die."""

from __future__ import annotations

import logging
import os
import re
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from ...errors import DataError, EpError, ModelError
from ...model import EchoingPixels
from ..chatting import AskRequest, ViewRequest
from ..refusals import Refused, not_ready
from ..settings import Settings
from .question import Events
from .replica import RemoteEvent, Replica, ReplicaFigures, settings_of_replica

ADDRESS = "RAY_ADDRESS"  # the environment variable with the address of a cluster
ROUTER = "ray.serve.experimental.consistent_hash_router:ConsistentHashRouter"
NAME = "Replica"
NAMESPACE = "serve"  # of Ray Serve's own actors
BATCHES = 2  # that a replica has at once: one runs, one gathers
HEALTH_S = 2.0  # between two checks of a replica: one that died is replaced after that
STOP_S = 5.0  # for a replica to stop
FIGURES_S = 5.0  # for the replicas to send their figures
ERROR = re.compile(r"echoingpixels\.errors\.\w+: (.+)")
LOGS = "See Ray's logs, in /tmp/ray/session_latest/logs on this machine."


def lost() -> Refused:
    """The refusal of a question whose replica died."""
    message = "The replica that was to answer has stopped. Send the request again."
    return Refused(503, message, code="replica_lost", headers={"Retry-After": "1"})


class RayDeployment:
    """`replicas` replicas of a model, each with a GPU where Ray has some and the model's device is not the CPU.

    Ray is started on this machine and ends with the server, unless RAY_ADDRESS names a cluster.
    """

    def __init__(
        self, settings: Settings, load: Callable[[], EchoingPixels], replicas: int, device: str = "cpu", **own: Any
    ) -> None:
        self._ongoing = BATCHES * settings.bounds.rows
        self._arguments = (settings_of_replica(settings, self._ongoing), load, os.getcwd())
        self._replicas, self._device, self._cores = replicas, device, 1
        self._store = own.pop("object_store_memory", 2 * settings.bounds.bodies)
        self._name = f"ep-{uuid.uuid4().hex[:8]}"
        self._handle: Any = None
        self._began_serve = False

    def connect(self) -> None:
        """Connect to Ray. DataError if it cannot be reached.

        Ray takes over SIGTERM, so that a server sets its own handler after that.
        """
        import ray

        own: dict[str, Any] = {}
        if not os.environ.get(ADDRESS):
            self._cores = max(1, (os.cpu_count() or 1) // self._replicas)
            own = {
                "address": "local",
                "num_cpus": self._cores * self._replicas,
                "object_store_memory": self._store,
                "include_dashboard": False,
            }
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **own)
        except Exception as error:  # Ray has no class for a start that takes too long
            reason = " ".join(str(error).split()).rstrip(".")
            raise DataError(f"Ray could not be reached: {reason}.", f"Check {ADDRESS}, or unset it.") from error

    def start(self) -> None:
        """Deploy the replicas. ModelError if Ray has too few GPUs."""
        import ray
        from ray import serve
        from ray.serve.config import RequestRouterConfig

        gpus = int(ray.cluster_resources().get("GPU", 0)) if self._device != "cpu" else 0
        if 0 < gpus < self._replicas:
            hint = f"Give --replicas {gpus}, or --device cpu."
            raise ModelError(f"{self._replicas} replicas need a GPU each, and Ray has {gpus}.", hint)
        self._began_serve = not _serve_runs()
        logging.getLogger("ray.serve").setLevel(logging.CRITICAL)
        quiet = {"enable_access_log": False, "log_level": "ERROR"}
        serve.start(proxy_location="Disabled", logging_config=quiet)
        deployment = serve.deployment(
            Replica,
            name=NAME,
            num_replicas=self._replicas,
            max_ongoing_requests=self._ongoing,
            max_constructor_retry_count=self._replicas,
            health_check_period_s=HEALTH_S,
            graceful_shutdown_wait_loop_s=0.1,
            graceful_shutdown_timeout_s=STOP_S,
            ray_actor_options={"num_cpus": self._cores, "num_gpus": 1 if gpus else 0},
            request_router_config=RequestRouterConfig(
                request_router_class=ROUTER, request_router_kwargs={"num_fallback_replicas": self._replicas - 1}
            ),
            logging_config=quiet,
        )
        target = serve.RunTarget(deployment.bind(*self._arguments), name=self._name, route_prefix=None)
        (handle,) = serve.run_many([target], wait_for_applications_running=False)
        self._handle = handle

    def running(self) -> int:
        """Number of replicas that answer. ModelError where none could load the model."""
        from ray import serve
        from ray.exceptions import RayError
        from ray.serve.schema import ApplicationStatus

        try:
            about = serve.status().applications[self._name]
        except (RayError, KeyError):  # the controller is restarted
            return 0
        if about.status == ApplicationStatus.DEPLOY_FAILED:
            raise _failure(" ".join([about.message, *(one.message for one in about.deployments.values())]))
        return sum(one.replica_states.get("RUNNING", 0) for one in about.deployments.values())

    def ask(self, asked: AskRequest | ViewRequest, key: str | None) -> Events:
        """Send a question to a replica: the same one for equal keys while it runs and has few questions."""
        handle = self._handle.options(method_name="ask", stream=True, **({} if key is None else {"session_id": key}))
        return _Events(handle.remote(asked))

    def figures(self) -> Sequence[ReplicaFigures]:
        """The figures of the replicas that send them in time."""
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException

        try:
            found = self._handle.broadcast("figures").results(timeout_s=FIGURES_S, return_exceptions=True)
        except (RayError, RayServeException, TimeoutError):
            return ()
        return [one for one in found if isinstance(one, ReplicaFigures)]

    def stop(self) -> None:
        """Stop the replicas, Ray Serve where this server started it, and a Ray of its own."""
        import ray
        from ray import serve
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException

        if not ray.is_initialized():
            return
        with suppress(RayError, RayServeException, RuntimeError, TimeoutError):  # Ray itself is gone
            if self._began_serve:
                serve.shutdown()
            elif self._handle is not None:
                serve.delete(self._name)
        ray.shutdown()


class _Events:
    """The events of a question, from Ray's stream of them."""

    def __init__(self, response: Any) -> None:
        self._response = response

    async def next(self) -> RemoteEvent:
        """The next event. Refused where the replica is lost."""
        from ray.exceptions import RayError, RayTaskError
        from ray.serve.exceptions import DeploymentUnavailableError, RayServeException

        try:
            one: RemoteEvent = await anext(self._response)
        except RayTaskError as error:
            raise Refused(500, f"The replica failed: {type(error.cause).__name__}.", code="internal_error") from error
        except DeploymentUnavailableError:
            raise not_ready(False) from None
        except (RayError, RayServeException, StopAsyncIteration):
            raise lost() from None
        return one

    def cancel(self) -> None:
        """End the question, answered or not."""
        self._response.cancel()


def _serve_runs() -> bool:
    """Whether Ray Serve runs on the cluster already."""
    from ray.util import list_named_actors

    return any(actor["namespace"] == NAMESPACE for actor in list_named_actors(all_namespaces=True))


def _failure(text: str) -> EpError:
    """The error of replicas that cannot be started, from Ray's message with its traceback."""
    found = ERROR.findall(text)
    return ModelError(found[-1].strip() if found else "The replicas could not be started.", LOGS)
