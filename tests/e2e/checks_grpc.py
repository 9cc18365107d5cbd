"""gRPC with Google's implementation on both sides: without TLS, and with TLS on both hops."""

import contextlib
import threading

import grpc
from harness import check, expect, expect_equal


@contextlib.contextmanager
def channels(world):
    """The same service through both ways: h2c to h2c, and TLS to https."""
    authority = grpc.ssl_channel_credentials((world.folder / "ca.pem").read_bytes())
    common = [("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0)]
    plain = grpc.insecure_channel(f"127.0.0.1:{world.plain}", common + [("grpc.default_authority", "grpc.test")])
    named = common + [("grpc.ssl_target_name_override", "grpcs.test"), ("grpc.default_authority", "grpcs.test")]
    secure = grpc.secure_channel(f"127.0.0.1:{world.tls}", authority, named)
    with plain, secure:
        yield [plain, secure]


def numbers(count):
    return [str(number).encode() for number in range(count)]


@check
def grpc_unary_calls_pass_with_trailing_metadata(world):
    with channels(world) as both:
        for channel in both:
            for size in (0, 10, 1_000_000):
                message = b"m" * size
                answer, call = channel.unary_unary("/test.Echo/Unary").with_call(message, timeout=15)
                expect(answer == message, f"{len(answer)} bytes")
                expect(("x-length", str(size)) in [tuple(pair) for pair in call.trailing_metadata()], call)


@check
def grpc_client_streams_pass(world):
    with channels(world) as both:
        for channel in both:
            answer = channel.stream_unary("/test.Echo/Collect")(iter(numbers(500)), timeout=15)
            expect_equal(answer, b"".join(numbers(500)))


@check
def grpc_server_streams_pass(world):
    with channels(world) as both:
        for channel in both:
            expect_equal(list(channel.unary_stream("/test.Echo/Count")(b"500", timeout=15)), numbers(500))


@check
def grpc_streams_in_both_directions_alternate(world):
    with channels(world) as both:
        for channel in both:
            answers, answered = [], threading.Semaphore(1)

            def questions():
                # Each question waits for the answer to the one before: nothing may be held back on the way.
                for number in range(50):
                    answered.acquire()
                    yield str(number).encode()

            for answer in channel.stream_stream("/test.Echo/Chat")(questions(), timeout=15):
                answers.append(answer)
                answered.release()
            expect_equal(answers, [b"re: " + each for each in numbers(50)])


@check
def grpc_error_status_passes(world):
    with channels(world) as both:
        for channel in both:
            try:
                channel.unary_unary("/test.Echo/Refuse")(b"", timeout=15)
                expect(False, "the call succeeded")
            except grpc.RpcError as error:
                expect_equal((error.code(), error.details()), (grpc.StatusCode.NOT_FOUND, "no such thing: 100 %"))


@check
def a_grpc_deadline_ends_the_call_at_both_ends(world):
    with channels(world) as both:
        for channel in both:
            world.grpc.cancelled.clear()
            try:
                channel.unary_unary("/test.Echo/Wait")(b"", timeout=0.5)
                expect(False, "the call succeeded")
            except grpc.RpcError as error:
                expect_equal(error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
            expect(world.grpc.cancelled.wait(10), "the server never noticed")


@check
def a_cancelled_grpc_call_is_cancelled_upstream(world):
    with channels(world) as both:
        for channel in both:
            world.grpc.waiting.clear()
            world.grpc.cancelled.clear()
            call = channel.unary_unary("/test.Echo/Wait").future(b"")
            expect(world.grpc.waiting.wait(10), "the call never reached the server")
            call.cancel()
            expect(world.grpc.cancelled.wait(10), "the server never noticed")
