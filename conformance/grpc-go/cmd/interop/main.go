// Command interop calls setpoint's etcd front with grpc-go's client in the ways that have gone wrong between HTTP/2
// stacks: tiny windows, many streams, pings, servers that go away under load, deadlines, refusals with a time to come
// again. Each part prints one line; any failure ends with 1.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

var setpointPath = flag.String("setpoint", "", "the setpoint binary")

// Nothing here takes as long, on however busy a machine.
const patience = 90 * time.Second

// A server of its own for a part.
type server struct {
	addr    string
	command func() *exec.Cmd
	running *exec.Cmd
}

func main() {
	flag.Parse()
	if *setpointPath == "" {
		log.Fatal("-setpoint is missing")
	}
	dir, err := os.MkdirTemp("", "setpoint-grpc-go-")
	must(err)
	defer os.RemoveAll(dir)
	parts := []struct {
		name string
		run  func(dir string) error
	}{
		{"large messages through small windows", largeMessages},
		{"many streams through small windows", manyStreams},
		{"more calls than streams", moreCallsThanStreams},
		{"pings of a client at rest", atRest},
		{"a server that goes away under load", goAway},
		{"deadlines", deadlines},
		{"refused, told when to come again", pushback},
	}
	results := make([]error, len(parts))
	var running sync.WaitGroup
	for i, part := range parts {
		running.Go(func() {
			own := filepath.Join(dir, fmt.Sprint(i))
			must(os.Mkdir(own, 0o755))
			results[i] = part.run(own)
		})
	}
	running.Wait()
	failed := 0
	for i, part := range parts {
		verdict := "ok"
		if results[i] != nil {
			verdict = results[i].Error()
			failed++
		}
		fmt.Printf("%-40s %s\n", part.name, verdict)
	}
	if failed > 0 {
		os.RemoveAll(dir)
		os.Exit(1)
	}
}

// start starts a store with further arguments.
func start(dir string, arguments ...string) *server {
	addr := free()
	return begin(addr, func() *exec.Cmd {
		all := append([]string{"server", "--roles", "store", "--data-dir", filepath.Join(dir, "data"),
			"--etcd-listen", addr, "--log", "warn"}, arguments...)
		return exec.Command(*setpointPath, all...)
	})
}

// startAsEtcd starts it with etcd's own flags.
func startAsEtcd(dir string, arguments ...string) *server {
	addr := free()
	url := "http://" + addr
	return begin(addr, func() *exec.Cmd {
		all := append([]string{"etcd", "--data-dir", filepath.Join(dir, "data"), "--log-level", "error",
			"--listen-client-urls", url, "--advertise-client-urls", url}, arguments...)
		return exec.Command(*setpointPath, all...)
	})
}

func begin(addr string, command func() *exec.Cmd) *server {
	s := &server{addr: addr, command: command}
	s.start()
	return s
}

func (s *server) start() {
	s.running = s.command()
	s.running.Stderr = os.Stderr
	// It ends with us, however we end.
	s.running.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(s.running.Start())
	conn := s.dial()
	defer conn.Close()
	ctx, cancel := within(patience)
	defer cancel()
	_, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("ready")}, grpc.WaitForReady(true))
	must(err)
}

func (s *server) kill() {
	_ = s.running.Process.Kill()
	_ = s.running.Wait()
}

// terminate asks it to end and waits until it has.
func (s *server) terminate() error {
	if err := s.running.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- s.running.Wait() }()
	select {
	case err := <-ended:
		return err
	case <-time.After(patience):
		return errors.New("it has not ended after a SIGTERM")
	}
}

func (s *server) dial(options ...grpc.DialOption) *grpc.ClientConn {
	options = append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))
	conn, err := grpc.NewClient(s.addr, options...)
	must(err)
	return conn
}

func within(time time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), time)
}

func free() string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	defer listener.Close()
	return listener.Addr().String()
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
