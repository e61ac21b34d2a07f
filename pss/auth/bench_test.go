package auth

import (
	"io"
	"net"
	"syscall"
	"testing"
	"time"
)

// BenchmarkConn moves frames-like pieces (a head of 128 bytes and a body) from one end of a connection to the other, and
// reports the processor time of both ends for each MiB, open and with a key.
func BenchmarkConn(b *testing.B) {
	for _, size := range []struct {
		name        string
		body, count int // bytes; bodies that are written together
	}{{"4KiB", 4 << 10, 1}, {"16x4KiB", 4 << 10, 16}, {"256KiB", 256 << 10, 1}} {
		for name, closed := range map[string]bool{"open": false, "key": true} {
			b.Run(size.name+"/"+name, func(b *testing.B) {
				var from, to net.Conn
				if closed {
					c, s := secured(b)
					from, to = c, s
				} else {
					from, to = sockets(b)
				}
				check(b, from.SetDeadline(time.Time{}))
				check(b, to.SetDeadline(time.Time{}))
				move(b, from, to, size.body, size.count)
			})
		}
	}
}

func move(b *testing.B, from, to net.Conn, body, count int) {
	var pieces [][]byte
	for range count {
		pieces = append(pieces, make([]byte, 128), make([]byte, body))
	}
	total := int64(b.N) * int64(count) * int64(128+body)
	b.SetBytes(total / int64(b.N))
	b.ReportAllocs()
	done := make(chan error, 1)
	b.ResetTimer()
	begin := processor(b)
	go func() {
		_, err := io.CopyBuffer(onlyWriter{}, onlyReader{io.LimitReader(to, total)}, make([]byte, 256<<10))
		done <- err
	}()
	for range b.N {
		if c, ok := from.(*Conn); ok {
			check(b, c.WriteBuffers(pieces))
		} else {
			v := net.Buffers(append([][]byte(nil), pieces...))
			_, err := v.WriteTo(from)
			check(b, err)
		}
	}
	check(b, <-done)
	b.ReportMetric(float64((processor(b)-begin).Microseconds())/(float64(total)/(1<<20)), "cpu-µs/MiB")
}

type onlyWriter struct{}

func (onlyWriter) Write(b []byte) (int, error) { return len(b), nil }

type onlyReader struct{ io.Reader }

// processor is the processor time of this process.
func processor(b *testing.B) time.Duration {
	var u syscall.Rusage
	check(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
