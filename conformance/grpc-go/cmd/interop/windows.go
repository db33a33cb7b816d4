package main

import (
	"bytes"
	"fmt"
	"sync"

	mvccpb "go.etcd.io/etcd/api/v3/mvccpb"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

const (
	// The smallest windows that grpc-go's options take.
	smallWindow = 64 << 10
	// Larger than any window that a server starts with.
	largeValue  = 1_400_000
	largeValues = 24
	streams     = 200
	// Events of all streams together are much more than one window.
	events = 40
)

func small() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithStaticStreamWindowSize(smallWindow),
		grpc.WithStaticConnWindowSize(smallWindow),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64 << 20)),
	}
}

// largeMessages puts values that do not fit in a window, and reads them all in one answer that fits in none.
func largeMessages(dir string) error {
	s := start(dir)
	defer s.kill()
	ctx, cancel := within(patience)
	defer cancel()
	for name, options := range map[string][]grpc.DialOption{
		"small":     small(),
		"estimated": {grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64 << 20))},
	} {
		conn := s.dial(options...)
		defer conn.Close()
		kv := pb.NewKVClient(conn)
		for i := range largeValues {
			value := bytes.Repeat([]byte{byte(i)}, largeValue)
			if _, err := kv.Put(ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "%s/%02d", name, i), Value: value}); err != nil {
				return fmt.Errorf("%s windows: put %d: %w", name, i, err)
			}
		}
		answer, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte(name + "/"), RangeEnd: []byte(name + "0")})
		if err != nil {
			return fmt.Errorf("%s windows: range: %w", name, err)
		}
		if len(answer.Kvs) != largeValues {
			return fmt.Errorf("%s windows: %d values of %d", name, len(answer.Kvs), largeValues)
		}
		for i, kv := range answer.Kvs {
			if !bytes.Equal(kv.Value, bytes.Repeat([]byte{byte(i)}, largeValue)) {
				return fmt.Errorf("%s windows: value %d came back as another", name, i)
			}
		}
	}
	return nil
}

// manyStreams watches on many streams of one connection with a window that their events fill many times; half of them
// are read only when the others have everything.
func manyStreams(dir string) error {
	s := start(dir)
	defer s.kill()
	ctx, cancel := within(patience)
	defer cancel()
	conn := s.dial(small()...)
	defer conn.Close()
	var watches []pb.Watch_WatchClient
	for range streams {
		watch, err := pb.NewWatchClient(conn).Watch(ctx)
		if err != nil {
			return err
		}
		create := &pb.WatchCreateRequest{Key: []byte("k")}
		if err := watch.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
			return err
		}
		if created, err := watch.Recv(); err != nil || !created.Created {
			return fmt.Errorf("a watch was not created: %v %w", created, err)
		}
		watches = append(watches, watch)
	}
	writer := s.dial()
	defer writer.Close()
	value := bytes.Repeat([]byte("v"), 4<<10)
	for range events {
		if _, err := pb.NewKVClient(writer).Put(ctx, &pb.PutRequest{Key: []byte("k"), Value: value}); err != nil {
			return err
		}
	}
	if err := readAll(watches[:streams/2]); err != nil {
		return fmt.Errorf("read at once: %w", err)
	}
	if err := readAll(watches[streams/2:]); err != nil {
		return fmt.Errorf("read later: %w", err)
	}
	return nil
}

// readAll reads every event of all watches: once each, in order.
func readAll(watches []pb.Watch_WatchClient) error {
	errs := make([]error, len(watches))
	var running sync.WaitGroup
	for i, watch := range watches {
		running.Go(func() {
			var seen []*mvccpb.Event
			for len(seen) < events {
				answer, err := watch.Recv()
				if err != nil {
					errs[i] = fmt.Errorf("stream %d after %d events: %w", i, len(seen), err)
					return
				}
				seen = append(seen, answer.Events...)
			}
			for n, event := range seen {
				if event.Kv.Version != int64(n+1) {
					errs[i] = fmt.Errorf("stream %d: event %d has version %d", i, n, event.Kv.Version)
				}
			}
		})
	}
	running.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// moreCallsThanStreams makes many calls at a time where the server takes four streams.
func moreCallsThanStreams(dir string) error {
	s := startAsEtcd(dir, "--max-concurrent-streams", "4")
	defer s.kill()
	ctx, cancel := within(patience)
	defer cancel()
	conn := s.dial()
	defer conn.Close()
	errs := make([]error, 100)
	var running sync.WaitGroup
	for i := range errs {
		running.Go(func() {
			for range 10 {
				put := &pb.PutRequest{Key: fmt.Appendf(nil, "k%d", i), Value: make([]byte, 10_000)}
				if _, err := pb.NewKVClient(conn).Put(ctx, put); err != nil {
					errs[i] = err
				}
			}
		})
	}
	running.Wait()
	for i, err := range errs {
		if err != nil {
			return fmt.Errorf("caller %d: %w", i, err)
		}
	}
	return nil
}
