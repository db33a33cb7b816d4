package main

import (
	"context"
	"fmt"
	"math/rand"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc/status"
)

const contenders = 20

var (
	prefixed = clientv3.WithPrefix()
	counted  = clientv3.WithCountOnly()
)

// contest: those who want the same thing get it one after the other, whichever way they ask.
func contest(_ string, m *member, s *story) {
	s.say("mutex: %s", mutex(m))
	s.say("session: %s", session(m))
	s.say("election: %s", election(m))
	s.say("service: %s", electionService(m))
	s.say("stm: %s", stm(m))
}

// each runs f for every contender, each with a connection of its own.
func each(m *member, f func(ctx context.Context, i int, client *clientv3.Client)) {
	ctx, cancel := within()
	defer cancel()
	var all sync.WaitGroup
	for i := range contenders {
		all.Add(1)
		go func() {
			defer all.Done()
			client := m.client()
			defer client.Close()
			f(ctx, i, client)
		}()
	}
	all.Wait()
}

// mutex counts to 20*5 by reading and writing a key that only the lock protects. Even contenders lock through the
// client package, odd ones through the server's service; both stand in one line.
func mutex(m *member) string {
	var inside, overlaps atomic.Int64
	each(m, func(ctx context.Context, i int, client *clientv3.Client) {
		s, err := concurrency.NewSession(client, concurrency.WithTTL(30))
		must(err)
		defer s.Close()
		locks := v3lockpb.NewLockClient(client.ActiveConnection())
		local := concurrency.NewMutex(s, "mutex")
		for range 5 {
			var key []byte
			if i%2 == 0 {
				must(local.Lock(ctx))
			} else {
				held, err := locks.Lock(ctx, &v3lockpb.LockRequest{Name: []byte("mutex"), Lease: int64(s.Lease())})
				must(err)
				key = held.Key
			}
			if inside.Add(1) > 1 {
				overlaps.Add(1)
			}
			got, err := client.Get(ctx, "counter")
			must(err)
			n := 0
			if len(got.Kvs) > 0 {
				n, _ = strconv.Atoi(string(got.Kvs[0].Value))
			}
			_, err = client.Put(ctx, "counter", strconv.Itoa(n+1))
			must(err)
			inside.Add(-1)
			if i%2 == 0 {
				must(local.Unlock(ctx))
			} else {
				_, err = locks.Unlock(ctx, &v3lockpb.UnlockRequest{Key: key})
				must(err)
			}
		}
	})
	ctx, cancel := within()
	defer cancel()
	client := m.client()
	defer client.Close()
	got, err := client.Get(ctx, "counter")
	must(err)
	left, err := client.Get(ctx, "mutex/", prefixed, counted)
	must(err)
	return fmt.Sprintf("counted to %s, %d overlaps, %d keys left", got.Kvs[0].Value, overlaps.Load(), left.Count)
}

// session: what a lock is worth when its session ends, and what tries and gives up.
func session(m *member) string {
	ctx, cancel := within()
	defer cancel()
	client := m.client()
	defer client.Close()
	first, err := concurrency.NewSession(client)
	must(err)
	second, err := concurrency.NewSession(client)
	must(err)
	held, other := concurrency.NewMutex(first, "s"), concurrency.NewMutex(second, "s")
	must(held.Lock(ctx))
	tried := other.TryLock(ctx)
	short, end := context.WithTimeout(ctx, 200*time.Millisecond)
	gave := other.Lock(short)
	end()
	locks := v3lockpb.NewLockClient(client.ActiveConnection())
	short, end = context.WithTimeout(ctx, 200*time.Millisecond)
	_, served := locks.Lock(short, &v3lockpb.LockRequest{Name: []byte("s"), Lease: int64(second.Lease())})
	end()
	left := int64(-1)
	// The server takes a moment to see that its caller has gone.
	for deadline := time.Now().Add(5 * time.Second); left != 1 && time.Now().Before(deadline); {
		got, err := client.Get(ctx, "s/", prefixed, counted)
		must(err)
		left = got.Count
	}
	_, none := locks.Lock(ctx, &v3lockpb.LockRequest{Name: []byte("s"), Lease: 12345})
	must(first.Close())
	must(other.Lock(ctx))
	owner, err := client.Txn(ctx).If(other.IsOwner()).Commit()
	must(err)
	must(second.Close())
	// Server and client notice the deadline at the same moment: the code is the same, whose words come first is not.
	return fmt.Sprintf("tried: %v; gave up: %v; served: %v; %d key left; no lease: %v; owner: %v",
		tried, gave, status.Code(served), left, none, owner.Succeeded)
}

// seen is what an observer has been told, for candidates who wait until it has been told of them.
type seen struct {
	mu   sync.Mutex
	all  []string
	told chan struct{}
}

func newSeen() *seen { return &seen{told: make(chan struct{})} }

func (s *seen) add(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, what)
	close(s.told)
	s.told = make(chan struct{})
}

// until waits until the observer has been told of what; false when the time is over.
func (s *seen) until(ctx context.Context, what string) bool {
	for {
		s.mu.Lock()
		there, told := slices.Contains(s.all, what), s.told
		s.mu.Unlock()
		if there {
			return true
		}
		select {
		case <-told:
		case <-ctx.Done():
			return false
		}
	}
}

// election: every candidate leads once, and an observer sees all of them in the order in which they led.
func election(m *member) string {
	observer := m.client()
	defer observer.Close()
	s, err := concurrency.NewSession(observer)
	must(err)
	defer s.Close()
	watching, end := context.WithCancel(context.Background())
	defer end()
	observed := newSeen()
	go func() {
		for got := range concurrency.NewElection(s, "e").Observe(watching) {
			observed.add(string(got.Kvs[0].Value))
		}
	}()
	var mu sync.Mutex
	var led []string
	each(m, func(ctx context.Context, i int, client *clientv3.Client) {
		s, err := concurrency.NewSession(client, concurrency.WithTTL(30))
		must(err)
		defer s.Close()
		e, name := concurrency.NewElection(s, "e"), fmt.Sprintf("c%02d", i)
		must(e.Campaign(ctx, name))
		now, err := e.Leader(ctx)
		must(err)
		mu.Lock()
		led = append(led, string(now.Kvs[0].Value))
		mu.Unlock()
		observed.until(ctx, name)
		must(e.Resign(ctx))
	})
	same := slices.Equal(led, observed.all)
	slices.Sort(led)
	return fmt.Sprintf("%d led, each once: %v; observed in order: %v", len(led), len(slices.Compact(led)) == contenders, same)
}

// electionService: the same through the server's service, proclaiming in between.
func electionService(m *member) string {
	client := m.client()
	defer client.Close()
	elections := v3electionpb.NewElectionClient(client.ActiveConnection())
	ctx, cancel := within()
	defer cancel()
	_, nobody := elections.Leader(ctx, &v3electionpb.LeaderRequest{Name: []byte("x")})
	_, missing := elections.Proclaim(ctx, &v3electionpb.ProclaimRequest{Value: []byte("v")})
	observing, end := context.WithCancel(ctx)
	defer end()
	observer, err := elections.Observe(observing, &v3electionpb.LeaderRequest{Name: []byte("x")})
	must(err)
	observed := newSeen()
	go func() {
		for {
			got, err := observer.Recv()
			if err != nil {
				return
			}
			observed.add(string(got.Kv.Key) + " " + string(got.Kv.Value))
		}
	}()
	var terms, proclaimed, late atomic.Int64
	each(m, func(ctx context.Context, i int, client *clientv3.Client) {
		elections := v3electionpb.NewElectionClient(client.ActiveConnection())
		won, err := elections.Campaign(ctx, &v3electionpb.CampaignRequest{Name: []byte("x"), Value: []byte("campaigned")})
		must(err)
		terms.Add(1)
		proclaim := &v3electionpb.ProclaimRequest{Leader: won.Leader, Value: []byte("proclaimed")}
		_, err = elections.Proclaim(ctx, proclaim)
		must(err)
		if observed.until(ctx, string(won.Leader.Key)+" proclaimed") {
			proclaimed.Add(1)
		}
		_, err = elections.Resign(ctx, &v3electionpb.ResignRequest{Leader: won.Leader})
		must(err)
		if _, err = elections.Proclaim(ctx, proclaim); err != nil {
			late.Add(1)
		}
	})
	return fmt.Sprintf("%v; %v; %d terms, %d proclaimed, %d too late", nobody, missing, terms.Load(), proclaimed.Load(), late.Load())
}

// stm moves money between accounts; none is lost and none is made.
func stm(m *member) string {
	ctx, cancel := within()
	defer cancel()
	client := m.client()
	defer client.Close()
	account := func(i int) string { return fmt.Sprintf("account/%d", i) }
	for i := range 5 {
		_, err := client.Put(ctx, account(i), "100")
		must(err)
	}
	for _, isolation := range []concurrency.Isolation{concurrency.SerializableSnapshot, concurrency.Serializable, concurrency.RepeatableReads} {
		each(m, func(ctx context.Context, i int, client *clientv3.Client) {
			chance := rand.New(rand.NewSource(int64(i)))
			for range 10 {
				from, to, amount := chance.Intn(5), chance.Intn(5), chance.Intn(10)
				if from == to {
					continue
				}
				_, err := concurrency.NewSTM(client, func(s concurrency.STM) error {
					a, _ := strconv.Atoi(s.Get(account(from)))
					b, _ := strconv.Atoi(s.Get(account(to)))
					s.Put(account(from), strconv.Itoa(a-amount))
					s.Put(account(to), strconv.Itoa(b+amount))
					return nil
				}, concurrency.WithIsolation(isolation))
				must(err)
			}
		})
	}
	sum := 0
	got, err := client.Get(ctx, "account/", prefixed)
	must(err)
	for _, kv := range got.Kvs {
		n, _ := strconv.Atoi(string(kv.Value))
		sum += n
	}
	return fmt.Sprintf("%d in %d accounts", sum, len(got.Kvs))
}
