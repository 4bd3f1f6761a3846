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

// DefaultTarget is the address that a server listens on by default.
const DefaultTarget = "127.0.0.1:50051"

// DefaultReconnectTimeout is how long a turn may be without a connection unless [WithReconnectTimeout] is used.
const DefaultReconnectTimeout = 10 * time.Second

// An Option configures a client. See [NewClient].
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

// WithTLS uses TLS. A nil config trusts the system's certificate authorities. Without this option or
// [WithCertificateAuthorities], the connection is plaintext.
func WithTLS(config *tls.Config) Option {
	return func(s *settings) error {
		s.transport, s.secure = credentials.NewTLS(config), true
		return nil
	}
}

// WithCertificateAuthorities uses TLS and trusts the certificate authorities in a PEM file instead of the system's.
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

// WithToken sends a bearer token, as "authorization: Bearer <token>", with every call. Without TLS, [NewClient] returns
// an error unless the target is this machine. A token consists of visible ASCII characters.
func WithToken(token string) Option {
	return func(s *settings) error {
		if !isHeaderText(token) {
			return errors.New("palaver: the token must consist of visible ASCII characters")
		}
		s.token = &bearerToken{text: token}
		return nil
	}
}

// WithTimeout sets the timeout of calls whose context has no deadline. For a reply, it covers the whole reply up to the
// last event; when messages are listed, it applies to each page. The default is zero: no timeout.
func WithTimeout(timeout time.Duration) Option {
	return func(s *settings) error {
		s.timeout = timeout
		return nil
	}
}

// WithReconnectTimeout sets how long a turn may be without a connection. When the connection breaks or the server shuts
// down, the turn is posted again, and each event of the reply is delivered once. Zero disables posting again. The default
// is [DefaultReconnectTimeout].
func WithReconnectTimeout(timeout time.Duration) Option {
	return func(s *settings) error {
		s.reconnectTimeout = timeout
		return nil
	}
}

// WithDialOptions adds gRPC options, for instance interceptors or a dialer. They override the client's own.
func WithDialOptions(dial ...grpc.DialOption) Option {
	return func(s *settings) error {
		s.dial = append(s.dial, dial...)
		return nil
	}
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
