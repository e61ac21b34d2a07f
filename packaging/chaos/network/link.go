package network

import (
	"container/heap"
	"math/rand/v2"
	"sync"
	"time"
)

// QueueBytes is what one direction of a pair of hosts holds at most, on top of what is under way by its delay and rate.
const QueueBytes = 4 << 20

// Condition is how one direction of a pair of hosts is. The zero value passes everything at once.
type Condition struct {
	Cut    bool          // nothing gets through
	Delay  time.Duration // of each packet
	Jitter time.Duration // up to so much more, of chance for each packet: they overtake each other
	Loss   float64       // part of the packets that vanish, 0 to 1
	Double float64       // part of the packets that come twice, 0 to 1
	Rate   int           // bytes a second; 0: no limit
}

// late says whether packets have to wait.
func (c Condition) late() bool { return c.Delay > 0 || c.Jitter > 0 || c.Rate > 0 }

// Counts are the packets of one direction.
type Counts struct{ Passed, Lost, Overflowed uint64 }

// link is one direction of a pair of hosts.
type link struct {
	deliver func([]byte) // to the receiving host; its errors are losses
	now     func() time.Time

	mu     sync.Mutex
	cond   Condition
	random *rand.Rand
	queue  packets
	bytes  int       // in queue
	free   time.Time // when the rate lets the next packet begin
	order  uint64
	counts Counts
	wake   chan struct{} // has room for one
}

func newLink(seed uint64, deliver func([]byte), now func() time.Time) *link {
	return &link{deliver: deliver, now: now, random: rand.New(rand.NewPCG(seed, 0)), wake: make(chan struct{}, 1)}
}

// set changes the condition. What waits keeps the time it was to arrive at; after a cut it is gone.
func (l *link) set(c Condition) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cond, l.free = c, time.Time{}
	if c.Cut {
		l.counts.Lost += uint64(len(l.queue))
		l.queue, l.bytes = nil, 0
	}
}

// send takes a packet, which it does not keep.
func (l *link) send(packet []byte) {
	l.mu.Lock()
	c := l.cond
	if c.Cut || c.Loss > 0 && l.random.Float64() < c.Loss {
		l.counts.Lost++
		l.mu.Unlock()
		return
	}
	copies := 1
	if c.Double > 0 && l.random.Float64() < c.Double {
		copies = 2
	}
	// Whoever comes while others wait queues behind them: ending a delay does not bring packets out of order.
	if !c.late() && len(l.queue) == 0 {
		l.counts.Passed += uint64(copies)
		l.mu.Unlock()
		for range copies {
			l.deliver(packet)
		}
		return
	}
	for range copies {
		l.enqueue(c, packet)
	}
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// enqueue puts a copy of a packet in line. The link is locked.
func (l *link) enqueue(c Condition, packet []byte) {
	room := QueueBytes + int(float64(c.Rate)*c.Delay.Seconds())
	if l.bytes+len(packet) > room {
		l.counts.Overflowed++
		return
	}
	begin := l.now()
	if c.Rate > 0 {
		if l.free.After(begin) {
			begin = l.free
		}
		begin = begin.Add(time.Duration(float64(len(packet)) / float64(c.Rate) * 1e9))
		l.free = begin
	}
	due := begin.Add(c.Delay)
	if c.Jitter > 0 {
		due = due.Add(time.Duration(l.random.Int64N(int64(c.Jitter))))
	}
	l.order++
	l.bytes += len(packet)
	heap.Push(&l.queue, waiting{due, l.order, append([]byte(nil), packet...)})
}

// next takes the packet whose time has come, or says how long it is until then; false: nobody waits.
func (l *link) next() (packet []byte, wait time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 {
		return nil, 0, false
	}
	if wait := l.queue[0].due.Sub(l.now()); wait > 0 {
		return nil, wait, true
	}
	w := heap.Pop(&l.queue).(waiting)
	l.bytes -= len(w.packet)
	l.counts.Passed++
	return w.packet, 0, true
}

// run delivers what was late, until stop is closed.
func (l *link) run(stop <-chan struct{}) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		packet, wait, ok := l.next()
		switch {
		case packet != nil:
			l.deliver(packet)
			continue
		case !ok:
			wait = time.Hour
		}
		timer.Reset(wait)
		select {
		case <-stop:
			return
		case <-l.wake:
		case <-timer.C:
		}
	}
}

// waiting is a packet that is to arrive later.
type waiting struct {
	due    time.Time
	order  uint64
	packet []byte
}

// packets are in order of their arrival.
type packets []waiting

func (p packets) Len() int { return len(p) }
func (p packets) Less(i, k int) bool {
	if !p[i].due.Equal(p[k].due) {
		return p[i].due.Before(p[k].due)
	}
	return p[i].order < p[k].order
}
func (p packets) Swap(i, k int) { p[i], p[k] = p[k], p[i] }
func (p *packets) Push(x any)   { *p = append(*p, x.(waiting)) }
func (p *packets) Pop() any {
	last := len(*p) - 1
	w := (*p)[last]
	(*p)[last] = waiting{}
	*p = (*p)[:last]
	return w
}
