package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// A proxy whose connections can be cut.
type proxy struct {
	listener net.Listener
	to       string
	mu       sync.Mutex
	open     []net.Conn
}

func newProxy(to string) *proxy {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	p := &proxy{listener: listener, to: to}
	go p.serve()
	return p
}

func (p *proxy) serve() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		upstream, err := net.Dial("tcp", p.to)
		if err != nil {
			client.Close()
			continue
		}
		p.mu.Lock()
		p.open = append(p.open, client, upstream)
		p.mu.Unlock()
		go func() { _, _ = io.Copy(upstream, client); upstream.Close() }()
		go func() { _, _ = io.Copy(client, upstream); client.Close() }()
	}
}

func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range p.open {
		conn.Close()
	}
	p.open = nil
}

// runResume watches through etcd's client while connections are cut and the server is killed, and demands every
// event once and in order.
func runResume(ours, _ *server) int {
	const puts, watchers = 600, 8
	proxy := newProxy(ours.endpoint)
	defer proxy.listener.Close()
	writer, watcher := ours.client(), dial(proxy.listener.Addr().String())
	defer writer.Close()
	defer watcher.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()

	first, err := writer.Put(ctx, "resume/first", "")
	must(err)
	problems := make(chan string, watchers)
	var done sync.WaitGroup
	for i := range watchers {
		done.Add(1)
		go func() {
			defer done.Done()
			if problem := follow(ctx, watcher, first.Header.Revision+1, puts); problem != "" {
				problems <- fmt.Sprintf("watcher %d: %s", i, problem)
			}
		}()
	}
	for i := range puts {
		for {
			// A put whose answer was lost may have happened: the transaction makes it happen once.
			key := fmt.Sprintf("resume/%06d", i)
			attempt, stop := context.WithTimeout(ctx, 2*time.Second)
			_, err := writer.Txn(attempt).If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).Then(clientv3.OpPut(key, "v")).Commit()
			stop()
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				fmt.Println("the writer gave up:", err)
				return 1
			}
		}
		switch {
		case i%60 == 30:
			proxy.cut()
		case i%200 == 150:
			ours.kill()
			ours.start()
		}
	}
	done.Wait()
	close(problems)
	count := 0
	for problem := range problems {
		fmt.Println(problem)
		count++
	}
	fmt.Printf("resume: %d puts, %d watchers, connections cut %d times, server killed %d times\n", puts, watchers, puts/60, puts/200)
	return count
}

// follow reads events until it has seen all puts; what is wrong, or nothing.
func follow(ctx context.Context, client *clientv3.Client, from int64, puts int) string {
	last, seen := from-1, 0
	for response := range client.Watch(ctx, "resume/", clientv3.WithPrefix(), clientv3.WithRev(from), clientv3.WithProgressNotify()) {
		if err := response.Err(); err != nil {
			return err.Error()
		}
		for _, event := range response.Events {
			if event.Kv.ModRevision != last+1 {
				return fmt.Sprintf("revision %d after %d", event.Kv.ModRevision, last)
			}
			if want := fmt.Sprintf("resume/%06d", seen); string(event.Kv.Key) != want {
				return fmt.Sprintf("key %s where %s was due", event.Kv.Key, want)
			}
			last, seen = event.Kv.ModRevision, seen+1
		}
		if seen == puts {
			return ""
		}
	}
	return fmt.Sprintf("the watch ended after %d of %d events", seen, puts)
}
