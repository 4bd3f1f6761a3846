// Todo_host is a skill host for Palaver. It keeps a to-do list for each assistant in a JSON file.
//
// It has no authentication and trusts the assistant_id of each request, so only the Palaver server should be able to reach
// it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"

	palaverv1 "github.com/palaver-chat/palaver/client/go/palaver/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// grace is how long a graceful stop waits for calls. Skills take less time, but health watches never end on their own.
const grace = 5 * time.Second

func main() {
	log.SetFlags(0)
	log.SetPrefix("todo_host: ")
	listen := flag.String("listen", "127.0.0.1:50061", "the `address` to listen on; port 0 picks a free port")
	path := flag.String("file", "todos.json", "the `file` with the to-dos; only one process may use it at a time")
	prefix := flag.String("prefix", "", "a `prefix` for the skill names, to distinguish them from those of other hosts")
	flag.Parse()
	if flag.NArg() > 0 {
		log.Fatalf("unexpected argument %q", flag.Arg(0))
	}
	if err := run(*listen, *path, *prefix); err != nil {
		log.Fatal(err)
	}
}

// run serves until a signal stops it.
func run(listen, path, prefix string) error {
	if err := checkPrefix(prefix); err != nil {
		return err
	}
	ctx, restore := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer restore()
	store, err := openStore(path)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	states := health.NewServer()
	states.SetServingStatus(palaverv1.SkillHostService_ServiceDesc.ServiceName, grpc_health_v1.HealthCheckResponse_SERVING)
	palaverv1.RegisterSkillHostServiceServer(server, &host{prefix: prefix, store: store})
	grpc_health_v1.RegisterHealthServer(server, states)

	stopped := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(stopped)
		restore() // a second signal ends the process immediately
		states.Shutdown()
		defer time.AfterFunc(grace, server.Stop).Stop()
		server.GracefulStop()
	})
	fmt.Printf("todo_host listening on %s with %s\n", listener.Addr(), strings.Join(names(prefix), ", "))
	// If a signal arrives before Serve is called, Serve returns ErrServerStopped.
	if err := server.Serve(listener); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return err
	}
	<-stopped // Serve returns when the graceful stop starts
	return nil
}

// checkPrefix checks that the prefixed names are valid skill names.
func checkPrefix(prefix string) error {
	for _, name := range names(prefix) {
		if !regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`).MatchString(name) {
			return fmt.Errorf("-prefix makes the name %q, which is not 1 to 64 letters, digits, _ and -", name)
		}
	}
	return nil
}
