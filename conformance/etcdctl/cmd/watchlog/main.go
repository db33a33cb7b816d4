// watchlog watches a prefix with etcd's own client and prints what it is told, one JSON object a line:
//
//	{"events":[{"key":"..","value":"..","mod":12,"version":1,"delete":false,"prev":9}]}
//	{"progress":12}
//	{"compacted":20}
//
// Keys and values are base64. It does what clientv3's documentation says and no more: the client resumes after a
// broken connection; after a compaction the channel ends, and the program watches again from the compacted revision.
// It ends with its standard input.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

type event struct {
	Key     []byte `json:"key"`
	Value   []byte `json:"value"`
	Mod     int64  `json:"mod"`
	Version int64  `json:"version"`
	Delete  bool   `json:"delete"`
	Prev    int64  `json:"prev"`
}

type line struct {
	Events    []event `json:"events,omitempty"`
	Progress  int64   `json:"progress,omitempty"`
	Compacted int64   `json:"compacted,omitempty"`
}

func main() {
	endpoints := flag.String("endpoints", "", "servers, separated by commas")
	prefix := flag.String("prefix", "", "keys to watch")
	revision := flag.Int64("rev", 0, "first revision")
	flag.Parse()
	client, err := clientv3.New(clientv3.Config{
		Endpoints:            strings.Split(*endpoints, ","),
		DialTimeout:          5 * time.Second,
		DialKeepAliveTime:    5 * time.Second,
		DialKeepAliveTimeout: 3 * time.Second,
		Logger:               zap.NewNop(),
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	out := bufio.NewWriter(os.Stdout)
	encoder := json.NewEncoder(out)
	say := func(l line) {
		if encoder.Encode(l) != nil || out.Flush() != nil {
			os.Exit(1)
		}
	}
	for ctx.Err() == nil {
		*revision = watch(ctx, client, *prefix, *revision, say)
	}
}

// watch prints until the channel ends; the revision to go on from.
func watch(ctx context.Context, client *clientv3.Client, prefix string, revision int64, say func(line)) int64 {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	options := []clientv3.OpOption{
		clientv3.WithPrefix(), clientv3.WithRev(revision), clientv3.WithPrevKV(),
		clientv3.WithProgressNotify(), clientv3.WithFragment(),
	}
	for response := range client.Watch(ctx, prefix, options...) {
		if response.Err() == rpctypes.ErrCompacted {
			say(line{Compacted: response.CompactRevision})
			return response.CompactRevision
		}
		if response.Err() != nil {
			return revision
		}
		if response.IsProgressNotify() {
			say(line{Progress: response.Header.Revision})
			revision = response.Header.Revision + 1
			continue
		}
		if len(response.Events) == 0 {
			continue
		}
		events := make([]event, 0, len(response.Events))
		for _, e := range response.Events {
			seen := event{
				Key: e.Kv.Key, Value: e.Kv.Value, Mod: e.Kv.ModRevision, Version: e.Kv.Version,
				Delete: e.Type == mvccpb.Event_DELETE,
			}
			if e.PrevKv != nil {
				seen.Prev = e.PrevKv.ModRevision
			}
			events = append(events, seen)
			revision = seen.Mod + 1
		}
		say(line{Events: events})
	}
	return revision
}
