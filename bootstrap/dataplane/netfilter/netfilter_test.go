package netfilter

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	limitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/local_ratelimit/v3"
	nrbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/peer"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func parse[M proto.Message](t testing.TB, m M, js string) M {
	t.Helper()
	must(t, protojson.Unmarshal([]byte(js), m))
	return m
}

// pair returns both ends of a TCP connection.
func pair(t *testing.T) (client net.Conn, server *network.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = ln.Close() }()
	client, err = net.Dial("tcp", ln.Addr().String())
	must(t, err)
	nc, err := ln.Accept()
	must(t, err)
	t.Cleanup(func() { _ = client.Close(); _ = nc.Close() })
	_ = client.SetDeadline(time.Now().Add(5 * time.Second))
	return client, network.New(nc)
}

const (
	denyAll = `{"statPrefix":"tcp.","rules":{"action":"DENY","policies":{"p":{"permissions":[{"any":true}],"principals":[{"any":true}]}}}}`
	dryRun  = `{"statPrefix":"tcp.","shadowRulesStatPrefix":"istio_dry_run_deny_","shadowRules":{"action":"DENY","policies":{
		"p":{"permissions":[{"any":true}],"principals":[{"any":true}]}}}}`
)

// TestRBACDecidesAtTheFirstByte: what the server says first reaches a client that will be denied.
func TestRBACDecidesAtTheFirstByte(t *testing.T) {
	reg := stats.New()
	client, c := pair(t)
	for _, js := range []string{dryRun, denyAll} {
		f, err := NewRBAC(parse(t, &nrbacv3.RBAC{}, js), reg)
		must(t, err)
		must(t, f.OnConnection(context.Background(), c))
	}
	_, err := io.WriteString(c, "welcome")
	must(t, err)
	greeting := make([]byte, 7)
	_, err = io.ReadFull(client, greeting)
	must(t, err)
	if _, set := c.Metadata(rbacMetadata, nil); set {
		t.Error("rules were evaluated before the client said anything")
	}
	_, err = io.WriteString(client, "x")
	must(t, err)
	n, err := c.Read(make([]byte, 8))
	if n != 0 || !errors.Is(err, ErrDenied) {
		t.Errorf("the denied byte: %d, %v", n, err)
	}
	if why := c.Terminated(); why != "rbac_access_denied_matched_policy[p]" {
		t.Errorf("the log says %q", why)
	}
	if _, err := client.Read(greeting); err == nil {
		t.Error("the client's connection is still open")
	}
	if v, _ := c.Metadata(rbacMetadata, []string{"istio_dry_run_deny_shadow_engine_result"}); v != "denied" {
		t.Errorf("shadow result %v", v)
	}
	for _, name := range []string{"denied", "istio_dry_run_deny_.shadow_denied"} {
		if n := reg.Named("tcp.rbac."+name, "", "").Value(); n != 1 {
			t.Errorf("%s is %d", name, n)
		}
	}
}

// TestRBACAfterExchange: a peer's metadata is its first word.
func TestRBACAfterExchange(t *testing.T) {
	client, c := pair(t)
	x, err := peer.Exchange(c.Conn, &peer.Info{ID: "server"}, nil)
	must(t, err)
	c.Conn = x
	f, err := NewRBAC(parse(t, &nrbacv3.RBAC{}, denyAll), stats.New())
	must(t, err)
	must(t, f.OnConnection(context.Background(), c))
	frame, err := peer.Frame(&peer.Info{ID: "client"})
	must(t, err)
	_, err = client.Write(frame)
	must(t, err)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, ErrDenied) {
		t.Errorf("after the peer's metadata: %v", err)
	}
}

func TestRBACHalfClose(t *testing.T) {
	client, c := pair(t)
	f, err := NewRBAC(parse(t, &nrbacv3.RBAC{}, denyAll), stats.New())
	must(t, err)
	must(t, f.OnConnection(context.Background(), c))
	must(t, client.(*net.TCPConn).CloseWrite())
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, ErrDenied) {
		t.Errorf("at the end of an empty stream: %v", err)
	}
}

func TestLocalRateLimit(t *testing.T) {
	reg := stats.New()
	f, err := NewLocalRateLimit(parse(t, &limitv3.LocalRateLimit{}, `{"statPrefix":"l","tokenBucket":{"maxTokens":2,"fillInterval":"3600s"}}`), reg)
	must(t, err)
	refused := 0
	for range 5 {
		if errors.Is(f.OnConnection(context.Background(), nil), ErrRateLimited) {
			refused++
		}
	}
	if refused != 3 || reg.Named("local_rate_limit.l.rate_limited", "", "").Value() != 3 {
		t.Errorf("%d of 5 connections refused", refused)
	}
	if _, err := NewLocalRateLimit(parse(t, &limitv3.LocalRateLimit{}, `{"shareKey":"x","tokenBucket":{"maxTokens":2,"fillInterval":"1s"}}`), reg); err == nil {
		t.Error("a share_key is accepted")
	}
}
