package palaver

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"iter"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	palaverv1 "github.com/palaver-chat/palaver/client/go/palaver/v1"
)

// A Client calls a Palaver server. It is safe for concurrent use, so one client is enough for a whole program. All calls
// share one connection, which is opened by the first call and reopened when it breaks.
type Client struct {
	connection       *grpc.ClientConn
	stub             palaverv1.AssistantServiceClient
	timeout          time.Duration
	reconnectTimeout time.Duration
	closing          sync.Once
	closed           context.Context
	markClosed       context.CancelFunc
}

// NewClient returns a client of the server at target: "host:port", or any other target that gRPC supports
// ("dns:///host:port", "unix:path"). If target is empty, [DefaultTarget] is used. NewClient does not connect: if the server can't be reached,
// the first call fails.
//
// It returns an error if the target or an option is invalid, or if the token would leave this machine without TLS.
func NewClient(target string, options ...Option) (*Client, error) {
	settings, err := newSettings(options)
	if err != nil {
		return nil, err
	}
	connection, err := connect(target, settings)
	if err != nil {
		return nil, err
	}
	closed, markClosed := context.WithCancel(context.Background())
	return &Client{
		connection:       connection,
		stub:             palaverv1.NewAssistantServiceClient(connection),
		timeout:          settings.timeout,
		reconnectTimeout: settings.reconnectTimeout,
		closed:           closed,
		markClosed:       markClosed,
	}, nil
}

// Close closes the connection. Calls that are still running fail with CANCELLED. Further calls of Close do nothing.
func (c *Client) Close() error {
	var err error
	c.closing.Do(func() {
		c.markClosed()
		err = c.connection.Close()
	})
	return err
}

// CreateAssistant creates an assistant. Its conversation starts with only its instructions. Created in the response is
// false if the assistant existed and was kept: see [IfExistsKeep].
//
// By default, an assistant that exists is an error: ALREADY_EXISTS with [ReasonAssistantExists].
func (c *Client) CreateAssistant(ctx context.Context, request *CreateAssistantRequest) (*CreateAssistantResponse, error) {
	response, err := call(ctx, c, c.stub.CreateAssistant, request)
	if err == nil && response.GetAssistant() == nil {
		return nil, malformed("`assistant` is missing")
	}
	return response, err
}

// GetAssistant returns the current state of an assistant. The call is retried while the server is unavailable.
//
// If there is no such assistant, the error is NOT_FOUND with [ReasonAssistantNotFound].
func (c *Client) GetAssistant(ctx context.Context, request *GetAssistantRequest) (*Assistant, error) {
	response, err := call(ctx, c, c.stub.GetAssistant, request)
	if err != nil {
		return nil, err
	}
	if response.GetAssistant() == nil {
		return nil, malformed("`assistant` is missing")
	}
	return response.GetAssistant(), nil
}

// ListMessages yields the messages of an assistant, from all pages. Each page of PageSize messages is fetched when the
// iteration reaches it, and retried while the server is unavailable. The iteration starts at PageToken if it is set. An
// error, which is an [*Error], ends the iteration.
//
// If there is no such assistant, the error is NOT_FOUND with [ReasonAssistantNotFound].
func (c *Client) ListMessages(ctx context.Context, request *ListMessagesRequest) iter.Seq2[*Message, error] {
	request = proto.CloneOf(request)
	return func(yield func(*Message, error) bool) {
		page := proto.CloneOf(request) // each iteration starts with the first page
		for {
			response, err := call(ctx, c, c.stub.ListMessages, page)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, message := range response.GetMessages() {
				if !yield(message, nil) {
					return
				}
			}
			if page.PageToken = response.GetNextPageToken(); page.PageToken == "" {
				return
			}
		}
	}
}

// DeleteAssistant deletes an assistant and all of its messages. This can't be undone.
//
// If there is no such assistant, the error is NOT_FOUND with [ReasonAssistantNotFound].
func (c *Client) DeleteAssistant(ctx context.Context, request *DeleteAssistantRequest) error {
	_, err := call(ctx, c, c.stub.DeleteAssistant, request)
	return err
}

// PostUserQuery returns the reply to a user message. The query is posted when the iteration over the reply starts: see
// [Reply]. A request without a RequestId gets a random one.
//
// If ctx ends or the iteration is stopped early, OnDisconnect decides whether the turn continues. By default it is
// canceled and not stored.
func (c *Client) PostUserQuery(ctx context.Context, request *PostUserQueryRequest) *Reply {
	return &Reply{client: c, ctx: ctx, request: withRequestID(request)}
}

// PostUserQueryUnary posts a user message and returns the last event of the reply once the turn is stored. The turn is
// posted again when the connection breaks, like that of a [Reply].
func (c *Client) PostUserQueryUnary(ctx context.Context, request *PostUserQueryRequest) (*TurnCompleted, error) {
	request = withRequestID(request)
	ctx, end := c.begin(ctx)
	defer end()
	var response *PostUserQueryUnaryResponse
	err := c.postUntilDone(ctx, func(*retryBudget) (mayRepeat bool, err error) {
		response, err = c.stub.PostUserQueryUnary(ctx, request)
		return true, err
	})
	if err != nil {
		return nil, err
	}
	if response.GetCompleted() == nil {
		return nil, malformed("`completed` is missing")
	}
	return response.GetCompleted(), nil
}

// CancelTurn cancels a running turn of any caller, regardless of its OnDisconnect. The turn is not stored.
//
// If no such turn is running, the error is NOT_FOUND with [ReasonTurnNotFound].
func (c *Client) CancelTurn(ctx context.Context, request *CancelTurnRequest) error {
	_, err := call(ctx, c, c.stub.CancelTurn, request)
	return err
}

// Stub returns the generated client on the same connection, for calls that this client does not offer. They send the
// token, but don't use the timeout of [WithTimeout], and they return gRPC's errors.
func (c *Client) Stub() palaverv1.AssistantServiceClient {
	return c.stub
}

// call makes a unary call.
func call[Request, Response any](
	ctx context.Context, c *Client,
	method func(context.Context, *Request, ...grpc.CallOption) (*Response, error), request *Request,
) (*Response, error) {
	ctx, end := c.begin(ctx)
	defer end()
	response, err := method(ctx, request)
	if err != nil {
		return nil, c.failure(ctx, err)
	}
	return response, nil
}

// begin returns the context of a call. Its deadline is that of the caller or, if there is none, the timeout of the
// client.
func (c *Client) begin(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx = withTokenFailure(ctx)
	if _, given := ctx.Deadline(); c.timeout > 0 && !given {
		return context.WithTimeout(ctx, c.timeout)
	}
	return context.WithCancel(ctx)
}

// postUntilDone posts a turn, and posts it again after each break, until it succeeds or fails for good. It returns nil or
// an *Error. After an error, post also returns whether the turn may be posted again.
func (c *Client) postUntilDone(ctx context.Context, post func(*retryBudget) (mayRepeat bool, err error)) error {
	deadline, _ := ctx.Deadline()
	budget := newRetryBudget(deadline, c.reconnectTimeout)
	for {
		mayRepeat, err := post(budget)
		if err == nil {
			return nil
		}
		failure := c.failure(ctx, err)
		delay, again := budget.delayAfter(failure)
		if !again || !mayRepeat {
			return failure
		}
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return c.failure(ctx, err)
		case <-c.closed.Done():
			timer.Stop()
			return c.failure(ctx, err)
		}
	}
}

// failure converts an error of gRPC. If the context has ended or the client is closed, the result says so, regardless of
// the status that gRPC reports for the interrupted call. If the token function failed, the result has its error.
func (c *Client) failure(ctx context.Context, err error) *Error {
	failure := fromRPC(err)
	switch {
	case failure.Reason != "" && !failure.isBreak(): // the server answered first
	case ctx.Err() != nil:
		if ended := status.FromContextError(ctx.Err()); ended.Code() != failure.Status || failure.isBreak() {
			failure = fromStatus(ended)
		}
		failure.cause = ctx.Err()
	case c.closed.Err() != nil:
		failure = &Error{Status: codes.Canceled, Message: "the client is closed"}
	default:
		if failed := tokenError(ctx); failed != nil {
			failure = failed
		}
	}
	return failure
}

// withRequestID returns a copy of the request with a request ID, which makes the turn safe to post again.
func withRequestID(request *PostUserQueryRequest) *PostUserQueryRequest {
	request = proto.CloneOf(request) // the caller may change the request before the next post
	if request.GetRequestId() == "" {
		var id [16]byte
		_, _ = rand.Read(id[:]) // never fails
		request.RequestId = hex.EncodeToString(id[:])
	}
	return request
}
