// Todo_host is a skill host for Palaver: a to-do list for each assistant, kept in a JSON file.
//
// It has no authentication, and believes the assistant_id that it is told: let nobody but the server reach it.
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
	"syscall"
	"time"

	palaverv1 "github.com/palaver-chat/palaver/client/go/palaver/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// grace is how long a stop waits for calls. Those of skills take less, but who watches the health never ends.
const grace = 5 * time.Second

func main() {
	log.SetFlags(0)
	log.SetPrefix("todo_host: ")
	listen := flag.String("listen", "127.0.0.1:50061", "the `address` to serve at; with port 0, a free one")
	path := flag.String("file", "todos.json", "the `file` that keeps the to-dos; one process may use it at a time")
	prefix := flag.String("prefix", "", "what the `names` of the skills begin with, to differ from those of other hosts")
	flag.Parse()
	if flag.NArg() > 0 {
		log.Fatalf("unexpected argument %q", flag.Arg(0))
	}
	if err := run(*listen, *path, *prefix); err != nil {
		log.Fatal(err)
	}
}

// run serves until a signal asks it to stop.
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
		restore() // a second signal ends the process at once
		states.Shutdown()
		defer time.AfterFunc(grace, server.Stop).Stop()
		server.GracefulStop()
	})
	fmt.Printf("todo_host listening on %s\n", listener.Addr())
	// A signal may come before Serve does, which then says that it was stopped.
	if err := server.Serve(listener); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return err
	}
	<-stopped // Serve returns when the stop begins
	return nil
}

// checkPrefix holds the names that a prefix makes to what the contract says of names.
func checkPrefix(prefix string) error {
	for _, s := range skills {
		if name := prefix + s.name; !regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`).MatchString(name) {
			return fmt.Errorf("-prefix makes the name %q, which is not 1 to 64 letters, digits, _ and -", name)
		}
	}
	return nil
}
