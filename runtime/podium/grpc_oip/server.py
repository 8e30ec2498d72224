"""The gRPC server: what is asked, by whom, until when; and errors as status codes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import nullcontext
from importlib.metadata import version
from typing import Any, TypeAlias, TypeVar

import grpc
from google.protobuf.message import Message

from podium.grpc_oip import open_inference_pb2 as pb
from podium.grpc_oip.caller import Caller, answer_metadata, caller_of, fields_of
from podium.grpc_oip.connections import longest_age_s, server_options
from podium.grpc_oip.reading import Messages
from podium.grpc_oip.tensors import content_types, placed, read_inputs, written
from podium.grpc_oip.wire import MAX_HEAD_BYTES, InferMessage, read
from podium.http.inference.front import Door
from podium.http.inference.oip import read_files, release
from podium.http.pages.protocol_v2 import ANY_KIND, EXTENSIONS, indexed, platform
from podium.http.transport.access_log import Access
from podium.http.transport.errors import BodyTooLargeError, answer_for
from podium.http.transport.explaining import Account, account_of, answered
from podium.ipc.tensor import Tensor
from podium.serving.revisions.admission import Admission, Admitted
from podium.serving.revisions.live import LiveRevision
from podium.serving.revisions.residents import Residents
from podium.telemetry.logging import get_logger
from podium.telemetry.outgoing import TRACE

log = get_logger(__name__)

SERVICE = "inference.GRPCInferenceService"
PATH = f"/{SERVICE}/ModelInfer"
ROUTE = "grpc"
MAX_CONCURRENT_CALLS = 8192
STATUS_CLIENT_GONE = 499
CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    406: grpc.StatusCode.FAILED_PRECONDITION,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""From the one table of statuses; any other is INTERNAL."""
FULL = "memory_full"
"""The one code of 503 that is RESOURCE_EXHAUSTED."""

Request = TypeVar("Request", bound=Message)
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Call: TypeAlias = Callable[[Context], Awaitable[Message | bytes]]
"""Reads the request itself."""


class GrpcService:
    """Answers the calls. Used from one event loop."""

    def __init__(self, residents: Residents, door: Door, clock: Callable[[], float]) -> None:
        """`door`: that of HTTP, so that both share its keys, log, spans and room for what comes in."""
        self._residents = residents
        self._door = door
        self._admission = Admission(residents, clock)
        self._clock = clock
        # What half of the arena has no room for is refused by gRPC, once it has read how long the message is.
        self.longest_bytes = min(door.limits.body_bytes, door.receiving.limit_bytes) + MAX_HEAD_BYTES
        """Of a message."""
        self._messages = Messages(door.receiving, door.limits, self.longest_bytes, clock)

    def handler(self) -> "grpc.GenericRpcHandler[Any, Any]":
        """All methods of the service. To the server each takes a stream, so that it is ours before it is read: on the
        wire a stream of one message is that message."""
        calls: dict[str, Call] = {
            "ServerLive": self._read(pb.ServerLiveRequest, self._live),
            "ServerReady": self._read(pb.ServerReadyRequest, self._ready),
            "ServerMetadata": self._read(pb.ServerMetadataRequest, self._metadata),
            "ModelReady": self._read(pb.ModelReadyRequest, self._model_ready),
            "ModelMetadata": self._read(pb.ModelMetadataRequest, self._model_metadata),
            "ModelInfer": self._infer,
            "RepositoryIndex": self._read(pb.RepositoryIndexRequest, self._index),
        }
        methods = {
            name: grpc.stream_unary_rpc_method_handler(_answered(call), response_serializer=_serialized)
            for name, call in calls.items()
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
        for each in indexed(self._residents, only_ready=request.ready):
            response.models.add(name=each.name, version=each.version, state=each.state, reason=each.reason)
        return response

    def _read(self, kind: type[Request], answer: Callable[[Request, Context], Awaitable[Message]]) -> Call:
        """A call whose request protobuf reads whole."""

        async def call(context: Context) -> Message:
            async with self._messages.held(context) as raw:
                if len(raw) > MAX_HEAD_BYTES:
                    raise BodyTooLargeError(f"message of {len(raw)} bytes; expected at most {MAX_HEAD_BYTES}")
                return await answer(read(kind, raw), context)

        return call

    async def _infer(self, context: Context) -> bytes:
        """Counted, pinned, traced, logged and bounded in time like a request over HTTP; read once its key is known."""
        admitted = self._admission.enter()
        caller = caller_of(context.invocation_metadata())
        account = account_of(caller.trace, self._door.spans, None)
        if account is not None:
            caller.trace = caller.trace.sampled()
        TRACE.set(caller.trace)
        context.set_trailing_metadata(answer_metadata(caller, None))
        status = STATUS_CLIENT_GONE
        try:
            with account.kept() if account is not None else nullcontext():
                caller.key = self._check_key(context)
                # It is on the heap until it is answered, beside what bodies of HTTP hold.
                async with self._messages.held(context) as raw:
                    message = InferMessage.of(raw, pb.ModelInferRequest)
                    caller.take_id(message.head.id)
                    context.set_trailing_metadata(answer_metadata(caller, None))
                    wanted = message.head.model_version or None
                    revision = self._admission.pin(admitted, message.head.model_name, wanted, *ANY_KIND)
                    context.set_trailing_metadata(answer_metadata(caller, revision))
                    deadline = admitted.deadline(context.time_remaining())
                    response = await self._run(message, caller, revision, deadline)
            status = 200
            return response
        except Exception as error:
            status = answer_for(error).status
            raise
        finally:
            self._admission.leave(admitted, ROUTE, status, caller.trace.trace_id if account is not None else None)
            self._tell(caller, admitted, status, account)

    def _tell(self, caller: Caller, admitted: Admitted, status: int, account: Account | None) -> None:
        """The spans and the access log."""
        pinned = admitted.revision.name if admitted.revision is not None else None
        now = self._clock()
        if account is not None and self._door.spans is not None:
            told = answered(PATH, admitted.started, now, status, caller.request_id, pinned)
            self._door.spans.record(caller.trace, told, account.timeline)
        log_entry = Access(
            "POST", PATH, status, now - admitted.started, caller.request_id, caller.trace.trace_id, pinned, caller.key
        )
        self._door.access_log.write(log_entry)

    async def _run(self, message: InferMessage, caller: Caller, revision: LiveRevision, deadline: float) -> bytes:
        inputs, counts = read_inputs(message), revision.body_counts
        types = content_types(message)
        if types:
            revision.contract.check_names(inputs)
            await read_files(inputs, types, {}, revision.contract, self._door.codecs)
        try:
            revision.contract.check(inputs)
            wanted = [output.name for output in message.head.outputs]
            revision.contract.check_outputs(wanted)
            counts.in_bytes += sum(map(len, message.raw))
            # A model's batch is formed out of the message: its slots are written once, whoever else is in it.
            if revision.spec.graph is not None and message.raw and not types:
                inputs = placed(inputs, self._door.receiving.arena, counts)
            outputs = await revision.infer(inputs, caller.request_id, deadline)
        finally:
            release(inputs)
        try:
            response = pb.ModelInferResponse(
                model_name=revision.resource.name, model_version=revision.spec.version, id=message.head.id
            )
            return written(response, _chosen(outputs, wanted), counts)
        finally:
            release(outputs)

    def _check_key(self, context: Context) -> str | None:
        """Name of the key; None where none is needed. Raises UnauthorizedError."""
        return self._door.keys.name_of(fields_of(context.invocation_metadata())) if self._door.keys else None


class GrpcServer:
    """A bound port and its server."""

    def __init__(self, service: GrpcService, address: str, age_s: float) -> None:
        """Binds. `age_s`: after which connections are told to go away. Raises OSError where the port is taken. Needs a
        running event loop."""
        self.longest_age_s = longest_age_s(age_s)
        options = server_options(service.longest_bytes, age_s)
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
        """Takes no new calls, and lets those under way end for up to `grace_s`.

        A call that comes in on an open connection in this very moment is lost (gRPC answers CANCELLED): busy
        connections have to be gone by their age before, as a drain waits for it.
        """
        await self._server.stop(grace_s)


def _answered(call: Call) -> Callable[[AsyncIterator[bytes], Context], Awaitable[Message | bytes]]:
    """With errors as status codes. gRPC's own deserializers have none for a message that is none: it would log a
    traceback for each."""

    async def answer(_messages: AsyncIterator[bytes], context: Context) -> Message | bytes:
        try:
            return await call(context)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            found = answer_for(error)
            known = tuple(context.trailing_metadata() or ())
            context.set_trailing_metadata((("podium-code", found.code), *known))
            status = CODES.get(found.status, grpc.StatusCode.INTERNAL)
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED if found.code == FULL else status, found.message)
            raise AssertionError("abort raises") from error

    return answer


def _serialized(message: Message | bytes) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()


def _chosen(outputs: dict[str, Tensor], wanted: list[str]) -> dict[str, Tensor]:
    return outputs if not wanted else {name: outputs[name] for name in wanted if name in outputs}
