package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// What an administrator and a user do with etcdctl, from a store without authentication to one without it again.
var authSession = []step{
	{args: "auth status -w fields"}, {args: "auth enable"}, {args: "auth disable"},
	{args: "user add root:rootpw"}, {args: "user add root:again"}, {args: "user add alice:alicepw -w json"}, {args: "user add bob --no-password"},
	{args: "user add :pw"}, {args: "user list"}, {args: "user list -w json"}, {args: "user get alice"}, {args: "user get nobody"},
	{args: "role add team"}, {args: "role add team"}, {args: "role add ''"}, {args: "role add other"}, {args: "role list"},
	{args: "role grant-permission team readwrite a/ --prefix"}, {args: "role grant-permission team read b"}, {args: "role grant-permission team write c d"},
	{args: "role grant-permission team read z a"}, {args: "role grant-permission nothing read a"}, {args: "role grant-permission team read b -w json"},
	{args: "role grant-permission other readwrite x --from-key"}, {args: "role get team"}, {args: "role get team -w json"}, {args: "role get nothing"},
	{args: "role revoke-permission team nope"}, {args: "role revoke-permission team b"}, {args: "role grant-permission team read b"},
	{args: "user grant-role alice team"}, {args: "user grant-role alice team"}, {args: "user grant-role alice nothing"}, {args: "user grant-role nobody team"},
	{args: "user revoke-role alice other"}, {args: "user get alice --detail"}, {args: "user get alice -w json"},
	{args: "put a/0 before"}, {args: "put secret s"},
	{args: "auth enable"}, {args: "auth status --user root:rootpw"}, {args: "get a/0"}, {args: "get a/0 --user root:wrong"}, {args: "get a/0 --user nobody:pw"},
	{args: "get a/0 --user bob:pw"}, {args: "user get root --user root:rootpw"}, {args: "role get root --user root:rootpw"},
	{args: "--user alice:alicepw put a/1 x"}, {args: "--user alice:alicepw put a/1 y --prev-kv"}, {args: "--user alice:alicepw get a/ --prefix"},
	{args: "--user alice:alicepw put secret x"}, {args: "--user alice:alicepw get secret"}, {args: "--user alice:alicepw get a --from-key"},
	{args: "--user alice:alicepw get --prefix ''"}, {args: "--user alice:alicepw put b x"}, {args: "--user alice:alicepw get b"},
	{args: "--user alice:alicepw put c x"}, {args: "--user alice:alicepw put c x --prev-kv"}, {args: "--user alice:alicepw del c"}, {args: "--user alice:alicepw del c --prev-kv"},
	{args: "--user alice:alicepw del c e"}, {args: "--user alice:alicepw del a/ --prefix --prev-kv"},
	{args: "--user alice:alicepw watch secret", stop: watchTime}, {args: "--user alice:alicepw watch a/ --prefix --rev 1", stop: watchTime},
	{args: "--user alice:alicepw txn", stdin: "value(\"secret\") = \"s\"\n\nput a/2 v\n\n\n"},
	{args: "--user alice:alicepw txn", stdin: "value(\"a/1\") = \"s\"\n\nput a/2 v\n\nget secret\n\n"},
	{args: "--user alice:alicepw txn", stdin: "\nput a/2 v\nget a/2\n\n\n"},
	{args: "--user alice:alicepw lease grant 100"}, {args: "--user alice:alicepw put a/3 v --lease=$A"}, {args: "--user root:rootpw put secret v --lease=$A"},
	{args: "--user alice:alicepw lease timetolive $A"}, {args: "--user alice:alicepw lease timetolive $A --keys"}, {args: "--user alice:alicepw lease list"},
	{args: "--user alice:alicepw lease revoke $A"}, {args: "--user alice:alicepw lease keep-alive --once $A"}, {args: "lease grant 100"},
	{args: "--user alice:alicepw compaction 3"}, {args: "compaction 3"}, {args: "--user root:rootpw compaction 3"},
	{args: "--user alice:alicepw user list"}, {args: "--user alice:alicepw user get alice"}, {args: "--user alice:alicepw role get team"}, {args: "--user alice:alicepw role get other"},
	{args: "--user alice:alicepw user passwd alice --interactive=false", stdin: "newpw\n"}, {args: "--user root:rootpw user passwd alice --interactive=false", stdin: "newpw\n"},
	{args: "--user alice:alicepw get b"}, {args: "--user alice:newpw get b"}, {args: "--user root:rootpw user delete root"}, {args: "--user root:rootpw user revoke-role root root"},
	{args: "--user root:rootpw role delete root"}, {args: "--user root:rootpw role delete team"}, {args: "--user root:rootpw user get alice"}, {args: "--user alice:newpw get b"},
	{args: "--user root:rootpw user delete alice"}, {args: "--user alice:newpw get b"}, {args: "--user root:rootpw endpoint health -w fields"}, {args: "endpoint health"},
	{args: "member list -w json"}, {args: "alarm list"}, {args: "--user root:rootpw alarm list"},
	{args: "--user root:rootpw auth disable"}, {args: "--user root:rootpw get b"}, {args: "get secret"}, {args: "auth status"},
}

func runAuth(ours, theirs *server) int {
	differences := runSteps(ours, theirs, authSession)
	return differences + runAuthRandom(ours, theirs)
}

// A side is one server and the tokens that callers have there.
type side struct {
	conn   *grpc.ClientConn
	tokens map[string]string
}

// A callRequest is what a caller says, to each side in the same words.
type callRequest struct {
	caller string
	text   string
	send   func(ctx context.Context, side *side) (proto.Message, error)
}

type authRandom struct {
	rng   *rand.Rand
	lease int64
}

var (
	authUsers = []string{"root", "alice", "bob", "carol"}
	authRoles = []string{"root", "r1", "r2", "r3"}
	authKeys  = []string{"a", "a/", "a/1", "a/2", "b", "b0", "c", "\x00"}
	authEnds  = []string{"", "", "", "\x00", "a/2", "a0", "b", "b0", "c", "d", "a"}
)

// runAuthRandom sends random requests of random callers, and compares codes, texts and answers.
func runAuthRandom(ours, theirs *server) int {
	r := &authRandom{rng: rand.New(rand.NewSource(*seed)), lease: 5000}
	sides := []*side{newSide(ours), newSide(theirs)}
	defer sides[0].conn.Close()
	defer sides[1].conn.Close()
	differences, refused, requests := 0, 0, *ops/2
	ask := func(request callRequest) string {
		answers := [2]string{}
		for i, side := range sides {
			answers[i] = side.answer(request)
		}
		if answers[0] != answers[1] {
			differences++
			fmt.Printf("as %q: %s\n--- setpoint\n%s\n--- etcd\n%s\n", request.caller, request.text, answers[0], answers[1])
		}
		return answers[1]
	}
	for _, request := range r.prologue() {
		ask(request)
	}
	for i := 0; i < requests && differences < 20; i++ {
		request := r.request()
		switch answer := ask(request); {
		case strings.HasPrefix(answer, "error PermissionDenied"):
			refused++
		case strings.Contains(answer, "revision of auth store is old") && r.rng.Intn(2) == 0:
			ask(r.login(request.caller, request.caller))
		}
		if i%200 == 199 {
			// Whatever was deleted: the administrator comes back, and the game goes on.
			for _, request := range r.prologue() {
				ask(request)
			}
		}
	}
	fmt.Printf("auth: %d random requests, seed %d, %d denied\n", requests, *seed, refused)
	return differences
}

func newSide(server *server) *side {
	conn, err := grpc.NewClient(server.endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(err)
	return &side{conn: conn, tokens: map[string]string{"invalid": "abcdefghijklmnop.1", "garbage": "x"}}
}

func (s *side) answer(request callRequest) string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if token := s.tokens[request.caller]; token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "token", token)
	}
	message, err := request.send(ctx, s)
	if err != nil {
		return describe(err)
	}
	if with, ok := message.(interface{ GetHeader() *pb.ResponseHeader }); ok && with.GetHeader() != nil {
		header := with.GetHeader()
		header.ClusterId, header.MemberId, header.RaftTerm = 0, 0, 0
	}
	if hash, ok := message.(*pb.HashResponse); ok {
		// Of the file, which is another here; told only while authentication is off.
		hash.Hash = 0
	}
	return protojson.Format(message)
}

// prologue makes the administrator, and switches authentication on.
func (r *authRandom) prologue() []callRequest {
	var requests []callRequest
	for _, caller := range []string{"root", ""} {
		requests = append(requests,
			r.userAdd(caller, "root", "root", false), r.grantRole(caller, "root", "root"), r.roleAdd(caller, "r1"), r.userAdd(caller, "alice", "alice", false))
	}
	return append(requests, r.enable(""), r.login("root", "root"), r.login("alice", "alice"), r.grantRole("root", "alice", "r1"))
}

func (r *authRandom) one(from []string) string { return from[r.rng.Intn(len(from))] }

func (r *authRandom) caller() string {
	switch r.rng.Intn(20) {
	case 0:
		return ""
	case 1:
		return "invalid"
	case 2:
		return "garbage"
	default:
		return r.one(authUsers)
	}
}

func (r *authRandom) admin() string {
	if r.rng.Intn(5) == 0 {
		return r.caller()
	}
	return "root"
}

func (r *authRandom) request() callRequest {
	user, role := r.one(authUsers), r.one(authRoles)
	switch r.rng.Intn(64) {
	case 0:
		return r.userAdd(r.admin(), user, user, r.rng.Intn(6) == 0)
	case 1:
		return unary(r.admin(), pb.NewAuthClient, pb.AuthClient.UserDelete, &pb.AuthUserDeleteRequest{Name: r.one(append(authUsers, "nobody"))})
	case 2:
		return unary(r.admin(), pb.NewAuthClient, pb.AuthClient.UserChangePassword, &pb.AuthUserChangePasswordRequest{Name: user, Password: user})
	case 3, 4:
		return r.login(user, r.one([]string{user, user, user, "wrong"}))
	case 5, 6, 7:
		return r.grantRole(r.admin(), user, role)
	case 8:
		return unary(r.admin(), pb.NewAuthClient, pb.AuthClient.UserRevokeRole, &pb.AuthUserRevokeRoleRequest{Name: user, Role: role})
	case 9, 10:
		return r.roleAdd(r.admin(), role)
	case 11:
		return unary(r.admin(), pb.NewAuthClient, pb.AuthClient.RoleDelete, &pb.AuthRoleDeleteRequest{Role: role})
	case 12, 13, 14, 15, 16, 17:
		perm := &authpb.Permission{Key: []byte(r.one(authKeys)), RangeEnd: []byte(r.one(authEnds)), PermType: authpb.Permission_Type(r.rng.Intn(3))}
		return unary(r.admin(), pb.NewAuthClient, pb.AuthClient.RoleGrantPermission, &pb.AuthRoleGrantPermissionRequest{Name: role, Perm: perm})
	case 18:
		return unary(r.admin(), pb.NewAuthClient, pb.AuthClient.RoleRevokePermission, &pb.AuthRoleRevokePermissionRequest{Role: role, Key: []byte(r.one(authKeys)), RangeEnd: []byte(r.one(authEnds))})
	case 19:
		return unary(r.caller(), pb.NewAuthClient, pb.AuthClient.UserGet, &pb.AuthUserGetRequest{Name: r.one(append(authUsers, ""))})
	case 20:
		return unary(r.caller(), pb.NewAuthClient, pb.AuthClient.RoleGet, &pb.AuthRoleGetRequest{Role: role})
	case 21:
		return unary(r.caller(), pb.NewAuthClient, pb.AuthClient.UserList, &pb.AuthUserListRequest{})
	case 22:
		return unary(r.caller(), pb.NewAuthClient, pb.AuthClient.RoleList, &pb.AuthRoleListRequest{})
	case 23:
		return unary(r.caller(), pb.NewAuthClient, pb.AuthClient.AuthStatus, &pb.AuthStatusRequest{})
	case 24:
		if r.rng.Intn(8) == 0 {
			return unary(r.admin(), pb.NewAuthClient, pb.AuthClient.AuthDisable, &pb.AuthDisableRequest{})
		}
		return r.enable(r.caller())
	case 25:
		// No administrator: the histories would end at different times.
		return unary(r.one([]string{"", "bob", "carol", "invalid"}), pb.NewKVClient, pb.KVClient.Compact, &pb.CompactionRequest{Revision: 1 << 40})
	case 26:
		return unary(r.caller(), pb.NewMaintenanceClient, pb.MaintenanceClient.Alarm, &pb.AlarmRequest{})
	case 27:
		return unary(r.one([]string{"", "bob", "carol", "invalid"}), pb.NewMaintenanceClient, pb.MaintenanceClient.Hash, &pb.HashRequest{})
	case 28, 29:
		return unary(r.caller(), pb.NewLeaseClient, pb.LeaseClient.LeaseTimeToLive, &pb.LeaseTimeToLiveRequest{ID: r.leaseID(), Keys: r.rng.Intn(2) == 0})
	case 30:
		r.lease++
		return unary(r.caller(), pb.NewLeaseClient, pb.LeaseClient.LeaseGrant, &pb.LeaseGrantRequest{ID: r.lease, TTL: 10000})
	case 31:
		return unary(r.caller(), pb.NewLeaseClient, pb.LeaseClient.LeaseRevoke, &pb.LeaseRevokeRequest{ID: r.leaseID()})
	case 32:
		return unary(r.caller(), pb.NewLeaseClient, pb.LeaseClient.LeaseLeases, &pb.LeaseLeasesRequest{})
	case 33:
		return r.keepAlive()
	case 34, 35, 36, 37:
		return r.watch()
	case 38, 39, 40, 41, 42, 43:
		return unary(r.caller(), pb.NewKVClient, pb.KVClient.Put, r.put())
	case 44, 45, 46, 47:
		return unary(r.caller(), pb.NewKVClient, pb.KVClient.DeleteRange, r.del())
	case 48, 49, 50, 51, 52, 53, 54:
		return unary(r.caller(), pb.NewKVClient, pb.KVClient.Txn, r.txn(2))
	default:
		return unary(r.caller(), pb.NewKVClient, pb.KVClient.Range, r.rangeRequest())
	}
}

func (r *authRandom) leaseID() int64 { return r.lease - int64(r.rng.Intn(4)) }

// keys is a key and where its range ends. Not before its key: whether etcd allows such an empty range depends on the
// shape of a tree (pkg/adt), so there is nothing to compare.
func (r *authRandom) keys(keys []string) (key, end []byte) {
	key, end = []byte(r.one(keys)), []byte(r.one(authEnds))
	if len(end) > 0 && !bytes.Equal(end, []byte{0}) && bytes.Compare(end, key) <= 0 {
		end = nil
	}
	return key, end
}

func (r *authRandom) rangeRequest() *pb.RangeRequest {
	key, end := r.keys(authKeys)
	return &pb.RangeRequest{Key: key, RangeEnd: end, CountOnly: r.rng.Intn(4) == 0}
}

func (r *authRandom) put() *pb.PutRequest {
	put := &pb.PutRequest{Key: []byte(r.one(authKeys)), Value: []byte("v"), PrevKv: r.rng.Intn(3) == 0}
	if r.rng.Intn(4) == 0 {
		put.Lease = r.leaseID()
	}
	return put
}

func (r *authRandom) del() *pb.DeleteRangeRequest {
	key, end := r.keys(authKeys)
	return &pb.DeleteRangeRequest{Key: key, RangeEnd: end, PrevKv: r.rng.Intn(3) == 0}
}

func (r *authRandom) txn(depth int) *pb.TxnRequest {
	txn := &pb.TxnRequest{}
	for range r.rng.Intn(2) {
		key, end := r.keys(authKeys)
		txn.Compare = append(txn.Compare, &pb.Compare{Key: key, RangeEnd: end, Target: pb.Compare_VERSION, Result: pb.Compare_GREATER, TargetUnion: &pb.Compare_Version{Version: 0}})
	}
	for range r.rng.Intn(2) {
		txn.Success = append(txn.Success, r.op(depth))
	}
	for range r.rng.Intn(2) {
		txn.Failure = append(txn.Failure, r.op(depth))
	}
	return txn
}

func (r *authRandom) op(depth int) *pb.RequestOp {
	switch n := r.rng.Intn(5); {
	case n == 0:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: r.put()}}
	case n == 1:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: r.del()}}
	case n < 4 && depth > 0:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: r.txn(depth - 1)}}
	default:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r.rangeRequest()}}
	}
}

func (r *authRandom) userAdd(caller, name, password string, without bool) callRequest {
	request := &pb.AuthUserAddRequest{Name: name, Password: password, Options: &authpb.UserAddOptions{NoPassword: without}}
	return unary(caller, pb.NewAuthClient, pb.AuthClient.UserAdd, request)
}

func (r *authRandom) grantRole(caller, user, role string) callRequest {
	return unary(caller, pb.NewAuthClient, pb.AuthClient.UserGrantRole, &pb.AuthUserGrantRoleRequest{User: user, Role: role})
}

func (r *authRandom) roleAdd(caller, role string) callRequest {
	return unary(caller, pb.NewAuthClient, pb.AuthClient.RoleAdd, &pb.AuthRoleAddRequest{Name: role})
}

func (r *authRandom) enable(caller string) callRequest {
	return unary(caller, pb.NewAuthClient, pb.AuthClient.AuthEnable, &pb.AuthEnableRequest{})
}

// login keeps the token for what the user says later; what it had before stays with the server.
func (r *authRandom) login(name, password string) callRequest {
	return callRequest{text: "login " + name + " " + password, send: func(ctx context.Context, side *side) (proto.Message, error) {
		answer, err := pb.NewAuthClient(side.conn).Authenticate(ctx, &pb.AuthenticateRequest{Name: name, Password: password})
		if err != nil {
			return nil, err
		}
		side.tokens[name], answer.Token = answer.Token, ""
		return answer, nil
	}}
}

func (r *authRandom) keepAlive() callRequest {
	request := &pb.LeaseKeepAliveRequest{ID: r.leaseID()}
	return callRequest{caller: r.caller(), text: "keep alive " + protojson.Format(request), send: func(ctx context.Context, side *side) (proto.Message, error) {
		stream, err := pb.NewLeaseClient(side.conn).LeaseKeepAlive(ctx)
		if err != nil {
			return nil, err
		}
		if err := stream.Send(request); err != nil {
			return nil, err
		}
		return stream.Recv()
	}}
}

func (r *authRandom) watch() callRequest {
	key, end := r.keys(append(authKeys, ""))
	create := &pb.WatchCreateRequest{Key: key, RangeEnd: end}
	return callRequest{caller: r.caller(), text: "watch " + protojson.Format(create), send: func(ctx context.Context, side *side) (proto.Message, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := pb.NewWatchClient(side.conn).Watch(ctx)
		if err != nil {
			return nil, err
		}
		if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
			return nil, err
		}
		return stream.Recv()
	}}
}

// unary is a request of a service's method.
func unary[C any, Q, A proto.Message](caller string, client func(grpc.ClientConnInterface) C, method func(C, context.Context, Q, ...grpc.CallOption) (A, error), request Q) callRequest {
	text := fmt.Sprintf("%T %s", request, protojson.Format(request))
	return callRequest{caller: caller, text: text, send: func(ctx context.Context, side *side) (proto.Message, error) {
		return method(client(side.conn), ctx, request)
	}}
}
