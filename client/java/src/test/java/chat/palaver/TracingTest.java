package chat.palaver;

import static chat.palaver.support.Replies.completedUnary;
import static chat.palaver.support.Replies.shown;
import static chat.palaver.support.Replies.started;
import static chat.palaver.support.Replies.text;
import static chat.palaver.support.Replies.turn;
import static org.junit.jupiter.api.Assertions.assertEquals;

import chat.palaver.support.ScriptedServer;
import chat.palaver.support.Step;
import chat.palaver.v1.CancelTurnRequest;
import chat.palaver.v1.CancelTurnResponse;
import chat.palaver.v1.PostUserQueryRequest;
import io.grpc.Status;
import io.opentelemetry.api.trace.Span;
import io.opentelemetry.api.trace.propagation.W3CTraceContextPropagator;
import io.opentelemetry.context.Context;
import io.opentelemetry.context.propagation.ContextPropagators;
import io.opentelemetry.instrumentation.grpc.v1_6.GrpcTelemetry;
import io.opentelemetry.sdk.OpenTelemetrySdk;
import io.opentelemetry.sdk.trace.SdkTracerProvider;
import java.util.Collections;
import java.util.List;
import java.util.function.Supplier;
import org.junit.jupiter.api.AutoClose;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** Tests the client with OpenTelemetry's instrumentation of gRPC. */
class TracingTest {
    private static final PostUserQueryRequest QUERY = PostUserQueryRequest.newBuilder()
            .setId("support")
            .setUserMessage("Hello!")
            .build();
    private static final Step BREAK = Step.fail(Status.UNAVAILABLE.withDescription("Socket closed"));

    @AutoClose
    private final ScriptedServer server = new ScriptedServer();

    @AutoClose
    private final OpenTelemetrySdk telemetry = OpenTelemetrySdk.builder()
            .setTracerProvider(SdkTracerProvider.builder().build())
            .setPropagators(ContextPropagators.create(W3CTraceContextPropagator.getInstance()))
            .build();

    @AutoClose
    private final PalaverClient client = PalaverClient.builder()
            .target(server.target())
            .token("s3cret")
            .configureChannel(
                    channel -> channel.intercept(GrpcTelemetry.create(telemetry).createClientInterceptor()))
            .build();

    @BeforeEach
    void script() {
        server.script("CancelTurn", List.of(Step.send(CancelTurnResponse.getDefaultInstance())));
        server.script("PostUserQueryUnary", List.of(BREAK), List.of(completedUnary()));
        server.script("PostUserQuery", List.of(started(), text("Hi"), BREAK), turn("Hi there"));
    }

    private Span span(String name) {
        return telemetry.getTracer("test").spanBuilder(name).startSpan();
    }

    private static <T> T within(Span span, Supplier<T> body) {
        return Context.root().with(span).wrapSupplier(body).get();
    }

    /** Returns a part of the {@code traceparent} of each call: 1 is the id of the trace, 2 that of the span. */
    private List<String> parents(int part) {
        return server.calls().stream()
                .map(call -> call.header("traceparent").split("-", -1)[part])
                .toList();
    }

    private static void assertTrace(Span span, int count, List<String> traces) {
        assertEquals(Collections.nCopies(count, span.getSpanContext().getTraceId()), traces);
    }

    @Test
    void callsAndTurnsThatArePostedAgainBelongToTheTraceOfTheCaller() {
        Span caller = span("caller");
        within(caller, () -> {
            client.cancelTurn(CancelTurnRequest.getDefaultInstance());
            client.postUserQueryUnary(QUERY);
            try (Reply reply = client.postUserQuery(QUERY)) {
                return shown(reply);
            }
        });
        assertTrace(caller, 5, parents(1));
        assertEquals(5, parents(2).stream().distinct().count());
    }

    @Test
    void aReplyBelongsToTheTraceInWhichItWasCreated() {
        Span caller = span("caller");
        List<String> events = within(caller, () -> {
            try (Reply reply = client.postUserQuery(QUERY)) {
                return within(span("reader"), () -> shown(reply));
            }
        });
        assertEquals(List.of("started", "Hi", " there", "completed"), events);
        assertTrace(caller, 2, parents(1));
    }

    @Test
    void aFutureBelongsToTheTraceInWhichItWasCreated() {
        Span caller = span("caller");
        var future = within(caller, () -> client.async().postUserQueryUnary(QUERY));
        within(span("waiting"), future::join);
        assertTrace(caller, 2, parents(1));
    }
}
