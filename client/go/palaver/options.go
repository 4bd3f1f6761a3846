package palaver

import (
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// DefaultTarget is where a server listens unless it is told otherwise.
const DefaultTarget = "127.0.0.1:50051"

// DefaultReconnectTimeout is how long a turn may go without its connection, unless [WithReconnectTimeout] says otherwise.
const DefaultReconnectTimeout = 10 * time.Second

// An Option changes how a client connects and waits. See [NewClient].
type Option func(*settings) error

type settings struct {
	transport        credentials.TransportCredentials
	secure           bool
	token            *bearerToken
	timeout          time.Duration
	reconnectTimeout time.Duration
	dial             []grpc.DialOption
}

func newSettings(options []Option) (*settings, error) {
	result := &settings{transport: insecure.NewCredentials(), reconnectTimeout: DefaultReconnectTimeout}
	for _, option := range options {
		if err := option(result); err != nil {
			return nil, err
		}
	}
	return result, nil
}

// WithTLS secures the connection. A nil config trusts the system's certificate authorities. Without this option and
// [WithCertificateAuthorities], the connection is plaintext.
func WithTLS(config *tls.Config) Option {
	return func(s *settings) error {
		s.transport, s.secure = credentials.NewTLS(config), true
		return nil
	}
}

// WithCertificateAuthorities secures the connection with TLS, and trusts the certificate authorities of a PEM file
// instead of the system's.
func WithCertificateAuthorities(pemFile string) Option {
	return func(s *settings) error {
		transport, err := credentials.NewClientTLSFromFile(pemFile, "")
		if err != nil {
			return fmt.Errorf("palaver: the certificate authorities can't be read: %w", err)
		}
		s.transport, s.secure = transport, true
		return nil
	}
}

// WithToken sends a bearer token, as "authorization: Bearer <token>", with every call. Without TLS it is sent to this
// machine only: for any other target, [NewClient] fails. A token consists of visible ASCII characters.
func WithToken(token string) Option {
	return func(s *settings) error {
		if !isHeaderText(token) {
			return errors.New("palaver: the token must consist of visible ASCII characters")
		}
		s.token = &bearerToken{text: token}
		return nil
	}
}

// WithTimeout gives every call a deadline whose context has none. That of a reply covers all of it, to the last event;
// when messages are listed, each page has its own. Zero, the default: there is none.
func WithTimeout(timeout time.Duration) Option {
	return func(s *settings) error {
		s.timeout = timeout
		return nil
	}
}

// WithReconnectTimeout says how long a turn may go without its connection. When that breaks, or the server stops, the
// turn is posted again until then, and its caller gets each piece of the reply once. Zero: it is never posted again. The
// default is [DefaultReconnectTimeout].
func WithReconnectTimeout(timeout time.Duration) Option {
	return func(s *settings) error {
		s.reconnectTimeout = timeout
		return nil
	}
}

// WithDialOptions adds gRPC's own options, for instance interceptors or a dialer. They win over those that the client
// sets.
func WithDialOptions(dial ...grpc.DialOption) Option {
	return func(s *settings) error {
		s.dial = append(s.dial, dial...)
		return nil
	}
}

func isHeaderText(text string) bool {
	for _, character := range []byte(text) {
		if character < ' ' || character > '~' {
			return false
		}
	}
	return text != "" && text[0] != ' ' && text[len(text)-1] != ' '
}
