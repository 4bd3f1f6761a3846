package palaver_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	"github.com/palaver-chat/palaver/client/go/internal/scripted"
	"github.com/palaver-chat/palaver/client/go/palaver"
	palaverv1 "github.com/palaver-chat/palaver/client/go/palaver/v1"
)

func found() answer { return answer{&palaverv1.GetAssistantResponse{Assistant: support}} }

func TestUserAgentNamesTheClient(t *testing.T) {
	t.Parallel()
	server := scripted.Start(t)
	server.Script("GetAssistant", found())
	if _, err := newClient(t, server.Target).GetAssistant(background(t), get); err != nil {
		t.Error(err)
	}
	sent := server.Calls()[0].Metadata
	if agent := sent.Get("user-agent"); len(agent) != 1 || !strings.HasPrefix(agent[0], "palaver-go/0.1.0 ") {
		t.Errorf("the user agent is %q", agent)
	}
	if token := sent.Get("authorization"); token != nil {
		t.Errorf("there is a token: %q", token)
	}
}

func TestResponseSizeLimit(t *testing.T) {
	t.Parallel()
	server := scripted.Start(t)
	server.Script("ListMessages",
		answer{&palaverv1.ListMessagesResponse{Messages: []*palaver.Message{{Content: strings.Repeat("x", 7<<20)}}}},
		answer{&palaverv1.ListMessagesResponse{Messages: []*palaver.Message{{Content: strings.Repeat("x", 9<<20)}}}},
	)
	client := newClient(t, server.Target)
	if _, err := list(background(t), client, &palaver.ListMessagesRequest{Id: "support"}); err != nil {
		t.Error(err)
	}
	_, err := list(background(t), client, &palaver.ListMessagesRequest{Id: "support"})
	expectError(t, err, codes.ResourceExhausted, "")
}

func TestCallsAreSpreadOverAllAddresses(t *testing.T) {
	t.Parallel()
	names := manual.NewBuilderWithScheme("several")
	var addresses []resolver.Address
	var servers []*scripted.Server
	for range 2 {
		server := scripted.Start(t)
		server.Script("GetAssistant", found())
		servers = append(servers, server)
		addresses = append(addresses, resolver.Address{Addr: server.Target})
	}
	names.InitialState(resolver.State{Addresses: addresses})
	client := newClient(t, "several:///servers", palaver.WithDialOptions(grpc.WithResolvers(names)))
	for range 10_000 { // the first ones go to the first connection that is ready
		if _, err := client.GetAssistant(background(t), get); err != nil {
			t.Fatal(err)
		}
		if len(servers[0].Calls()) > 0 && len(servers[1].Calls()) > 0 {
			return
		}
	}
	t.Error("all calls went to one address")
}

func TestPingsDetectASilentServer(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it takes 40 seconds")
	}
	server := scripted.Start(t)
	proxy := scripted.StartProxy(t, server.Target)
	server.Script("PostUserQuery", answer{scripted.Started(), scripted.Hang})
	client := newClient(t, proxy.Target, palaver.WithReconnectTimeout(0))
	for _, err := range client.PostUserQuery(background(t), hello).Events() {
		if err != nil {
			expectError(t, err, codes.Unavailable, "")
			continue
		}
		proxy.Freeze()
	}
}

// Tokens.

func TestTokenIsSentToThisMachineInTheClear(t *testing.T) {
	t.Parallel()
	server := scripted.Start(t)
	server.Script("PostUserQuery", scripted.Turn("Hi"))
	_, port, err := net.SplitHostPort(server.Target)
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "socket") // forwards to the same server
	forward(t, socket, server.Target)
	for _, target := range []string{server.Target, "localhost:" + port, "dns:///127.0.0.1:" + port, "unix:" + socket} {
		client := newClient(t, target, palaver.WithToken("secret token"))
		expectShown(t, client.PostUserQuery(background(t), hello), "started", "Hi", "completed")
	}
	for _, call := range server.Calls() {
		if token := call.Metadata.Get("authorization"); !slices.Equal(token, []string{"Bearer secret token"}) {
			t.Errorf("the token is %q", token)
		}
	}
	expectCalls(t, server, 4)
}

func forward(t *testing.T, socket, target string) {
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			from, err := listener.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial("tcp", target)
			if err != nil {
				return
			}
			for _, pair := range [][2]net.Conn{{from, to}, {to, from}} {
				go func() {
					_, _ = io.Copy(pair[0], pair[1])
					_ = pair[0].Close()
				}()
			}
		}
	}()
}

func TestTokenLeavesThisMachineOnlyWithTLS(t *testing.T) {
	t.Parallel()
	for _, target := range []string{"palaver.example:443", "dns://127.0.0.1/localhost:50051"} {
		if _, err := palaver.NewClient(target, palaver.WithToken("secret")); err == nil {
			t.Errorf("the token would go to %s in the clear", target)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("the error contains the token: %v", err)
		}
		newClient(t, target, palaver.WithToken("secret"), palaver.WithTLS(nil))
	}
}

func TestInvalidTokenIsRefused(t *testing.T) {
	t.Parallel()
	for _, token := range []string{"", " ", " a", "a ", "a\nb", "ä", "\x7f", "a\x00"} {
		if _, err := palaver.NewClient("", palaver.WithToken(token)); err == nil {
			t.Errorf("%q is accepted", token)
		}
	}
}

func TestTokenFuncIsCalledBeforeEveryCall(t *testing.T) {
	t.Parallel()
	authorities, secure := startSecure(t)
	plain := scripted.Start(t)
	plain.Script("GetAssistant", found())
	plain.Script("PostUserQuery", scripted.Turn("Hi"))
	for server, options := range map[*scripted.Server][]palaver.Option{
		secure: {palaver.WithCertificateAuthorities(authorities)},
		plain:  nil,
	} {
		var count atomic.Int32
		client := newClient(t, server.Target, append(options, palaver.WithTokenFunc(
			func(context.Context) (string, error) { return fmt.Sprint("t-", count.Add(1)), nil },
		))...)
		if _, err := client.GetAssistant(background(t), get); err != nil {
			t.Error(err)
		}
		expectShown(t, client.PostUserQuery(background(t), hello), "started", "Hi", "completed")
		for i, call := range server.Calls() {
			expected := []string{fmt.Sprint("Bearer t-", i+1)}
			if token := call.Metadata.Get("authorization"); !slices.Equal(token, expected) {
				t.Errorf("the token is %q", token)
			}
		}
		expectCalls(t, server, 2)
	}
}

func TestErrorOfTokenFuncReachesTheCaller(t *testing.T) {
	t.Parallel()
	server := scripted.Start(t)
	locked := errors.New("the vault is locked")
	for _, function := range []func(context.Context) (string, error){
		func(context.Context) (string, error) { return "", locked },
		func(context.Context) (string, error) {
			return "", status.Error(codes.Unavailable, "the vault is locked")
		},
		func(context.Context) (string, error) { return "two\nlines", nil },
	} {
		client := newClient(t, server.Target, palaver.WithTokenFunc(function))
		_, err := client.GetAssistant(background(t), get)
		failure := expectError(t, err, codes.Unauthenticated, "")
		if failure.Unwrap() == nil || !strings.HasPrefix(failure.Message, "the token function failed: ") {
			t.Errorf("the error does not say why: %v", failure)
		}
		_, err = shown(t, client.PostUserQuery(background(t), hello).Events())
		expectError(t, err, codes.Unauthenticated, "")
	}
	client := newClient(t, server.Target, palaver.WithTokenFunc(
		func(context.Context) (string, error) { return "", locked },
	))
	if _, err := client.GetAssistant(background(t), get); !errors.Is(err, locked) {
		t.Errorf("the error is not that of the function: %v", err)
	}
	expectCalls(t, server, 0)
}

func TestWaitingForATokenCountsTowardsTheTimeout(t *testing.T) {
	t.Parallel()
	server := scripted.Start(t)
	wait := palaver.WithTokenFunc(func(ctx context.Context) (string, error) {
		<-ctx.Done()
		return "", ctx.Err()
	})
	client := newClient(t, server.Target, wait, palaver.WithTimeout(50*time.Millisecond))
	_, err := client.GetAssistant(background(t), get)
	expectError(t, err, codes.DeadlineExceeded, "")
	expectCalls(t, server, 0)
}

// TLS.

func TestServerThatRequiresACertificate(t *testing.T) {
	t.Parallel()
	files, server := startMutual(t)
	authorities := palaver.WithCertificateAuthorities(files.certificate)
	client := newClient(t, server.Target, authorities, palaver.WithClientCertificate(files.certificate, files.key))
	if _, err := client.GetAssistant(background(t), get); err != nil {
		t.Error(err)
	}
	_, err := newClient(t, server.Target, authorities).GetAssistant(background(t), get)
	expectError(t, err, codes.Unavailable, "")
	expectCalls(t, server, 1)
}

func TestClientCertificateRequiresTLSAndItsKey(t *testing.T) {
	t.Parallel()
	files, _ := startMutual(t)
	for _, options := range [][]palaver.Option{
		{palaver.WithClientCertificate(files.certificate, files.key)},
		{palaver.WithTLS(nil), palaver.WithClientCertificate(files.certificate, files.certificate)},
		{palaver.WithTLS(nil), palaver.WithClientCertificate(files.certificate, "missing.pem")},
	} {
		if _, err := palaver.NewClient("", options...); err == nil {
			t.Error("it is accepted")
		}
	}
}

func TestTLSWithAFileOfAuthorities(t *testing.T) {
	t.Parallel()
	authorities, server := startSecure(t)
	client := newClient(t, server.Target, palaver.WithCertificateAuthorities(authorities), palaver.WithToken("secret"))
	if _, err := client.GetAssistant(background(t), get); err != nil {
		t.Error(err)
	}
	if token := server.Calls()[0].Metadata.Get("authorization"); !slices.Equal(token, []string{"Bearer secret"}) {
		t.Errorf("the token is %q", token)
	}
}

func TestTLSWithAConfiguration(t *testing.T) {
	t.Parallel()
	authorities, server := startSecure(t)
	file, err := os.ReadFile(authorities)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(file)
	client := newClient(t, server.Target, palaver.WithTLS(&tls.Config{RootCAs: pool}))
	if _, err := client.GetAssistant(background(t), get); err != nil {
		t.Error(err)
	}
}

func TestUntrustedServerIsNotCalled(t *testing.T) {
	t.Parallel()
	_, server := startSecure(t)
	for name, options := range map[string][]palaver.Option{"the system's": {palaver.WithTLS(nil)}, "plaintext": nil} {
		client := newClient(t, server.Target, append(options, palaver.WithReconnectTimeout(time.Second))...)
		_, err := client.GetAssistant(background(t), get)
		expectError(t, err, codes.Unavailable, "")
		_, err = shown(t, client.PostUserQuery(background(t), hello).Events())
		if failure := expectError(t, err, codes.Unavailable, ""); name != "plaintext" &&
			!strings.Contains(failure.Message, "certificate") {
			t.Errorf("the message does not say why: %v", failure)
		}
	}
	expectCalls(t, server, 0)
}

func TestFileWithoutAuthoritiesIsRefused(t *testing.T) {
	t.Parallel()
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{empty, filepath.Join(t.TempDir(), "missing.pem")} {
		if _, err := palaver.NewClient("", palaver.WithCertificateAuthorities(file)); err == nil {
			t.Errorf("%s is accepted", file)
		}
	}
}

func TestInvalidTargetIsRefused(t *testing.T) {
	t.Parallel()
	if _, err := palaver.NewClient("dns://%zz"); err == nil {
		t.Error("it is accepted")
	}
}

// A keyPair is the PEM files of a certificate, which is its own authority, and of its private key.
type keyPair struct{ certificate, key string }

// startSecure starts a server with TLS. It returns a file with the authority that signed its certificate.
func startSecure(t *testing.T) (string, *scripted.Server) {
	t.Helper()
	files, certificate := makeCertificate(t)
	return files.certificate, startWithTLS(t, &tls.Config{Certificates: []tls.Certificate{certificate}})
}

// startMutual starts a server that requires a certificate of its clients: the returned one.
func startMutual(t *testing.T) (keyPair, *scripted.Server) {
	t.Helper()
	files, certificate := makeCertificate(t)
	clients := x509.NewCertPool()
	clients.AddCert(certificate.Leaf)
	return files, startWithTLS(t, &tls.Config{
		Certificates: []tls.Certificate{certificate},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    clients,
	})
}

func startWithTLS(t *testing.T, config *tls.Config) *scripted.Server {
	t.Helper()
	server := scripted.Start(t, grpc.Creds(credentials.NewTLS(config)))
	server.Script("GetAssistant", found())
	server.Script("PostUserQuery", scripted.Turn("Hi"))
	return server
}

func makeCertificate(t *testing.T) (keyPair, tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	files := keyPair{filepath.Join(folder, "certificate.pem"), filepath.Join(folder, "key.pem")}
	for file, block := range map[string]*pem.Block{
		files.certificate: {Type: "CERTIFICATE", Bytes: certificate},
		files.key:         {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pair, err := tls.LoadX509KeyPair(files.certificate, files.key)
	if err != nil {
		t.Fatal(err)
	}
	return files, pair
}
