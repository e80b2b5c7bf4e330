package hcm

import (
	"time"

	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/match"
)

// fault delays or aborts a share of the requests.
type fault struct {
	delay     time.Duration
	delayCoin func() bool
	abort     int
	abortCoin func() bool
	headers   func(get func(string) []string) bool
}

func compileFault(p *faultv3.HTTPFault) (*fault, error) {
	if err := fields.Check(p, "delay abort headers"); err != nil {
		return nil, err
	}
	out := &fault{}
	if d := p.GetDelay(); d != nil {
		if err := fields.Check(d, "fixed_delay percentage"); err != nil {
			return nil, err
		}
		out.delay, out.delayCoin = d.GetFixedDelay().AsDuration(), fraction(d.GetPercentage())
		if d.GetPercentage() == nil {
			out.delay = 0
		}
	}
	if a := p.GetAbort(); a != nil {
		if err := fields.Check(a, "http_status grpc_status percentage"); err != nil {
			return nil, err
		}
		if a.GetGrpcStatus() != 0 {
			return nil, fields.Unsupported(a, "grpc_status", "")
		}
		out.abort, out.abortCoin = int(a.GetHttpStatus()), fraction(a.GetPercentage())
		if a.GetPercentage() == nil {
			out.abort = 0
		}
	}
	if len(p.GetHeaders()) > 0 {
		f, err := match.Headers(p.GetHeaders())
		if err != nil {
			return nil, err
		}
		out.headers = f
	}
	return out, nil
}

func newFault(_ *Manager, name string, body *anypb.Any) (filter, error) {
	p := &faultv3.HTTPFault{}
	if err := body.UnmarshalTo(p); err != nil {
		return filter{}, err
	}
	base, err := compileFault(p)
	if err != nil {
		return filter{}, err
	}
	return filter{name: name, request: func(s *Stream) *reply {
		f := base
		if c, ok := s.perFilter(name).(*fault); ok {
			f = c
		}
		if s.off(name) || (f.headers != nil && !f.headers(s.headerValues)) {
			return nil
		}
		if f.delay > 0 && (f.delayCoin == nil || f.delayCoin()) {
			s.flags |= accesslog.DelayInjected
			t := time.NewTimer(f.delay)
			defer t.Stop()
			select {
			case <-t.C:
			case <-s.ctx.Done():
				return &reply{flags: accesslog.DownstreamConnectionTermination, details: "downstream_remote_disconnect"}
			}
		}
		if f.abort > 0 && (f.abortCoin == nil || f.abortCoin()) {
			return &reply{
				status: f.abort, body: "fault filter abort", flags: accesslog.FaultInjected, details: "fault_filter_abort",
			}
		}
		return nil
	}}, nil
}

func faultPerRoute(body *anypb.Any) (any, error) {
	p := &faultv3.HTTPFault{}
	if err := body.UnmarshalTo(p); err != nil {
		return nil, err
	}
	return compileFault(p)
}
