package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// etcdctl runs a command; identities, ports and times are masked.
func etcdctl(m *member, args ...string) string {
	ctx, cancel := within()
	defer cancel()
	command := exec.CommandContext(ctx, filepath.Join(*binDir, "etcdctl"), args...)
	command.Env = append(os.Environ(), "ETCDCTL_ENDPOINTS="+m.endpoint)
	output, err := command.CombinedOutput()
	text := strings.ReplaceAll(string(output), m.endpoint, "ENDPOINT")
	for pattern, mask := range map[string]string{
		`\b[0-9a-f]{14,16}\b`:        "ID",
		`took = [0-9.]+[nµm]?s`:      "took = TIME",
		`(?m)^\{"level".*$`:          "LOG",
		`[0-9.]+ [kMG]?B\b`:          "SIZE",
		`\b(18 EB|2\.1 GB|0 B)\b`:    "SIZE",
		`/[0-9]+: bind`:              "/PORT: bind",
		`0x[0-9a-f]+`:                "POINTER",
		`LocalAddr: '[^']*'`:         "LocalAddr",
		`[0-9]{4}-[0-9-]+T[0-9:.Z]+`: "TIME",
	} {
		text = regexp.MustCompile(pattern).ReplaceAllString(text, mask)
	}
	if err != nil {
		text += err.Error() + "\n"
	}
	return strings.TrimSpace(text)
}

// ctl: the commands of etcdctl that wait for others, copy, or ask for what one member cannot do.
func ctl(program string, m *member, s *story) {
	for _, args := range [][]string{
		{"member", "list"}, {"endpoint", "health"}, {"endpoint", "health", "--cluster"},
		{"lock", "l", "echo", "inside"}, {"lock", "--ttl", "5", "l", "--", "sh", "-c", "exit 3"},
		{"get", "l", "--prefix", "--count-only", "-w", "fields"},
		{"move-leader", "1234"},
		{"alarm", "list"}, {"auth", "status"},
	} {
		said := etcdctl(m, args...)
		if args[0] == "get" {
			said = strings.Join(regexp.MustCompile(`"Count" : \d+`).FindAllString(said, 1), "")
		}
		s.say("%s: %s", strings.Join(args, " "), said)
	}
	s.say("elect: %s", elect(m))
	s.say("make-mirror: %s", mirrored(program, m))
}

// elect campaigns with etcdctl and listens with another.
func elect(m *member) string {
	ctx, cancel := within()
	defer cancel()
	run := func(args ...string) *exec.Cmd {
		command := exec.CommandContext(ctx, filepath.Join(*binDir, "etcdctl"), args...)
		command.Env = append(os.Environ(), "ETCDCTL_ENDPOINTS="+m.endpoint)
		return command
	}
	candidate := run("elect", "e", "me")
	must(candidate.Start())
	client := m.client()
	defer client.Close()
	for {
		got, err := client.Get(ctx, "e/", prefixed)
		must(err)
		if len(got.Kvs) == 1 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	listener := run("elect", "-l", "e")
	heard, err := listener.StdoutPipe()
	must(err)
	must(listener.Start())
	line := make([]byte, 256)
	var text strings.Builder
	for !strings.Contains(text.String(), "me\n") {
		n, err := heard.Read(line)
		text.Write(line[:n])
		if err != nil {
			break
		}
	}
	_ = listener.Process.Kill()
	_ = listener.Wait()
	_ = candidate.Process.Signal(os.Interrupt)
	_ = candidate.Wait()
	left, err := client.Get(ctx, "e/", prefixed)
	must(err)
	said := regexp.MustCompile(`[0-9a-f]{10,}`).ReplaceAllString(text.String(), "ID")
	return fmt.Sprintf("%q, then %d keys", said, len(left.Kvs))
}

// mirrored copies a prefix to another member of the same program.
func mirrored(program string, m *member) string {
	dir, err := os.MkdirTemp("", "dropin")
	must(err)
	defer os.RemoveAll(dir)
	other := running(program, dir)
	defer other.stop()
	from, to := m.client(), other.client()
	defer from.Close()
	defer to.Close()
	ctx, cancel := within()
	defer cancel()
	for i := range 300 {
		_, err := from.Put(ctx, fmt.Sprintf("m/%03d", i), "before")
		must(err)
	}
	mirroring, end := context.WithCancel(ctx)
	command := exec.CommandContext(mirroring, filepath.Join(*binDir, "etcdctl"),
		"make-mirror", "--prefix", "m/", "--dest-prefix", "copy/", other.endpoint)
	command.Env = append(os.Environ(), "ETCDCTL_ENDPOINTS="+m.endpoint)
	must(command.Start())
	count := func() int64 {
		got, err := to.Get(ctx, "copy/", prefixed, counted)
		must(err)
		return got.Count
	}
	wait := func(want int64) int64 {
		for deadline := time.Now().Add(20 * time.Second); count() != want && time.Now().Before(deadline); {
			time.Sleep(20 * time.Millisecond)
		}
		return count()
	}
	base := wait(300)
	_, err = from.Put(ctx, "m/after", "after")
	must(err)
	_, err = from.Delete(ctx, "m/00", prefixed)
	must(err)
	after := wait(291)
	end()
	_ = command.Wait()
	return fmt.Sprintf("%d keys, then %d", base, after)
}
