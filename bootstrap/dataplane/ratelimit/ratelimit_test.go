package ratelimit

import (
	"strings"
	"testing"
	"time"

	limitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	"google.golang.org/protobuf/encoding/protojson"
)

var t0 = time.Unix(1_700_000_000, 0)

func settings(t *testing.T, js string) (*Settings, error) {
	t.Helper()
	p := &limitv3.LocalRateLimit{}
	if err := protojson.Unmarshal([]byte(js), p); err != nil {
		t.Fatal(err)
	}
	always := p.GetAlwaysConsumeDefaultTokenBucket()
	return Compile(p.GetTokenBucket(), p.GetDescriptors(), always == nil || always.GetValue(), int(p.GetMaxDynamicDescriptors().GetValue()))
}

func limiter(t *testing.T, js string) *Limiter {
	t.Helper()
	s, err := settings(t, js)
	if err != nil {
		t.Fatal(err)
	}
	return s.New(t0)
}

// passed counts how many of n requests pass.
func passed(l *Limiter, now time.Time, n int, ds ...Descriptor) int {
	out := 0
	for range n {
		if ok, _ := l.Allow(now, ds); ok {
			out++
		}
	}
	return out
}

func TestBucketFillsSteadily(t *testing.T) {
	l := limiter(t, `{"tokenBucket":{"maxTokens":10,"tokensPerFill":10,"fillInterval":"60s"}}`)
	for _, step := range []struct {
		after time.Duration
		want  int
	}{{0, 10}, {5 * time.Second, 0}, {6 * time.Second, 1}, {18 * time.Second, 2}, {time.Hour, 10}} {
		if got := passed(l, t0.Add(step.after), 20); got != step.want {
			t.Errorf("after %s: %d passed, want %d", step.after, got, step.want)
		}
	}
	_, b := l.Allow(t0.Add(time.Hour), nil)
	if got := b.Level(t0.Add(time.Hour)); got != (Level{10, 0, 6}) {
		t.Errorf("level of an empty bucket: %+v", got)
	}
	if got := b.Level(t0.Add(time.Hour + 13*time.Second)); got != (Level{10, 2, 0}) {
		t.Errorf("level 13 s later: %+v", got)
	}
}

func TestDescriptors(t *testing.T) {
	const js = `{"tokenBucket":{"maxTokens":5,"fillInterval":"60s"},"descriptors":[
		{"entries":[{"key":"path","value":"/a"}],"tokenBucket":{"maxTokens":2,"fillInterval":"60s"}},
		{"entries":[{"key":"path","value":"/a"},{"key":"who","value":"x"}],"tokenBucket":{"maxTokens":1,"fillInterval":"60s"}},
		{"entries":[{"key":"shadow","value":"1"}],"tokenBucket":{"maxTokens":1,"fillInterval":"60s"},"shadowMode":true},
		{"entries":[{"key":"user"}],"tokenBucket":{"maxTokens":1,"fillInterval":"60s"}}],"maxDynamicDescriptors":2`
	a := Descriptor{{"path", "/a"}}
	for name, tc := range map[string]struct {
		extra string
		ds    []Descriptor
		want  int
	}{
		"no descriptor":                {"", nil, 5},
		"unknown descriptor":           {"", []Descriptor{{{"path", "/b"}}}, 5},
		"one":                          {"", []Descriptor{a}, 2},
		"longer than any":              {"", []Descriptor{{{"path", "/a"}, {"who", "y"}}}, 5},
		"exact":                        {"", []Descriptor{{{"path", "/a"}, {"who", "x"}}}, 1},
		"scarcest decides":             {"", []Descriptor{a, {{"path", "/a"}, {"who", "x"}}}, 1},
		"shadow":                       {"", []Descriptor{{{"shadow", "1"}}}, 8},
		"open entry":                   {"", []Descriptor{{{"user", "u1"}}}, 1},
		"the whole does not pay for a": {`,"alwaysConsumeDefaultTokenBucket":false`, []Descriptor{a}, 2},
	} {
		if got := passed(limiter(t, js+tc.extra+"}"), t0, 8, tc.ds...); got != tc.want {
			t.Errorf("%s: %d passed, want %d", name, got, tc.want)
		}
	}
	l := limiter(t, js+"}")
	passed(l, t0, 2, a)
	if got := passed(l, t0, 8); got != 3 {
		t.Errorf("the whole has %d left after two with a descriptor", got)
	}
	l = limiter(t, js+`,"alwaysConsumeDefaultTokenBucket":false}`)
	passed(l, t0, 2, a)
	if got := passed(l, t0, 8); got != 5 {
		t.Errorf("the whole has %d left when it does not pay", got)
	}
	for _, u := range []string{"u1", "u2", "u1", "u3"} {
		passed(l, t0, 1, Descriptor{{"user", u}})
	}
	if n := len(l.open[3].byKey); n != 2 {
		t.Errorf("%d buckets of an open descriptor are kept", n)
	}
	if passed(l, t0, 1, Descriptor{{"user", "u2"}}) != 1 || passed(l, t0, 1, Descriptor{{"user", "u3"}}) != 0 {
		t.Error("the value that was met longest ago has to go first")
	}
}

func TestRefusedSettings(t *testing.T) {
	for js, want := range map[string]string{
		`{"tokenBucket":{"fillInterval":"1s"}}`:                                                                                      "max_tokens",
		`{"tokenBucket":{"maxTokens":1,"fillInterval":"0.01s"}}`:                                                                     "50ms",
		`{"tokenBucket":{"maxTokens":1,"tokensPerFill":0,"fillInterval":"1s"}}`:                                                      "tokens_per_fill",
		`{"descriptors":[{"tokenBucket":{"maxTokens":1,"fillInterval":"1s"}}]}`:                                                      "entries",
		`{"descriptors":[{"entries":[{"key":"a","value":"b"}]}]}`:                                                                    "max_tokens",
		`{"descriptors":[` + twice(`{"entries":[{"key":"a","value":"b"}],"tokenBucket":{"maxTokens":1,"fillInterval":"1s"}}`) + `]}`: "duplicate",
	} {
		if _, err := settings(t, js); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", js, err)
		}
	}
}

func twice(s string) string { return s + "," + s }
