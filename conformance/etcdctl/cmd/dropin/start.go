package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// started: what programs that start etcd look for.
func started(program string, m *member, s *story) {
	wanted := map[string]bool{
		"ready to serve client requests":                                   false,
		"serving client traffic insecurely; this is strongly discouraged!": false,
	}
	deadline := time.After(5 * time.Second)
	for missing := len(wanted); missing > 0; {
		select {
		case line := <-m.log:
			text, _ := line["msg"].(string)
			if seen, ok := wanted[text]; ok && !seen {
				wanted[text] = true
				missing--
				s.say("log: %s %v", text, line["traffic"])
			}
		case <-deadline:
			s.say("log: something is missing: %v", wanted)
			missing = 0
		}
	}
	version, err := exec.Command(program, "--version").Output()
	must(err)
	first, _, _ := strings.Cut(string(version), "\n")
	s.say("version: %s", first)
	names := regexp.MustCompile(`(?m)^[A-Z][A-Za-z/ ]+:`).FindAllString(string(version), 3)
	s.say("version names: %v", names)

	for _, args := range [][]string{
		{"--nope"}, {"--max-txn-ops", "x"}, {"--pre-vote=maybe"}, {"--name"}, {"---name"}, {"-h"}, {"word"},
		{"--initial-cluster-state=old"}, {"--listen-client-urls=ftp://1.2.3.4:5"}, {"--feature-gates=Nope=true"},
		{"--auto-compaction-retention=soon"}, {"--log-outputs=default,stdout"},
		{"--listen-client-urls=" + m.url, "--advertise-client-urls=" + m.url, "--listen-peer-urls=http://127.0.0.1:0"},
	} {
		s.say("%s: %s", strings.ReplaceAll(strings.Join(args, " "), m.url, "TAKEN"), refusal(program, args))
	}
	with := func(env string, args ...string) string { return refusal(program, args, env) }
	s.say("flag and variable: %s", with("ETCD_NAME=a", "--name=a"))
	s.say("bad variable: %s", with("ETCD_MAX_TXN_OPS=x"))
}

// refusal is how a run that must fail ends, and whether it says why in Go's words.
func refusal(program string, args []string, env ...string) string {
	dir, err := os.MkdirTemp("", "dropin")
	must(err)
	defer os.RemoveAll(dir)
	command := exec.Command(program, args...)
	command.Dir = dir
	command.Env = append(os.Environ(), env...)
	timer := time.AfterFunc(20*time.Second, func() { _ = command.Process.Kill() })
	output, err := command.CombinedOutput()
	timer.Stop()
	said := "0"
	if err != nil {
		said = err.Error()
	}
	for _, known := range []string{
		"flag provided but not defined: -nope", "flag needs an argument: -name", "bad flag syntax: ---name",
		"for flag -max-txn-ops: parse error", "for -pre-vote: parse error", "is not a valid flag",
		"bind: address already in use", "unrecognized feature gate: Nope", "multi logoutput", "Usage:", "\nMember:",
		"URL scheme must be http, https, unix, or unixs: ftp://1.2.3.4:5", "error parsing CompactionRetention",
		"conflicting environment variable is shadowed", "for ETCD_MAX_TXN_OPS: parse error", "invalid value",
	} {
		if strings.Contains(string(output), known) {
			said += " " + strings.TrimSpace(known) + ";"
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "default.etcd", "store")); err == nil {
		said += " (it made a store)"
	}
	return said
}
