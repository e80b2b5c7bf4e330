package cluster

import (
	"math"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
)

// slowStart raises a new host's weight over a window; the zero value means that hosts start at once.
type slowStart struct {
	window     time.Duration
	aggression float64
	min        float64 // least part of the weight, 0 to 1
}

// slowStartConfig is what the two protos of that name share.
type slowStartConfig interface {
	proto.Message
	GetSlowStartWindow() *durationpb.Duration
	GetAggression() *corev3.RuntimeDouble
	GetMinWeightPercent() *typev3.Percent
}

func (b *balance) setSlowStart(c slowStartConfig) error {
	if err := fields.Check(c, "slow_start_window aggression min_weight_percent"); err != nil {
		return err
	}
	b.slow = slowStart{window: c.GetSlowStartWindow().AsDuration(), aggression: 1, min: 0.1}
	if a := c.GetAggression(); a != nil && a.GetDefaultValue() > 0 {
		b.slow.aggression = a.GetDefaultValue()
	}
	if m := c.GetMinWeightPercent(); m != nil {
		b.slow.min = m.GetValue() / 100
	}
	return nil
}

// factor is the part of its weight that a host gets which has been there for age.
func (s slowStart) factor(age time.Duration) float64 {
	if s.window <= 0 || age >= s.window {
		return 1
	}
	f := max(float64(age.Milliseconds()), 1) / float64(s.window.Milliseconds())
	if s.aggression != 1 {
		f = math.Pow(f, 1/s.aggression)
	}
	return max(f, s.min)
}

// until returns when the last host of the list is at its full weight, zero where all are.
func (s slowStart) until(hosts []*Endpoint, now time.Time) time.Time {
	var last time.Time
	if s.window <= 0 {
		return last
	}
	for _, h := range hosts {
		if end := h.since().Add(s.window); end.After(now) && end.After(last) {
			last = end
		}
	}
	return last
}
