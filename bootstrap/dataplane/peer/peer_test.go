package peer

import (
	"io"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/types/known/structpb"
)

func workload(t testing.TB, name string) *Info {
	t.Helper()
	s, err := structpb.NewStruct(map[string]any{
		"NAME": name + "-0", "NAMESPACE": "ns", "WORKLOAD_NAME": name, "CLUSTER_ID": "Kubernetes",
		"OWNER": "kubernetes://apis/apps/v1/namespaces/ns/deployments/" + name, "LABELS": map[string]any{"app": name, "version": "v1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return FromNode("sidecar~10.0.0.1~"+name+".ns~ns.svc.cluster.local", s)
}

// but leaves out the labels: canonical names are sent as labels even where they were none.
var but = cmpopts.IgnoreFields(Info{}, "Labels")

func TestHeadersRoundTrip(t *testing.T) {
	in := workload(t, "a")
	if in.CanonicalName != "a" || in.CanonicalRevision != "latest" {
		t.Errorf("defaults %+v", in)
	}
	if diff := cmp.Diff(in, Decode(in.ID, in.Encode()), but); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{"", "!!!", "AAAA//", strings.Repeat("A", maxHeader+1)} {
		if got := Decode("x", bad); got != nil {
			t.Errorf("%.10q gave %+v", bad, got)
		}
	}
}

func TestExchange(t *testing.T) {
	a, b := net.Pipe()
	wa, wb := workload(t, "a"), workload(t, "b")
	learnt := make(chan *Info, 1)
	go func() {
		x, err := Exchange(a, wa, nil)
		if err == nil {
			_, _ = io.WriteString(x, "hello")
			_, _ = x.Read(make([]byte, 1))
		}
		_ = a.Close()
	}()
	// The other side reads first: frames and data come in one stream.
	e := &Exchanging{Conn: b, learnt: func(i *Info) { learnt <- i }}
	buf := make([]byte, 5)
	if _, err := io.ReadFull(e, buf); err != nil || string(buf) != "hello" {
		t.Fatalf("%q %v", buf, err)
	}
	if diff := cmp.Diff(wa, <-learnt, but); diff != "" {
		t.Error(diff)
	}
	f, err := Frame(wb)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Write(append(f, 'x')); err != nil {
		t.Fatal(err)
	}
	_ = b.Close()
}

func TestStreamWithoutFramePassesThrough(t *testing.T) {
	for _, in := range []string{"x", "=#plain text", "=", ""} {
		a, b := net.Pipe()
		go func() {
			_, _ = io.WriteString(a, in)
			_ = a.Close()
		}()
		got, err := io.ReadAll(&Exchanging{Conn: b, learnt: func(i *Info) {
			if i != nil {
				t.Errorf("learnt %+v from %q", i, in)
			}
		}})
		if string(got) != in || err != nil {
			t.Errorf("%q came out as %q %v", in, got, err)
		}
	}
}

func FuzzFrame(f *testing.F) {
	frame, err := Frame(workload(f, "a"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(frame)
	f.Add([]byte("=#\x04g\xff\xff\xff\xff"))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _, _ = readFrame(strings.NewReader(string(b))) })
}

func TestFromEndpoint(t *testing.T) {
	got := FromEndpoint("reviews-v1;bookinfo;reviews;v1;Kubernetes")
	want := &Info{Workload: "reviews-v1", Namespace: "bookinfo", CanonicalName: "reviews", CanonicalRevision: "v1", Cluster: "Kubernetes"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if FromEndpoint("") != nil || FromEndpoint("a;b") != nil {
		t.Error("too little was taken for a workload")
	}
}

func TestCache(t *testing.T) {
	c := NewCache(2)
	a := workload(t, "a")
	one, two := c.Decode(a.ID, a.Encode()), c.Decode(a.ID, a.Encode())
	if one == nil || one != two {
		t.Errorf("%p and %p for one workload", one, two)
	}
	if c.Decode("x", "!!!") != nil || c.Decode("x", "") != nil {
		t.Error("nonsense was decoded")
	}
	if e := c.Endpoint("a;b;c;d;e"); e == nil || e != c.Endpoint("a;b;c;d;e") {
		t.Error("an endpoint is not remembered")
	}
	for _, n := range []string{"b", "c", "d"} { // more than it holds
		w := workload(t, n)
		if got := c.Decode(w.ID, w.Encode()); got.Workload != n {
			t.Errorf("%s gave %+v", n, got)
		}
	}
}

func TestAdditionalLabels(t *testing.T) {
	a := workload(t, "a")
	a.Labels["role"] = "r"
	got := Decode(a.ID, a.Encode("role", "none"))
	if got.Labels["role"] != "r" || Decode(a.ID, a.Encode()).Labels["role"] != "" {
		t.Errorf("labels %v", got.Labels)
	}
	at := got.Attributes()
	if at["workload"] != "a" || at["type"] != "deployment" || at["labels"].(map[string]any)["role"] != "r" {
		t.Errorf("attributes %v", at)
	}
}
