package main

import (
	"context"
	"fmt"
	"io"
	"sort"
	"strings"
	"time"

	_ "go.etcd.io/etcd/api/v3/etcdserverpb"
	_ "go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	_ "go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// A talk on one stream (or a call of one answer): what the client says, in order. A line is a message in protobuf's
// JSON; "METHOD {…}" is a call of one answer beside the stream, "header NAME VALUE" goes in front of everything.
type talk struct {
	method string
	said   []string
}

// Names of fields whose values a server chooses.
var chosen = map[protoreflect.Name]bool{
	"cluster_id": true, "member_id": true, "raft_term": true, "leader": true, "raftTerm": true, "raftIndex": true,
	"raftAppliedIndex": true, "dbSize": true, "dbSizeInUse": true, "hash": true, "memberID": true,
	"peerURLs": true, "clientURLs": true, "compact_hash": true, "authRevision": true, "token": true,
}

const quiet = 250 * time.Millisecond

// runTalks says the same to both, message by message, and compares all that comes back.
func runTalks(ours, theirs *server) int {
	differences := 0
	sides := []*speaker{newSpeaker(ours), newSpeaker(theirs)}
	for _, talk := range talks {
		heard := make([]string, len(sides))
		done := make(chan struct{})
		for i, side := range sides {
			go func() { heard[i] = side.hold(talk); done <- struct{}{} }()
		}
		for range sides {
			<-done
		}
		if heard[0] != heard[1] {
			differences++
			fmt.Printf("talk %s %s\n--- setpoint\n%s--- etcd\n%s\n", talk.method, strings.Join(talk.said, " "), heard[0], heard[1])
		}
	}
	fmt.Printf("talks: %d\n", len(talks))
	return differences
}

type speaker struct{ conn *grpc.ClientConn }

func newSpeaker(server *server) *speaker {
	conn, err := grpc.NewClient(server.endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(err)
	return &speaker{conn}
}

func descriptor(method string) protoreflect.MethodDescriptor {
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(strings.ReplaceAll(method, "/", ".")))
	must(err)
	return found.(protoreflect.MethodDescriptor)
}

func message(kind protoreflect.MessageDescriptor, text string) proto.Message {
	found, err := protoregistry.GlobalTypes.FindMessageByName(kind.FullName())
	must(err)
	made := found.New().Interface()
	must(protojson.Unmarshal([]byte(text), made))
	return made
}

func (s *speaker) hold(talk talk) string {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	said := talk.said
	for len(said) > 0 && strings.HasPrefix(said[0], "header ") {
		words := strings.SplitN(said[0], " ", 3)
		ctx = metadata.AppendToOutgoingContext(ctx, words[1], words[2])
		said = said[1:]
	}
	method := descriptor(talk.method)
	if !method.IsStreamingClient() && !method.IsStreamingServer() {
		var heard strings.Builder
		for _, text := range said {
			heard.WriteString(s.call(ctx, talk.method+" "+text))
		}
		return heard.String()
	}
	stream, err := s.conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/"+talk.method)
	must(err)
	lines := make(chan string, 1000)
	go func() {
		defer close(lines)
		for {
			answer := message(method.Output(), "{}")
			if err := stream.RecvMsg(answer); err != nil {
				lines <- ended(err)
				return
			}
			lines <- shown(answer)
		}
	}()
	var heard strings.Builder
	for _, text := range said {
		switch {
		case text == "close":
			_ = stream.CloseSend()
		case strings.HasPrefix(text, "{"):
			_ = stream.SendMsg(message(method.Input(), text))
		default:
			fmt.Fprintf(&heard, "  beside: %s", s.call(ctx, text))
		}
		if !method.IsStreamingClient() {
			_ = stream.CloseSend()
		}
		listen(lines, &heard)
	}
	return heard.String()
}

// listen writes what comes until nothing comes for a while. Watchers of a stream are told in any order.
func listen(lines chan string, heard *strings.Builder) {
	var batch []string
	defer func() {
		sort.Strings(batch)
		heard.WriteString(strings.Join(batch, ""))
	}()
	for {
		select {
		case line, open := <-lines:
			if !open {
				return
			}
			batch = append(batch, line)
		case <-time.After(quiet):
			return
		}
	}
}

func (s *speaker) call(ctx context.Context, text string) string {
	name, body, _ := strings.Cut(text, " ")
	method := descriptor(name)
	answer := message(method.Output(), "{}")
	if err := s.conn.Invoke(ctx, "/"+name, message(method.Input(), body), answer); err != nil {
		return ended(err)
	}
	return shown(answer)
}

func ended(err error) string {
	if err == io.EOF {
		return "  end\n"
	}
	said, _ := status.FromError(err)
	return fmt.Sprintf("  %s: %s\n", said.Code(), said.Message())
}

func shown(answer proto.Message) string {
	mask(answer.ProtoReflect())
	text, err := protojson.MarshalOptions{}.Marshal(answer)
	must(err)
	// The library varies its white space on purpose.
	return "  " + strings.ReplaceAll(string(text), " ", "") + "\n"
}

func mask(answer protoreflect.Message) {
	answer.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case chosen[field.Name()], answer.Descriptor().Name() == "Member":
			answer.Clear(field)
		case field.IsList() && field.Message() != nil:
			for i := range value.List().Len() {
				mask(value.List().Get(i).Message())
			}
		case field.Message() != nil && !field.IsMap():
			mask(value.Message())
		}
		return true
	})
}
