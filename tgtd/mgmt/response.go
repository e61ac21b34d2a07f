package mgmt

import (
	"encoding/binary"
	"fmt"
	"io"
)

// MaxText bounds the text of an answer that a client takes, in bytes. The protocol knows no bound;
// 65 536 targets make some 50 MB.
const MaxText = 256 << 20

// Response is one answer. Text is empty unless Err is Success.
type Response struct {
	Err  Errno
	Text string
}

// Append encodes the answer onto dst: an error number and, on success, a text that ends with a NUL.
// An empty text has no NUL; on error the text is left out.
func (r *Response) Append(dst []byte) []byte {
	n := 0
	if r.Err == Success && r.Text != "" {
		n = len(r.Text) + 1
	}
	dst = binary.NativeEndian.AppendUint32(dst, uint32(r.Err))
	dst = binary.NativeEndian.AppendUint32(dst, uint32(ResponseHeaderSize+n))
	if n > 0 {
		dst = append(append(dst, r.Text...), 0)
	}
	return dst
}

// DecodeResponseHeader decodes the head of an answer and says how many text bytes follow it, the
// NUL included. It returns ErrMalformed or ErrTooLarge for a length that can't be.
func DecodeResponseHeader(h *[ResponseHeaderSize]byte) (e Errno, text int, err error) {
	length := binary.NativeEndian.Uint32(h[4:])
	switch {
	case length < ResponseHeaderSize:
		return 0, 0, fmt.Errorf("%w: length %d of an answer", ErrMalformed, length)
	case length > ResponseHeaderSize+MaxText:
		return 0, 0, fmt.Errorf("%w: an answer of %d bytes", ErrTooLarge, length)
	}
	return Errno(binary.NativeEndian.Uint32(h[:])), int(length - ResponseHeaderSize), nil
}

// ReadResponse reads one answer. It returns ErrNoAnswer when the peer closes before the first
// byte, ErrPartial when it closes in the middle, and those of DecodeResponseHeader.
func ReadResponse(from io.Reader) (Response, error) {
	var h [ResponseHeaderSize]byte
	switch _, err := io.ReadFull(from, h[:]); err {
	case nil:
	case io.EOF:
		return Response{}, ErrNoAnswer
	case io.ErrUnexpectedEOF:
		return Response{}, ErrPartial
	default:
		return Response{}, fmt.Errorf("reading the head of an answer: %w", err)
	}
	e, n, err := DecodeResponseHeader(&h)
	if err != nil {
		return Response{}, err
	}
	// ReadAll grows with what arrives: an announced length alone costs no memory.
	b, err := io.ReadAll(io.LimitReader(from, int64(n)))
	if err != nil {
		return Response{}, fmt.Errorf("reading %d bytes of an answer: %w", n, err)
	}
	if len(b) < n {
		return Response{}, fmt.Errorf("%w: %d of %d bytes", ErrPartial, len(b), n)
	}
	return Response{Err: e, Text: text(b)}, nil
}
