"""A real receiver of OTLP, over HTTP and gRPC, that keeps what it was sent as decoded protobufs."""

import gzip
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from google.protobuf.message import Message
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

PATIENCE_S = 30.0
TRACES, METRICS = "/v1/traces", "/v1/metrics"
KINDS = {
    TRACES: (trace_service_pb2.ExportTraceServiceRequest, trace_service_pb2.ExportTraceServiceResponse),
    METRICS: (metrics_service_pb2.ExportMetricsServiceRequest, metrics_service_pb2.ExportMetricsServiceResponse),
}


class OtlpReceiver:
    """What has arrived, in order. Requests of both protocols look the same once they are here."""

    def __init__(self) -> None:
        self.traces: list[trace_service_pb2.ExportTraceServiceRequest] = []
        self.metrics: list[metrics_service_pb2.ExportMetricsServiceRequest] = []
        self.headers: list[dict[str, str]] = []
        """Of each request, names in small letters."""
        self.status = 200
        """What HTTP requests are answered with; what is refused is not kept."""
        self.http_url = ""
        """For OTEL_EXPORTER_OTLP_ENDPOINT, as grpc_url."""
        self.grpc_url = ""
        self._changed = threading.Condition()

    def keep(self, path: str, request: Message, headers: dict[str, str]) -> None:
        with self._changed:
            (self.traces if path == TRACES else self.metrics).append(request)  # type: ignore[arg-type]
            self.headers.append(headers)
            self._changed.notify_all()

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
        """Until something that has arrived makes it true."""
        with self._changed:
            assert self._changed.wait_for(condition, timeout_s), "not received in time"

    def spans(self) -> list[Span]:
        """All spans, in the order of their arrival."""
        return [
            span
            for request in list(self.traces)
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def wait_for_spans(self, count: int, timeout_s: float = PATIENCE_S) -> list[Span]:
        self.wait_for(lambda: len(self.spans()) >= count, timeout_s)
        return self.spans()

    def latest_metrics(self) -> dict[str, Metric]:
        """The metrics of the newest export, by name."""
        return {metric.name: metric for metric in _metrics(self.metrics[-1])} if self.metrics else {}

    def clear(self) -> None:
        with self._changed:
            self.traces.clear()
            self.metrics.clear()
            self.headers.clear()


def attributes(pairs: Iterator[KeyValue] | list[KeyValue]) -> dict[str, object]:
    """Attributes of a span, a point or a resource as plain values."""
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value):
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind) if kind else None


def _metrics(request: metrics_service_pb2.ExportMetricsServiceRequest) -> Iterator[Metric]:
    for resource in request.resource_metrics:
        for scope in resource.scope_metrics:
            yield from scope.metrics


@contextmanager
def otlp_receiver() -> Generator[OtlpReceiver, None, None]:
    """A receiver that listens on two free ports of this machine."""
    receiver = OtlpReceiver()
    web = ThreadingHTTPServer(("127.0.0.1", 0), _handler(receiver))
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    rpc = grpc.server(ThreadPoolExecutor(4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(_Service(receiver, TRACES), rpc)
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(_Service(receiver, METRICS), rpc)
    receiver.http_url = f"http://127.0.0.1:{web.server_port}"
    receiver.grpc_url = f"http://127.0.0.1:{rpc.add_insecure_port('127.0.0.1:0')}"
    rpc.start()
    try:
        yield receiver
    finally:
        rpc.stop(grace=None).wait()
        web.shutdown()
        web.server_close()
        thread.join()


class _Service:
    """Both of gRPC's services: they differ in what they take alone."""

    def __init__(self, receiver: OtlpReceiver, path: str) -> None:
        self._receiver = receiver
        self._path = path

    def Export(self, request: Message, context: grpc.ServicerContext) -> Message:  # noqa: N802
        self._receiver.keep(
            self._path, request, {name: str(value) for name, value in context.invocation_metadata()}
        )
        return KINDS[self._path][1]()


def _handler(receiver: OtlpReceiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            status, answer = receiver.status, b""
            if self.path not in KINDS:
                status = 404
            elif status == 200:
                request, response = KINDS[self.path]
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.keep(self.path, request.FromString(body), headers)
                answer = response().SerializeToString()
            self.send_response(status)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_arguments: object) -> None:
            pass

    return Handler
