// Command dropin starts setpoint under etcd's name and a real etcd, both with the same flags, and uses them through
// etcd's own packages. Each part says in words what came of it; the words about both servers must be the same.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

var (
	setpointPath = flag.String("setpoint", "", "the setpoint binary")
	binDir       = flag.String("bin", "../bin", "where etcd and etcdctl are")
	only         = flag.String("only", "", "one part")
)

const patience = 60 * time.Second

// A member, by whichever program.
type member struct {
	dir      string
	url      string
	endpoint string
	process  *exec.Cmd
	log      chan map[string]any
	ended    chan error
}

// start runs a program with the flags that controller-runtime's envtest gives to etcd.
func start(program, dir string, more ...string) *member {
	addr := free()
	m := &member{dir: dir, url: "http://" + addr, endpoint: addr,
		log: make(chan map[string]any, 1024), ended: make(chan error, 1)}
	args := append([]string{
		"--data-dir=" + filepath.Join(dir, "data"),
		"--listen-peer-urls=http://localhost:0",
		"--listen-client-urls=" + m.url,
		"--advertise-client-urls=" + m.url,
		"--unsafe-no-fsync",
	}, more...)
	m.process = exec.Command(program, args...)
	m.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stderr, err := m.process.StderrPipe()
	must(err)
	must(m.process.Start())
	go func() {
		lines := bufio.NewScanner(stderr)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var line map[string]any
			if json.Unmarshal(lines.Bytes(), &line) != nil {
				line = map[string]any{"msg": "not JSON: " + lines.Text()}
			}
			select {
			case m.log <- line:
			default:
			}
		}
		close(m.log)
		m.ended <- m.process.Wait()
	}()
	return m
}

// running starts a program and waits until it is healthy. The port was free when it was chosen; who comes first may have
// it before the program does, which then ends at once.
func running(program, dir string, more ...string) *member {
	for range 3 {
		m := start(program, dir, more...)
		if m.healthy() {
			return m
		}
		said := "nothing"
		for line := range m.log {
			said = fmt.Sprint(line)
		}
		log.Printf("%s ended before it was healthy, and said last: %s", program, said)
		must(os.RemoveAll(filepath.Join(dir, "data")))
	}
	log.Fatalf("%s does not start", program)
	return nil
}

// healthy waits for /health as envtest does; false if the program ended.
func (m *member) healthy() bool {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		select {
		case <-m.ended:
			return false
		default:
		}
		response, err := http.Get(m.url + "/health")
		if err != nil {
			continue
		}
		_, _ = io.Copy(io.Discard, response.Body)
		response.Body.Close()
		if response.StatusCode == http.StatusOK {
			return true
		}
	}
	log.Fatalf("%s runs and is not healthy", m.process.Path)
	return false
}

// stop ends a member with SIGTERM and says how it ended.
func (m *member) stop() string {
	_ = m.process.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-m.ended:
		return fmt.Sprint(err)
	case <-time.After(patience):
		_ = m.process.Process.Kill()
		return "it did not end"
	}
}

func (m *member) client() *clientv3.Client {
	client, err := clientv3.New(clientv3.Config{
		Endpoints:   []string{m.endpoint},
		DialTimeout: 10 * time.Second,
		Logger:      zap.NewNop(),
	})
	must(err)
	return client
}

func free() string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	defer listener.Close()
	return listener.Addr().String()
}

func must(err error) {
	if err != nil {
		log.Output(2, err.Error())
		os.Exit(1)
	}
}

func within() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), patience)
}

// A story is what a part has to say about a server.
type story struct{ strings.Builder }

func (s *story) say(format string, args ...any) {
	fmt.Fprintf(s, format+"\n", args...)
}

type part struct {
	name string
	run  func(program string, m *member, s *story)
}

// tell runs a part against a fresh member of a program.
func tell(p part, program string) string {
	dir, err := os.MkdirTemp("", "dropin")
	must(err)
	defer os.RemoveAll(dir)
	m := running(program, dir)
	s := &story{}
	p.run(program, m, s)
	s.say("ended: %s", m.stop())
	return s.String()
}

func main() {
	flag.Parse()
	log.SetFlags(log.Lshortfile)
	if *setpointPath == "" {
		log.Fatal("-setpoint is missing")
	}
	links, err := os.MkdirTemp("", "dropin")
	must(err)
	defer os.RemoveAll(links)
	ours := filepath.Join(links, "etcd")
	must(os.Symlink(*setpointPath, ours))
	theirs, err := filepath.Abs(filepath.Join(*binDir, "etcd"))
	must(err)
	failed := 0
	for _, p := range []part{
		{"start", started}, {"ctl", ctl}, {"contest", contest}, {"packages", packages}, {"load", load},
	} {
		if *only != "" && *only != p.name {
			continue
		}
		got, want := tell(p, ours), tell(p, theirs)
		if got == want {
			fmt.Printf("%-8s same, %d lines\n", p.name, strings.Count(got, "\n"))
			continue
		}
		failed++
		fmt.Printf("%-8s differs\n--- setpoint\n%s--- etcd\n%s", p.name, got, want)
	}
	if failed > 0 {
		_ = os.RemoveAll(links)
		os.Exit(1)
	}
}
