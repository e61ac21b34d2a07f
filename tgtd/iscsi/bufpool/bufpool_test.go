package bufpool

import "testing"

func TestClasses(t *testing.T) {
	var p Pool
	for _, c := range []struct{ n, capacity int }{
		{1, 4096}, {4096, 4096}, {4097, 8192}, {65536, 65536}, {1<<20 + 1, 1 << 21},
	} {
		b := p.Get(c.n)
		if len(b.Data) != c.n || cap(b.Data) != c.capacity {
			t.Errorf("Get(%d): length %d, capacity %d, want %d", c.n, len(b.Data), cap(b.Data), c.capacity)
		}
		p.Put(b)
	}
}

func TestSizeOutOfRange(t *testing.T) {
	for _, n := range []int{-1, 0, MaxSize + 1} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("Get(%d) did not panic", n)
				}
			}()
			new(Pool).Get(n)
		}()
	}
}

func TestNoAllocationInSteadyState(t *testing.T) {
	var p Pool
	p.Put(p.Get(4096))
	if n := testing.AllocsPerRun(1000, func() { p.Put(p.Get(4096)) }); n > 0.1 {
		t.Errorf("%v allocations a round", n)
	}
}
