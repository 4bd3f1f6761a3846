package palaver

import (
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

// version is the version of this module, which is part of the user agent.
const version = "0.1.0"

// serviceConfig balances calls over all addresses of the server and makes gRPC retry the calls that only read. It is a
// copy of client/vectors/service_config.json.
//
//go:embed service_config.json
var serviceConfig string

// The contract keeps responses below 4 MiB. gRPC's default limit is exactly 4 MiB, which leaves no headroom.
const maxReceiveBytes = 8 << 20

// gRPC's default backoff, which grows from a second to two minutes, suits a server that is down rather than one that is
// being replaced.
var reconnecting = grpc.ConnectParams{
	Backoff: backoff.Config{
		BaseDelay:  200 * time.Millisecond,
		Multiplier: backoff.DefaultConfig.Multiplier,
		Jitter:     backoff.DefaultConfig.Jitter,
		MaxDelay:   5 * time.Second,
	},
	// gRPC's default, which setting the backoff would unset.
	MinConnectTimeout: 20 * time.Second,
}

// A model may be silent for a long time. Pings detect a server that is gone.
var pings = keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}

// connect returns a connection, which is opened by the first call.
func connect(target string, s *settings) (*grpc.ClientConn, error) {
	if target == "" {
		target = DefaultTarget
	}
	dial := []grpc.DialOption{
		grpc.WithTransportCredentials(s.transport()),
		grpc.WithUserAgent("palaver-go/" + version),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithDisableServiceConfig(), // looking one up in DNS can be slow
		grpc.WithConnectParams(reconnecting),
		grpc.WithKeepaliveParams(pings),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReceiveBytes)),
	}
	if s.token != nil {
		dial = append(dial, grpc.WithPerRPCCredentials(&bearerToken{get: s.token, secure: s.tls != nil}))
	}
	connection, err := grpc.NewClient(target, append(dial, s.dial...)...)
	if err != nil {
		return nil, fmt.Errorf("palaver: invalid target %q: %w", target, err)
	}
	if s.token != nil && s.tls == nil && !isLocal(target) {
		_ = connection.Close() // it was never opened
		return nil, fmt.Errorf("palaver: the token would be sent to %q in the clear: use TLS", target)
	}
	return connection, nil
}

// isLocal reports whether a target can only mean this machine. It reads the target as it is written, and strictly: gRPC
// also decodes escapes, ignores the case of schemes and drops queries, but such targets are not recognized.
func isLocal(target string) bool {
	scheme, rest, _ := strings.Cut(target, ":")
	switch scheme {
	case "unix", "unix-abstract", "dns", "passthrough":
	default:
		return isLoopback(target)
	}
	if after, found := strings.CutPrefix(rest, "//"); found {
		// "dns://authority/name" asks that name server, which may return any address.
		if rest, found = strings.CutPrefix(after, "/"); !found {
			return false
		}
	}
	if strings.HasPrefix(scheme, "unix") {
		return rest != ""
	}
	return isLoopback(rest)
}

// hostAndPort matches an ASCII name or IPv4 address, or an IPv6 address in brackets, with an optional port.
var hostAndPort = regexp.MustCompile(`^(?:([0-9A-Za-z.]+)|\[([0-9A-Fa-f:.]+)\])(?::[0-9]+)?$`)

// isLoopback reports whether an address, with or without a port, is "localhost" or a loopback address.
func isLoopback(address string) bool {
	match := hostAndPort.FindStringSubmatch(address)
	if match == nil {
		return isLoopbackIPv6(address) // without a port, brackets are not needed
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
