package bookinfo

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// shop is the four services, connected in memory; each can be taken over by a test.
type shop struct {
	services map[string]http.Handler // by host
	mu       sync.Mutex
	seen     map[string]http.Header // the last request's headers, by host
}

func newShop(version string) *shop {
	s := &shop{seen: map[string]http.Header{}}
	cfg := FromEnv(func(name string) string {
		return map[string]string{"SERVICE_VERSION": version, "HOSTNAME": "pod-1"}[name]
	})
	cfg.Client = &http.Client{Transport: s}
	rate := cfg
	rate.Version = "v1"
	s.services = map[string]http.Handler{
		"details:9080": Details(cfg), "reviews:9080": Reviews(cfg), "ratings:9080": Ratings(rate), "shop": Productpage(cfg),
	}
	return s
}

// RoundTrip asks the service that the URL names.
func (s *shop) RoundTrip(r *http.Request) (*http.Response, error) {
	h := s.services[r.URL.Host]
	if h == nil {
		return nil, &net.OpError{Op: "dial", Err: io.EOF}
	}
	s.mu.Lock()
	s.seen[r.URL.Host] = r.Header
	s.mu.Unlock()
	w := httptest.NewRecorder()
	done := make(chan struct{})
	go func() { h.ServeHTTP(w, r); close(done) }()
	select {
	case <-done:
		return w.Result(), nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

func (s *shop) get(t *testing.T, path string, header ...string) (int, string) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://shop"+path, nil)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.services["shop"].ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func TestFromEnv(t *testing.T) {
	for _, tc := range []struct {
		name string
		env  map[string]string
		want Config
	}{
		{"nothing set", nil, Config{Version: "v1", Details: "http://details:9080", Reviews: "http://reviews:9080", Ratings: "http://ratings:9080"}},
		{
			"domain, hosts, ports",
			map[string]string{"SERVICES_DOMAIN": "shop.svc", "REVIEWS_HOSTNAME": "r", "RATINGS_SERVICE_PORT": "80"},
			Config{Version: "v1", Details: "http://details.shop.svc:9080", Reviews: "http://r.shop.svc:9080", Ratings: "http://ratings.shop.svc:80"},
		},
		{
			"v2",
			map[string]string{"SERVICE_VERSION": "v2"},
			Config{Version: "v2", Stars: "black", Details: "http://details:9080", Reviews: "http://reviews:9080", Ratings: "http://ratings:9080"},
		},
		{
			"v3 without ratings",
			map[string]string{"SERVICE_VERSION": "v3", "ENABLE_RATINGS": "false"},
			Config{Version: "v3", Details: "http://details:9080", Reviews: "http://reviews:9080", Ratings: "http://ratings:9080"},
		},
		{
			"v1 with ratings",
			map[string]string{"ENABLE_RATINGS": "true", "STAR_COLOR": "blue"},
			Config{Version: "v1", Stars: "blue", Details: "http://details:9080", Reviews: "http://reviews:9080", Ratings: "http://ratings:9080"},
		},
	} {
		if diff := cmp.Diff(tc.want, FromEnv(func(k string) string { return tc.env[k] })); diff != "" {
			t.Errorf("%s: %s", tc.name, diff)
		}
	}
}

func TestReviewsVersions(t *testing.T) {
	for version, color := range map[string]string{"v1": "", "v2": "black", "v3": "red"} {
		s := newShop(version)
		code, body := s.get(t, "/api/v1/products/0/reviews")
		var got reviewList
		if err := json.Unmarshal([]byte(body), &got); code != 200 || err != nil {
			t.Fatalf("%s: %d %v %s", version, code, err, body)
		}
		if got.ID != "0" || got.Pod != "pod-1" || got.Cluster != "null" || got.Version != version || len(got.Reviews) != 2 {
			t.Errorf("%s: %+v", version, got)
		}
		if color == "" {
			if got.Reviews[0].Rating != nil || s.seen["ratings:9080"] != nil {
				t.Errorf("v1 asks for ratings: %s", body)
			}
			continue
		}
		if diff := cmp.Diff(&rating{Stars: 5, Color: color}, got.Reviews[0].Rating); diff != "" {
			t.Errorf("%s: %s", version, diff)
		}
		code, page := s.get(t, "/productpage?u=normal")
		if code != 200 || !strings.Contains(page, `class="stars `+color+`"`) || !strings.Contains(page, "<code>reviews</code> "+version) {
			t.Errorf("%s: page %d does not show the stars or the version: %s", version, code, page)
		}
	}
}

func TestPathsAndTheirAnswers(t *testing.T) {
	s := newShop("v1")
	for _, tc := range []struct {
		path string
		code int
		part string
	}{
		{"/", 200, "/productpage?u=normal"},
		{"/productpage", 200, "William Shakespeare"},
		{"/health", 200, "healthy"},
		{"/static/style.css", 200, ".stars"},
		{"/api/v1/products", 200, `"title":"The Comedy of Errors"`},
		{"/api/v1/products/0", 200, `"ISBN-13":"123-1234567890"`},
		{"/api/v1/products/0/ratings", 200, `{"id":0,"ratings":{"Reviewer1":5,"Reviewer2":4}}`},
		{"/api/v1/products/x", 400, "numeric product ID"},
		{"/nowhere", 404, ""},
	} {
		if code, body := s.get(t, tc.path); code != tc.code || !strings.Contains(body, tc.part) {
			t.Errorf("%s: %d %s", tc.path, code, body)
		}
	}
}

func TestServicesAway(t *testing.T) {
	for _, tc := range []struct {
		away      string
		page, not string
		api       string
		code      int
	}{
		{"reviews:9080", noReviews, noDetails, "/api/v1/products/0/reviews", 500},
		{"details:9080", noDetails, noReviews, "/api/v1/products/0", 500},
		{"ratings:9080", "Ratings service is currently unavailable", noReviews, "/api/v1/products/0/ratings", 500},
	} {
		s := newShop("v2")
		delete(s.services, tc.away)
		code, page := s.get(t, "/productpage")
		if code != 200 || !strings.Contains(page, tc.page) || strings.Contains(page, tc.not) {
			t.Errorf("without %s: %d %s", tc.away, code, page)
		}
		if code, body := s.get(t, tc.api); code != tc.code || !strings.Contains(body, `"error":"Sorry, product`) {
			t.Errorf("without %s: %s: %d %s", tc.away, tc.api, code, body)
		}
		s.services[tc.away] = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
		if code, _ := s.get(t, tc.api); code != http.StatusForbidden {
			t.Errorf("%s refuses: %s answers %d", tc.away, tc.api, code)
		}
	}
}

func TestHeadersTravel(t *testing.T) {
	s := newShop("v3")
	travel := map[string]string{
		"X-Request-Id": "r", "X-B3-Traceid": "t", "B3": "b", "Traceparent": "p", "End-User": "ann", "User-Agent": "me", "Cookie": "c=1", "Authorization": "Bearer x",
	}
	all := []string{"X-Secret", "no"}
	for k, v := range travel {
		all = append(all, k, v)
	}
	s.get(t, "/productpage", all...)
	for _, host := range []string{"details:9080", "reviews:9080", "ratings:9080"} {
		for k, v := range travel {
			if got := s.seen[host].Get(k); got != v {
				t.Errorf("%s: %s = %q, want %q", host, k, got, v)
			}
		}
		if s.seen[host].Get("X-Secret") != "" {
			t.Errorf("%s was told X-Secret", host)
		}
	}
}

func TestSignInAndOut(t *testing.T) {
	s := newShop("v2")
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "http://shop/login", strings.NewReader(url.Values{"username": {"jason b"}}.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Referer", "http://shop/productpage?u=test")
	w := httptest.NewRecorder()
	s.services["shop"].ServeHTTP(w, r)
	if w.Code != http.StatusFound || w.Header().Get("Location") != "/productpage?u=test" {
		t.Fatalf("login: %d to %s", w.Code, w.Header().Get("Location"))
	}
	cookie, _, _ := strings.Cut(w.Header().Get("Set-Cookie"), ";")
	if _, page := s.get(t, "/productpage", "Cookie", cookie); !strings.Contains(page, "jason b") {
		t.Error("the page does not show who is signed in")
	}
	for _, host := range []string{"details:9080", "reviews:9080", "ratings:9080"} {
		if got := s.seen[host].Get("End-User"); got != "jason b" {
			t.Errorf("%s: end-user is %q", host, got)
		}
	}
	r = httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://shop/logout", nil)
	r.Header.Set("Referer", "http://elsewhere/productpage?u=evil")
	w = httptest.NewRecorder()
	s.services["shop"].ServeHTTP(w, r)
	if w.Header().Get("Location") != "/productpage" || !strings.Contains(w.Header().Get("Set-Cookie"), "Max-Age=0") {
		t.Errorf("logout: %v", w.Header())
	}
	if s.get(t, "/productpage"); s.seen["details:9080"].Get("End-User") != "" {
		t.Error("nobody is signed in, yet end-user is sent")
	}
}

// TestSlowServices has the waits that the lesson on faults and timeouts is about.
func TestSlowServices(t *testing.T) {
	slow := func(d time.Duration) http.Handler {
		return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-time.After(d):
			case <-r.Context().Done():
			}
		})
	}
	for _, tc := range []struct {
		version, slow string
		path          string
		took          time.Duration
		part          string
	}{
		{"v1", "reviews:9080", "/productpage", 2 * hopTimeout, noReviews},
		{"v1", "details:9080", "/productpage", hopTimeout, noDetails},
		{"v3", "ratings:9080", "/productpage", 2500 * time.Millisecond, "Ratings service is currently unavailable"},
		{"v2", "ratings:9080", "/productpage", 2 * hopTimeout, noReviews},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newShop(tc.version)
			s.services[tc.slow] = slow(7 * time.Second)
			start := time.Now()
			_, page := s.get(t, tc.path)
			if took := time.Since(start); took != tc.took || !strings.Contains(page, tc.part) {
				t.Errorf("%s with slow %s: took %s, want %s; %s", tc.version, tc.slow, took, tc.took, page)
			}
		})
	}
}

func ask1(ctx context.Context, h http.Handler, method, path, body string) (int, string) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, method, path, strings.NewReader(body)))
	return w.Code, w.Body.String()
}

func TestRatings(t *testing.T) {
	h := Ratings(Config{Version: "v1"})
	if code, body := ask1(t.Context(), h, "POST", "/ratings/7", `{"Reviewer1":1}`); code != 200 || body != `{"id":7,"ratings":{"Reviewer1":1}}`+"\n" {
		t.Errorf("post: %d %s", code, body)
	}
	if _, body := ask1(t.Context(), h, "GET", "/ratings/7", ""); body != `{"id":7,"ratings":{"Reviewer1":1}}`+"\n" {
		t.Errorf("posted ratings are not kept: %s", body)
	}
	for _, tc := range []struct{ method, path, body string }{{"POST", "/ratings/7", "nonsense"}, {"GET", "/ratings/x", ""}, {"POST", "/ratings/x", "{}"}} {
		if code, _ := ask1(t.Context(), h, tc.method, tc.path, tc.body); code != http.StatusBadRequest {
			t.Errorf("%s %s: %d", tc.method, tc.path, code)
		}
	}
}

func TestFailingRatings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := Ratings(Config{Version: "v-unavailable"})
		for minute, want := range []int{200, 503, 200} {
			if code, _ := ask1(t.Context(), h, "GET", "/ratings/0", ""); code != want {
				t.Errorf("minute %d: %d, want %d", minute, code, want)
			}
			time.Sleep(time.Minute)
		}
		h = Ratings(Config{Version: "v-unhealthy"})
		for quarter, want := range []int{200, 500} {
			if code, _ := ask1(t.Context(), h, "GET", "/health", ""); code != want {
				t.Errorf("quarter %d: health %d, want %d", quarter, code, want)
			}
			time.Sleep(15 * time.Minute)
		}
		seen := map[int]int{}
		h = Ratings(Config{Version: "v-faulty"})
		for range 200 {
			code, _ := ask1(t.Context(), h, "GET", "/ratings/0", "")
			seen[code]++
		}
		if seen[200] == 0 || seen[503] == 0 || seen[200]+seen[503] != 200 {
			t.Errorf("v-faulty answers %v", seen)
		}
		slow := 0
		h = Ratings(Config{Version: "v-delayed"})
		for range 200 {
			start := time.Now()
			ask1(t.Context(), h, "GET", "/ratings/0", "")
			if time.Since(start) == delayed {
				slow++
			}
		}
		if slow == 0 || slow == 200 {
			t.Errorf("v-delayed delays %d of 200", slow)
		}
	})
}
