package palaver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
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
	tls              *tls.Config // nil for plaintext
	certificate      *tls.Certificate
	token            func(context.Context) (string, error)
	timeout          time.Duration
	reconnectTimeout time.Duration
	dial             []grpc.DialOption
}

func newSettings(options []Option) (*settings, error) {
	result := &settings{reconnectTimeout: DefaultReconnectTimeout}
	for _, option := range options {
		if err := option(result); err != nil {
			return nil, err
		}
	}
	if result.certificate != nil {
		if result.tls == nil {
			return nil, errors.New("palaver: a client certificate requires TLS")
		}
		result.tls.Certificates = append(slices.Clone(result.tls.Certificates), *result.certificate)
	}
	return result, nil
}

// transport returns the credentials of the connection.
func (s *settings) transport() credentials.TransportCredentials {
	if s.tls == nil {
		return insecure.NewCredentials()
	}
	return credentials.NewTLS(s.tls)
}

// WithTLS uses TLS. A nil config trusts the system's certificate authorities. Without this option or
// [WithCertificateAuthorities], the connection is plaintext.
func WithTLS(config *tls.Config) Option {
	return func(s *settings) error {
		s.tls = &tls.Config{}
		if config != nil {
			s.tls = config.Clone()
		}
		return nil
	}
}

// WithCertificateAuthorities uses TLS and trusts the certificate authorities in a PEM file instead of the system's.
func WithCertificateAuthorities(pemFile string) Option {
	return func(s *settings) error {
		pem, err := os.ReadFile(pemFile)
		if err != nil {
			return fmt.Errorf("palaver: the certificate authorities can't be read: %w", err)
		}
		authorities := x509.NewCertPool()
		if !authorities.AppendCertsFromPEM(pem) {
			return fmt.Errorf("palaver: %s contains no certificate authorities", pemFile)
		}
		s.tls = &tls.Config{RootCAs: authorities}
		return nil
	}
}

// WithClientCertificate presents a certificate to servers that ask for one: the certificate chain and the private key in two
// PEM files, which are read once. It requires [WithTLS] or [WithCertificateAuthorities]. A certificate that is replaced while
// the program runs needs the GetClientCertificate of a [tls.Config] instead.
func WithClientCertificate(certificateFile, keyFile string) Option {
	return func(s *settings) error {
		certificate, err := tls.LoadX509KeyPair(certificateFile, keyFile)
		if err != nil {
			return fmt.Errorf("palaver: the client certificate can't be read: %w", err)
		}
		s.certificate = &certificate
		return nil
	}
}

// WithToken sends a bearer token, as "authorization: Bearer <token>", with every call. Without TLS, [NewClient] returns
// an error unless the target is this machine. A token consists of visible ASCII characters.
func WithToken(token string) Option {
	return func(s *settings) error {
		if !isHeaderText(token) {
			return fmt.Errorf("palaver: %w", errInvalidToken)
		}
		s.token = constantToken(token)
		return nil
	}
}

// WithTokenFunc sends a token that expires, as [WithToken] does. The function is called before every call, every page and
// every post of a turn, from several goroutines, so it should keep its token as long as it is valid, for instance with
// oauth2.ReuseTokenSource. It must return when its context ends, which has the deadline of the call. If it fails, the call
// fails with UNAUTHENTICATED without a reason, and [Error.Unwrap] returns its error.
func WithTokenFunc(token func(context.Context) (string, error)) Option {
	return func(s *settings) error {
		s.token = token
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
