package export

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
)

func TestQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var batches [][]int
		reg := stats.New()
		sc := stats.Scope{Name: "q", Family: "q"}
		dropped, sent := reg.Counter(sc, "dropped"), reg.Counter(sc, "sent")
		fail := false
		q := NewQueue(Config[int]{
			Every: time.Second, Flush: 3, Limit: 4, Dropped: dropped, Sent: sent,
			Send: func(_ context.Context, b []int) error {
				if fail {
					return errors.New("down")
				}
				time.Sleep(time.Second) // a slow collector
				batches = append(batches, b)
				return nil
			},
		})
		q.Put(1)
		synctest.Wait()
		if len(batches) != 0 {
			t.Error("sent at once")
		}
		time.Sleep(2500 * time.Millisecond)
		if len(batches) != 1 || len(batches[0]) != 1 {
			t.Errorf("batches %v", batches)
		}
		for i := range 3 {
			q.Put(i) // full: goes at once
		}
		synctest.Wait()
		for i := range 6 {
			q.Put(i) // while the collector is busy
		}
		if dropped.Value() != 2 {
			t.Errorf("%d dropped, want 2", dropped.Value())
		}
		time.Sleep(5 * time.Second)
		if len(batches) != 3 || len(batches[2]) != 4 || sent.Value() != 8 {
			t.Errorf("batches %v, sent %d", batches, sent.Value())
		}
		fail = true
		q.Put(1)
		time.Sleep(5 * time.Second)
		if dropped.Value() != 3 {
			t.Errorf("%d dropped, want 3", dropped.Value())
		}
		fail = false
		q.Put(9)
		q.Close()
		if last := batches[len(batches)-1]; len(last) != 1 || last[0] != 9 {
			t.Errorf("the end sent %v", batches)
		}
		q.Put(1)
	})
}

func TestSplitURI(t *testing.T) {
	for uri, want := range map[string][2]string{
		"http://zipkin.ns:9411/api/v2/spans": {"zipkin.ns:9411", "/api/v2/spans"}, "collector.ns/v1/traces": {"collector.ns", "/v1/traces"}, "h": {"h", "/"},
	} {
		if h, p := splitURI(uri); h != want[0] || p != want[1] {
			t.Errorf("%s gave %q %q", uri, h, p)
		}
	}
}
