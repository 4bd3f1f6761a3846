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

// A Client talks to a Palaver server. One is enough for a whole program: all its methods may be called by several
// goroutines at once. All calls share one connection, which is opened with the first one and opened anew when it breaks.
type Client struct {
	connection       *grpc.ClientConn
	stub             palaverv1.AssistantServiceClient
	timeout          time.Duration
	reconnectTimeout time.Duration
	closing          sync.Once
	closed           context.Context
	markClosed       context.CancelFunc
}

// NewClient returns a client of the server at target: "host:port" or any other name that gRPC knows
// ("dns:///host:port", "unix:path"). Empty: [DefaultTarget]. It does not wait for the connection: whether the server can
// be reached is told by the first call.
//
// It fails when the target or an option is wrong, and when a token without TLS would leave this machine.
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

// Close closes the connection and ends all calls that still run, with CANCELLED. Closing again does nothing.
func (c *Client) Close() error {
	var err error
	c.closing.Do(func() {
		c.markClosed()
		err = c.connection.Close()
	})
	return err
}

// CreateAssistant creates an assistant, whose conversation then consists of its instructions alone. The response tells
// if it is new: with [IfExistsKeep] it may be one that exists already.
//
// Without IfExists, an assistant that exists is ALREADY_EXISTS with [ReasonAssistantExists].
func (c *Client) CreateAssistant(ctx context.Context, request *CreateAssistantRequest) (*CreateAssistantResponse, error) {
	response, err := call(ctx, c, c.stub.CreateAssistant, request)
	if err == nil && response.GetAssistant() == nil {
		return nil, malformed("there is no assistant in it")
	}
	return response, err
}

// GetAssistant returns the present state of an assistant. It is repeated by itself while the server is unavailable, for
// a few seconds.
//
// Where there is no such assistant, the error is NOT_FOUND with [ReasonAssistantNotFound].
func (c *Client) GetAssistant(ctx context.Context, request *GetAssistantRequest) (*Assistant, error) {
	response, err := call(ctx, c, c.stub.GetAssistant, request)
	if err != nil {
		return nil, err
	}
	if response.GetAssistant() == nil {
		return nil, malformed("there is no assistant in it")
	}
	return response.GetAssistant(), nil
}

// ListMessages yields the messages of an assistant, from all pages: each is fetched when the iteration gets there, and
// repeated by itself while the server is unavailable, for a few seconds. PageSize is how many are fetched at once; a
// PageToken begins at its page. An error, which is an [*Error], ends the iteration.
//
// Where there is no such assistant, the error is NOT_FOUND with [ReasonAssistantNotFound].
func (c *Client) ListMessages(ctx context.Context, request *ListMessagesRequest) iter.Seq2[*Message, error] {
	request = proto.CloneOf(request)
	return func(yield func(*Message, error) bool) {
		page := proto.CloneOf(request) // each iteration begins with the first one
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
// Where there is no such assistant, the error is NOT_FOUND with [ReasonAssistantNotFound].
func (c *Client) DeleteAssistant(ctx context.Context, request *DeleteAssistantRequest) error {
	_, err := call(ctx, c, c.stub.DeleteAssistant, request)
	return err
}

// PostUserQuery returns the reply to a user message. The query is posted when the iteration over the reply begins: see
// [Reply]. A request without a RequestId gets one.
//
// When ctx ends, or the iteration is left, OnDisconnect says what becomes of the turn: without it nothing is stored.
func (c *Client) PostUserQuery(ctx context.Context, request *PostUserQueryRequest) *Reply {
	return &Reply{client: c, ctx: ctx, request: withRequestID(request)}
}

// PostUserQueryUnary posts a user message and returns the whole reply at once, when the turn is stored: what
// [Client.PostUserQuery] ends with. It is posted again in the same way when the connection breaks.
func (c *Client) PostUserQueryUnary(ctx context.Context, request *PostUserQueryRequest) (*TurnCompleted, error) {
	request = withRequestID(request)
	ctx, end := c.begin(ctx)
	defer end()
	var response *PostUserQueryUnaryResponse
	err := c.postUntilDone(ctx, func(*attempts) (err error) {
		response, err = c.stub.PostUserQueryUnary(ctx, request)
		return err
	})
	if err != nil {
		return nil, err
	}
	if response.GetCompleted() == nil {
		return nil, malformed("the turn is not reported as completed")
	}
	return response.GetCompleted(), nil
}

// CancelTurn ends a running turn of any caller, whatever its OnDisconnect says. Nothing of the turn is stored.
//
// Where no such turn is running, the error is NOT_FOUND with [ReasonTurnNotFound].
func (c *Client) CancelTurn(ctx context.Context, request *CancelTurnRequest) error {
	_, err := call(ctx, c, c.stub.CancelTurn, request)
	return err
}

// Stub returns the generated client on the same connection, for what the client does not offer. Its calls have the
// token, but not the deadline of [WithTimeout], and their errors are gRPC's.
func (c *Client) Stub() palaverv1.AssistantServiceClient {
	return c.stub
}

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

// begin returns the context of a call, which has a deadline where the caller or the client gives one.
func (c *Client) begin(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, given := ctx.Deadline(); c.timeout > 0 && !given {
		return context.WithTimeout(ctx, c.timeout)
	}
	return context.WithCancel(ctx)
}

// postUntilDone posts a turn, and posts it again as long as its connection breaks. It returns nil or an *Error.
func (c *Client) postUntilDone(ctx context.Context, post func(*attempts) error) error {
	deadline, _ := ctx.Deadline()
	attempts := newAttempts(deadline, c.reconnectTimeout)
	for {
		err := post(attempts)
		if err == nil {
			return nil
		}
		failure := c.failure(ctx, err)
		pause, again := attempts.pauseAfter(failure)
		if !again {
			return failure
		}
		timer := time.NewTimer(pause)
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

// failure returns the error for one of gRPC's. A call breaks off, too, when its context ends or the client is closed;
// its error is that, then, whatever gRPC has made of it.
func (c *Client) failure(ctx context.Context, err error) *Error {
	failure := fromRPC(err)
	switch {
	case failure.Reason != "" && !failure.isBreak(): // the server was faster
	case ctx.Err() != nil:
		if ended := status.FromContextError(ctx.Err()); ended.Code() != failure.Status || failure.isBreak() {
			failure = fromStatus(ended)
		}
		failure.cause = ctx.Err()
	case c.closed.Err() != nil:
		failure = &Error{Status: codes.Canceled, Message: "the client is closed"}
	}
	return failure
}

func withRequestID(request *PostUserQueryRequest) *PostUserQueryRequest {
	request = proto.CloneOf(request) // the caller may change its own before it is posted again
	if request.GetRequestId() == "" {
		var id [16]byte
		_, _ = rand.Read(id[:]) // it never fails
		request.RequestId = hex.EncodeToString(id[:])
	}
	return request
}
