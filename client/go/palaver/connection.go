package palaver

import (
	"context"
	_ "embed"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"
)

// The version of this module, which servers see in the user agent.
const version = "0.1.0"

// It spreads calls over all addresses of the server, and lets gRPC repeat the calls that only read. It is the same file
// in the clients of all languages.
//
//go:embed service_config.json
var serviceConfig string

// The contract keeps responses below 4 MiB. gRPC's default limit is exactly that, which leaves no room.
const maxReceiveBytes = 8 << 20

// gRPC's own backoff, a second that grows to two minutes, is for a server that is down, not for one that is replaced.
var reconnecting = grpc.ConnectParams{
	Backoff: backoff.Config{
		BaseDelay:  200 * time.Millisecond,
		Multiplier: backoff.DefaultConfig.Multiplier,
		Jitter:     backoff.DefaultConfig.Jitter,
		MaxDelay:   5 * time.Second,
	},
	// gRPC's own, which setting the backoff would unset: the time that one attempt may take.
	MinConnectTimeout: 20 * time.Second,
}

// A model may think for long without a word; only pings tell a silent server from one that is gone.
var pings = keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}

// connect makes the connection, which is opened with the first call.
func connect(target string, s *settings) (*grpc.ClientConn, error) {
	if target == "" {
		target = DefaultTarget
	}
	dial := []grpc.DialOption{
		grpc.WithTransportCredentials(s.transport),
		grpc.WithUserAgent("palaver-go/" + version),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithDisableServiceConfig(), // none from DNS: looking for one can take long
		grpc.WithConnectParams(reconnecting),
		grpc.WithKeepaliveParams(pings),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReceiveBytes)),
	}
	if s.token != nil {
		s.token.secure = s.secure
		dial = append(dial, grpc.WithPerRPCCredentials(s.token))
	}
	connection, err := grpc.NewClient(target, append(dial, s.dial...)...)
	if err != nil {
		return nil, fmt.Errorf("palaver: no connection to %q can be made: %w", target, err)
	}
	// gRPC drops queries and fragments, which have no place in a target.
	local := isLocal(connection.CanonicalTarget()) && !strings.ContainsAny(target, "?#")
	if s.token != nil && !s.secure && !local {
		_ = connection.Close() // it was never opened
		return nil, fmt.Errorf("palaver: the token would be sent to %q in the clear: use TLS", target)
	}
	return connection, nil
}

// isLocal reports whether a target, as parsed by gRPC ("scheme://authority/endpoint"), can only mean this machine.
func isLocal(target string) bool {
	scheme, rest, _ := strings.Cut(target, "://")
	authority, endpoint, _ := strings.Cut(rest, "/")
	if authority != "" { // a name server of its own, which may answer anything
		return false
	}
	switch scheme {
	case "unix", "unix-abstract":
		return endpoint != ""
	case "dns", "passthrough":
		return isLoopback(endpoint)
	default:
		return false
	}
}

// hostAndPort matches an ASCII name or IPv4 address, or an IPv6 address in brackets, with an optional port.
var hostAndPort = regexp.MustCompile(`^(?:([0-9A-Za-z.]+)|\[([0-9A-Fa-f:.]+)\])(?::[0-9]+)?$`)

func isLoopback(address string) bool {
	match := hostAndPort.FindStringSubmatch(address)
	if match == nil {
		return isLoopbackIPv6(address) // which needs no brackets without a port
	}
	if match[2] != "" {
		return isLoopbackIPv6(match[2])
	}
	if strings.EqualFold(match[1], "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(match[1])
	return err == nil && ip.IsLoopback()
}

func isLoopbackIPv6(address string) bool {
	ip, err := netip.ParseAddr(address)
	return err == nil && ip.Is6() && ip.Zone() == "" && ip.Unmap().IsLoopback()
}

// A bearerToken goes along with every call. gRPC asks it for the header.
type bearerToken struct {
	text   string
	secure bool
}

func (t *bearerToken) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + t.text}, nil
}

// RequireTransportSecurity is false for a plaintext connection, where connect has seen that nobody can read along.
func (t *bearerToken) RequireTransportSecurity() bool {
	return t.secure
}
