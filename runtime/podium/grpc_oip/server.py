"""The gRPC server: what is asked, by whom, until when; and errors as status codes."""

import asyncio
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any, TypeAlias, TypeVar

import grpc
from google.protobuf.message import Message

from podium.grpc_oip import open_inference_pb2 as pb
from podium.grpc_oip.tensors import read_inputs, write_outputs
from podium.http.api_keys import ApiKeys
from podium.http.errors import answer_for
from podium.http.protocol_v2 import ANY_KIND, EXTENSIONS, STATES, platform
from podium.ipc.tensor import Tensor
from podium.serving.admission import Admission
from podium.serving.live import LiveRevision
from podium.serving.residents import Residents
from podium.telemetry.logging import get_logger
from podium_crds.keys import HEADER_REQUEST_ID, HEADER_REVISION

log = get_logger(__name__)

SERVICE = "inference.GRPCInferenceService"
ROUTE = "grpc_infer"
MAX_CONCURRENT_CALLS = 8192
MESSAGE_OVERHEAD_BYTES = 1 << 20
"""Beyond the tensors: names, shapes, framing."""
STATUS_CLIENT_GONE = 499
CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    406: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""From the one table of statuses; any other is INTERNAL."""

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class GrpcService:
    """Answers the calls. Used from one event loop."""

    def __init__(self, residents: Residents, keys: ApiKeys | None, clock: Callable[[], float]) -> None:
        self._residents = residents
        self._keys = keys
        self._admission = Admission(residents, clock)
        self._clock = clock

    def handler(self) -> "grpc.GenericRpcHandler[Any, Any]":
        """All methods of the service."""
        calls: dict[str, tuple[type[Message], Callable[[Any, Context], Awaitable[Message]]]] = {
            "ServerLive": (pb.ServerLiveRequest, self._live),
            "ServerReady": (pb.ServerReadyRequest, self._ready),
            "ServerMetadata": (pb.ServerMetadataRequest, self._metadata),
            "ModelReady": (pb.ModelReadyRequest, self._model_ready),
            "ModelMetadata": (pb.ModelMetadataRequest, self._model_metadata),
            "ModelInfer": (pb.ModelInferRequest, self._infer),
            "RepositoryIndex": (pb.RepositoryIndexRequest, self._index),
        }
        methods = {
            name: grpc.unary_unary_rpc_method_handler(
                _answered(call), request_deserializer=request.FromString, response_serializer=_serialized
            )
            for name, (request, call) in calls.items()
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    async def _live(self, _request: pb.ServerLiveRequest, _context: Context) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def _ready(self, _request: pb.ServerReadyRequest, _context: Context) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._residents.is_ready())

    async def _metadata(self, _request: pb.ServerMetadataRequest, _context: Context) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="podium", version=version("podium"), extensions=EXTENSIONS[1:])

    async def _model_ready(self, request: pb.ModelReadyRequest, _context: Context) -> pb.ModelReadyResponse:
        route = self._residents.router.table.find(request.name, *ANY_KIND)
        ready = route.of_version(request.version) is not None if request.version else bool(route.targets)
        return pb.ModelReadyResponse(ready=ready)

    async def _model_metadata(self, request: pb.ModelMetadataRequest, _context: Context) -> pb.ModelMetadataResponse:
        route = self._residents.router.table.find(request.name, *ANY_KIND)
        revision = route.of_version(request.version) if request.version else route.primary
        response = pb.ModelMetadataResponse(name=request.name, platform=platform(revision))
        response.versions.extend(dict.fromkeys(loaded.spec.version for loaded in route.loaded))
        if revision is not None:
            for side, target in (("inputs", response.inputs), ("outputs", response.outputs)):
                for name, spec in getattr(revision.contract, side).items():
                    target.add(name=name, datatype=spec.dtype.value if spec else "", shape=spec.shape if spec else ())
        return response

    async def _index(self, request: pb.RepositoryIndexRequest, context: Context) -> pb.RepositoryIndexResponse:
        self._check_key(context)
        response = pb.RepositoryIndexResponse()
        for resident in self._residents:
            for hosted in resident.hosted:
                state = STATES.get(hosted.state, "LOADING")
                if state == "READY" or not request.ready:
                    reason = hosted.failure.message if hosted.failure else ""
                    response.models.add(
                        name=resident.resource.name, version=hosted.spec.version, state=state, reason=reason
                    )
        return response

    async def _infer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        """Counted, pinned and bounded in time like a request over HTTP."""
        admitted = self._admission.enter()
        status = STATUS_CLIENT_GONE
        try:
            self._check_key(context)
            name, wanted = request.model_name, request.model_version or None
            revision = self._admission.pin(admitted, name, wanted, *ANY_KIND)
            response = await self._run(request, context, revision, admitted.deadline(context.time_remaining()))
            status = 200
            return response
        except Exception as error:
            status = answer_for(error).status
            raise
        finally:
            self._admission.leave(admitted, ROUTE, status)

    async def _run(
        self, request: pb.ModelInferRequest, context: Context, revision: LiveRevision, deadline: float
    ) -> pb.ModelInferResponse:
        inputs = read_inputs(request)
        revision.contract.check(inputs)
        wanted = [output.name for output in request.outputs]
        revision.contract.check_outputs(wanted)
        context.set_trailing_metadata(((HEADER_REVISION.lower(), revision.name),))
        outputs = await revision.infer(inputs, request.id[:128], deadline)
        try:
            response = pb.ModelInferResponse(
                model_name=revision.resource.name, model_version=revision.spec.version, id=request.id
            )
            write_outputs(response, _chosen(outputs, wanted))
            return response
        finally:
            for tensor in outputs.values():
                tensor.release()

    def _check_key(self, context: Context) -> None:
        if self._keys is not None:
            given = context.invocation_metadata() or ()
            self._keys.name_of({key.encode(): value.encode() for key, value in given if isinstance(value, str)})


class GrpcServer:
    """A bound port and its server."""

    def __init__(self, service: GrpcService, address: str, max_message_bytes: int) -> None:
        """Binds. Raises OSError where the port is taken. Needs a running event loop."""
        limit = max_message_bytes + MESSAGE_OVERHEAD_BYTES
        options = [
            ("grpc.max_receive_message_length", limit),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ]
        self._server = grpc.aio.server(options=options, maximum_concurrent_rpcs=MAX_CONCURRENT_CALLS)
        self._server.add_generic_rpc_handlers((service.handler(),))
        try:
            self.port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"{address} cannot be bound: {error}") from error

    async def open(self) -> None:
        """Answers from now on."""
        await self._server.start()
        log.info("grpc_port_open", port=self.port)

    async def close(self, grace_s: float) -> None:
        """Takes no new calls, and lets those under way end for up to `grace_s`."""
        await self._server.stop(grace_s)


def _answered(
    call: Callable[[Request, Context], Awaitable[Response]],
) -> Callable[[Request, Context], Awaitable[Response]]:
    async def answer(request: Request, context: Context) -> Response:
        try:
            return await call(request, context)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            found = answer_for(error)
            context.set_trailing_metadata((("podium-code", found.code), (HEADER_REQUEST_ID.lower(), _id_of(request))))
            await context.abort(CODES.get(found.status, grpc.StatusCode.INTERNAL), found.message)
            raise AssertionError("abort raises") from error

    return answer


def _id_of(request: Message) -> str:
    given = getattr(request, "id", "")
    return given[:128] if given.isascii() and given.isprintable() else ""


def _serialized(message: Message) -> bytes:
    return message.SerializeToString()


def _chosen(outputs: dict[str, Tensor], wanted: list[str]) -> dict[str, Tensor]:
    return outputs if not wanted else {name: outputs[name] for name in wanted if name in outputs}
