package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// A step of the session: an etcdctl command line, what it reads, and how long it may run when it does not end by
// itself. $A and $B are leases the session was granted, $ENDPOINT is the server.
type step struct {
	args  string
	stdin string
	stop  time.Duration
}

const watchTime = 700 * time.Millisecond

var session = []step{
	{args: "get nothing -w json"},
	{args: "put a 1"}, {args: "put b 2 -w json"}, {args: "put c 3 --prev-kv"}, {args: "put a 1b --prev-kv -w json"},
	{args: "put d/1 x"}, {args: "put d/2 y"}, {args: "put d/3 z"},
	{args: "get a"}, {args: "get a -w json"}, {args: "get a -w fields"}, {args: "get a --hex"}, {args: "get a --print-value-only"},
	{args: "get d/ --prefix"}, {args: "get d/ --prefix --keys-only"}, {args: "get d/ --prefix --count-only -w fields"},
	{args: "get d/ --prefix --limit 2 -w json"}, {args: "get a --from-key"}, {args: "get a c"}, {args: "get c a -w json"},
	{args: "get --prefix '' --sort-by MODIFY --order DESCEND"}, {args: "get --prefix '' --sort-by VALUE"},
	{args: "get --prefix '' --sort-by VERSION --order DESCEND --limit 2 -w json"}, {args: "get --prefix '' --sort-by CREATE --order ASCEND"},
	{args: "get --prefix '' --order DESCEND --limit 3 -w json"},
	{args: "get --prefix '' --min-mod-rev 4 -w json"}, {args: "get --prefix '' --max-mod-rev 4 -w json"},
	{args: "get --prefix '' --min-create-rev 3 --max-create-rev 5 --limit 2 -w json"},
	{args: "get a --rev 2 -w json"}, {args: "get a --rev 100"}, {args: "get a --rev 1 -w json"},
	{args: "get a --consistency s"}, {args: "get d/ --prefix --stream"},
	// Values kept, leases.
	{args: "lease grant 300"}, {args: "put e 5 --lease=$A"}, {args: "put e 6 --ignore-lease -w json"}, {args: "put e --ignore-value --prev-kv"},
	{args: "put nowhere --ignore-value"}, {args: "put nowhere x --ignore-lease"}, {args: "put e 7 --ignore-lease --lease=$A"},
	{args: "put f 1 --lease=123456"}, {args: "get e -w fields"},
	{args: "lease timetolive $A --keys"}, {args: "lease timetolive 7777"}, {args: "lease list"}, {args: "lease keep-alive --once $A"},
	{args: "lease keep-alive --once 7777"}, {args: "lease revoke 7777"}, {args: "lease revoke $A"}, {args: "get e -w json"}, {args: "lease revoke $A"},
	{args: "lease grant 99999999999"}, {args: "lease grant 0"}, {args: "lease grant -1"},
	// Deletes.
	{args: "del nothing"}, {args: "del a --prev-kv"}, {args: "del d/ --prefix -w json"}, {args: "del b d --prev-kv -w json"},
	{args: "get --prefix '' -w json"}, {args: "put a again -w json"}, {args: "get a -w json"},
	// Transactions.
	{args: "txn -w json", stdin: "value(\"a\") = \"again\"\nmod(\"zz\") = \"0\"\n\nput k1 v1\nget a\ndel nothing\n\nput k2 v2\n\n"},
	{args: "txn", stdin: "version(\"a\") > \"5\"\n\nput k1 v1\n\nget --prefix k\ndel k1 --prev-kv\nput k3 v3\n\n"},
	{args: "txn -w json", stdin: "create(\"zz\") = \"0\"\nvalue(\"zz\") = \"\"\n\nput no no\n\nget zz\n\n"},
	{args: "txn", stdin: "\nput same 1\nput same 2\n\n\n"}, {args: "txn", stdin: "\nput same 1\ndel s t\n\n\n"},
	{args: "txn", stdin: "\ndel s t\ndel s t\n\n\n"}, {args: "txn", stdin: "\nput x 1 --lease=4242\n\n\n"}, {args: "txn", stdin: "\nget a --rev 1000\n\n\n"},
	{args: "txn -w json", stdin: "\nput order 1\nget order\nput order2 2\ndel order\nget order\n\n\n"},
	// Watching history and what is wrong with it.
	{args: "watch '' --prefix --rev 1", stop: watchTime}, {args: "watch a --rev 2 --prev-kv", stop: watchTime}, {args: "watch a c --rev 3 -w json", stop: watchTime},
	{args: "watch c a --rev 3", stop: watchTime}, {args: "watch a --rev 100000", stop: watchTime},
	{args: "watch -i", stdin: "watch a --rev 2\n", stop: watchTime},
	// Compaction.
	{args: "compaction 10"}, {args: "compaction 10"}, {args: "compaction 9"}, {args: "compaction 100000"}, {args: "compaction 0"}, {args: "compaction -- -5"},
	{args: "get a --rev 9"}, {args: "get --prefix '' --rev 10 -w json"}, {args: "watch a --rev 5"}, {args: "watch '' --prefix --rev 10", stop: watchTime},
	{args: "compaction 12 --physical"}, {args: "get --prefix '' --rev 12 -w json"},
	// Wrong.
	{args: "get ''"}, {args: "put '' x"}, {args: "del ''"}, {args: "get a --rev -3 -w json"}, {args: "get a --limit -3 -w json"},
	// The server itself.
	{args: "endpoint health -w fields"}, {args: "endpoint status -w json"}, {args: "alarm list"}, {args: "alarm disarm"}, {args: "auth status -w fields"},
}

// runSession runs every step against both and prints where they differ.
func runSession(ours, theirs *server) int {
	return runSteps(ours, theirs, session)
}

func runSteps(ours, theirs *server, steps []step) int {
	differences := 0
	leases := map[*server]map[string]string{ours: {}, theirs: {}}
	for _, step := range steps {
		outputs := make(chan [2]string, 2)
		for _, server := range []*server{ours, theirs} {
			go func() { outputs <- [2]string{server.name, runStep(server, step, leases[server])} }()
		}
		got := map[string]string{}
		for range 2 {
			output := <-outputs
			got[output[0]] = output[1]
		}
		if got[ours.name] != got[theirs.name] {
			differences++
			fmt.Printf("etcdctl %s\n%s--- setpoint\n%s--- etcd\n%s\n", step.args, step.stdin, got[ours.name], got[theirs.name])
		}
	}
	fmt.Printf("etcdctl: %d commands\n", len(steps))
	return differences
}

func runStep(server *server, step step, leases map[string]string) string {
	line := strings.ReplaceAll(step.args, "''", "\x01")
	args := []string{"--endpoints", server.endpoint}
	for _, word := range strings.Fields(line) {
		word = strings.ReplaceAll(word, "\x01", "")
		for name, id := range leases {
			word = strings.ReplaceAll(word, name, id)
		}
		args = append(args, word)
	}
	limit := step.stop
	if limit == 0 {
		limit = 10 * time.Second
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	command := exec.CommandContext(ctx, filepath.Join(*binDir, "etcdctl"), args...)
	command.WaitDelay = time.Second
	var out bytes.Buffer
	command.Stdout, command.Stderr = &out, &out
	if step.stdin != "" {
		reader, writer, err := os.Pipe()
		must(err)
		_, _ = writer.WriteString(step.stdin)
		if step.stop == 0 {
			writer.Close()
		} else {
			// An interactive watch ends with its input.
			defer writer.Close()
		}
		command.Stdin = reader
	}
	err := command.Run()
	status := "ok"
	if err != nil && step.stop == 0 {
		status = err.Error()
	}
	if granted := grantedLease.FindStringSubmatch(out.String()); granted != nil {
		leases["$"+string(rune('A'+len(leases)))] = granted[1]
	}
	return normalize(out.String(), server) + "=> " + status + "\n"
}

var (
	grantedLease = regexp.MustCompile(`lease ([0-9a-f]{16}) granted`)
	// What may differ: identities, terms, sizes, times, and the retry client's log lines, which carry addresses.
	varying = []struct {
		pattern *regexp.Regexp
		with    string
	}{
		{regexp.MustCompile(`("(?:cluster_id|member_id|raft_term|memberID|leader|raftTerm|raftIndex|raftAppliedIndex|dbSize|dbSizeInUse|dbSizeQuota|ID|lease)":)[0-9-]+`), "$1 *"},
		{regexp.MustCompile(`\b[0-9a-f]{15,16}\b`), "<id>"},
		{regexp.MustCompile(`("(?:ClusterID|MemberID|RaftTerm|Lease|ID|AuthRevision)" ?: )\d+`), "$1*"},
		{regexp.MustCompile(`(?m)^\{"level":.*\n`), ""},
		{regexp.MustCompile(`("Took" : )\S+`), "$1*"},
		{regexp.MustCompile(`remaining\(\d+s\)`), "remaining(*)"},
	}
)

func normalize(text string, server *server) string {
	text = strings.ReplaceAll(text, server.endpoint, "$ENDPOINT")
	for _, v := range varying {
		text = v.pattern.ReplaceAllString(text, v.with)
	}
	return text
}
