// Package tracing_test runs the client with OpenTelemetry's instrumentation of gRPC. It is a module of its own, so that users
// of the client have nothing to do with OpenTelemetry unless they want to.
package tracing_test

import (
	"context"
	"strings"
	"testing"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"

	"github.com/palaver-chat/palaver/client/go/internal/scripted"
	"github.com/palaver-chat/palaver/client/go/palaver"
	palaverv1 "github.com/palaver-chat/palaver/client/go/palaver/v1"
)

type answer = scripted.Answer

func TestCallsAndTurnsThatArePostedAgainBelongToTheTraceOfTheCaller(t *testing.T) {
	server := scripted.Start(t)
	server.Script("CancelTurn", answer{&palaverv1.CancelTurnResponse{}})
	server.Script("PostUserQueryUnary",
		answer{scripted.Break},
		answer{&palaverv1.PostUserQueryUnaryResponse{Completed: scripted.TurnCompleted("Hi")}},
	)
	server.Script("PostUserQuery",
		answer{scripted.Started(), scripted.Delta("Hi"), scripted.Break},
		scripted.Turn("Hi ", "there"),
	)
	provider := trace.NewTracerProvider()
	instrumentation := otelgrpc.NewClientHandler(
		otelgrpc.WithTracerProvider(provider), otelgrpc.WithPropagators(propagation.TraceContext{}),
	)
	client, err := palaver.NewClient(server.Target, palaver.WithDialOptions(grpc.WithStatsHandler(instrumentation)))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()

	ctx, cancel := context.WithTimeout(t.Context(), scripted.Patience)
	defer cancel()
	ctx, caller := provider.Tracer("test").Start(ctx, "caller")
	if err := client.CancelTurn(ctx, &palaver.CancelTurnRequest{Id: "support", RequestId: "r1"}); err != nil {
		t.Error(err)
	}
	hello := &palaver.PostUserQueryRequest{Id: "support", UserMessage: "Hello!"}
	if _, err := client.PostUserQueryUnary(ctx, hello); err != nil {
		t.Error(err)
	}
	for _, err := range client.PostUserQuery(ctx, hello).Events() {
		if err != nil {
			t.Error(err)
		}
	}

	spans := map[string]bool{}
	calls := server.Calls()
	for _, call := range calls {
		// The version, the id of the trace, the id of the span of this call, and flags.
		parent := strings.Split(strings.Join(call.Metadata["traceparent"], ","), "-")
		if len(parent) != 4 || parent[1] != caller.SpanContext().TraceID().String() {
			t.Errorf("%s belongs to %q, not to the trace %s", call.Method, parent, caller.SpanContext().TraceID())
			continue
		}
		spans[parent[2]] = true
	}
	if len(calls) != 5 || len(spans) != 5 {
		t.Errorf("%d calls have %d spans", len(calls), len(spans))
	}
}
