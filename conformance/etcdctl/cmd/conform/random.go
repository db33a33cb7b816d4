package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// The random operations: every request is sent to both servers as it is, so that every field can be anything.
type random struct {
	rng       *rand.Rand
	revision  int64
	compacted int64
	leases    []int64
	next      int64
}

// A request, as the method that sends it and its message.
type request struct {
	name string
	send func(ctx context.Context, conn *clients) (proto.Message, error)
	text proto.Message
}

type clients struct {
	kv    pb.KVClient
	lease pb.LeaseClient
}

// Operations between two comparisons of watches.
const watchEvery = 20_000

func runRandom(ours, theirs *server) int {
	return runSeed(ours, theirs, *seed, *ops)
}

// runPairs runs the random operations on several pairs of servers at once, each with a seed and an equal part of them:
// while one pair waits for its disks, others work.
func runPairs(pairs, ops int) int {
	var all sync.WaitGroup
	differences := make([]int, pairs)
	started := time.Now()
	for i := range pairs {
		all.Add(1)
		go func() {
			defer all.Done()
			dir, err := os.MkdirTemp("", "conform")
			must(err)
			defer os.RemoveAll(dir)
			ours, theirs := servers(dir, "simple")
			ours.start()
			theirs.start()
			defer ours.kill()
			defer theirs.kill()
			differences[i] = runSeed(ours, theirs, *seed+int64(i), ops/pairs)
		}()
	}
	all.Wait()
	took := time.Since(started)
	fmt.Printf("%d operations on %d pairs in %.0f s: %.0f/s\n", ops, pairs, took.Seconds(), float64(ops)/took.Seconds())
	sum := 0
	for _, n := range differences {
		sum += n
	}
	return sum
}

func runSeed(ours, theirs *server, seed int64, ops int) int {
	r := &random{rng: rand.New(rand.NewSource(seed)), revision: 1, compacted: -1, next: 1000}
	clientOurs, clientTheirs := ours.client(), theirs.client()
	defer clientOurs.Close()
	defer clientTheirs.Close()
	connOurs, connTheirs := connect(clientOurs), connect(clientTheirs)
	differences := 0
	said, started := time.Now(), time.Now()
	for i := 0; i < ops && differences < 20; i++ {
		request := r.request()
		ourAnswer := make(chan answered, 1)
		go func() { ourAnswer <- answer(request, connOurs) }()
		answerTheirs := answer(request, connTheirs)
		answerOurs := <-ourAnswer
		if answerOurs.text != answerTheirs.text {
			differences++
			fmt.Printf("operation %d of seed %d: %s %s\n--- setpoint\n%s\n--- etcd\n%s\nreplay: conformance/bin/conform -setpoint target/release/setpoint -bin conformance/bin -only random -seed %d -ops %d\n",
				i, seed, request.name, protojson.Format(request.text), answerOurs.text, answerTheirs.text, seed, i+1)
		}
		if i%watchEvery == watchEvery-1 {
			differences += r.compareWatch(clientOurs, clientTheirs)
		}
		if time.Since(said) > 30*time.Second {
			said = time.Now()
			fmt.Printf("random: seed %d, %d of %d operations, %.0f/s, %d differences\n", seed, i+1, ops, float64(i+1)/time.Since(started).Seconds(), differences)
		}
		if answerTheirs.revision > r.revision {
			r.revision = answerTheirs.revision
		}
		if request.name == "Compact" && !strings.HasPrefix(answerTheirs.text, "error") {
			r.compacted = request.text.(*pb.CompactionRequest).Revision
		}
	}
	fmt.Printf("random: %d operations, seed %d, revision %d, compacted %d\n", ops, seed, r.revision, r.compacted)
	for i := 0; i < 30 && differences < 20; i++ {
		differences += r.compareWatch(clientOurs, clientTheirs)
	}
	return differences
}

func connect(client *clientv3.Client) *clients {
	conn := client.ActiveConnection()
	return &clients{kv: pb.NewKVClient(conn), lease: pb.NewLeaseClient(conn)}
}

type answered struct {
	text     string
	revision int64
}

// answer sends a request and makes the answer comparable: identities and terms gone, everything else as it is.
func answer(request request, conn *clients) answered {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	message, err := request.send(ctx, conn)
	if err != nil {
		return answered{text: describe(err)}
	}
	var revision int64
	if with, ok := message.(interface{ GetHeader() *pb.ResponseHeader }); ok && with.GetHeader() != nil {
		header := with.GetHeader()
		revision = header.Revision
		header.ClusterId, header.MemberId, header.RaftTerm = 0, 0, 0
	}
	if ttl, ok := message.(*pb.LeaseTimeToLiveResponse); ok && ttl.TTL > 0 {
		// Seconds tick between the two, and etcd's keys come in any order.
		ttl.TTL = 1
		slices.SortFunc(ttl.Keys, bytes.Compare)
	}
	if leases, ok := message.(*pb.LeaseLeasesResponse); ok {
		// Granted at different moments, they may expire in another order.
		leases.Leases = nil
	}
	order(message, request.text)
	return answered{text: protojson.Format(message), revision: revision}
}

func describe(err error) string {
	s := status.Convert(err)
	return fmt.Sprintf("error %s: %s", s.Code(), s.Message())
}

// order sorts answers whose order is free: those to ranges sorted by something that several keys share.
func order(answer, question proto.Message) {
	switch answer := answer.(type) {
	case *pb.RangeResponse:
		if get := question.(*pb.RangeRequest); get.SortTarget != pb.RangeRequest_KEY {
			slices.SortFunc(answer.Kvs, func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Key, b.Key) })
		}
	case *pb.TxnResponse:
		txn := question.(*pb.TxnRequest)
		ops := txn.Success
		if !answer.Succeeded {
			ops = txn.Failure
		}
		for i, response := range answer.Responses {
			switch response := response.Response.(type) {
			case *pb.ResponseOp_ResponseRange:
				order(response.ResponseRange, ops[i].GetRequestRange())
			case *pb.ResponseOp_ResponseTxn:
				order(response.ResponseTxn, ops[i].GetRequestTxn())
			}
		}
	}
}

func (r *random) request() request {
	switch n := r.rng.Intn(100); {
	case n < 30:
		put := r.put()
		if r.rng.Intn(8) == 0 {
			put.Key = []byte(fmt.Sprintf("q%d", r.rng.Intn(5)))
		}
		return request{"Put", func(ctx context.Context, c *clients) (proto.Message, error) { return c.kv.Put(ctx, put) }, put}
	case n < 55:
		get := r.get()
		return request{"Range", func(ctx context.Context, c *clients) (proto.Message, error) { return c.kv.Range(ctx, get) }, get}
	case n < 65:
		del := r.delete()
		return request{"DeleteRange", func(ctx context.Context, c *clients) (proto.Message, error) { return c.kv.DeleteRange(ctx, del) }, del}
	case n < 85:
		txn := r.txn(0)
		return request{"Txn", func(ctx context.Context, c *clients) (proto.Message, error) { return c.kv.Txn(ctx, txn) }, txn}
	case n < 87:
		// Mostly far behind, sometimes already compacted or in the future.
		compact := &pb.CompactionRequest{Revision: r.revision - int64(r.rng.Intn(400)) + 3, Physical: r.rng.Intn(2) == 0}
		return request{"Compact", func(ctx context.Context, c *clients) (proto.Message, error) { return c.kv.Compact(ctx, compact) }, compact}
	case n < 90:
		grant := &pb.LeaseGrantRequest{ID: r.lease(), TTL: 1_000_000 + int64(r.rng.Intn(100))}
		if r.rng.Intn(3) > 0 {
			r.next++
			grant.ID = r.next
			r.leases = append(r.leases, r.next)
		}
		if grant.ID == 0 {
			grant.ID = 999
		}
		return request{"LeaseGrant", func(ctx context.Context, c *clients) (proto.Message, error) { return c.lease.LeaseGrant(ctx, grant) }, grant}
	case n < 93:
		revoke := &pb.LeaseRevokeRequest{ID: r.lease()}
		return request{"LeaseRevoke", func(ctx context.Context, c *clients) (proto.Message, error) { return c.lease.LeaseRevoke(ctx, revoke) }, revoke}
	case n < 97:
		ttl := &pb.LeaseTimeToLiveRequest{ID: r.lease(), Keys: r.rng.Intn(2) == 0}
		return request{"LeaseTimeToLive", func(ctx context.Context, c *clients) (proto.Message, error) { return c.lease.LeaseTimeToLive(ctx, ttl) }, ttl}
	default:
		get := r.get()
		get.SortOrder, get.SortTarget, get.MinModRevision, get.MaxModRevision, get.MinCreateRevision, get.MaxCreateRevision = 0, 0, 0, 0, 0, 0
		return request{"RangeStream", func(ctx context.Context, c *clients) (proto.Message, error) { return collect(ctx, c, get) }, get}
	}
}

// collect joins the parts of a streamed range.
func collect(ctx context.Context, c *clients, get *pb.RangeRequest) (proto.Message, error) {
	stream, err := c.kv.RangeStream(ctx, get)
	if err != nil {
		return nil, err
	}
	joined := &pb.RangeResponse{}
	for {
		part, err := stream.Recv()
		if err != nil {
			if err.Error() == "EOF" {
				return joined, nil
			}
			return nil, err
		}
		proto.Merge(joined, part.RangeResponse)
	}
}

func (r *random) key() []byte {
	if r.rng.Intn(60) == 0 {
		return nil
	}
	// Few keys, so that operations meet; some are prefixes of others, some not text.
	key := []byte(fmt.Sprintf("k%d", r.rng.Intn(12)))
	if r.rng.Intn(4) == 0 {
		key = append(key, byte(r.rng.Intn(3)*127))
	}
	return key
}

func (r *random) rangeEnd() []byte {
	switch r.rng.Intn(6) {
	case 0, 1, 2:
		return nil
	case 3:
		return []byte{0}
	default:
		return r.key()
	}
}

func (r *random) lease() int64 {
	if len(r.leases) == 0 || r.rng.Intn(8) == 0 {
		return int64(r.rng.Intn(3)) * 7
	}
	return r.leases[r.rng.Intn(len(r.leases))]
}

func (r *random) put() *pb.PutRequest {
	put := &pb.PutRequest{Key: r.key(), PrevKv: r.rng.Intn(2) == 0}
	put.Value = []byte(strings.Repeat("v", r.rng.Intn(40)))
	if r.rng.Intn(5) == 0 {
		put.Lease = r.lease()
	}
	if r.rng.Intn(10) == 0 {
		put.IgnoreValue = true
		if r.rng.Intn(4) > 0 {
			put.Value = nil
		}
	}
	if r.rng.Intn(10) == 0 {
		put.IgnoreLease = true
		if r.rng.Intn(4) > 0 {
			put.Lease = 0
		}
	}
	return put
}

// someRevision is usually one that exists: 0, the present, the past, compacted, or the future.
func (r *random) someRevision() int64 {
	switch r.rng.Intn(10) {
	case 0, 1, 2, 3, 4, 5:
		return 0
	case 6:
		return r.revision + int64(r.rng.Intn(3))
	case 7:
		return r.compacted + int64(r.rng.Intn(3)) - 1
	default:
		return r.revision - int64(r.rng.Intn(200))
	}
}

func (r *random) bound() int64 {
	if r.rng.Intn(6) > 0 {
		return 0
	}
	return r.revision - int64(r.rng.Intn(60))
}

func (r *random) get() *pb.RangeRequest {
	get := &pb.RangeRequest{
		Key: r.key(), RangeEnd: r.rangeEnd(), Revision: r.someRevision(),
		Serializable: r.rng.Intn(2) == 0, KeysOnly: r.rng.Intn(6) == 0, CountOnly: r.rng.Intn(8) == 0,
		MinModRevision: r.bound(), MaxModRevision: r.bound(), MinCreateRevision: r.bound(), MaxCreateRevision: r.bound(),
	}
	if r.rng.Intn(2) == 0 {
		get.Limit = int64(r.rng.Intn(6)) - 1
	}
	if r.rng.Intn(3) == 0 {
		get.SortOrder = pb.RangeRequest_SortOrder(r.rng.Intn(3))
		get.SortTarget = pb.RangeRequest_SortTarget(r.rng.Intn(5))
	}
	if get.SortTarget != pb.RangeRequest_KEY {
		// Equal values may come in any order, as etcd's sort is not stable: all of them, put in order by ordered().
		get.Limit = 0
	}
	if r.rng.Intn(100) == 0 {
		get.SortOrder = 7
	}
	if get.Limit < 0 && get.CountOnly {
		get.Limit = 0
	}
	return get
}

func (r *random) delete() *pb.DeleteRangeRequest {
	return &pb.DeleteRangeRequest{Key: r.key(), RangeEnd: r.rangeEnd(), PrevKv: r.rng.Intn(2) == 0}
}

func (r *random) compare() *pb.Compare {
	compare := &pb.Compare{Key: r.key(), Result: pb.Compare_CompareResult(r.rng.Intn(4)), Target: pb.Compare_CompareTarget(r.rng.Intn(5))}
	if r.rng.Intn(3) == 0 {
		compare.RangeEnd = r.rangeEnd()
	}
	n := r.revision - int64(r.rng.Intn(30))
	switch r.rng.Intn(6) {
	case 0:
		compare.TargetUnion = &pb.Compare_Version{Version: int64(r.rng.Intn(3))}
	case 1:
		compare.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: n}
	case 2:
		compare.TargetUnion = &pb.Compare_ModRevision{ModRevision: n}
	case 3:
		compare.TargetUnion = &pb.Compare_Value{Value: []byte("vvv")}
	case 4:
		compare.TargetUnion = &pb.Compare_Lease{Lease: r.lease()}
	}
	return compare
}

// txnDelete is a delete as a transaction may have it on both sides: etcd's check for keys that are put and deleted
// overlooks open ends, and deletes nested after puts; setpoint refuses those. Nested deletes keep to keys of their own.
func (r *random) txnDelete(depth int) *pb.DeleteRangeRequest {
	del := r.delete()
	if string(del.RangeEnd) == "\x00" {
		del.RangeEnd = nil
	}
	if depth > 0 && len(del.Key) > 0 {
		del.Key, del.RangeEnd = []byte(fmt.Sprintf("q%d", r.rng.Intn(5))), nil
	}
	return del
}

func (r *random) txn(depth int) *pb.TxnRequest {
	txn := &pb.TxnRequest{}
	for range r.rng.Intn(3) {
		txn.Compare = append(txn.Compare, r.compare())
	}
	for range r.rng.Intn(4) {
		txn.Success = append(txn.Success, r.op(depth))
	}
	for range r.rng.Intn(3) {
		txn.Failure = append(txn.Failure, r.op(depth))
	}
	return txn
}

func (r *random) op(depth int) *pb.RequestOp {
	switch n := r.rng.Intn(20); {
	case n < 8:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: r.put()}}
	case n < 12:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r.get()}}
	case n < 16:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: r.txnDelete(depth)}}
	case n < 19 && depth < 3:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: r.txn(depth + 1)}}
	default:
		return &pb.RequestOp{}
	}
}

// compareWatch watches the same keys from the same revision on both until the present, and compares the events.
func (r *random) compareWatch(ours, theirs *clientv3.Client) int {
	key, end := string(r.key()), string(r.rangeEnd())
	from := r.compacted + int64(r.rng.Intn(int(r.revision-r.compacted)+1)) - 2
	if from < 1 {
		from = 1
	}
	options := []clientv3.OpOption{clientv3.WithRev(from), clientv3.WithPrevKV()}
	if end != "" {
		options = append(options, clientv3.WithRange(end))
	}
	for i, option := range []clientv3.OpOption{clientv3.WithFilterPut(), clientv3.WithFilterDelete(), clientv3.WithFragment()} {
		if r.rng.Intn(4) == i {
			options = append(options, option)
		}
	}
	got, want := r.watch(ours, key, options), r.watch(theirs, key, options)
	if reflect.DeepEqual(got, want) {
		return 0
	}
	fmt.Printf("watch %q..%q from %d (compacted %d, now %d)\n--- setpoint\n%s\n--- etcd\n%s\n", key, end, from, r.compacted, r.revision,
		strings.Join(got, "\n"), strings.Join(want, "\n"))
	return 1
}

func (r *random) watch(client *clientv3.Client, key string, options []clientv3.OpOption) []string {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	events := []string{}
	quiet := 400 * time.Millisecond
	channel := client.Watch(ctx, key, options...)
	for {
		select {
		case response, ok := <-channel:
			if !ok {
				return append(events, "closed")
			}
			if err := response.Err(); err != nil {
				return append(events, fmt.Sprintf("%v, compacted %d", err, response.CompactRevision))
			}
			for _, event := range response.Events {
				if event.PrevKv != nil && event.Kv.ModRevision-1 < r.compacted {
					// Read after a compaction it may be there or not.
					event.PrevKv = nil
				}
				events = append(events, fmt.Sprintf("%s %v prev %v", event.Type, event.Kv, event.PrevKv))
			}
		case <-time.After(quiet):
			return events
		}
	}
}
