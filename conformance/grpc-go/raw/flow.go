package raw

import (
	"context"
	"encoding/binary"
	"errors"
	"io"

	"google.golang.org/grpc"
)

// Flow is the service that `setpoint bench flow` measures: Upload reads to the end, Hold does not read, Echo sends back.
var Flow = grpc.ServiceDesc{
	ServiceName: "setpoint.bench.Flow",
	HandlerType: (*any)(nil),
	Methods:     []grpc.MethodDesc{{MethodName: "Echo", Handler: echo}},
	Streams: []grpc.StreamDesc{
		{StreamName: "Upload", Handler: upload, ClientStreams: true},
		{StreamName: "Hold", Handler: hold, ClientStreams: true},
		{StreamName: "Download", Handler: download, ServerStreams: true, ClientStreams: true},
	},
}

func echo(_ any, _ context.Context, read func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	var message []byte
	if err := read(&message); err != nil {
		return nil, err
	}
	return &message, nil
}

func upload(_ any, stream grpc.ServerStream) error {
	var total uint64
	for {
		var message []byte
		err := stream.RecvMsg(&message)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		total += uint64(len(message))
	}
	answer := binary.BigEndian.AppendUint64(nil, total)
	return stream.SendMsg(&answer)
}

func hold(_ any, stream grpc.ServerStream) error {
	<-stream.Context().Done()
	return stream.Context().Err()
}

// download reads how many messages of how many bytes are wanted (two numbers), and sends them.
func download(_ any, stream grpc.ServerStream) error {
	var wish []byte
	if err := stream.RecvMsg(&wish); err != nil {
		return err
	}
	if len(wish) != 16 {
		return errors.New("say how many messages of how many bytes")
	}
	count, size := binary.BigEndian.Uint64(wish), binary.BigEndian.Uint64(wish[8:])
	message := make([]byte, size)
	for range count {
		if err := stream.SendMsg(&message); err != nil {
			return err
		}
	}
	return nil
}
