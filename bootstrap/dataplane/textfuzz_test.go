package dataplane

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/peer"
)

func FuzzAccessLogFormat(f *testing.F) {
	for _, s := range []string{
		accesslog.DefaultText, "", "%", "%%", "%REQ(A?B):3%", "%RESP(%", "%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ %s %f %E*)%", "%START_TIME(%)%",
		"%DOWNSTREAM_REMOTE_ADDRESS% %UPSTREAM_HOST%", "%DYNAMIC_METADATA(a:b:c):5%", "%FILTER_STATE(a:PLAIN)%", "%METADATA(ROUTE:a:b)%",
		"%UPSTREAM_PEER_CERT_V_START(%b)%", "%REQ(X):99999999999999999999%", "%CEL(request.headers['a'])%", "%UNHEARD_OF%", "%RESPONSE_CODE_DETAILS:0%",
	} {
		f.Add(s)
	}
	now := time.Unix(1700000000, 123456789)
	full := &accesslog.Entry{
		Request: http.Header{"A": {"é\xff\x00"}, "X": {"1", "2"}}, ResponseCode: 200, Start: now, Path: "/a?b", Method: "GET", Flags: ^accesslog.Flags(0),
		Downstream: accesslog.Downstream{
			RemoteAddress: netip.MustParseAddrPort("[::1]:1"),
			TLS:           &accesslog.TLS{State: &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{}}}, Local: &x509.Certificate{}},
		},
		Metadata: func(accesslog.MetadataSource, string, []string) (any, bool) {
			return map[string]any{"a": []any{1.5, nil, "\xff"}}, true
		},
		FilterState: func(string) (any, bool) { return "\x01", true },
	}
	f.Fuzz(func(t *testing.T, s string) {
		text := &corev3.SubstitutionFormatString{Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: &corev3.DataSource{
			Specifier: &corev3.DataSource_InlineString{InlineString: s},
		}}}
		v := structpb.NewStringValue(s)
		js := &corev3.SubstitutionFormatString{Format: &corev3.SubstitutionFormatString_JsonFormat{JsonFormat: &structpb.Struct{Fields: map[string]*structpb.Value{
			"a": v, s: structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{v, nil, {}}}), "n": {},
		}}}}
		for _, p := range []*corev3.SubstitutionFormatString{text, js, {}} {
			c, err := accesslog.Compile(p)
			if err != nil {
				continue
			}
			for _, e := range []*accesslog.Entry{full, {}} {
				line := c.Format(e)
				if p == js && !json.Valid(line) {
					t.Errorf("%q gives what is no JSON: %q", s, line)
				}
			}
		}
	})
}

func FuzzPeerHeaders(f *testing.F) {
	good := (&peer.Info{ID: "a", Name: "n", Namespace: "ns", App: "x"}).Encode()
	f.Add("a", good)
	f.Add("", base64.StdEncoding.EncodeToString([]byte{0x0a, 0x04, 0x0a, 0x02, 0x61, 0x62}))
	f.Add("x", "====")
	f.Fuzz(func(t *testing.T, id, meta string) {
		i := peer.Decode(id, meta)
		if i == nil {
			return
		}
		again := peer.Decode(i.ID, i.Encode())
		if again == nil || again.Name != i.Name || again.App != i.App {
			t.Errorf("%+v comes back as %+v", i, again)
		}
	})
}

// scripted is a connection whose peer says some bytes and hangs up.
type scripted struct {
	net.Conn
	io.Reader
}

func (s scripted) Read(p []byte) (int, error)  { return s.Reader.Read(p) }
func (s scripted) Write(p []byte) (int, error) { return len(p), nil }

func FuzzPeerExchange(f *testing.F) {
	self := &peer.Info{ID: "me"}
	good, err := peer.Frame(&peer.Info{ID: "a", Name: "n"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(good, "after"...))
	f.Add(good[:7])
	f.Add([]byte("plain"))
	huge := bytes.Clone(good)
	binary.BigEndian.PutUint32(huge[4:], 1<<31)
	f.Add(huge)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := peer.Exchange(scripted{Reader: bytes.NewReader(b)}, self, func(*peer.Info) {})
		if err != nil {
			t.Fatal(err)
		}
		out, err := io.ReadAll(c)
		if err == nil && !bytes.HasSuffix(b, out) {
			t.Errorf("%q after %q", out, b)
		}
	})
}
