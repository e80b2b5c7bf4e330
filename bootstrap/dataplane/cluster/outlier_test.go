package cluster

import (
	"testing"
	"testing/synctest"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/xds"
)

// detecting is a round robin cluster with outlier detection and without panic.
func detecting(t *testing.T, settings string) *clusterv3.Cluster {
	t.Helper()
	p := edsCluster("c", clusterv3.Cluster_ROUND_ROBIN)
	p.CommonLbConfig = &clusterv3.Cluster_CommonLbConfig{HealthyPanicThreshold: percent(0)}
	p.OutlierDetection = &clusterv3.OutlierDetection{}
	must(t, protojson.Unmarshal([]byte(settings), p.OutlierDetection))
	return p
}

func ejectedOf(c *Cluster) (out []string) {
	for _, e := range c.Endpoints() {
		if e.Ejected() {
			out = append(out, e.Address)
		}
	}
	return out
}

func TestConsecutiveErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t)
		c := serving(t, m, detecting(t, `{"consecutive5xx":3,"interval":"1s","baseEjectionTime":"10s","maxEjectionPercent":50,
			"enforcingSuccessRate":0}`), hosts(0, 4, 0))
		bad := c.Endpoints()[0]
		answer := func(codes ...int) {
			for _, n := range codes {
				c.Answered(bad, n)
			}
		}
		answer(500, 500, 200, 500, 500)
		if got := ejectedOf(c); got != nil {
			t.Fatalf("a success in between starts anew: %v", got)
		}
		answer(503)
		if got := ejectedOf(c); len(got) != 1 || bad.HealthFlags() != "/failed_outlier_check" || c.outlier.active.gauge.Value() != 1 {
			t.Fatalf("three in a row: %v, %s", got, bad.HealthFlags())
		}
		if got := pickCounts(t, c, 300); got[bad.Address] != 0 || len(got) != 3 {
			t.Errorf("an ejected host gets nothing: %v", got)
		}
		if c.Stats.Healthy.Value() != 3 || c.Stats.Members.Value() != 4 {
			t.Errorf("%d of %d healthy", c.Stats.Healthy.Value(), c.Stats.Members.Value())
		}
		// A weight that changes meanwhile does not bring it back.
		l := hosts(0, 4, 0)
		l.LbEndpoints[0].LoadBalancingWeight.Value = 1
		l.LbEndpoints[3].LoadBalancingWeight.Value = 2
		must(t, m.ApplyEndpoints(update(t, xds.EndpointType, nil, assignment("c", l))))
		if got := pickCounts(t, c, 100); got[bad.Address] != 0 {
			t.Errorf("back too soon: %v", got)
		}
		time.Sleep(9 * time.Second)
		synctest.Wait()
		if len(ejectedOf(c)) != 1 {
			t.Error("back before its time")
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got := pickCounts(t, c, 100); got[bad.Address] == 0 || c.outlier.active.gauge.Value() != 0 {
			t.Errorf("not back: %v", got)
		}
		// The second time it stays out twice as long.
		bad = c.Endpoints()[0]
		answer(500, 500, 500)
		time.Sleep(15 * time.Second)
		synctest.Wait()
		if len(ejectedOf(c)) != 1 {
			t.Error("the second ejection lasts twice as long")
		}
		time.Sleep(7 * time.Second)
		synctest.Wait()
		if len(ejectedOf(c)) != 0 {
			t.Error("not back after the second ejection")
		}
		m.Close()
	})
}

func TestEjectionLimits(t *testing.T) {
	m := newManager(t)
	c := serving(t, m, detecting(t, `{"consecutive5xx":1,"maxEjectionPercent":50,"enforcingSuccessRate":0}`), hosts(0, 4, 0))
	for _, e := range c.Endpoints() {
		c.Answered(e, 500)
	}
	if got := ejectedOf(c); len(got) != 2 || c.outlier.overflow.Value() != 2 {
		t.Errorf("50%% of four: %v, overflow %d", got, c.outlier.overflow.Value())
	}
	c = serving(t, m, detecting(t, `{"consecutive5xx":1,"enforcingSuccessRate":0}`), hosts(0, 4, 0))
	c.Answered(c.Endpoints()[0], 500)
	if got := ejectedOf(c); got != nil {
		t.Errorf("10%% of four is none: %v", got)
	}
	c = serving(t, m, detecting(t, `{"consecutive5xx":1,"enforcingSuccessRate":0,"alwaysEjectOneHost":true}`), hosts(0, 4, 0))
	for _, e := range c.Endpoints() {
		c.Answered(e, 500)
	}
	if got := ejectedOf(c); len(got) != 1 {
		t.Errorf("one always: %v", got)
	}
	c = serving(t, m, detecting(t, `{"consecutive5xx":1,"enforcingConsecutive5xx":0,"maxEjectionPercent":100,"enforcingSuccessRate":0}`), hosts(0, 4, 0))
	before := c.outlier.detected[consecutive5xx].Value()
	c.Answered(c.Endpoints()[0], 500)
	if got := ejectedOf(c); got != nil || c.outlier.detected[consecutive5xx].Value() != before+1 {
		t.Errorf("detected and not enforced: %v", got)
	}
}

func TestGatewayAndLocalErrors(t *testing.T) {
	m := newManager(t)
	// As istiod sends consecutiveGatewayErrors: 2 with consecutive5xxErrors: 0.
	c := serving(t, m, detecting(t, `{"consecutive5xx":0,"enforcingConsecutive5xx":0,"consecutiveGatewayFailure":2,
		"enforcingConsecutiveGatewayFailure":100,"maxEjectionPercent":100,"enforcingSuccessRate":0}`), hosts(0, 4, 0))
	e := c.Endpoints()
	for range 10 {
		c.Answered(e[0], 500)
	}
	c.Answered(e[1], 502)
	c.Answered(e[1], 500)
	c.Answered(e[1], 504)
	if got := ejectedOf(c); got != nil {
		t.Errorf("500 is no gateway error: %v", got)
	}
	c.Answered(e[1], 503)
	c.Unanswered(e[2], 503) // nobody is there
	c.Unanswered(e[2], 504)
	if got := ejectedOf(c); len(got) != 2 {
		t.Errorf("%v", got)
	}
	c = serving(t, m, detecting(t, `{"splitExternalLocalOriginErrors":true,"consecutiveLocalOriginFailure":2,"consecutive5xx":2,
		"enforcingConsecutive5xx":100,"maxEjectionPercent":100,"enforcingSuccessRate":0,"enforcingLocalOriginSuccessRate":0}`), hosts(0, 4, 0))
	e = c.Endpoints()
	c.Unanswered(e[0], 503)
	c.Reached(e[0], false)
	c.Unanswered(e[0], 503)
	c.Answered(e[1], 503)
	c.Unanswered(e[1], 503)
	if got := ejectedOf(c); got != nil {
		t.Errorf("the two kinds are counted apart: %v", got)
	}
	c.Unanswered(e[0], 503)
	c.Answered(e[1], 500)
	if got := ejectedOf(c); len(got) != 2 || c.outlier.enforced[consecutiveLocal].Value() != 1 || c.outlier.enforced[consecutive5xx].Value() != 1 {
		t.Errorf("%v", got)
	}
}

func TestRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t)
		c := serving(t, m, detecting(t, `{"consecutive5xx":1000,"interval":"1s","maxEjectionPercent":100,"enforcingSuccessRate":100,
			"successRateRequestVolume":50}`), hosts(0, 6, 0))
		for i, e := range c.Endpoints() {
			for n := range 100 {
				c.Answered(e, map[bool]int{true: 500, false: 200}[i == 0 && n%2 == 0])
			}
		}
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		if got := ejectedOf(c); len(got) != 1 || got[0] != "10.0.0.1:80" {
			t.Errorf("success rates 50 and five times 100: %v", got)
		}
		c = serving(t, m, detecting(t, `{"consecutive5xx":1000,"interval":"1s","maxEjectionPercent":100,"enforcingSuccessRate":0,
			"failurePercentageThreshold":40,"enforcingFailurePercentage":100}`), hosts(0, 6, 0))
		for i, e := range c.Endpoints() {
			for n := range 60 {
				c.Answered(e, map[bool]int{true: 500, false: 200}[i < 2 && n%2 == 0])
			}
		}
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		if got := ejectedOf(c); len(got) != 2 {
			t.Errorf("failures of 50%%: %v", got)
		}
		m.Close()
	})
}

// TestEjectionMovesPriority: hosts that are out push the load to the next priority, as for locality failover.
func TestEjectionMovesPriority(t *testing.T) {
	c := serving(t, newManager(t), detecting(t, `{"consecutive5xx":1,"maxEjectionPercent":100,"enforcingSuccessRate":0}`), hosts(0, 2, 0), hosts(1, 2, 0))
	if got := pickCounts(t, c, 100); got["10.0.1.1:80"]+got["10.0.1.2:80"] != 0 {
		t.Errorf("%v", got)
	}
	for _, e := range c.Endpoints()[:2] {
		c.Answered(e, 500)
	}
	if got := pickCounts(t, c, 100); got["10.0.1.1:80"]+got["10.0.1.2:80"] != 100 {
		t.Errorf("the first priority is out: %v", got)
	}
}
