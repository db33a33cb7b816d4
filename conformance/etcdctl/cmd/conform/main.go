// Command conform starts setpoint and a real etcd side by side, says the same things to both through etcd's own
// clients, and compares the answers.
//
//   - session: a recorded etcdctl session, output compared word by word (session.go).
//   - random: a few thousand random operations through clientv3, responses compared field by field (random.go).
//   - auth: an etcdctl session and random requests of several users, with authentication on (auth.go).
//   - jwt: the random requests again, with signed tokens.
//   - resume: watches through clientv3 while connections are cut and the server is killed (resume.go).
//   - talks: single streams and calls, with what is odd in them, message by message (talks.go).
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

var (
	setpointPath = flag.String("setpoint", "", "the setpoint binary")
	binDir       = flag.String("bin", "../bin", "where etcd and etcdctl are")
	seed         = flag.Int64("seed", 1, "seed of the random operations")
	ops          = flag.Int("ops", 4000, "how many random operations")
	pairs        = flag.Int("pairs", 1, "pairs of servers for the random operations, each with a seed and its part")
	only         = flag.String("only", "", "one part: session, random, auth, jwt, resume or talks")
)

// A server under test.
type server struct {
	name     string
	endpoint string
	command  func() *exec.Cmd
	running  *exec.Cmd
}

func (s *server) start() {
	s.running = s.command()
	s.running.Stderr = nil
	if os.Getenv("VERBOSE") != "" {
		s.running.Stderr = os.Stderr
	}
	s.running.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(s.running.Start())
	client := s.client()
	defer client.Close()
	for i := 0; i < 200; i++ {
		ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		_, err := client.Get(ctx, "ready")
		cancel()
		if err == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	log.Fatalf("%s did not start", s.name)
}

func (s *server) kill() {
	_ = s.running.Process.Kill()
	_ = s.running.Wait()
}

func (s *server) client() *clientv3.Client {
	return dial(s.endpoint)
}

func dial(endpoint string) *clientv3.Client {
	client, err := clientv3.New(clientv3.Config{
		Endpoints:   []string{endpoint},
		DialTimeout: 5 * time.Second,
		Logger:      zap.NewNop(),
	})
	must(err)
	return client
}

// servers are not started yet; token is the kind of tokens they give out.
func servers(dir, token string) (ours, theirs *server) {
	ourAddr, theirAddr, peerAddr := free(), free(), free()
	ours = &server{name: "setpoint", endpoint: ourAddr, command: func() *exec.Cmd {
		return exec.Command(*setpointPath, "server", "--roles", "store", "--data-dir", filepath.Join(dir, "setpoint"),
			"--etcd-listen", ourAddr, "--log", "warn", "--etcd-auth-token", token)
	}}
	theirs = &server{name: "etcd", endpoint: theirAddr, command: func() *exec.Cmd {
		client, peer := "http://"+theirAddr, "http://"+peerAddr
		return exec.Command(filepath.Join(*binDir, "etcd"), "--data-dir", filepath.Join(dir, "etcd"),
			"--listen-client-urls", client, "--advertise-client-urls", client,
			"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
			"--initial-cluster", "default="+peer, "--log-level", "error", "--auth-token", token)
	}}
	return ours, theirs
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

func main() {
	flag.Parse()
	if *setpointPath == "" {
		log.Fatal("-setpoint is missing")
	}
	failed := 0
	if *pairs > 1 {
		failed = runPairs(*pairs, *ops)
		fmt.Printf("%-8s %d differences\n", "random", failed)
		if failed > 0 {
			os.Exit(1)
		}
		return
	}
	for _, part := range []struct {
		name string
		run  func(ours, theirs *server) int
	}{{"session", runSession}, {"random", runRandom}, {"auth", runAuth}, {"jwt", runAuthRandom}, {"resume", runResume}, {"talks", runTalks}} {
		if *only != "" && *only != part.name {
			continue
		}
		dir, err := os.MkdirTemp("", "conform")
		must(err)
		token := "simple"
		if part.name == "jwt" {
			key := filepath.Join(dir, "jwt.key")
			must(os.WriteFile(key, []byte("a secret that both know"), 0o600))
			token = "jwt,sign-method=HS256,ttl=10m,priv-key=" + key
		}
		ours, theirs := servers(dir, token)
		ours.start()
		theirs.start()
		differences := part.run(ours, theirs)
		ours.kill()
		theirs.kill()
		_ = os.RemoveAll(dir)
		fmt.Printf("%-8s %d differences\n", part.name, differences)
		failed += differences
	}
	if failed > 0 {
		os.Exit(1)
	}
}
