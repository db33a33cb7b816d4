package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
)

// connections counts how often a client connected.
type connections struct{ began atomic.Int64 }

func (*connections) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (*connections) HandleRPC(context.Context, stats.RPCStats)                         {}
func (*connections) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (c *connections) HandleConn(_ context.Context, s stats.ConnStats) {
	if _, began := s.(*stats.ConnBegin); began {
		c.began.Add(1)
	}
}

// atRest is a client at rest that pings as often as grpc-go lets it: it keeps its connection.
func atRest(dir string) error {
	s := start(dir)
	defer s.kill()
	count := &connections{}
	conn := s.dial(grpc.WithStatsHandler(count), grpc.WithKeepaliveParams(keepalive.ClientParameters{
		// grpc-go makes 10 s of anything shorter.
		Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true,
	}))
	defer conn.Close()
	ctx, cancel := within(patience)
	defer cancel()
	get := func() error {
		_, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("k")})
		return err
	}
	if err := get(); err != nil {
		return err
	}
	time.Sleep(25 * time.Second)
	if err := get(); err != nil {
		return fmt.Errorf("after two pings: %w", err)
	}
	if began := count.began.Load(); began != 1 {
		return fmt.Errorf("it connected %d times", began)
	}
	return nil
}

// goAway ends a server in good order twice while callers write: no call fails, and none is done twice.
func goAway(dir string) error {
	s := start(dir)
	defer func() { s.kill() }()
	ctx, cancel := within(patience)
	defer cancel()
	conn := s.dial(grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	defer conn.Close()
	kv := pb.NewKVClient(conn)
	stop := make(chan struct{})
	callers := make([]struct {
		done int64
		err  error
	}, 16)
	var running sync.WaitGroup
	for i := range callers {
		caller := &callers[i]
		running.Go(func() {
			for caller.err == nil {
				select {
				case <-stop:
					return
				default:
				}
				_, caller.err = kv.Put(ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "k%d", i), Value: []byte("v")})
				if caller.err == nil {
					caller.done++
				}
			}
		})
	}
	var ended error
	for range 2 {
		time.Sleep(500 * time.Millisecond)
		ended = errors.Join(ended, s.terminate())
		s.start()
	}
	time.Sleep(500 * time.Millisecond)
	close(stop)
	running.Wait()
	if ended != nil {
		return fmt.Errorf("end in good order: %w", ended)
	}
	for i, caller := range callers {
		if caller.err != nil {
			return fmt.Errorf("caller %d after %d calls: %w", i, caller.done, caller.err)
		}
		answer, err := kv.Range(ctx, &pb.RangeRequest{Key: fmt.Appendf(nil, "k%d", i)})
		if err != nil {
			return err
		}
		if len(answer.Kvs) != 1 || answer.Kvs[0].Version != caller.done {
			return fmt.Errorf("caller %d made %d writes, there are %v", i, caller.done, answer.Kvs)
		}
	}
	return nil
}

// deadlines pass on both sides, and leave nothing behind.
func deadlines(dir string) error {
	s := start(dir)
	defer s.kill()
	conn := s.dial()
	defer conn.Close()
	want := func(what string, err error) error {
		if code := status.Code(err); code != codes.DeadlineExceeded {
			return fmt.Errorf("%s: %v (%w)", what, code, err)
		}
		return nil
	}
	ctx, cancel := within(200 * time.Millisecond)
	defer cancel()
	watch, err := pb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		return err
	}
	if _, err = watch.Recv(); want("a watch", err) != nil {
		return want("a watch", err)
	}
	past, cancel := within(-time.Second)
	defer cancel()
	_, err = pb.NewKVClient(conn).Put(past, &pb.PutRequest{Key: []byte("never")})
	if err := want("a deadline in the past", err); err != nil {
		return err
	}
	after, cancel := within(patience)
	defer cancel()
	answer, err := pb.NewKVClient(conn).Range(after, &pb.RangeRequest{Key: []byte("never")})
	if err != nil || len(answer.Kvs) != 0 {
		return fmt.Errorf("what was too late was done: %v %w", answer, err)
	}
	return nil
}

// Two puts a second, one at once.
const rules = `
rules:
- {name: puts, methods: [/etcdserverpb.KV/Put], per: connection, rate: 2/s, burst: 1}
`

// Whoever goes by its own backoff waits for a minute.
const retries = `{"methodConfig": [{
	"name": [{"service": "etcdserverpb.KV"}],
	"retryPolicy": {
		"maxAttempts": 5, "initialBackoff": "60s", "maxBackoff": "60s", "backoffMultiplier": 1,
		"retryableStatusCodes": ["RESOURCE_EXHAUSTED"]
	}
}]}`

// pushback is refused and told when to come again, in the details and in the trailers; grpc-go's own retries obey.
func pushback(dir string) error {
	file := filepath.Join(dir, "limits.yaml")
	must(os.WriteFile(file, []byte(rules), 0o644))
	s := start(dir, "--limits", file)
	defer s.kill()
	ctx, cancel := within(patience)
	defer cancel()
	put := &pb.PutRequest{Key: []byte("k"), Value: []byte("v")}

	plain := s.dial()
	defer plain.Close()
	var trailer metadata.MD
	var refused error
	for range 50 {
		if _, refused = pb.NewKVClient(plain).Put(ctx, put, grpc.Trailer(&trailer)); refused != nil {
			break
		}
	}
	if code := status.Code(refused); code != codes.ResourceExhausted {
		return fmt.Errorf("a flood: %v (%w)", code, refused)
	}
	if len(trailer.Get("grpc-retry-pushback-ms")) != 1 {
		return fmt.Errorf("no grpc-retry-pushback-ms in %v", trailer)
	}
	told := false
	for _, detail := range status.Convert(refused).Details() {
		if retry, is := detail.(*errdetails.RetryInfo); is {
			wait := retry.RetryDelay.AsDuration()
			told = wait > 0 && wait <= 500*time.Millisecond
		}
	}
	if !told {
		return fmt.Errorf("no RetryInfo of at most half a second in %v", status.Convert(refused).Details())
	}

	retrying := s.dial(grpc.WithDefaultServiceConfig(retries))
	defer retrying.Close()
	began := time.Now()
	for i := range 4 {
		if _, err := pb.NewKVClient(retrying).Put(ctx, put); err != nil {
			return fmt.Errorf("retried call %d: %w", i, err)
		}
	}
	if took := time.Since(began); took > 55*time.Second {
		return fmt.Errorf("four puts took %v: the server's times were not obeyed", took)
	}
	return nil
}
