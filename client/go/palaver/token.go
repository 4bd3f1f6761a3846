package palaver

import (
	"context"
	"errors"
	"sync/atomic"

	"google.golang.org/grpc/codes"
)

var errInvalidToken = errors.New("the token must consist of visible ASCII characters")

// A bearerToken is the token that every call sends: the result of a function.
type bearerToken struct {
	get    func(context.Context) (string, error)
	secure bool
}

// constantToken returns a function that always returns this token.
func constantToken(token string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return token, nil }
}

// GetRequestMetadata returns the header of a call. If there is no token, gRPC fails the call with UNAUTHENTICATED, but only
// keeps the text of the error; a call of the client finds the error in its context.
func (t *bearerToken) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	token, err := t.get(ctx)
	if err == nil && !isHeaderText(token) {
		err = errInvalidToken
	}
	if err != nil {
		if failure, found := ctx.Value(tokenFailureKey{}).(*tokenFailure); found {
			failure.err.Store(&err)
		}
		return nil, err
	}
	return map[string]string{"authorization": "Bearer " + token}, nil
}

// RequireTransportSecurity returns false for plaintext, which connect allows only for connections within this machine.
func (t *bearerToken) RequireTransportSecurity() bool {
	return t.secure
}

// A tokenFailure is the error of the token function during a call, if there was one.
type tokenFailure struct {
	err atomic.Pointer[error]
}

type tokenFailureKey struct{}

// withTokenFailure returns the context of a call, which keeps the error of the token function.
func withTokenFailure(ctx context.Context) context.Context {
	return context.WithValue(ctx, tokenFailureKey{}, &tokenFailure{})
}

// tokenError returns the error of a call whose token function failed, or nil.
func tokenError(ctx context.Context) *Error {
	failure, found := ctx.Value(tokenFailureKey{}).(*tokenFailure)
	if !found || failure.err.Load() == nil {
		return nil
	}
	cause := *failure.err.Load()
	return &Error{Status: codes.Unauthenticated, Message: "the token function failed: " + cause.Error(), cause: cause}
}

// isHeaderText reports whether a text is a valid header value: visible ASCII characters, with spaces only between them.
func isHeaderText(text string) bool {
	for _, character := range []byte(text) {
		if character < ' ' || character > '~' {
			return false
		}
	}
	return text != "" && text[0] != ' ' && text[len(text)-1] != ' '
}
