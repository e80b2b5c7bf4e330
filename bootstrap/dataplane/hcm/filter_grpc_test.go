package hcm

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestFramesOfAnyPieces(t *testing.T) {
	stream := []byte{0, 0, 0, 0, 3, 'a', 'b', 'c', 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 'x'}
	for size := 1; size <= len(stream); size++ {
		var f frames
		for at := 0; at < len(stream); at += size {
			f.feed(stream[at:min(at+size, len(stream))])
		}
		if n := f.count.Load(); n != 3 {
			t.Errorf("%d messages in pieces of %d, want 3", n, size)
		}
	}
}

func TestMessagesAreToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m messages
		var in, out uint64
		tell := func(i, o uint64) { in, out = in+i, out+o }
		m.report(time.Second, tell)
		one := []byte{0, 0, 0, 0, 0}
		m.in.feed(one)
		m.sent(one)
		if out != 0 {
			t.Error("told before the time")
		}
		time.Sleep(time.Second)
		m.sent(one)
		if in != 1 || out != 2 {
			t.Errorf("told %d and %d, want 1 and 2", in, out)
		}
		m.sent(one)
		m.last(tell)
		m.last(tell)
		if in != 1 || out != 3 {
			t.Errorf("in the end %d and %d, want 1 and 3", in, out)
		}
	})
}
