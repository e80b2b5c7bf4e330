package servers

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// script makes a handler answer some requests as it was told, and remembers what it heard. Its control handler takes
// rules (PUT), says what was heard (GET) and forgets both (DELETE).
type script struct {
	next  http.Handler
	mu    sync.Mutex
	rules []rule
	heard []record
}

// rule is an answer for requests whose head or body contains a text. An empty text is in every request.
type rule struct {
	Contains          string
	Times             int // how often it holds; 0 means always
	Status            int // 0 means 200
	Headers, Trailers map[string]string
	Body              []byte
	DelayMS           int
	Reset             bool // hang up instead of answering

	used int
}

// record is one request that was heard.
type record struct {
	Method, Host, Path, Proto string
	Headers                   http.Header
	Body                      []byte
}

// maxHeard bounds how many requests are remembered, and maxScripted how much of a body.
const (
	maxHeard    = 500
	maxScripted = 4 << 20
)

func (s *script) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	idle := len(s.rules) == 0
	s.mu.Unlock()
	if idle {
		s.next.ServeHTTP(w, r)
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxScripted))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	in := record{r.Method, r.Host, r.URL.RequestURI(), r.Proto, r.Header, body}
	found, ok := s.note(in)
	if !ok {
		r.Body = io.NopCloser(bytes.NewReader(body))
		s.next.ServeHTTP(w, r)
		return
	}
	found.answer(w, r)
}

// note remembers a request and finds the rule that holds for it.
func (s *script) note(in record) (rule, bool) {
	var head strings.Builder
	head.WriteString(in.Method + " " + in.Path + "\nhost: " + in.Host + "\n")
	for k, vs := range in.Headers {
		for _, v := range vs {
			head.WriteString(strings.ToLower(k) + ": " + v + "\n")
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.heard = append(s.heard, in); len(s.heard) > maxHeard {
		s.heard = s.heard[1:]
	}
	for i := range s.rules {
		r := &s.rules[i]
		if r.Times > 0 && r.used >= r.Times {
			continue
		}
		if strings.Contains(head.String(), r.Contains) || bytes.Contains(in.Body, []byte(r.Contains)) {
			r.used++
			return *r, true
		}
	}
	return rule{}, false
}

func (r rule) answer(w http.ResponseWriter, req *http.Request) {
	select {
	case <-time.After(time.Duration(r.DelayMS) * time.Millisecond):
	case <-req.Context().Done():
		return
	}
	if r.Reset {
		panic(http.ErrAbortHandler)
	}
	for k, v := range r.Headers {
		w.Header().Set(k, v)
	}
	for k, v := range r.Trailers {
		w.Header().Set(http.TrailerPrefix+k, v)
	}
	status := r.Status
	if status == 0 {
		status = http.StatusOK
	}
	w.WriteHeader(status)
	_, _ = w.Write(r.Body) // where it fails, nobody is left to tell
	if len(r.Trailers) > 0 {
		_ = http.NewResponseController(w).Flush()
	}
}

// control is the handler of the script itself.
func (s *script) control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /script", func(w http.ResponseWriter, r *http.Request) {
		var rules []rule
		if err := json.NewDecoder(r.Body).Decode(&rules); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.rules, s.heard = rules, nil
	})
	mux.HandleFunc("GET /script", func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s.heard)
	})
	mux.HandleFunc("DELETE /script", func(http.ResponseWriter, *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.rules, s.heard = nil, nil
	})
	return mux
}
