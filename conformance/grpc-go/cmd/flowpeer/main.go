// grpc-go's server and its client as contenders of `setpoint bench flow`, the server also as a peer of our clients. The
// server listens on a free port and says which on its first line; with -fetch the client reads from a server, as fast as it
// can. Both end when their standard input does.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"setpoint.dev/conformance/grpc-go/raw"
)

func main() {
	windows := flag.String("windows", "bdp", "bdp: as it comes, with its estimator; static: 64 KiB; tiny: what -window says")
	window := flag.Int("window", 65535, "bytes of tiny windows; grpc-go takes no less than 64 KiB by its options")
	streams := flag.Uint("streams", 0, "streams a connection may have at a time; 0 is any number")
	age := flag.Duration("age", 0, "after which a connection is sent away; 0 is never")
	ping := flag.Duration("min-ping", 0, "the least time between two pings of a client; 0 is grpc-go's five minutes")
	fetch := flag.String("fetch", "", "be a client that downloads from this address, not a server")
	flag.Parse()

	if *fetch != "" {
		download(*fetch, *windows, int32(*window))
		return
	}
	options := []grpc.ServerOption{
		grpc.ForceServerCodecV2(raw.Codec{}),
		grpc.MaxRecvMsgSize(math.MaxInt32),
		grpc.MaxSendMsgSize(math.MaxInt32),
	}
	switch *windows {
	case "bdp":
	case "static":
		options = append(options, grpc.StaticStreamWindowSize(65535), grpc.StaticConnWindowSize(65535))
	case "tiny":
		size := int32(*window)
		options = append(options, grpc.StaticStreamWindowSize(size), grpc.StaticConnWindowSize(size))
	default:
		log.Fatalf("-windows is bdp, static or tiny, not %q", *windows)
	}
	if *streams > 0 {
		options = append(options, grpc.MaxConcurrentStreams(uint32(*streams)))
	}
	if *age > 0 {
		options = append(options, grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionAge: *age, MaxConnectionAgeGrace: 10 * time.Second,
		}))
	}
	if *ping > 0 {
		options = append(options, grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
			MinTime: *ping, PermitWithoutStream: true,
		}))
	}
	server := grpc.NewServer(options...)
	server.RegisterService(&raw.Flow, struct{}{})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("listening %s\n", listener.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		server.Stop()
	}()
	if err := server.Serve(listener); err != nil {
		log.Fatal(err)
	}
}

// download reads messages from a server until standard input ends.
func download(address, windows string, window int32) {
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw.Codec{}), grpc.MaxCallRecvMsgSize(math.MaxInt32)),
	}
	switch windows {
	case "bdp":
	case "static":
		options = append(options, grpc.WithStaticStreamWindowSize(65535), grpc.WithStaticConnWindowSize(65535))
	case "tiny":
		options = append(options, grpc.WithStaticStreamWindowSize(window), grpc.WithStaticConnWindowSize(window))
	default:
		log.Fatalf("-windows is bdp, static or tiny, not %q", windows)
	}
	connection, err := grpc.NewClient("passthrough:///"+address, options...)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("fetching %s\n", address)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	description := grpc.StreamDesc{StreamName: "Pour", ServerStreams: true}
	stream, err := connection.NewStream(context.Background(), &description, "/setpoint.bench.Flow/Pour")
	if err != nil {
		log.Fatal(err)
	}
	wish := []byte{}
	if err := stream.SendMsg(&wish); err != nil {
		log.Fatal(err)
	}
	if err := stream.CloseSend(); err != nil {
		log.Fatal(err)
	}
	for {
		var message []byte
		if err := stream.RecvMsg(&message); err != nil {
			log.Fatal(err)
		}
	}
}
