package main

import (
	"context"
	"fmt"
	"sort"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.etcd.io/etcd/client/v3/leasing"
	"go.etcd.io/etcd/client/v3/mirror"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.etcd.io/etcd/client/v3/ordering"
	"go.uber.org/zap"
)

// packages: what others build on clientv3.
func packages(_ string, m *member, s *story) {
	kube(m, s)
	client := m.client()
	defer client.Close()
	ctx, cancel := within()
	defer cancel()
	namespaced(ctx, client, s)
	synced(ctx, client, s)
	ordered(ctx, client, s)
	leased(ctx, m, s)
}

func kube(m *member, s *story) {
	client, err := kubernetes.New(clientv3.Config{Endpoints: []string{m.endpoint}, Logger: zap.NewNop()})
	must(err)
	defer client.Close()
	ctx, cancel := within()
	defer cancel()
	k := client.Kubernetes
	made, err := k.OptimisticPut(ctx, "/k/a", []byte("1"), 0, kubernetes.PutOptions{})
	s.say("create: %+v %v", made, err)
	again, err := k.OptimisticPut(ctx, "/k/a", []byte("2"), 0, kubernetes.PutOptions{GetOnFailure: true})
	s.say("create again: %+v %v", again, err)
	changed, err := k.OptimisticPut(ctx, "/k/a", []byte("2"), made.Revision, kubernetes.PutOptions{})
	s.say("update: %+v %v", changed, err)
	for i := range 5 {
		_, err := k.OptimisticPut(ctx, fmt.Sprintf("/k/b%d", i), []byte("x"), 0, kubernetes.PutOptions{})
		must(err)
	}
	page, err := k.List(ctx, "/k/", kubernetes.ListOptions{Limit: 2})
	s.say("page: %+v %v", page, err)
	rest, err := k.List(ctx, "/k/", kubernetes.ListOptions{Revision: page.Revision, Continue: "/k/b0\x00"})
	s.say("rest: %+v %v", rest, err)
	count, err := k.Count(ctx, "/k/", kubernetes.CountOptions{})
	s.say("count: %d %v", count, err)
	old, err := k.Get(ctx, "/k/a", kubernetes.GetOptions{Revision: made.Revision})
	s.say("old: %+v %v", old, err)
	kept, err := k.OptimisticDelete(ctx, "/k/a", made.Revision, kubernetes.DeleteOptions{GetOnFailure: true})
	s.say("delete, stale: %+v %v", kept, err)
	gone, err := k.OptimisticDelete(ctx, "/k/a", changed.Revision, kubernetes.DeleteOptions{})
	s.say("delete: %+v %v", gone, err)
	_, err = client.Compact(ctx, gone.Revision)
	must(err)
	_, err = k.List(ctx, "/k/", kubernetes.ListOptions{Revision: made.Revision})
	s.say("compacted: %v", err)
}

func namespaced(ctx context.Context, client *clientv3.Client, s *story) {
	kv := namespace.NewKV(client, "ns/")
	watching, end := context.WithCancel(ctx)
	defer end()
	events := namespace.NewWatcher(client, "ns/").Watch(watching, "", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	<-events
	_, err := kv.Put(ctx, "a", "1")
	must(err)
	_, err = kv.Txn(ctx).If(clientv3.Compare(clientv3.Value("a"), "=", "1")).
		Then(clientv3.OpPut("b", "2"), clientv3.OpGet("a", clientv3.WithFromKey())).Commit()
	must(err)
	var seen []string
	for len(seen) < 2 {
		for _, event := range (<-events).Events {
			seen = append(seen, string(event.Kv.Key))
		}
	}
	inside, err := kv.Get(ctx, "", clientv3.WithFromKey())
	must(err)
	outside, err := client.Get(ctx, "ns/", prefixed)
	must(err)
	s.say("namespace: saw %v, %d inside, %d outside", seen, inside.Count, outside.Count)
}

func synced(ctx context.Context, client *clientv3.Client, s *story) {
	for i := range 2500 {
		_, err := client.Put(ctx, fmt.Sprintf("sync/%04d", i), "v")
		must(err)
	}
	syncer := mirror.NewSyncer(client, "sync/", 0)
	base, failed := syncer.SyncBase(ctx)
	keys := 0
	for page := range base {
		keys += len(page.Kvs)
	}
	must(<-failed)
	watching, end := context.WithCancel(ctx)
	defer end()
	updates := syncer.SyncUpdates(watching)
	_, err := client.Delete(ctx, "sync/00", prefixed)
	must(err)
	events := 0
	for events < 100 {
		events += len((<-updates).Events)
	}
	s.say("mirror: %d keys, %d events", keys, events)
}

func ordered(ctx context.Context, client *clientv3.Client, s *story) {
	violations := 0
	kv := ordering.NewKV(client.KV, func(clientv3.Op, clientv3.OpResponse, int64) error {
		violations++
		return nil
	})
	last := int64(0)
	for i := range 200 {
		if i%10 == 0 {
			_, err := client.Put(ctx, "o", fmt.Sprint(i))
			must(err)
		}
		got, err := kv.Get(ctx, "o", clientv3.WithSerializable())
		must(err)
		if got.Kvs[0].ModRevision < last {
			violations++
		}
		last = got.Kvs[0].ModRevision
	}
	s.say("ordering: %d violations", violations)
}

// leased: two caches of one key; who writes takes it from the other. Neither ends before both are done: a key of one that has
// ended is free only with its lease, after a minute.
func leased(ctx context.Context, m *member, s *story) {
	var values []string
	var mu sync.Mutex
	var both sync.WaitGroup
	for i := range 2 {
		client := m.client()
		defer client.Close()
		kv, end, err := leasing.NewKV(client, "leases/")
		must(err)
		defer end()
		both.Add(1)
		go func() {
			defer both.Done()
			for n := range 20 {
				_, err := kv.Put(ctx, "cached", fmt.Sprintf("%d-%02d", i, n))
				must(err)
				got, err := kv.Get(ctx, "cached")
				must(err)
				if n == 19 {
					mu.Lock()
					values = append(values, fmt.Sprint(len(got.Kvs)))
					mu.Unlock()
				}
			}
		}()
	}
	both.Wait()
	sort.Strings(values)
	s.say("leasing: %v", values)
}

// load: the smallest of etcdctl's `check perf`, for five seconds instead of a minute.
func load(_ string, m *member, s *story) {
	client := m.client()
	defer client.Close()
	ctx, cancel := within()
	defer cancel()
	var all sync.WaitGroup
	var mu sync.Mutex
	failed, slow := 0, 0
	tick := time.NewTicker(time.Second / 150)
	defer tick.Stop()
	for i := range 750 {
		<-tick.C
		all.Add(1)
		go func() {
			defer all.Done()
			began := time.Now()
			_, err := client.Put(ctx, fmt.Sprintf("load/%d", i), string(make([]byte, 1024)))
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed++
			}
			if time.Since(began) > time.Second {
				slow++
			}
		}()
	}
	all.Wait()
	got, err := client.Get(ctx, "load/", prefixed, counted)
	must(err)
	s.say("load: %d keys, %d failed, %d slow", got.Count, failed, slow)
}
