// Package raw is a service whose messages are bytes, so that no code has to be generated.
package raw

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
)

// Codec passes []byte as it is.
type Codec struct{}

var _ encoding.CodecV2 = Codec{}

// Marshal takes a []byte.
func (Codec) Marshal(v any) (mem.BufferSlice, error) {
	data, ok := v.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("raw: cannot send a %T", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(*data)}, nil
}

// Unmarshal fills a []byte.
func (Codec) Unmarshal(data mem.BufferSlice, v any) error {
	to, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("raw: cannot receive a %T", v)
	}
	*to = data.Materialize()
	return nil
}

// Name is what peers see in the content type.
func (Codec) Name() string { return "raw" }
