package cluster

import (
	"math"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
)

// outlierConfig holds the settings of outlier detection, with Envoy's defaults where there are none.
type outlierConfig struct {
	server, gateway, local uint32 // failures in a row
	split                  bool   // failures on our side are counted apart
	interval               time.Duration
	base, max, jitter      time.Duration // ejection times
	maxPercent             uint32
	atLeastOne             bool
	enforce                [numReasons]uint32 // percent

	rateHosts, rateVolume       uint32
	rateStdev                   float64
	percentHosts, percentVolume uint32
	percentThreshold            float64
}

const outlierFields = "consecutive_5xx interval base_ejection_time max_ejection_percent enforcing_consecutive_5xx " +
	"enforcing_success_rate success_rate_minimum_hosts success_rate_request_volume success_rate_stdev_factor " +
	"consecutive_gateway_failure enforcing_consecutive_gateway_failure split_external_local_origin_errors " +
	"consecutive_local_origin_failure enforcing_consecutive_local_origin_failure enforcing_local_origin_success_rate " +
	"failure_percentage_threshold enforcing_failure_percentage enforcing_failure_percentage_local_origin " +
	"failure_percentage_minimum_hosts failure_percentage_request_volume max_ejection_time max_ejection_time_jitter " +
	"always_eject_one_host"

// compileOutlier gives nil for a nil message.
func compileOutlier(p *clusterv3.OutlierDetection) (*detector, error) {
	if p == nil {
		return nil, nil
	}
	if err := fields.Check(p, outlierFields); err != nil {
		return nil, err
	}
	or := func(v *uint32Value, d uint32) uint32 {
		if v == nil {
			return d
		}
		return v.GetValue()
	}
	c := outlierConfig{
		server: or(p.GetConsecutive_5Xx(), 5), gateway: or(p.GetConsecutiveGatewayFailure(), 5),
		local: or(p.GetConsecutiveLocalOriginFailure(), 5), split: p.GetSplitExternalLocalOriginErrors(),
		interval: 10 * time.Second, base: 30 * time.Second, max: 300 * time.Second,
		jitter: p.GetMaxEjectionTimeJitter().AsDuration(), maxPercent: min(or(p.GetMaxEjectionPercent(), 10), 100),
		atLeastOne: p.GetAlwaysEjectOneHost().GetValue(),
		rateHosts:  or(p.GetSuccessRateMinimumHosts(), 5), rateVolume: or(p.GetSuccessRateRequestVolume(), 100),
		rateStdev:    float64(or(p.GetSuccessRateStdevFactor(), 1900)) / 1000,
		percentHosts: or(p.GetFailurePercentageMinimumHosts(), 5), percentVolume: or(p.GetFailurePercentageRequestVolume(), 50),
		percentThreshold: float64(or(p.GetFailurePercentageThreshold(), 85)),
	}
	c.enforce = [numReasons]uint32{
		consecutive5xx:         or(p.GetEnforcingConsecutive_5Xx(), 100),
		consecutiveGateway:     or(p.GetEnforcingConsecutiveGatewayFailure(), 0),
		consecutiveLocal:       or(p.GetEnforcingConsecutiveLocalOriginFailure(), 100),
		successRate:            or(p.GetEnforcingSuccessRate(), 100),
		localSuccessRate:       or(p.GetEnforcingLocalOriginSuccessRate(), 100),
		failurePercentage:      or(p.GetEnforcingFailurePercentage(), 0),
		localFailurePercentage: or(p.GetEnforcingFailurePercentageLocalOrigin(), 0),
	}
	if v := p.GetInterval(); v != nil && v.AsDuration() > 0 {
		c.interval = v.AsDuration()
	}
	if v := p.GetBaseEjectionTime(); v != nil {
		c.base = v.AsDuration()
	}
	if v := p.GetMaxEjectionTime(); v != nil {
		c.max = v.AsDuration()
	}
	c.max = max(c.max, c.base)
	return &detector{cfg: c}, nil
}

// rates compares the hosts' rates of success over the last interval and ejects those that fall off. The caller holds mu.
func (d *detector) rates(all []*Endpoint) bool {
	changed := d.compare(all, successRate, failurePercentage, func(m *monitor) (uint64, uint64) {
		return m.total.Swap(0), m.good.Swap(0)
	})
	if d.cfg.split {
		changed = d.compare(all, localSuccessRate, localFailurePercentage, func(m *monitor) (uint64, uint64) {
			return m.localTotal.Swap(0), m.localGood.Swap(0)
		}) || changed
	}
	return changed
}

type rated struct {
	host *Endpoint
	rate float64 // of success, in percent
}

func (d *detector) compare(all []*Endpoint, byRate, byPercent ejection, take func(*monitor) (total, good uint64)) bool {
	var forRate, forPercent []rated
	for _, e := range all {
		total, good := take(&e.monitor)
		if total == 0 || e.ejected.Load() {
			continue
		}
		r := rated{e, 100 * float64(good) / float64(total)}
		if total >= uint64(d.cfg.rateVolume) {
			forRate = append(forRate, r)
		}
		if total >= uint64(d.cfg.percentVolume) {
			forPercent = append(forPercent, r)
		}
	}
	changed := false
	if d.cfg.enforce[byRate] > 0 && len(forRate) > 0 && len(forRate) >= int(d.cfg.rateHosts) {
		var mean, variance float64
		for _, r := range forRate {
			mean += r.rate / float64(len(forRate))
		}
		for _, r := range forRate {
			variance += (r.rate - mean) * (r.rate - mean) / float64(len(forRate))
		}
		for _, r := range forRate {
			if r.rate < mean-d.cfg.rateStdev*math.Sqrt(variance) {
				changed = d.eject(r.host, byRate) || changed
			}
		}
	}
	if d.cfg.enforce[byPercent] > 0 && len(forPercent) > 0 && len(forPercent) >= int(d.cfg.percentHosts) {
		for _, r := range forPercent {
			if 100-r.rate >= d.cfg.percentThreshold {
				changed = d.eject(r.host, byPercent) || changed
			}
		}
	}
	return changed
}
