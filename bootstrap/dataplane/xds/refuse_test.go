package xds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"testing"
	"testing/synctest"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

func TestRefused(t *testing.T) {
	a, b := Refuse("a", errors.New("no")), Refuse("b", errors.New("never"))
	for _, tc := range []struct {
		err   error
		names map[string]bool
		whole bool
	}{
		{a, map[string]bool{"a": true}, false},
		{errors.Join(a, b), map[string]bool{"a": true, "b": true}, false},
		{errors.Join(a, errors.New("all of it")), nil, true},
		{fmt.Errorf("wrapped: %w", a), nil, true},
		{errors.New("all of it"), nil, true},
	} {
		if names, whole := refused(tc.err); whole != tc.whole || !maps.Equal(names, tc.names) {
			t.Errorf("%v: %v %t", tc.err, names, whole)
		}
	}
	if s := errors.Join(a, b).Error(); s != "no\nnever" {
		t.Errorf("what the server is told: %q", s)
	}
}

// TestRefusedResourcesAreNotForgotten: after a reconnect the server hears the version of what was taken beside what was
// refused, and of what was refused the last one that was taken.
func TestRefusedResourcesAreNotForgotten(t *testing.T) {
	updates := make(chan Update, 8)
	s, c := start(t, Delta, HandlerFunc(func(u Update) error {
		defer func() { updates <- u }()
		if u.Version == "2" {
			return Refuse("x", errors.New("x: no"))
		}
		return nil
	}))
	c.Subscribe(ClusterType, nil)
	p := take(t, s.delta)
	take(t, p.in)
	for _, v := range []string{"1", "2"} {
		resp := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: ClusterType, Nonce: v, SystemVersionInfo: v}
		for _, n := range []string{"x", "y"} {
			resp.Resources = append(resp.Resources, &discoveryv3.Resource{Name: n, Version: "v" + v, Resource: pack(t, &clusterv3.Cluster{Name: n})})
		}
		if err := p.st.Send(resp); err != nil {
			t.Fatal(err)
		}
		take(t, updates)
		if r := take(t, p.in); (r.GetErrorDetail() != nil) != (v == "2") {
			t.Errorf("version %s: %v", v, r)
		}
	}
	close(p.quit)
	p = take(t, s.delta)
	if got, want := take(t, p.in).GetInitialResourceVersions(), map[string]string{"x": "v1", "y": "v2"}; !maps.Equal(got, want) {
		t.Errorf("known after the reconnect: %v, want %v", got, want)
	}
}

// TestBackoff counts the attempts at a server that is away for ten minutes.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		began := time.Now()
		c := New(Config{
			Name: "away", Mode: Delta, Node: &corev3.Node{Id: "me"}, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
			Handler: HandlerFunc(func(Update) error { return nil }),
			Dial: func(context.Context) (net.Conn, error) {
				at = append(at, time.Since(began))
				return nil, errors.New("nobody there")
			},
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if len(at) < 20 || len(at) > 60 {
			t.Errorf("%d attempts in ten minutes", len(at))
		}
		for i := 1; i < len(at); i++ {
			if gap := at[i] - at[i-1]; gap > 31*time.Second {
				t.Errorf("a gap of %s", gap)
			}
		}
		if len(at) > 2 && at[1] > time.Second {
			t.Errorf("the second attempt after %s", at[1])
		}
	})
}
